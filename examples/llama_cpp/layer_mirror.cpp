// SPDX-License-Identifier: MIT
#include "layer_mirror.hpp"

#include <algorithm>

namespace sparq_llama {

void stream_mirror::forget_from_first_written() {
    if (written_.empty()) return;
    labels_.truncate(*std::min_element(written_.begin(), written_.end()));
    written_.clear();
}

void stream_mirror::refresh(const strided& engine, std::size_t end) {
    // A cell rewritten alone touches a cache line a channel, a copied run one for 32 cells.
    constexpr std::size_t cells_for_one_alone = 16;
    if (!written_.empty()) {
        const std::size_t first = *std::min_element(written_.begin(), written_.end());
        if (labels_.size() - first <= cells_for_one_alone * written_.size()) {
            forget_from_first_written();
        } else {
            for (const std::size_t cell : written_) labels_.rewrite(engine, cell);
            written_.clear();
        }
    }
    if (labels_.size() < end) labels_.append(engine, end - labels_.size());
}

void layer_mirror::begin(const attention_node& node, std::uint64_t at_epoch) {
    streams.clear();
    cache = node.cache;
    heads_kv = node.heads_kv;
    head_dim = node.head_dim;
    value_dim = node.value_dim;
    epoch = at_epoch;
    streams.reserve(cache.streams);
    for (std::size_t s = 0; s < cache.streams; ++s)
        streams.emplace_back(heads_kv, head_dim, value_dim);
}

void layer_mirror::wrote(const std::int64_t* rows, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        const auto row = static_cast<std::size_t>(rows[i]);
        if (const std::size_t stream = row / cache.cells; stream < streams.size())
            streams[stream].wrote(row % cache.cells);
    }
}

}  // namespace sparq_llama
