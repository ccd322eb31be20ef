// SPDX-License-Identifier: MIT
// sparq_layer: what SparQ attention keeps of a layer, the keys once more d_h-major.
#pragma once

#include <cstddef>
#include <sparq/key_labels.hpp>

#include "cell_layer.hpp"

namespace sparq_llama {

class sparq_layer final : public cell_layer<sparq::key_labels<sparq::half>> {
   public:
    using cell_layer::cell_layer;

    [[nodiscard]] bool serves(const settings& with) const noexcept override;
    row_plan plan(const strided& engine, std::size_t stream, const row_request& row,
                  const settings& with, row_scratch& scratch) override;
};

}  // namespace sparq_llama
