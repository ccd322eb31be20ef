// SPDX-License-Identifier: MIT
// Rows of 8-bit codes (int8_row.hpp) where other kernels take rows of elements.
//
//   encode_int8_row  code[i] = (row[i] - minimum) / step
//   convert_row      row[i] = minimum + step * code[i]
//   dot_rows         logits[h][j] = minimum[j] * sum(q[h]) + step[j] * (q[h] . code[j])
//   accumulate_rows  sums[h] += (sum over j of w[h][j] minimum[j])
//                               + sum over j of (w[h][j] step[j]) code[j]
//
// So the products are those of dot_rows.hpp and accumulate_rows.hpp with the codes, which a
// vector's load widens, and ranges cost a few instructions a row.
// Traffic: width + 8 bytes a row, once.
// Numerics: float, in the order of those kernels; errors in units of the row's greatest
// magnitude and range, |error| <= (width / lanes + log2(lanes) + 4) * eps * sum |q[h][c]| *
// (|minimum[j]| + 255 step[j]) and as much for sums.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "../config.hpp"
#include "../detail/simd.hpp"
#include "../int8_row.hpp"
#include "accumulate_rows.hpp"
#include "convert.hpp"
#include "dot_rows.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

/// In [0, 1), the token's own: by which fraction of a step the grid of its row of V begins
/// below the least value.
SPARQ_PER_ISA inline float token_dither(std::size_t token) noexcept {
    const std::uint32_t hash = (static_cast<std::uint32_t>(token) + 1) * 3242174889u;
    return static_cast<float>(hash >> 8) * 0x1p-24f;
}

namespace detail {

/// body(offset, count) for whole vectors of n elements, and what is left of them.
template <class Arch, class Body>
SPARQ_ALWAYS_INLINE void for_row_vectors(std::size_t n, const Body& body) noexcept {
    std::size_t i = 0;
    for (; i + simd::lanes<Arch> <= n; i += simd::lanes<Arch>) body(i, simd::lanes<Arch>);
    if (i < n) body(i, n - i);
}
template <class Arch, class T>
SPARQ_ALWAYS_INLINE simd::f32<Arch> load_up_to(const T* p, std::size_t n) noexcept {
    return n == simd::lanes<Arch> ? simd::load<Arch>(p) : simd::load_partial<Arch>(p, n);
}
template <class Arch>
SPARQ_ALWAYS_INLINE void store_up_to(float* p, const simd::f32<Arch>& x, std::size_t n) noexcept {
    n == simd::lanes<Arch> ? simd::store<Arch>(p, x) : simd::store_partial<Arch>(p, x, n);
}

/// @param dither  negative: the grid spans the row
template <class Arch, class T>
int8_range find_int8_range(const T* row, std::size_t width, float dither) noexcept {
    using vec = simd::f32<Arch>;
    constexpr float most = 1e38f;
    const vec zero = simd::splat<Arch>(0.0f), first = simd::splat<Arch>(static_cast<float>(row[0]));
    vec greatest = first, lowest = first, poison = zero;
    for_row_vectors<Arch>(width, [&](std::size_t i, std::size_t n) {
        vec x = load_up_to<Arch>(row + i, n);
        if (n != simd::lanes<Arch>) {  // the first element behind the last
            float lanes[simd::lanes<Arch>];
            simd::store<Arch>(static_cast<float*>(lanes), x);
            std::fill(lanes + n, lanes + simd::lanes<Arch>, static_cast<float>(row[0]));
            x = simd::load<Arch>(static_cast<const float*>(lanes));
        }
        greatest = simd::maximum<Arch>(greatest, x);
        lowest = simd::minimum<Arch>(lowest, x);
        poison = simd::multiply_add<Arch>(x, zero, poison);  // NaN unless finite
    });
    const float high = simd::greatest_lane<Arch>(greatest);
    const float low = -simd::greatest_lane<Arch>(zero - lowest);
    if (simd::sum_lanes<Arch>(poison) != 0.0f || high > most || low < -most)
        return {std::numeric_limits<float>::quiet_NaN(), 0.0f};
    const float step = (high - low) / (dither < 0.0f ? 255.0f : 254.0f);
    // A step that is no normal number has no inverse.
    if (!(step >= std::numeric_limits<float>::min())) return {low, 0.0f};
    return {dither < 0.0f ? low : low - dither * step, step};
}

/// 8 bits of each of `width` codes.
template <class Arch, class T>
void write_int8_codes(const T* row, std::size_t width, const int8_range& range,
                      int8_row* codes) noexcept {
    constexpr std::size_t block = 32;
    const auto minimum = simd::splat<Arch>(range.minimum);
    const auto inverse = simd::splat<Arch>(range.step > 0.0f ? 1.0f / range.step : 0.0f);
    const auto zero = simd::splat<Arch>(0.0f), top = simd::splat<Arch>(255.0f);
    // Added to a code, it leaves the code, rounded, in the lowest bits.
    const auto magic = simd::splat<Arch>(8388608.0f);
    for (std::size_t first = 0; first < width; first += block) {
        const std::size_t count = std::min(block, width - first);
        float words[block] = {};
        for_row_vectors<Arch>(count, [&](std::size_t i, std::size_t n) {
            const auto z = (load_up_to<Arch>(row + first + i, n) - minimum) * inverse;
            // The other way round a NaN would stay.
            const auto code = simd::minimum<Arch>(simd::maximum<Arch>(zero, z), top);
            store_up_to<Arch>(words + i, code + magic, n);
        });
        std::uint8_t bytes[block];
        for (std::size_t i = 0; i < block; ++i)
            bytes[i] = static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(words[i]));
        std::memcpy(static_cast<void*>(codes + first), bytes, count);
    }
}

}  // namespace detail

