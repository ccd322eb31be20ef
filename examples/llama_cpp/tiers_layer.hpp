// SPDX-License-Identifier: MIT
// tiers_layer: what attention in tiers keeps of a layer, its codes.
#pragma once

#include <cstddef>
#include <sparq/tier_codes.hpp>

#include "cell_layer.hpp"

namespace sparq_llama {

class tiers_layer final : public cell_layer<sparq::tier_codes<sparq::half>> {
   public:
    using cell_layer::cell_layer;

    [[nodiscard]] bool serves(const settings& with) const noexcept override;
    row_plan plan(const strided& engine, std::size_t stream, const row_request& row,
                  const settings& with, row_scratch& scratch) override;
};

}  // namespace sparq_llama
