// SPDX-License-Identifier: MIT
// engine_cache: attention over one key/value cache of an engine, all layers of it.
//
// An engine computes a node with all its threads. Thread 0 prepares it, the others wait at
// the engine's barrier, then each does its share. Layers share the scratch memory: one
// node of a cache is computed at a time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <variant>
#include <vector>

#include "attention_node.hpp"
#include "layer_state.hpp"
#include "settings.hpp"

namespace sparq_llama {

/// What became of a node.
enum class answer {
    none,       ///< left to the engine because the settings say so
    given,      ///< computed
    scattered,  ///< left: the cells of a sequence lie too scattered for ranges
    biased,     ///< left: the mask holds more than 0 and -inf
    blind,      ///< left: a row of the mask hides every cell
    refused,    ///< left: the arguments do not fit the library's, r > head_dim for example
};

class engine_cache {
   public:
    /// Thread 0, before the engine's barrier. Never throws: a failure leaves the node.
    answer prepare(const attention_node& node, const settings& with) noexcept;

    /// Every thread, after the barrier. Returns what prepare() did; computes the share of
    /// thread ith of nth if that was answer::given.
    template <class Barrier>
    answer run(std::size_t ith, std::size_t nth, Barrier&& barrier) const {
        if (answer_ != answer::given) return answer_;
        if (zeros_) {
            if (ith == 0) write_zeros();
            return answer_;
        }
        // The rows begin with different threads, so that few heads feed many threads.
        for (std::size_t i = 0; i < plans_.size(); ++i)
            std::visit(
                [&](const auto& plan) { plan.run((ith + i * node_.heads_kv) % nth, nth, barrier); },
                plans_[i]);
        return answer_;
    }

    /// The engine writes keys (and the values that go with them) in a graph: one thread.
    /// @param rows  [count], stream * cells + cell each
    void wrote(const void* keys, const std::int64_t* rows, std::size_t count);
    /// A graph changes keys in place (a shift of the context): one thread.
    void changed(const void* keys) noexcept;
    /// Something was written outside of any graph: any thread.
    void changed_outside() noexcept { epoch_.fetch_add(1, std::memory_order_release); }

    /// Cells of a stream of which something is kept beside the layer with these keys.
    [[nodiscard]] std::size_t cells_kept(const void* keys, std::size_t stream) const noexcept;

    /// What prepare() did.
    [[nodiscard]] answer last_answer() const noexcept { return answer_; }

   private:
    /// What is kept of one layer, and of which.
    struct layer {
        key_cache cache;
        layer_shape shape;
        std::uint64_t epoch = 0;  ///< of the writes from outside that it has followed
        std::unique_ptr<layer_state> state;
    };
    /// Of one query token; kept from step to step, so that steps allocate nothing.
    struct row_state {
        std::vector<sparq::token_range> visible;
        row_scratch scratch;
        bool dense = false;
    };

    answer try_prepare(const attention_node& node, const settings& with);
    answer look(std::size_t i, const settings& with, row_state& row) const;
    void refresh(std::size_t stream, layer_state& state);
    row_plan plan_row(std::size_t i, const settings& with, layer_state* state, row_state& row);
    layer_state& state_of_layer(const settings& with);
    void write_zeros() const;

    std::unordered_map<const void*, layer> layers_;
    std::vector<std::unique_ptr<row_state>> rows_;
    std::vector<row_plan> plans_;
    attention_node node_;
    answer answer_ = answer::none;
    bool zeros_ = false;
    std::atomic<std::uint64_t> epoch_{0};
};

}  // namespace sparq_llama
