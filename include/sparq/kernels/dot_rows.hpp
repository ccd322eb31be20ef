// SPDX-License-Identifier: MIT
// Dot products of the query heads of a group with rows of K.
//
//   logits[h][j] = sum over c of queries[h][c] * rows[j][c]
//
// Traffic: each row is read once for up to four query heads. Numerics: float; lane i
// of the accumulator sums the columns c = i (mod lanes) in ascending order with fused
// multiply-add (where the target has it), then sum_lanes_of_four. The order does not
// depend on how many rows or heads are computed together, so neither do the bits.
// |error| <= (width / lanes + log2(lanes)) * eps * sum |queries[h][c] * rows[j][c]|.
#pragma once

#include <array>
#include <cstddef>
#include <type_traits>

#include "../config.hpp"
#include "../detail/simd.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

/// Rows that are wanted next: a kernel asks for their lines while it computes, so that
/// the memory does not rest meanwhile.
template <class T>
struct upcoming_rows {
    const T* const* rows = nullptr;  ///< [count] pointers to rows [width]
    std::size_t count = 0, width = 0;

    /// Asks for rows [from, to), as far as there are any.
    SPARQ_ALWAYS_INLINE void prefetch(std::size_t from, std::size_t to) const noexcept {
        for (std::size_t j = from; j < to && j < count; ++j)
            for (std::size_t c = 0; c < width; c += cache_line_bytes / sizeof(T))
                sparq::detail::simd::prefetch(rows[j] + c);
    }
};

namespace detail {

namespace simd = sparq::detail::simd;

/// Rows computed together with `Heads` heads: the accumulators, the rows and a query stay in
/// registers, and a row is widened once for all of up to four heads.
template <class Arch, std::size_t Heads>
inline constexpr std::size_t rows_at_once = Heads > 2 && simd::registers<Arch> < 32 ? 2 : 4;

/// `Heads` x `Rows` dot products, sums[h][j].
template <class Arch, std::size_t Heads, std::size_t Rows, class T>
SPARQ_ALWAYS_INLINE void dot_tile(const float* queries, std::size_t query_stride,
                                  const std::array<const T*, Rows>& row, std::size_t width,
                                  float (&sums)[Heads * Rows]) noexcept {
    using vec = simd::f32<Arch>;
    static_assert(Heads * Rows % 4 == 0);
    vec sum[Heads * Rows];
    for (auto& one : sum) one = simd::splat<Arch>(0.0f);
    const auto add_columns = [&](std::size_t c, const auto& load) {
        vec key[Rows];
        for (std::size_t j = 0; j < Rows; ++j) key[j] = load(row[j] + c);
        for (std::size_t h = 0; h < Heads; ++h) {
            const vec q = simd::load_once<Arch>(queries + h * query_stride + c);
            for (std::size_t j = 0; j < Rows; ++j)
                sum[h * Rows + j] = simd::multiply_add<Arch>(q, key[j], sum[h * Rows + j]);
        }
    };

    std::size_t c = 0;
    for (; c + simd::lanes<Arch> <= width; c += simd::lanes<Arch>)
        add_columns(c, [](const T* p) { return simd::load<Arch>(p); });
    if (const std::size_t n = width - c; n != 0)
        add_columns(c, [n](const T* p) { return simd::load_partial<Arch>(p, n); });

    for (std::size_t i = 0; i < Heads * Rows; i += 4)
        simd::sum_lanes_of_four<Arch>({sum[i], sum[i + 1], sum[i + 2], sum[i + 3]}, sums + i);
}

template <class Arch, std::size_t Heads, class T>
void dot_rows_of_heads(const float* queries, std::size_t query_stride, const T* const* rows,
                       std::size_t n, std::size_t width, float* logits, std::size_t logits_stride,
                       const upcoming_rows<T>& upcoming) noexcept {
    constexpr std::size_t tile = rows_at_once<Arch, Heads>;
    for (std::size_t j = 0; j < n; j += tile) {
        upcoming.prefetch(j, j + tile);
        const std::size_t count = n - j < tile ? n - j : tile;
        std::array<const T*, tile> row;  // the last row again where fewer are left
        for (std::size_t i = 0; i < tile; ++i) row[i] = rows[j + (i < count ? i : count - 1)];
        float sums[Heads * tile];
        dot_tile<Arch, Heads, tile>(queries, query_stride, row, width, sums);
        for (std::size_t h = 0; h < Heads; ++h)
            for (std::size_t i = 0; i < count; ++i)
                logits[h * logits_stride + j + i] = sums[h * tile + i];
    }
}

/// Calls body(std::integral_constant<Heads>, first) for tiles of at most four heads that
/// cover `group` heads.
template <class Body>
SPARQ_ALWAYS_INLINE void for_head_tiles(std::size_t group, const Body& body) noexcept {
    std::size_t h = 0;
    for (; h + 4 <= group; h += 4) body(std::integral_constant<std::size_t, 4>{}, h);
    for (; h + 2 <= group; h += 2) body(std::integral_constant<std::size_t, 2>{}, h);
    if (h < group) body(std::integral_constant<std::size_t, 1>{}, h);
}

}  // namespace detail

/// @param queries  [group, width], query_stride a multiple of the lanes, zeros behind width
/// @param rows     [n] pointers to rows [width]; not a byte outside them is read
/// @param logits   [group, n], logits_stride >= n; overlaps nothing
/// @param upcoming  rows to ask for, one for each of the n
template <class Arch, class T>
void dot_rows(const float* queries, std::size_t group, std::size_t query_stride,
              const T* const* rows, std::size_t n, std::size_t width, float* logits,
              std::size_t logits_stride, const upcoming_rows<T>& upcoming = {}) noexcept {
    detail::for_head_tiles(group, [&](auto heads, std::size_t first) {
        detail::dot_rows_of_heads<Arch, heads()>(queries + first * query_stride, query_stride, rows,
                                                 n, width, logits + first * logits_stride,
                                                 logits_stride,
                                                 first == 0 ? upcoming : upcoming_rows<T>{});
    });
}

}  // namespace kernels
SPARQ_NAMESPACE_END
