// SPDX-License-Identifier: MIT
// layer_state: what a method keeps of one layer beside the engine's keys and values, and how
// it answers a query token from both. A further method is one more class of these.
//
// It needs no positions and no sequences: it is indexed by cell, and each step's mask says
// which cells count. Cells told of are looked at when a step next reads them, in the cache
// itself, so that what is kept is made of the cache's bits.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <sparq/attention_plan.hpp>
#include <sparq/code_labels.hpp>
#include <sparq/strided_kv.hpp>
#include <sparq/tier_codes.hpp>
#include <sparq/tiered_attention.hpp>
#include <sparq/workspace.hpp>
#include <tuple>
#include <variant>

#include "settings.hpp"

namespace sparq_llama {

/// Keys and values of one stream where the engine holds them.
using strided = sparq::strided_kv<sparq::half>;

/// Of dense attention, and of SparQ over such labels.
template <class Label>
using labelled_plan = sparq::attention_plan<sparq::default_arch, sparq::half, Label>;
/// A query token's attention, ready for run(ith, nth, barrier) on each of nth threads. A
/// method whose plans are of another type adds it here.
using row_plan = std::variant<labelled_plan<sparq::half>, labelled_plan<sparq::int8_label>,
                              labelled_plan<sparq::int4_label>, labelled_plan<sparq::int2_label>,
                              sparq::tiered_plan<sparq::default_arch, sparq::half>>;

/// Scratch memory of one query token's plan; kept from step to step, shared by the layers.
struct row_scratch {
    template <class Label>
    using labelled = sparq::kv_view_storage<sparq::half, Label>;

    std::tuple<labelled<sparq::half>, labelled<sparq::int8_label>, labelled<sparq::int4_label>,
               labelled<sparq::int2_label>>
        labels;
    sparq::tiered_view_storage<sparq::half> tiers;
    sparq::workspace work;
};

/// One query token, as the library takes it.
struct row_request {
    std::span<const float> q;  ///< [heads_q, head_dim], a head each options.q_stride
    std::span<float> out;      ///< [heads_q, value_dim], a head each options.out_stride
    std::size_t heads_q = 0;
    std::span<const sparq::token_range> visible;
    float scale = 0.0f;
    sparq::call_options options;
};

struct layer_shape {
    std::size_t streams = 0, heads_kv = 0, head_dim = 0, value_dim = 0;

    friend bool operator==(const layer_shape&, const layer_shape&) = default;
};

/// One thread at a time.
class layer_state {
   public:
    virtual ~layer_state() = default;

    /// Whether it is what these settings need; if not, another is made.
    [[nodiscard]] virtual bool serves(const settings& with) const noexcept = 0;

    /// The engine writes a cell of a stream, now or before anything is read.
    virtual void wrote(std::size_t stream, std::size_t cell) = 0;

    /// Anything may have changed.
    virtual void invalidate() noexcept = 0;

    /// Brings what is kept of cells [0, end) of a stream up to date. It stays as it is then
    /// until all rows of the node are computed. May throw std::bad_alloc, after which it is
    /// as it was.
    virtual void refresh(const strided& engine, std::size_t stream, std::size_t end) = 0;

    /// Cells of a stream of which something is kept.
    [[nodiscard]] virtual std::size_t cells_kept(std::size_t stream) const noexcept = 0;

    /// Plans a query token over visible cells that refresh() has covered.
    /// @throws std::invalid_argument for settings that do not fit the shape; std::bad_alloc
    virtual row_plan plan(const strided& engine, std::size_t stream, const row_request& row,
                          const settings& with, row_scratch& scratch) = 0;
};

/// The state that a method keeps of a layer.
std::unique_ptr<layer_state> make_layer_state(const settings& with, const layer_shape& shape);

}  // namespace sparq_llama
