// SPDX-License-Identifier: MIT
// Weighted sums of rows of V, for the query heads of a group.
//
//   sums[h][c] = rescale[h] * sums[h][c] + sum over j of weights[h][j] * rows[j][c]
//
// Traffic: each row comes from memory once; further heads and columns find it in L1.
// Numerics: float, rows in ascending j, one fused multiply-add each; the order does
// not depend on the tiles. |error| <= (n + 1) * eps * sum |weights[h][j] * rows[j][c]|.
#pragma once

#include <algorithm>
#include <cstddef>

#include "dot_rows.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

namespace detail {

/// Rows between two turns of asking for upcoming ones.
inline constexpr std::size_t rows_per_turn = 4;

/// sums[h] *= rescale[h], up to whole vectors.
template <class Arch>
void rescale_sums(const float* rescale, std::size_t group, std::size_t width, float* sums,
                  std::size_t sums_stride) noexcept {
    for (std::size_t h = 0; h < group; ++h)
        for (std::size_t c = 0; c < width; c += simd::lanes<Arch>) {
            float* sum = sums + h * sums_stride + c;
            const auto scaled = simd::load<Arch>(sum) * simd::splat<Arch>(rescale[h]);
            simd::store<Arch>(sum, scaled);
        }
}

/// Vectors of columns side by side. Eight accumulators hide the latency of a fused
/// multiply-add; 16 registers hold no more, but for three heads.
template <class Arch, std::size_t Heads>
inline constexpr std::size_t columns_at_once =
    Heads == 3 ? 4 : std::min<std::size_t>(8, simd::registers<Arch> / 2 / Heads);

/// `Heads` x `Columns` vectors stay in registers over all rows. `partial` columns of
/// the only vector when it is not 0.
template <class Arch, std::size_t Heads, std::size_t Columns, class T, class Upcoming>
void accumulate_columns(const float* weights, std::size_t weights_stride, const T* const* rows,
                        std::size_t n, std::size_t column, std::size_t partial, float* sums,
                        std::size_t sums_stride, const Upcoming& upcoming) noexcept {
    using vec = simd::f32<Arch>;
    constexpr std::size_t width = simd::lanes<Arch>;
    vec sum[Heads][Columns];
    SPARQ_UNROLL
    for (std::size_t h = 0; h < Heads; ++h) {
        SPARQ_UNROLL
        for (std::size_t i = 0; i < Columns; ++i)
            sum[h][i] = simd::load<Arch>(sums + h * sums_stride + column + i * width);
    }

    const auto add_row = [&](std::size_t j) {
        const T* row = rows[j] + column;
        if (Heads > 2 && Columns > 1)  // with fewer, memory is busier than the processor
            for (std::size_t c = 0; c < Columns * width; c += cache_line_bytes / sizeof(T))
                simd::prefetch_from_l2(row + Columns * width + c);
        const auto load = [&](std::size_t i) {
            return Columns == 1 && partial != 0 ? simd::load_partial<Arch>(row, partial)
                                                : simd::load<Arch>(row + i * width);
        };
        const auto splat = [&](std::size_t h) {
            return simd::splat<Arch>(weights[h * weights_stride + j]);
        };
        add_products<Arch, three_heads<Arch, Heads> >(splat, load, sum);
    };
    for (std::size_t first = 0; first < n; first += rows_per_turn) {
        upcoming.prefetch(first, first + rows_per_turn);
        const std::size_t end = n - first < rows_per_turn ? n : first + rows_per_turn;
        for (std::size_t j = first; j < end; ++j) add_row(j);
    }

    SPARQ_UNROLL
    for (std::size_t h = 0; h < Heads; ++h) {
        SPARQ_UNROLL
        for (std::size_t i = 0; i < Columns; ++i)
            simd::store<Arch>(sums + h * sums_stride + column + i * width, sum[h][i]);
    }
}

/// accumulate_rows without rescaling, for rows of whatever a vector can load; upcoming ones may
/// be of another type.
template <class Arch, class T, class Upcoming>
void accumulate_rows_of_group(const float* weights, std::size_t group, std::size_t weights_stride,
                              const T* const* rows, std::size_t n, std::size_t width, float* sums,
                              std::size_t sums_stride, const Upcoming& upcoming) noexcept {
    constexpr std::size_t lanes = simd::lanes<Arch>;
    for_head_tiles(group, [&](auto heads, std::size_t first) {
        constexpr std::size_t wide = columns_at_once<Arch, heads()>;
        const float* w = weights + first * weights_stride;
        float* s = sums + first * sums_stride;
        const auto asked = [&](std::size_t c) {  // once for all tiles
            return first == 0 && c == 0 ? upcoming : Upcoming{};
        };
        std::size_t c = 0;
        for (; c + wide * lanes <= width; c += wide * lanes)
            accumulate_columns<Arch, heads(), wide>(w, weights_stride, rows, n, c, 0, s,
                                                    sums_stride, asked(c));
        for (; c < width; c += lanes) {
            const std::size_t partial = c + lanes <= width ? 0 : width - c;
            accumulate_columns<Arch, heads(), 1>(w, weights_stride, rows, n, c, partial, s,
                                                 sums_stride, asked(c));
        }
    });
}

}  // namespace detail

/// @param weights  [group, n], weights_stride >= n
/// @param rescale  [group], or null: all 1
/// @param rows     [n] pointers to rows [width]; not a byte outside them is read
/// @param sums     [group, width], sums_stride a multiple of the lanes; read and
///                 written up to the stride; overlaps nothing
/// @param upcoming  rows to ask for, one for each of the n
template <class Arch, class T>
void accumulate_rows(const float* weights, std::size_t group, std::size_t weights_stride,
                     const float* rescale, const T* const* rows, std::size_t n, std::size_t width,
                     float* sums, std::size_t sums_stride,
                     const upcoming_rows<T>& upcoming = {}) noexcept {
    if (rescale != nullptr) detail::rescale_sums<Arch>(rescale, group, width, sums, sums_stride);
    detail::accumulate_rows_of_group<Arch>(weights, group, weights_stride, rows, n, width, sums,
                                           sums_stride, upcoming);
}

}  // namespace kernels
SPARQ_NAMESPACE_END
