// SPDX-License-Identifier: MIT
// cell_layer: a layer_state that keeps something of each stream by cell, and follows what is
// written.
#pragma once

#include <cstddef>
#include <vector>

#include "layer_state.hpp"
#include "written_cells.hpp"

namespace sparq_llama {

/// @tparam Kept  sparq::key_labels or sparq::tier_codes: append, rewrite, truncate, clear, size
template <class Kept>
class cell_layer : public layer_state {
   public:
    explicit cell_layer(const layer_shape& shape) {
        streams_.reserve(shape.streams);
        for (std::size_t s = 0; s < shape.streams; ++s) streams_.emplace_back(shape);
    }

    void wrote(std::size_t stream, std::size_t cell) override {
        if (stream < streams_.size())
            streams_[stream].written.note(cell, streams_[stream].kept.size());
    }
    void invalidate() noexcept override {
        for (one_stream& stream : streams_) {
            stream.kept.clear();
            stream.written.clear();
        }
    }
    void refresh(const strided& engine, std::size_t stream, std::size_t end) override {
        auto& [kept, written] = streams_.at(stream);
        if (written.better_cut_off(kept.size())) written.cut_off();
        if (written.end(kept.size()) < kept.size()) kept.truncate(written.end(kept.size()));
        for (const std::size_t cell : written.singles()) kept.rewrite(engine, cell);
        written.clear();
        if (kept.size() < end) kept.append(engine, end - kept.size());
    }
    [[nodiscard]] std::size_t cells_kept(std::size_t stream) const noexcept override {
        return stream < streams_.size() ? streams_[stream].kept.size() : 0;
    }

   protected:
    Kept& kept(std::size_t stream) { return streams_.at(stream).kept; }

   private:
    struct one_stream {
        explicit one_stream(const layer_shape& shape)
            : kept(shape.heads_kv, shape.head_dim, shape.value_dim) {}
        Kept kept;
        written_cells written;
    };
    std::vector<one_stream> streams_;
};

}  // namespace sparq_llama
