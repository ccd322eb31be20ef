// SPDX-License-Identifier: MIT
#include "visible_cells.hpp"

#include <cstring>

namespace sparq_llama {
namespace {

constexpr std::uint16_t visible = 0x0000, hidden = 0xfc00;

/// The first cell from `cell` on whose mask is not `value`. A step's mask is read once a
/// layer, so four cells at a time.
std::size_t end_of_run(const std::uint16_t* mask, std::size_t cell, std::size_t cells,
                       std::uint16_t value) noexcept {
    const std::uint64_t four = value * std::uint64_t{0x0001000100010001};
    for (std::uint64_t next; cell + 4 <= cells; cell += 4) {
        std::memcpy(&next, mask + cell, sizeof next);
        if (next != four) break;
    }
    while (cell < cells && mask[cell] == value) ++cell;
    return cell;
}

}  // namespace

bool find_visible(const std::uint16_t* mask, std::size_t cells,
                  std::vector<sparq::token_range>& ranges) {
    ranges.clear();
    for (std::size_t cell = 0; cell < cells;) {
        const std::size_t begin = end_of_run(mask, cell, cells, hidden);
        if (begin == cells) break;
        cell = end_of_run(mask, begin, cells, visible);
        if (cell == begin) return false;  // neither
        ranges.push_back({begin, cell});
    }
    return true;
}

}  // namespace sparq_llama