/// @param row     [width] floats, halves or bfloat16s, width >= 1; read twice
/// @param out     [width] codes, and their range before them; overlaps nothing
/// @param dither  in [0, 1), as token_dither, for 254 steps from so many steps below the least
///                value; negative for 255 steps from the least to the greatest
template <class Arch, class T>
void encode_int8_row(const T* row, std::size_t width, int8_row* out,
                     float dither = -1.0f) noexcept {
    const int8_range range = detail::find_int8_range<Arch>(row, width, dither);
    std::memcpy(static_cast<void*>(out - sizeof(range)), &range, sizeof(range));
    detail::write_int8_codes<Arch>(row, width, range, out);
}

/// Values [begin, begin + n) of a row.
template <class Arch>
void decode_int8_row(const int8_row* row, std::size_t begin, std::size_t n, float* out) noexcept {
    namespace simd = sparq::detail::simd;
    const int8_range range = range_of(row);
    const auto minimum = simd::splat<Arch>(range.minimum), step = simd::splat<Arch>(range.step);
    const auto* codes = reinterpret_cast<const std::uint8_t*>(row + begin);
    detail::for_row_vectors<Arch>(n, [&](std::size_t i, std::size_t count) {
        detail::store_up_to<Arch>(
            out + i,
            simd::multiply_add<Arch>(step, detail::load_up_to<Arch>(codes + i, count), minimum),
            count);
    });
}

/// Two roundings at most.
template <class Arch>
void convert_row(const int8_row* from, std::size_t n, float* to) noexcept {
    decode_int8_row<Arch>(from, 0, n, to);
}
/// A row as K has them.
template <class Arch, cache_element T>
void convert_row(const T* from, std::size_t n, int8_row* to) noexcept {
    encode_int8_row<Arch>(from, n, to);
}

template <class Arch>
void add_row(const int8_row* row, std::size_t n, double* sums) noexcept {
    constexpr std::size_t block = 64;
    float values[block];
    for (std::size_t first = 0; first < n; first += block) {
        const std::size_t count = std::min(block, n - first);
        decode_int8_row<Arch>(row, first, count, values);
        add_row<Arch>(static_cast<const float*>(values), count, sums + first);
    }
}

namespace detail {

/// Up to 16 rows: their codes, and their ranges up to whole vectors, zeros behind.
struct int8_block {
    static constexpr std::size_t most = 16;
    const std::uint8_t* codes[most];
    alignas(cache_line_bytes) float minimum[most], step[most];

