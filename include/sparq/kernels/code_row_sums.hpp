// SPDX-License-Identifier: MIT
// Dot products with and weighted sums of code rows (code_rows.hpp), for the query heads of
// a group.
//
//   dot_code_rows         out[h][j] = scale[h] * sum over c of weight[h][c] * code[j][c]
//   accumulate_code_rows  sums[h][i] += sum over j of weights[h][j] * code[j][i]
//
// Traffic: width / 2 bytes a row (whole units), each read from memory once; further heads
// and columns find the row in L1. Numerics: dot: integers, exact, rounded to float and
// multiplied by the scale (2 roundings): the same bits on every instruction set.
// accumulate: float, rows in ascending j, one fused multiply-add each (two roundings where
// the target has none), from zero, added to sums at the end; no order depends on the tiles.
// |error| <= (n + 1) eps * (|sums[h][i]| + sum |weights[h][j]| * code[j][i]) with eps = 2^-24,
// twice that without fused multiply-add, as long as sum |weights| < 2^96.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "code_rows.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

namespace detail {

/// Calls body(std::integral_constant<Heads>, first) for tiles of at most four heads.
template <class Body>
SPARQ_ALWAYS_INLINE void for_code_head_tiles(std::size_t heads, const Body& body) noexcept {
    std::size_t h = 0;
    for (; h + 4 <= heads; h += 4) body(std::integral_constant<std::size_t, 4>{}, h);
    if (heads - h == 3) body(std::integral_constant<std::size_t, 3>{}, h);
    if (heads - h == 2) body(std::integral_constant<std::size_t, 2>{}, h);
    if (heads - h == 1) body(std::integral_constant<std::size_t, 1>{}, h);
}

/// Rows computed together with `Heads` heads: their sums stay in registers.
template <class Arch, std::size_t Heads>
inline constexpr std::size_t code_rows_at_once = Heads > 3 && simd::registers<Arch> < 32 ? 2 : 4;

/// Adds the products of nibble `Nibble` of the words of each row with the heads' weights.
template <class Arch, int Nibble, std::size_t Heads, std::size_t Rows>
SPARQ_ALWAYS_INLINE void add_nibble_products(const std::array<const std::int16_t*, Heads>& weights,
                                             std::size_t offset,
                                             const simd::code_block<Arch> (&codes)[Rows],
                                             simd::code_block<Arch> (&sum)[Heads * Rows]) noexcept {
    SPARQ_UNROLL
    for (std::size_t j = 0; j < Rows; ++j) {
        const auto words = simd::nibble_words<Arch, Nibble>(codes[j]);
        SPARQ_UNROLL
        for (std::size_t h = 0; h < Heads; ++h)
            sum[h * Rows + j] = simd::add_products<Arch>(
                sum[h * Rows + j], words,
                weights[h] + 2 * offset + Nibble * simd::block_words<Arch>);
    }
}

/// The block of `units` units at byte `offset` of each row.
template <class Arch, std::size_t Heads, std::size_t Rows>
SPARQ_ALWAYS_INLINE void add_block_products(const std::array<const std::int16_t*, Heads>& weights,
                                            const std::array<const std::uint8_t*, Rows>& row,
                                            std::size_t offset, std::size_t units,
                                            simd::code_block<Arch> (&sum)[Heads * Rows]) noexcept {
    simd::code_block<Arch> codes[Rows];
    SPARQ_UNROLL
    for (std::size_t j = 0; j < Rows; ++j)
        codes[j] = simd::load_codes<Arch>(row[j] + offset, units);
    add_nibble_products<Arch, 0, Heads, Rows>(weights, offset, codes, sum);
    add_nibble_products<Arch, 1, Heads, Rows>(weights, offset, codes, sum);
    add_nibble_products<Arch, 2, Heads, Rows>(weights, offset, codes, sum);
    add_nibble_products<Arch, 3, Heads, Rows>(weights, offset, codes, sum);
}

/// `Heads` x `Rows` dot products, out[h * Rows + j].
template <class Arch, std::size_t Heads, std::size_t Rows>
SPARQ_ALWAYS_INLINE void dot_code_tile(const code_row_weights* weights,
                                       const std::array<const std::uint8_t*, Rows>& row,
                                       std::size_t bytes, float (&out)[Heads * Rows]) noexcept {
    static_assert(Heads * Rows % 4 == 0);
    constexpr std::size_t units = simd::block_units<Arch>, step = simd::block_bytes<Arch>;
    std::array<const std::int16_t*, Heads> integers;
    std::array<float, Heads * Rows> scale;
    SPARQ_UNROLL
    for (std::size_t h = 0; h < Heads; ++h) {
        integers[h] = weights[h].weights;
        SPARQ_UNROLL
        for (std::size_t j = 0; j < Rows; ++j) scale[h * Rows + j] = weights[h].scale;
    }
    simd::code_block<Arch> sum[Heads * Rows];
    SPARQ_UNROLL
    for (std::size_t i = 0; i < Heads * Rows; ++i) sum[i] = simd::code_block<Arch>{};
    std::size_t b = 0;
    for (; b + step <= bytes; b += step)
        add_block_products<Arch, Heads, Rows>(integers, row, b, units, sum);
    if constexpr (units > 1)
        if (b < bytes)
            add_block_products<Arch, Heads, Rows>(integers, row, b, (bytes - b) / 16, sum);
    SPARQ_UNROLL
    for (std::size_t i = 0; i < Heads * Rows; i += 4)
        simd::scaled_sums_of_four<Arch>({sum[i], sum[i + 1], sum[i + 2], sum[i + 3]},
                                        {scale[i], scale[i + 1], scale[i + 2], scale[i + 3]},
                                        out + i);
}

template <class Arch, std::size_t Heads>
void dot_code_rows_of_heads(const code_row_weights* weights, const std::uint8_t* const* rows,
                            std::size_t n, std::size_t width, float* out,
                            std::size_t out_stride) noexcept {
    constexpr std::size_t tile = code_rows_at_once<Arch, Heads>;
    const std::size_t bytes = code_row_bytes(width);
    std::array<const std::uint8_t*, tile> row;
    float sums[Heads * tile];
    std::size_t j = 0;
    for (; j + tile <= n; j += tile) {
        SPARQ_UNROLL
        for (std::size_t i = 0; i < tile; ++i) row[i] = rows[j + i];
        dot_code_tile<Arch, Heads, tile>(weights, row, bytes, sums);
        SPARQ_UNROLL
        for (std::size_t h = 0; h < Heads; ++h)
            std::memcpy(out + h * out_stride + j, sums + h * tile, tile * sizeof(float));
    }
    if (j == n) return;
    for (std::size_t i = 0; i < tile; ++i) row[i] = rows[j + i < n ? j + i : n - 1];
    dot_code_tile<Arch, Heads, tile>(weights, row, bytes, sums);
    for (std::size_t h = 0; h < Heads; ++h)
        for (std::size_t i = 0; j + i < n; ++i) out[h * out_stride + j + i] = sums[h * tile + i];
}

/// Of the eight vectors of a block's codes (lower and upper nibbles of four bytes of each
/// 32-bit word) those that are summed together for `Heads` heads.
template <class Arch, std::size_t Heads>
inline constexpr std::size_t vectors_of_codes =
    (simd::registers<Arch> < 32 ? std::array{8, 4, 3, 2} : std::array{8, 8, 4, 4})[Heads - 1];

/// Vectors [First, First + Vectors) of a block: parts[h][v] = their weighted sum.
template <class Arch, std::size_t Heads, std::size_t First, std::size_t Vectors>
SPARQ_ALWAYS_INLINE void sum_code_vectors(const float* weights, std::size_t weights_stride,
                                          const std::uint8_t* const* rows, std::size_t n,
                                          std::size_t offset, std::size_t units,
                                          float (*parts)[8][simd::lanes<Arch>]) noexcept {
    using vec = simd::f32<Arch>;
    vec sum[Heads][Vectors];
    SPARQ_UNROLL
    for (auto& head : sum) SPARQ_UNROLL
    for (auto& one : head) one = simd::splat<Arch>(0.0f);
    for (std::size_t j = 0; j < n; ++j) {
        const auto codes = simd::load_codes<Arch>(rows[j] + offset, units);
        const auto upper = simd::upper_nibbles<Arch>(codes);
        vec weight[Heads];
        SPARQ_UNROLL
        for (std::size_t h = 0; h < Heads; ++h)
            weight[h] = simd::splat<Arch>(weights[h * weights_stride + j]);
        SPARQ_UNROLL
        for (std::size_t v = 0; v < Vectors; ++v) {
            const vec code = simd::nibble_floats<Arch>(First + v < 4 ? codes : upper,
                                                       static_cast<unsigned>((First + v) % 4));
            SPARQ_UNROLL
            for (std::size_t h = 0; h < Heads; ++h)
                sum[h][v] = simd::multiply_add<Arch>(weight[h], code, sum[h][v]);
        }
    }
    constexpr float factor[4] = {1.0f, 0x1p-8f, 0x1p-16f, 0x1p-24f};  // exact
    SPARQ_UNROLL
    for (std::size_t h = 0; h < Heads; ++h) SPARQ_UNROLL
    for (std::size_t v = 0; v < Vectors; ++v)
        simd::store<Arch>(static_cast<float*>(parts[h][First + v]),
                          sum[h][v] * simd::splat<Arch>(factor[(First + v) % 4]));
}

/// The columns of the block of `units` units at byte `offset`.
template <class Arch, std::size_t Heads>
void accumulate_code_block(const float* weights, std::size_t weights_stride,
                           const std::uint8_t* const* rows, std::size_t n, std::size_t offset,
                           std::size_t units, float* sums, std::size_t sums_stride) noexcept {
    constexpr std::size_t vectors = vectors_of_codes<Arch, Heads>;
    float parts[Heads][8][simd::lanes<Arch>];
    const auto sum_vectors = [&](auto first) {
        if constexpr (first() < 8) {
            constexpr std::size_t count = 8 - first() < vectors ? 8 - first() : vectors;
            sum_code_vectors<Arch, Heads, first(), count>(weights, weights_stride, rows, n, offset,
                                                          units, parts);
        }
    };
    sum_vectors(std::integral_constant<std::size_t, 0>{});
    sum_vectors(std::integral_constant<std::size_t, vectors>{});
    sum_vectors(std::integral_constant<std::size_t, vectors * 2>{});
    sum_vectors(std::integral_constant<std::size_t, vectors * 3>{});
    for (std::size_t h = 0; h < Heads; ++h)
        for (std::size_t unit = 0; unit < units; ++unit) {
            float* to = sums + h * sums_stride + 2 * offset + simd::unit_codes * unit;
            simd::add_transposed<Arch>(parts[h][0] + 4 * unit, simd::lanes<Arch>, to);
            simd::add_transposed<Arch>(parts[h][4] + 4 * unit, simd::lanes<Arch>, to + 16);
        }
}

}  // namespace detail

