// SPDX-License-Identifier: MIT
// cell_sums: sums over the values in an engine's cells, kept by blocks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "../config.hpp"
#include "../strided_kv.hpp"
#include "isa_vector.hpp"
#include "row_kernels.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

/// Of each block of 64 cells the sum of V, and with Squares that of |V|^2: of all KV heads.
/// Cells come in ascending order; a block of which a cell was written anew or dropped is
/// added up anew when it is next asked for.
template <bool Squares>
class SPARQ_ISA_TYPE cell_sums {
   public:
    SPARQ_PER_ISA cell_sums(std::size_t heads_kv, std::size_t value_dim)
        : heads_kv_(heads_kv),
          value_dim_(value_dim),
          width_(heads_kv * value_dim + (Squares ? heads_kv : 0)),
          row_(Squares ? value_dim : 0) {}

    /// What sum_range adds to: [heads_kv, value_dim], and with Squares [heads_kv] behind.
    [[nodiscard]] std::size_t width() const noexcept { return width_; }

    /// @throws std::bad_alloc; all stays as it was
    SPARQ_PER_ISA void make_room(std::size_t cells) {
        const std::size_t blocks = (cells + block_cells - 1) / block_cells;
        if (stale_.size() >= blocks) return;
        const std::size_t more = std::max(blocks, 2 * stale_.size());
        sums_.resize(more * width_);
        stale_.resize(more);
    }

    /// A cell behind all others; there is room.
    template <class Arch, class Engine>
    void add(const Engine& engine, std::size_t cell) noexcept {
        const std::size_t block = cell / block_cells;
        if (cell % block_cells == 0) {
            std::fill_n(sum_of(block), width_, 0.0);
            stale_[block] = 0;
        }
        if (stale_[block] == 0) add_rows<Arch>(engine, {cell, cell + 1}, sum_of(block));
    }
    /// A cell was written anew.
    SPARQ_PER_ISA void rewrite(std::size_t cell) noexcept { stale_[cell / block_cells] = 1; }
    /// Only so many cells are left.
    SPARQ_PER_ISA void truncate(std::size_t cells) noexcept {
        if (cells % block_cells != 0) stale_[cells / block_cells] = 1;
    }

    /// Adds a range of the `size` cells there are: whole blocks from their sums, the ends
    /// from the rows.
    template <class Arch, class Engine>
    void sum_range(const Engine& engine, const token_range& range, std::size_t size,
                   double* sums) noexcept {
        for (std::size_t cell = range.begin; cell < range.end;) {
            const std::size_t block = cell / block_cells;
            const std::size_t end = std::min((block + 1) * block_cells, size);
            if (cell == block * block_cells && end <= range.end) {
                const double* sum = fresh_sum<Arch>(engine, block, end);
                for (std::size_t i = 0; i < width_; ++i) sums[i] += sum[i];
                cell = end;
            } else {
                const std::size_t stop = std::min(end, range.end);
                add_rows<Arch>(engine, {cell, stop}, sums);
                cell = stop;
            }
        }
    }

   private:
    static constexpr std::size_t block_cells = 64;

    [[nodiscard]] SPARQ_PER_ISA double* sum_of(std::size_t block) noexcept {
        return sums_.data() + block * width_;
    }

    template <class Arch, class Engine>
    void add_rows(const Engine& engine, const token_range& cells, double* sums) noexcept {
        for (std::size_t cell = cells.begin; cell < cells.end; ++cell)
            for (std::size_t g = 0; g < heads_kv_; ++g) {
                const auto* row = engine.value_row(cell, g);
                row_kernels<Arch>::add(row, value_dim_, sums + g * value_dim_);
                if constexpr (Squares)
                    sums[heads_kv_ * value_dim_ + g] +=
                        row_kernels<Arch>::widen_and_square(row, value_dim_, row_.data());
            }
    }

    template <class Arch, class Engine>
    const double* fresh_sum(const Engine& engine, std::size_t block, std::size_t end) noexcept {
        double* sum = sum_of(block);
        if (stale_[block] != 0) {
            std::fill_n(sum, width_, 0.0);
            add_rows<Arch>(engine, {block * block_cells, end}, sum);
            stale_[block] = 0;
        }
        return sum;
    }

    std::size_t heads_kv_, value_dim_, width_;
    isa_vector<double> sums_;         ///< [blocks, width]
    isa_vector<std::uint8_t> stale_;  ///< [blocks]: the sum is to be computed anew
    isa_vector<float> row_;           ///< scratch
};

}  // namespace detail
SPARQ_NAMESPACE_END
