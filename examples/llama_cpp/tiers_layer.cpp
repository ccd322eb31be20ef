// SPDX-License-Identifier: MIT
#include "tiers_layer.hpp"

namespace sparq_llama {

bool tiers_layer::serves(const settings& with) const noexcept { return with.use == method::tiers; }

row_plan tiers_layer::plan(const strided& engine, std::size_t stream, const row_request& row,
                           const settings& with, row_scratch& scratch) {
    sparq::tiered_params params;
    params.tolerance = with.tolerance;
    params.scale = row.scale;
    return sparq::plan_tiered(row.q, kept(stream).view(engine, row.visible, scratch.tiers), params,
                              row.out, row.options);
}

}  // namespace sparq_llama
