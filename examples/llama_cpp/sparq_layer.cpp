// SPDX-License-Identifier: MIT
#include "sparq_layer.hpp"

namespace sparq_llama {

bool sparq_layer::serves(const settings& with) const noexcept { return with.use == method::sparq; }

row_plan sparq_layer::plan(const strided& engine, std::size_t stream, const row_request& row,
                           const settings& with, row_scratch& scratch) {
    sparq::sparq_params params = with.params;
    params.scale = row.scale;
    const std::size_t group = row.heads_q / engine.heads_kv;
    const bool sums = sparq::steps::uses_mean_value(params.tail, group);
    return sparq::plan_sparq(row.q, kept(stream).view(engine, row.visible, scratch.storage, sums),
                             params, row.out, row.options);
}

}  // namespace sparq_llama
