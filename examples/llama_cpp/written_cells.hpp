// SPDX-License-Identifier: MIT
// written_cells: which cells of a stream an engine has written since they were last copied.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

namespace sparq_llama {

/// Remembers up to `most` cells one by one, then only that everything from the lowest of
/// them on is to be copied anew. Allocates when it is made, and never after.
class written_cells {
   public:
    written_cells() { cells_.reserve(most); }

    /// @param known  cells copied so far: those behind are copied anyway
    void note(std::size_t cell, std::size_t known) noexcept {
        if (cell >= std::min(known, end_)) return;
        if (cells_.size() == most) cut_off();
        if (cell < end_) cells_.push_back(cell);
    }

    /// Cells from here on are to be copied anew; `known` if none are.
    [[nodiscard]] std::size_t end(std::size_t known) const noexcept {
        return std::min(known, end_);
    }
    /// Single ones below end(), in the order they were written, some twice.
    [[nodiscard]] std::span<const std::size_t> singles() const noexcept { return cells_; }

    /// Whether the `known` copied cells are sooner copied from the lowest written on than
    /// one by one: a cell rewritten alone touches a cache line a channel, a run of cells
    /// one for 32 of them.
    [[nodiscard]] bool better_cut_off(std::size_t known) const noexcept {
        constexpr std::size_t cells_for_one_alone = 16;
        return !cells_.empty() && end(known) - *std::min_element(cells_.begin(), cells_.end()) <=
                                      cells_for_one_alone * cells_.size();
    }
    /// Everything from the lowest written cell on is to be copied anew.
    void cut_off() noexcept {
        if (cells_.empty()) return;
        end_ = std::min(end_, *std::min_element(cells_.begin(), cells_.end()));
        cells_.clear();
    }

    void clear() noexcept {
        cells_.clear();
        end_ = none;
    }

   private:
    static constexpr std::size_t most = 1024, none = static_cast<std::size_t>(-1);
    std::vector<std::size_t> cells_;
    std::size_t end_ = none;
};

}  // namespace sparq_llama
