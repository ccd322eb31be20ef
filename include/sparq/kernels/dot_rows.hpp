// SPDX-License-Identifier: MIT
// Dot products of the query heads of a group with rows of K.
//
//   logits[h][j] = sum over c of queries[h][c] * rows[j][c]
//
// Traffic: each row is read once for up to four query heads. Numerics: float; lane i
// of the accumulator sums the columns c = i (mod lanes) in ascending order with fused
// multiply-add (where the target has it), then sum_lanes_of_each. The order does not
// depend on how many rows or heads are computed together, so neither do the bits.
// |error| <= (width / lanes + log2(lanes)) * eps * sum |queries[h][c] * rows[j][c]|.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>

#include "../config.hpp"
#include "../detail/simd.hpp"
#include "../int8_row.hpp"

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
            for (const T *p = rows[j] - row_prefix<T>, *end = rows[j] + width; p < end;
                 p += cache_line_bytes / sizeof(T))
                sparq::detail::simd::prefetch(p);
    }
};

namespace detail {

namespace simd = sparq::detail::simd;

/// Rows computed together with `Heads` heads: the accumulators and what they are computed
/// from stay in registers, and a row is widened once for all of up to four heads.
template <class Arch, std::size_t Heads>
inline constexpr std::size_t rows_at_once = Heads == 4 && simd::registers<Arch> < 32 ? 2 : 4;

/// Three heads by four vectors fit into 16 registers only if the heads' factors are held
/// and the others come one by one.
template <class Arch, std::size_t Heads>
inline constexpr bool three_heads = Heads == 3 && simd::registers<Arch> < 32;

/// sum[h][j] += a(h) * b(j). What is held in registers: all a and one b, or all b and one a.
template <class Arch, bool HoldsA, std::size_t Heads, std::size_t Count, class A, class B>
SPARQ_ALWAYS_INLINE void add_products(const A& a, const B& b,
                                      simd::f32<Arch> (&sum)[Heads][Count]) noexcept {
    using vec = simd::f32<Arch>;
    if constexpr (HoldsA) {
        vec x[Heads];
        SPARQ_UNROLL
        for (std::size_t h = 0; h < Heads; ++h) x[h] = simd::in_register<Arch>(a(h));
        SPARQ_UNROLL
        for (std::size_t j = 0; j < Count; ++j) {
            const vec y = simd::in_register<Arch>(b(j));
            SPARQ_UNROLL
            for (std::size_t h = 0; h < Heads; ++h)
                sum[h][j] = simd::multiply_add<Arch>(x[h], y, sum[h][j]);
        }
    } else {
        vec y[Count];
        SPARQ_UNROLL
        for (std::size_t j = 0; j < Count; ++j) y[j] = b(j);
        SPARQ_UNROLL
        for (std::size_t h = 0; h < Heads; ++h) {
            const vec x = a(h);
            SPARQ_UNROLL
            for (std::size_t j = 0; j < Count; ++j)
                sum[h][j] = simd::multiply_add<Arch>(x, y[j], sum[h][j]);
        }
    }
}

/// Rows whose accumulators are reduced together.
inline constexpr std::size_t rows_reduced_at_once = 16;

/// Products of `Heads` queries with `Rows` rows, not yet summed over the lanes: [h][j].
template <class Arch, std::size_t Heads, std::size_t Rows, class T, class Finish>
SPARQ_ALWAYS_INLINE void dot_tile(const float* queries, std::size_t query_stride,
                                  const std::array<const T*, Rows>& row, std::size_t width,
                                  const Finish& finish) noexcept {
    using vec = simd::f32<Arch>;
    vec sum[Heads][Rows];
    SPARQ_UNROLL
    for (std::size_t h = 0; h < Heads; ++h) {
        SPARQ_UNROLL
        for (std::size_t j = 0; j < Rows; ++j) sum[h][j] = simd::splat<Arch>(0.0f);
    }
    const auto add_columns = [&](std::size_t c, const auto& load) {
        const auto query = [&](std::size_t h) {
            return simd::in_register<Arch>(simd::load<Arch>(queries + h * query_stride + c));
        };
        add_products<Arch, three_heads<Arch, Heads> >(
            query, [&](std::size_t j) { return load(row[j] + c); }, sum);
    };

    std::size_t c = 0;
    for (; c + simd::lanes<Arch> <= width; c += simd::lanes<Arch>)
        add_columns(c, [](const T* p) { return simd::load<Arch>(p); });
    if (const std::size_t n = width - c; n != 0)
        add_columns(c, [n](const T* p) { return simd::load_partial<Arch>(p, n); });

    finish(sum);
}

/// The vector of (h, j) goes to lanes[h * Stride + j].
template <class Arch, std::size_t Stride, std::size_t Heads, std::size_t Rows>
SPARQ_ALWAYS_INLINE void store_tile(const simd::f32<Arch> (&sum)[Heads][Rows],
                                    float* lanes) noexcept {
    SPARQ_UNROLL
    for (std::size_t h = 0; h < Heads; ++h) {
        SPARQ_UNROLL
        for (std::size_t j = 0; j < Rows; ++j)
            simd::store<Arch>(lanes + (h * Stride + j) * simd::lanes<Arch>, sum[h][j]);
    }
}

/// The sums of a tile's lanes, out[h * Rows + j]: where they are one vector they are made in
/// registers, since storing sixteen vectors of 512 bits takes as long.
template <class Arch, std::size_t Heads, std::size_t Rows>
    requires(simd::sums_sixteen<Arch> && Heads * Rows == 16)
SPARQ_ALWAYS_INLINE void sum_tile(const simd::f32<Arch> (&sum)[Heads][Rows], float* out) noexcept {
    simd::f32<Arch> all[16];
    SPARQ_UNROLL
    for (std::size_t h = 0; h < Heads; ++h) {
        SPARQ_UNROLL
        for (std::size_t j = 0; j < Rows; ++j) all[h * Rows + j] = sum[h][j];
    }
    simd::sum_lanes_of_sixteen<Arch>(all, out);
}

/// Up to rows_reduced_at_once rows. Their lanes are summed at the end, eight and more vectors
/// at a time: one tile's sums would wait for its last products. Four heads' tiles of AVX-512
/// are summed as they come: their sums are one vector.
template <class Arch, std::size_t Heads, class T, class Upcoming>
SPARQ_ALWAYS_INLINE void dot_row_block(const float* queries, std::size_t query_stride,
                                       const T* const* rows, std::size_t n, std::size_t width,
                                       float* logits, std::size_t logits_stride,
                                       const Upcoming& upcoming,
                                       std::size_t upcoming_from) noexcept {
    constexpr std::size_t tile = rows_at_once<Arch, Heads>, most = rows_reduced_at_once;
    constexpr std::size_t lanes = simd::lanes<Arch>;
    constexpr bool in_registers = simd::sums_sixteen<Arch> && Heads * tile == 16;
    const std::size_t padded = (n + 3) / 4 * 4;  // the last row again where fewer are left
    alignas(cache_line_bytes) float parts[in_registers ? Heads * most : Heads * most * lanes];
    for (std::size_t j = 0; j < padded; j += tile) {
        upcoming.prefetch(upcoming_from + j, upcoming_from + j + tile);
        std::array<const T*, tile> row;
        for (std::size_t i = 0; i < tile; ++i) row[i] = rows[j + i < n ? j + i : n - 1];
        dot_tile<Arch, Heads, tile>(queries, query_stride, row, width,
                                    [&](const simd::f32<Arch>(&sum)[Heads][tile]) {
                                        if constexpr (in_registers)
                                            sum_tile<Arch>(sum, parts + Heads * j);
                                        else
                                            store_tile<Arch, most>(sum, parts + j * lanes);
                                    });
    }
    SPARQ_UNROLL
    for (std::size_t h = 0; h < Heads; ++h) {
        float sums[most];
        float* out = logits + h * logits_stride;
        if constexpr (in_registers) {
            for (std::size_t j = 0; j < n; j += tile)
                std::copy_n(parts + Heads * j + h * tile, std::min(tile, n - j), out + j);
        } else {
            simd::sum_lanes_of_each<Arch>(parts + h * most * lanes, padded,
                                          padded == n ? out : sums);
            if (padded != n) std::copy_n(static_cast<const float*>(sums), n, out);
        }
    }
}

template <class Arch, std::size_t Heads, class T, class Upcoming>
void dot_rows_of_heads(const float* queries, std::size_t query_stride, const T* const* rows,
                       std::size_t n, std::size_t width, float* logits, std::size_t logits_stride,
                       const Upcoming& upcoming) noexcept {
    for (std::size_t j = 0; j < n; j += rows_reduced_at_once)
        dot_row_block<Arch, Heads>(queries, query_stride, rows + j,
                                   std::min(n - j, rows_reduced_at_once), width, logits + j,
                                   logits_stride, upcoming, j);
}

/// Calls body(std::integral_constant<Heads>, first) for tiles of at most four heads that
/// cover `group` heads. A tile of three costs less than those of two and one.
template <class Body>
SPARQ_ALWAYS_INLINE void for_head_tiles(std::size_t group, const Body& body) noexcept {
    std::size_t h = 0;
    for (; h + 4 <= group && h + 5 != group; h += 4)
        body(std::integral_constant<std::size_t, 4>{}, h);
    for (; h + 3 <= group; h += 3) body(std::integral_constant<std::size_t, 3>{}, h);
    for (; h + 2 <= group; h += 2) body(std::integral_constant<std::size_t, 2>{}, h);
    if (h < group) body(std::integral_constant<std::size_t, 1>{}, h);
}

/// dot_rows for rows of whatever a vector can load; upcoming ones may be of another type.
template <class Arch, class T, class Upcoming>
void dot_rows_of_group(const float* queries, std::size_t group, std::size_t query_stride,
                       const T* const* rows, std::size_t n, std::size_t width, float* logits,
                       std::size_t logits_stride, const Upcoming& upcoming) noexcept {
    for_head_tiles(group, [&](auto heads, std::size_t first) {
        dot_rows_of_heads<Arch, heads()>(queries + first * query_stride, query_stride, rows, n,
                                         width, logits + first * logits_stride, logits_stride,
                                         first == 0 ? upcoming : Upcoming{});
    });
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
    detail::dot_rows_of_group<Arch>(queries, group, query_stride, rows, n, width, logits,
                                    logits_stride, upcoming);
}

}  // namespace kernels
SPARQ_NAMESPACE_END
