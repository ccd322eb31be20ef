// SPDX-License-Identifier: MIT
// sparq_layer: what SparQ attention keeps of a layer, the keys once more d_h-major.
#pragma once

#include <cstddef>
#include <memory>
#include <sparq/key_labels.hpp>

#include "cell_layer.hpp"

namespace sparq_llama {

/// @tparam Label  what the copy consists of: sparq::half, the bits of the keys, or labels of
///                few bits
template <class Label>
class sparq_layer final : public cell_layer<sparq::key_labels<sparq::half, Label>> {
   public:
    using cell_layer<sparq::key_labels<sparq::half, Label>>::cell_layer;

    [[nodiscard]] bool serves(const settings& with) const noexcept override;
    row_plan plan(const strided& engine, std::size_t stream, const row_request& row,
                  const settings& with, row_scratch& scratch) override;
};

/// The one with the labels that the settings ask for.
std::unique_ptr<layer_state> make_sparq_layer(const settings& with, const layer_shape& shape);

}  // namespace sparq_llama
