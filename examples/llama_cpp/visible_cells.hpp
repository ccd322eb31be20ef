// SPDX-License-Identifier: MIT
// From a row of an attention mask to ranges of visible cells.
#pragma once

#include <cstddef>
#include <cstdint>
#include <sparq/strided_kv.hpp>
#include <vector>

namespace sparq_llama {

/// The cells whose mask is 0, in ranges, ascending.
///
/// @param mask    [cells], IEEE half: 0 visible, -inf hidden
/// @param ranges  overwritten
/// @return        false when the mask holds any other value: a bias, which this cannot add
bool find_visible(const std::uint16_t* mask, std::size_t cells,
                  std::vector<sparq::token_range>& ranges);

}  // namespace sparq_llama
