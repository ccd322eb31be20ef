// SPDX-License-Identifier: MIT
#include "layer_state.hpp"

#include "sparq_layer.hpp"
#include "tiers_layer.hpp"

namespace sparq_llama {

std::unique_ptr<layer_state> make_layer_state(const settings& with, const layer_shape& shape) {
    if (with.use == method::tiers) return std::make_unique<tiers_layer>(shape);
    return make_sparq_layer(with, shape);
}

}  // namespace sparq_llama