    SPARQ_ALWAYS_INLINE int8_block(const int8_row* const* rows, std::size_t n) noexcept {
        for (std::size_t j = 0; j < n; ++j) {
            const int8_range range = range_of(rows[j]);
            codes[j] = &rows[j]->code;
            minimum[j] = range.minimum, step[j] = range.step;
        }
        for (std::size_t j = n; j < most; ++j) minimum[j] = step[j] = 0.0f;
    }
};

/// The sum of a padded query, in four chains.
template <class Arch>
SPARQ_ALWAYS_INLINE float sum_of_query(const float* query, std::size_t stride) noexcept {
    constexpr std::size_t lanes = simd::lanes<Arch>;
    simd::f32<Arch> sum[4];
    for (auto& part : sum) part = simd::splat<Arch>(0.0f);
    std::size_t c = 0;
    for (; c + 4 * lanes <= stride; c += 4 * lanes) {
        SPARQ_UNROLL
        for (std::size_t i = 0; i < 4; ++i)
            sum[i] = sum[i] + simd::load<Arch>(query + c + i * lanes);
    }
    for (; c < stride; c += lanes) sum[0] = sum[0] + simd::load<Arch>(query + c);
    return simd::sum_lanes<Arch>((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/// Rows [first, first + most) of those that are wanted.
SPARQ_ALWAYS_INLINE upcoming_rows<int8_row> share_of(const upcoming_rows<int8_row>& wanted,
                                                     std::size_t first) noexcept {
    if (first >= wanted.count) return {};
    return {wanted.rows + first, wanted.count - first, wanted.width};
}

}  // namespace detail

/// See dot_rows.hpp.
template <class Arch>
void dot_rows(const float* queries, std::size_t group, std::size_t query_stride,
              const int8_row* const* rows, std::size_t n, std::size_t width, float* logits,
              std::size_t logits_stride, const upcoming_rows<int8_row>& upcoming = {}) noexcept {
    namespace simd = sparq::detail::simd;
    for (std::size_t j = 0; j < n; j += detail::int8_block::most) {
        const std::size_t count = std::min(detail::int8_block::most, n - j);
        const detail::int8_block block(rows + j, count);
        detail::dot_rows_of_group<Arch>(queries, group, query_stride, block.codes, count, width,
                                        logits + j, logits_stride, detail::share_of(upcoming, j));
        for (std::size_t h = 0; h < group; ++h) {
            const auto sum = simd::splat<Arch>(
                detail::sum_of_query<Arch>(queries + h * query_stride, simd::padded<Arch>(width)));
            float* out = logits + h * logits_stride + j;
            detail::for_row_vectors<Arch>(count, [&](std::size_t i, std::size_t left) {
                const auto offset = simd::load<Arch>(block.minimum + i) * sum;
                detail::store_up_to<Arch>(
                    out + i,
                    simd::multiply_add<Arch>(simd::load<Arch>(block.step + i),
                                             detail::load_up_to<Arch>(out + i, left), offset),
                    left);
            });
        }
    }
}

namespace detail {

/// Of a head: weights * step, and what the minima add to every column.
template <class Arch>
SPARQ_ALWAYS_INLINE float weigh_ranges(const float* weights, const int8_block& block, std::size_t n,
                                       float* scaled) noexcept {
    auto sum = simd::splat<Arch>(0.0f);
    for_row_vectors<Arch>(n, [&](std::size_t j, std::size_t left) {
        const auto weight = load_up_to<Arch>(weights + j, left);
        sum = simd::multiply_add<Arch>(weight, simd::load<Arch>(block.minimum + j), sum);
        simd::store<Arch>(scaled + j, weight * simd::load<Arch>(block.step + j));
    });
    return simd::sum_lanes<Arch>(sum);
}

}  // namespace detail

/// See accumulate_rows.hpp. Columns behind width may become anything.
template <class Arch>
void accumulate_rows(const float* weights, std::size_t group, std::size_t weights_stride,
                     const float* rescale, const int8_row* const* rows, std::size_t n,
                     std::size_t width, float* sums, std::size_t sums_stride,
                     const upcoming_rows<int8_row>& upcoming = {}) noexcept {
    namespace simd = sparq::detail::simd;
    constexpr std::size_t most = detail::int8_block::most, heads = attend_block_heads;
    alignas(cache_line_bytes) float scaled[heads * most];
    for (std::size_t j = 0; j < n; j += most) {
        const std::size_t count = std::min(most, n - j);
        const detail::int8_block block(rows + j, count);
        for (std::size_t first = 0; first < group; first += heads) {
            const std::size_t some = std::min(heads, group - first);
            for (std::size_t h = 0; h < some; ++h) {
                const auto base = simd::splat<Arch>(detail::weigh_ranges<Arch>(
                    weights + (first + h) * weights_stride + j, block, count, scaled + h * most));
                const auto factor =
                    simd::splat<Arch>(rescale != nullptr && j == 0 ? rescale[first + h] : 1.0f);
                float* sum = sums + (first + h) * sums_stride;
                for (std::size_t c = 0; c < width; c += simd::lanes<Arch>)
                    simd::store<Arch>(
                        sum + c, simd::multiply_add<Arch>(simd::load<Arch>(sum + c), factor, base));
            }
            detail::accumulate_rows_of_group<Arch>(
                static_cast<const float*>(scaled), some, most, block.codes, count, width,
                sums + first * sums_stride, sums_stride,
                first == 0 ? detail::share_of(upcoming, j) : upcoming_rows<int8_row>{});
        }
    }
}

}  // namespace kernels
SPARQ_NAMESPACE_END
