// SPDX-License-Identifier: MIT
// layer_mirror: the d_h-major copy of one layer's keys, kept in step with an engine's cache
// by being told which cells were written.
//
// It needs no positions and no sequences: it is indexed by cell, and each step's mask says
// which cells count. Cells told of are copied when a step next reads them, from the cache
// itself, so that the bits are the cache's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <sparq/key_labels.hpp>
#include <sparq/strided_kv.hpp>
#include <vector>

#include "attention_node.hpp"

namespace sparq_llama {

using strided = sparq::strided_kv<sparq::half>;

/// One stream of a layer. One thread at a time.
class stream_mirror {
   public:
    stream_mirror(std::size_t heads_kv, std::size_t head_dim, std::size_t value_dim)
        : labels_(heads_kv, head_dim, value_dim) {
        written_.reserve(most_written);
    }

    /// The engine writes a cell, now or before anything is read.
    void wrote(std::size_t cell) {
        if (cell >= labels_.size()) return;  // not copied yet
        if (written_.size() == most_written) forget_from_first_written();
        if (cell < labels_.size()) written_.push_back(cell);
    }

    /// Anything may have changed.
    void invalidate() noexcept {
        labels_.clear();
        written_.clear();
    }

    /// Brings the copy of cells [0, end) up to date. May throw std::bad_alloc, after which
    /// it is as it was.
    void refresh(const strided& engine, std::size_t end);

    sparq::key_labels<sparq::half>& labels() noexcept { return labels_; }

   private:
    void forget_from_first_written();

    /// Cells remembered one by one before the copy is cut off at the lowest of them.
    static constexpr std::size_t most_written = 1024;
    sparq::key_labels<sparq::half> labels_;
    std::vector<std::size_t> written_;
};

/// All streams of a layer.
struct layer_mirror {
    key_cache cache;
    std::size_t heads_kv = 0, head_dim = 0, value_dim = 0;
    std::uint64_t epoch = 0;  ///< of the writes from outside that it has followed
    std::vector<stream_mirror> streams;

    /// Whether it is the copy of that node's cache, in that shape.
    [[nodiscard]] bool is_of(const attention_node& node) const noexcept {
        return cache == node.cache && heads_kv == node.heads_kv && head_dim == node.head_dim &&
               value_dim == node.value_dim;
    }
    void begin(const attention_node& node, std::uint64_t at_epoch);
    /// The engine writes rows: stream * cells + cell each.
    void wrote(const std::int64_t* rows, std::size_t count);
    void invalidate() noexcept {
        for (stream_mirror& stream : streams) stream.invalidate();
    }
};

}  // namespace sparq_llama
