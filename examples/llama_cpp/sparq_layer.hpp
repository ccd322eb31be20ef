// SPDX-License-Identifier: MIT
// sparq_layer: what SparQ attention keeps of a layer, the keys once more d_h-major.
#pragma once

#include <cstddef>
#include <sparq/key_labels.hpp>
#include <vector>

#include "layer_state.hpp"
#include "written_cells.hpp"

namespace sparq_llama {

class sparq_layer final : public layer_state {
   public:
    explicit sparq_layer(const layer_shape& shape);

    [[nodiscard]] bool serves(const settings& with) const noexcept override;
    void wrote(std::size_t stream, std::size_t cell) override;
    void invalidate() noexcept override;
    void refresh(const strided& engine, std::size_t stream, std::size_t end) override;
    row_plan plan(const strided& engine, std::size_t stream, const row_request& row,
                  const settings& with, row_scratch& scratch) override;

   private:
    struct one_stream {
        explicit one_stream(const layer_shape& shape)
            : labels(shape.heads_kv, shape.head_dim, shape.value_dim) {}
        sparq::key_labels<sparq::half> labels;
        written_cells written;
    };
    std::vector<one_stream> streams_;
};

}  // namespace sparq_llama