/// @param weights  [heads] prepared for this Arch and width
/// @param rows     [n] pointers to code rows; not a byte behind code_row_bytes(width) is read
/// @param out      [heads, n], out_stride >= n; overlaps nothing
template <class Arch>
void dot_code_rows(const code_row_weights* weights, std::size_t heads,
                   const std::uint8_t* const* rows, std::size_t n, std::size_t width, float* out,
                   std::size_t out_stride) noexcept {
    detail::for_code_head_tiles(heads, [&](auto count, std::size_t first) {
        detail::dot_code_rows_of_heads<Arch, count()>(weights + first, rows, n, width,
                                                      out + first * out_stride, out_stride);
    });
}

/// @param weights  [group, n], weights_stride >= n; a code's step is put in by the caller
/// @param rows     [n] pointers to code rows; not a byte behind code_row_bytes(width) is read
/// @param sums     [group, padded_code_width(width)], sums_stride at least that, any alignment;
///                 all of these columns are read and written (those behind width get + 0)
template <class Arch>
void accumulate_code_rows(const float* weights, std::size_t group, std::size_t weights_stride,
                          const std::uint8_t* const* rows, std::size_t n, std::size_t width,
                          float* sums, std::size_t sums_stride) noexcept {
    const std::size_t bytes = code_row_bytes(width);
    constexpr std::size_t step = sparq::detail::simd::block_bytes<Arch>;
    detail::for_code_head_tiles(group, [&](auto heads, std::size_t first) {
        const float* w = weights + first * weights_stride;
        float* s = sums + first * sums_stride;
        std::size_t b = 0;
        for (; b + step <= bytes; b += step)
            detail::accumulate_code_block<Arch, heads()>(w, weights_stride, rows, n, b, step / 16,
                                                         s, sums_stride);
        if (b < bytes)
            detail::accumulate_code_block<Arch, heads()>(w, weights_stride, rows, n, b,
                                                         (bytes - b) / 16, s, sums_stride);
    });
}

}  // namespace kernels
SPARQ_NAMESPACE_END
