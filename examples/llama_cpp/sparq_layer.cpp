// SPDX-License-Identifier: MIT
#include "sparq_layer.hpp"

#include <tuple>

namespace sparq_llama {
namespace {

template <class Label>
constexpr unsigned bits_of() noexcept {
    if constexpr (sparq::coded_label<Label>)
        return Label::bits;
    else
        return 8 * sizeof(Label);
}

}  // namespace

template <class Label>
bool sparq_layer<Label>::serves(const settings& with) const noexcept {
    return with.use == method::sparq && with.label_bits == bits_of<Label>();
}

template <class Label>
row_plan sparq_layer<Label>::plan(const strided& engine, std::size_t stream, const row_request& row,
                                  const settings& with, row_scratch& scratch) {
    sparq::sparq_params params = with.params;
    params.scale = row.scale;
    const std::size_t group = row.heads_q / engine.heads_kv;
    const bool sums = sparq::steps::uses_mean_value(params.tail, group);
    auto& storage = std::get<row_scratch::labelled<Label>>(scratch.labels);
    return sparq::plan_sparq(row.q, this->kept(stream).view(engine, row.visible, storage, sums),
                             params, row.out, row.options);
}

std::unique_ptr<layer_state> make_sparq_layer(const settings& with, const layer_shape& shape) {
    switch (with.label_bits) {
        case 8:
            return std::make_unique<sparq_layer<sparq::int8_label>>(shape);
        case 4:
            return std::make_unique<sparq_layer<sparq::int4_label>>(shape);
        case 2:
            return std::make_unique<sparq_layer<sparq::int2_label>>(shape);
        default:
            return std::make_unique<sparq_layer<sparq::half>>(shape);
    }
}

}  // namespace sparq_llama
