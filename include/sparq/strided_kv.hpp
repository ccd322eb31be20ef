// SPDX-License-Identifier: MIT
// strided_kv and kv_view_storage: a kv_view over keys and values that an engine owns.
//
// Engines keep K and V in cells: one matrix a layer, heads interleaved, with holes,
// padding and other sequences' cells. A list of ranges says which cells a sequence
// sees, oldest first; what lies outside costs nothing and is never read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>

#include "config.hpp"
#include "detail/check.hpp"
#include "detail/isa_vector.hpp"
#include "kv_view.hpp"

SPARQ_NAMESPACE_BEGIN

/// Cells [begin, end).
struct token_range {
    std::size_t begin, end;
};

/// Keys and values of one layer in an engine's memory. Element (cell t, head g, column c)
/// of K lies at keys[t * key_token_stride + g * key_head_stride + c], V likewise; channel
/// c of the d_h-major copy at keys_t[g * label_head_stride + c * channel_stride + t].
template <cache_element T, cache_element Label = T>
struct strided_kv {
    const T* keys = nullptr;
    const T* values = nullptr;
    const Label* keys_t = nullptr;  ///< null: no d_h-major copy, scores are read from keys
    std::size_t heads_kv = 0, head_dim = 0, value_dim = 0;
    std::size_t cells = 0;
    std::size_t key_token_stride = 0, key_head_stride = 0;
    std::size_t value_token_stride = 0, value_head_stride = 0;
    std::size_t channel_stride = 0, label_head_stride = 0;

    [[nodiscard]] SPARQ_PER_ISA const T* key_row(std::size_t cell, std::size_t g) const noexcept {
        return keys + cell * key_token_stride + g * key_head_stride;
    }
    [[nodiscard]] SPARQ_PER_ISA const T* value_row(std::size_t cell, std::size_t g) const noexcept {
        return values + cell * value_token_stride + g * value_head_stride;
    }
};

namespace detail {

/// How an engine's rows are given: with codes it cannot have a d_h-major copy of its own.
template <class T, class Label>
struct engine_rows_of {
    using type = strided_kv<T, Label>;
};
template <class T, coded_label Label>
struct engine_rows_of<T, Label> {
    using type = strided_kv<T>;
};

/// Refuses ranges that are empty, out of order, overlapping or outside the cells.
SPARQ_PER_ISA inline void check_ranges(std::span<const token_range> visible, std::size_t cells) {
    if (visible.empty()) refuse("visible", "empty", "at least one range of cells");
    std::size_t end = 0;
    for (const token_range& range : visible) {
        if (range.begin >= range.end || range.begin < end || range.end > cells)
            refuse("visible", detail::text("[", range.begin, ", ", range.end, ")"),
                   detail::text("not empty, ascending, disjoint and within ", cells, " cells"));
        end = range.end;
    }
}

}  // namespace detail

template <cache_element T, label_element Label>
class key_labels;
template <cache_element T>
class tier_codes;

/// Owns the segment table of a view over strided memory. One object serves call after
/// call; once it has seen as many ranges it allocates nothing. The view it returned is
/// good until the next assign. With labels of few bits it serves key_labels and
/// tier_codes alone.
template <cache_element T, label_element Label = T>
class kv_view_storage {
    using engine_rows = typename detail::engine_rows_of<T, Label>::type;

   public:
    /// @param visible     the cells of the sequence, oldest first
    /// @param value_sums  [heads_kv, value_dim] over the visible cells, or empty (the
    ///                    mean value is then computed from V in each call that needs it)
    /// @throws std::invalid_argument as kv_view does, and for ranges that are empty, out
    ///         of order, overlapping or beyond the cells
    SPARQ_PER_ISA kv_view<T, Label> assign(const engine_rows& engine,
                                           std::span<const token_range> visible,
                                           std::span<const double> value_sums = {})
        requires cache_element<Label>
    {
        detail::check_ranges(visible, engine.cells);
        segments_.clear();
        for (const token_range& range : visible) add(engine, range, engine.keys_t != nullptr);
        return kv_view<T, Label>(engine.heads_kv, engine.head_dim, engine.value_dim, segments_,
                                 value_sums);
    }

   private:
    friend class key_labels<T, Label>;
    friend class tier_codes<T>;

    SPARQ_PER_ISA void add(const engine_rows& engine, const token_range& range, bool labelled)
        requires cache_element<Label>
    {
        const std::size_t tokens = range.end - range.begin;
        for (std::size_t g = 0; g < engine.heads_kv; ++g) {
            kv_segment<T, Label> part;
            part.keys = engine.keys == nullptr ? nullptr : engine.key_row(range.begin, g);
            part.values = engine.values == nullptr ? nullptr : engine.value_row(range.begin, g);
            part.key_stride = engine.key_token_stride;
            part.value_stride = engine.value_token_stride;
            part.tokens = tokens;
            if (labelled) {
                part.keys_t = engine.keys_t + g * engine.label_head_stride + range.begin;
                part.channel_stride = engine.channel_stride;
                part.labelled = tokens;
            }
            segments_.push_back(part);
        }
    }

    detail::isa_vector<kv_segment<T, Label>> segments_;
    detail::isa_vector<double> value_sums_;  ///< of a view made beside an engine
};

SPARQ_NAMESPACE_END
