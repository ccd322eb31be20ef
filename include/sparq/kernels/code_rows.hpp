// SPDX-License-Identifier: MIT
// Rows of 4-bit codes: a row x is kept as x[i] ~ minimum + step * code[i], code 0 to 15.
//
//   encode_row            code[i] = (z[i] - minimum) / step, z = (row - mean) * inverse_spread
//   dot_code_rows         out[h][j] = sum over c of coefficients[h][c] * code[j][c]
//   accumulate_code_rows  sums[h][i] += sum over j of weights[h][j] * code[j][i]
//
// minimum and step are the caller's to put in: q.x = minimum * sum(q) + step * (q . code).
// A row of `width` elements has code_row_bytes(width) bytes, units of 32 codes in 16 bytes:
// byte b of a unit has code b in its lower and code 16 + b in its upper nibble; codes behind
// `width` are 0. Nothing needs to be aligned.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "../config.hpp"
#include "../detail/code_blocks.hpp"
#include "../scalar_types.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

/// The range of a code row: code 0 stands for minimum, code 15 for minimum + 15 * step.
struct row_range {
    half minimum;
    half step;
};

/// `width` rounded up to whole units of 32 codes.
SPARQ_PER_ISA constexpr std::size_t padded_code_width(std::size_t width) noexcept {
    return (width + 31) / 32 * 32;
}

/// Bytes of a code row.
SPARQ_PER_ISA constexpr std::size_t code_row_bytes(std::size_t width) noexcept {
    return padded_code_width(width) / 2;
}

/// Coefficients of a dot product with code rows: coefficient[c] ~ scale * an integer.
struct code_row_weights {
    const std::int16_t* weights;  ///< [code_row_weight_count(width)], in an order of the Arch's own
    float scale;
};

/// Elements of the memory behind a code_row_weights, the same for every Arch.
SPARQ_PER_ISA constexpr std::size_t code_row_weight_count(std::size_t width) noexcept {
    return (width + 127) / 128 * 128;
}

/// The greatest magnitude of an integer weight: 16 bits, fewer where 15 * weight * width would
/// not fit into the 32 bits of a sum (width > 4369).
SPARQ_PER_ISA constexpr std::int32_t greatest_code_row_weight(std::size_t width) noexcept {
    const std::size_t fits = std::size_t{0x7fffffff} / 15 / (width == 0 ? 1 : width);
    return static_cast<std::int32_t>(fits < 32767 ? fits : 32767);
}

namespace detail {

namespace simd = sparq::detail::simd;

/// z = (row - mean) * inverse_spread, or the row itself.
template <class Arch, bool Scaled, class T>
struct scaled_row {
    const T* row;
    const float* mean;
    const float* inverse_spread;

    SPARQ_ALWAYS_INLINE simd::f32<Arch> load(std::size_t i) const noexcept {
        const simd::f32<Arch> x = simd::load<Arch>(row + i);
        if constexpr (!Scaled) return x;
        return (x - simd::load<Arch>(mean + i)) * simd::load<Arch>(inverse_spread + i);
    }
    /// n < lanes elements, the first of them again behind them.
    SPARQ_ALWAYS_INLINE simd::f32<Arch> load_partial(std::size_t i, std::size_t n) const noexcept {
        simd::f32<Arch> x = simd::load_partial<Arch>(row + i, n);
        if constexpr (Scaled)
            x = (x - simd::load_partial<Arch>(mean + i, n)) *
                simd::load_partial<Arch>(inverse_spread + i, n);
        float lanes[simd::lanes<Arch>];
        simd::store<Arch>(static_cast<float*>(lanes), x);
        for (std::size_t j = n; j < simd::lanes<Arch>; ++j) lanes[j] = lanes[0];
        return simd::load<Arch>(static_cast<const float*>(lanes));
    }
};

/// A float as a half, infinite values as the largest finite one, and what it is then.
struct rounded_float {
    half narrow;
    float wide;
};

/// A NaN stays one.
template <class Arch>
SPARQ_ALWAYS_INLINE rounded_float round_to_half(float x) noexcept {
    constexpr float largest = 65504.0f;
    half narrow[simd::lanes<Arch>];
    float wide[simd::lanes<Arch>];
    simd::store<Arch>(static_cast<half*>(narrow), simd::splat<Arch>(x > largest    ? largest
                                                                    : x < -largest ? -largest
                                                                                   : x));
    simd::store<Arch>(static_cast<float*>(wide),
                      simd::load<Arch>(static_cast<const half*>(narrow)));
    return {narrow[0], wide[0]};
}

struct rounded_range {
    rounded_float minimum, step;
};

/// The range of the row's elements; a NaN or an infinity among them makes the minimum NaN.
template <class Arch, class Row>
SPARQ_ALWAYS_INLINE rounded_range find_range(const Row& row, std::size_t width,
                                             float dither) noexcept {
    using vec = simd::f32<Arch>;
    constexpr std::size_t lanes = simd::lanes<Arch>;
    const vec zero = simd::splat<Arch>(0.0f);
    vec greatest = width >= lanes ? row.load(0) : row.load_partial(0, width);
    vec lowest = greatest, poison = zero;
    // Two at a time: the chain of additions is what takes longest.
    const auto take = [&](const vec& a, const vec& b) {
        greatest = simd::maximum<Arch>(greatest, simd::maximum<Arch>(a, b));
        lowest = simd::minimum<Arch>(lowest, simd::minimum<Arch>(a, b));
        poison = poison + simd::multiply_add<Arch>(a, zero, b * zero);  // NaN unless finite
    };
    std::size_t i = 0;
    for (; i + 2 * lanes <= width; i += 2 * lanes) take(row.load(i), row.load(i + lanes));
    for (; i + lanes <= width; i += lanes) take(row.load(i), row.load(i));
    if (i < width) take(row.load_partial(i, width - i), row.load_partial(i, width - i));
    float ends[4], poisoned[4];
    const vec negated = zero - lowest;
    simd::greatest_lanes_of_four<Arch>({greatest, negated, greatest, negated}, ends);
    simd::sum_lanes_of_four<Arch>({poison, poison, poison, poison}, poisoned);
    const bool shifted = dither >= 0.0f;
    const float below = shifted ? dither * (ends[0] + ends[1]) / 14.0f : 0.0f;
    const rounded_float minimum = round_to_half<Arch>(poisoned[0] - ends[1] - below);
    // From the rounded minimum, so that the top is where it should be.
    const float step = (ends[0] - minimum.wide) / (shifted ? 14.0f + dither : 15.0f);
    return {minimum, round_to_half<Arch>(step > 0.0f ? step : 0.0f)};
}

template <class Arch, class Row>
SPARQ_ALWAYS_INLINE void write_codes(const Row& row, std::size_t width, const rounded_range& range,
                                     std::uint8_t* codes) noexcept {
    using vec = simd::f32<Arch>;
    constexpr std::size_t lanes = simd::lanes<Arch>;
    const float step = range.step.wide;
    const vec minimum = simd::splat<Arch>(range.minimum.wide);
    const vec inverse = simd::splat<Arch>(step > 0.0f ? 1.0f / step : 0.0f);
    const vec zero = simd::splat<Arch>(0.0f), top = simd::splat<Arch>(15.0f);
    // Added to a code, it leaves the code, rounded, in the lowest bits.
    const vec magic = simd::splat<Arch>(8388608.0f);
    const auto code = [&](const vec& z) {
        const vec ratio = simd::maximum<Arch>((z - minimum) * inverse, zero);
        return simd::minimum<Arch>(ratio, top) + magic;
    };
    for (std::size_t first = 0; first < width; first += simd::unit_codes) {
        float words[simd::unit_codes];
        const std::size_t count = width - first;
        if constexpr (2 * lanes == simd::unit_codes)
            if (count >= simd::unit_codes) {
                simd::pack_codes<Arch>(code(row.load(first)), code(row.load(first + lanes)),
                                       codes + first / 2);
                continue;
            }
        std::size_t i = 0;
        if (count >= simd::unit_codes) {
            SPARQ_UNROLL
            for (i = 0; i < simd::unit_codes; i += lanes)
                simd::store<Arch>(words + i, code(row.load(first + i)));
        } else {
            for (; i + lanes <= count; i += lanes)
                simd::store<Arch>(words + i, code(row.load(first + i)));
            if (i < count)
                simd::store<Arch>(words + i, code(row.load_partial(first + i, count - i)));
            for (i = count; i < simd::unit_codes; ++i) words[i] = 0.0f;
        }
        simd::pack_codes<Arch>(words, codes + first / 2);
    }
}

/// The greatest magnitude, NaN where one is not finite.
template <class Arch>
float greatest_magnitude(const float* x, std::size_t n) noexcept {
    using vec = simd::f32<Arch>;
    const vec zero = simd::splat<Arch>(0.0f);
    vec greatest = zero, poison = zero;
    const auto take = [&](const vec& one) {
        greatest = simd::maximum<Arch>(greatest, simd::maximum<Arch>(one, zero - one));
        poison = simd::multiply_add<Arch>(one, zero, poison);
    };
    std::size_t i = 0;
    for (; i + simd::lanes<Arch> <= n; i += simd::lanes<Arch>) take(simd::load<Arch>(x + i));
    if (i < n) take(simd::load_partial<Arch>(x + i, n - i));
    return simd::greatest_lane<Arch>(greatest) + simd::sum_lanes<Arch>(poison);
}

/// The weights of a unit, as nibble_words finds its codes: eight for each nibble, those of
/// different nibbles a block's words apart.
template <class Arch>
SPARQ_ALWAYS_INLINE void write_unit_weights(const float* coefficients,
                                            const simd::f32<Arch>& inverse,
                                            std::int16_t* weights) noexcept {
    // 1.5 * 2^23: added to an integer, it leaves it, rounded, in the lower 22 bits.
    const auto magic = simd::splat<Arch>(12582912.0f);
    float words[32];
    SPARQ_UNROLL
    for (std::size_t i = 0; i < 32; i += simd::lanes<Arch>)
        simd::store<Arch>(words + i, simd::multiply_add<Arch>(simd::load<Arch>(coefficients + i),
                                                              inverse, magic));
    SPARQ_UNROLL
    for (std::size_t w = 0; w < 8; ++w)
        for (std::size_t nibble = 0; nibble < 4; ++nibble)
            weights[nibble * simd::block_words<Arch> + w] = static_cast<std::int16_t>(
                std::bit_cast<std::uint32_t>(words[16 * (nibble % 2) + 2 * w + nibble / 2]) &
                0xffffu);
}

}  // namespace detail

/// Codes a row. Its range is rounded to half first (to finite values), then the codes are
/// found with that range: |x - decoded| <= step / 2 + max(|rounding of minimum|, 15 |rounding
/// of step|) for values within half's range, larger ones saturate. Constant rows have step 0
/// or what the rounding of the minimum leaves. A NaN or an infinity in z makes the minimum
/// NaN: what is computed from it is NaN.
///
/// @param row             [width] floats, halves or bfloat16s, read twice
/// @param mean            [width], with inverse_spread (finite both), or both null: z = row
/// @param codes           [code_row_bytes(width)], overwritten; overlaps nothing
/// @param dither          in [0, 1): the grid begins so many steps below the minimum and has 14
///                        steps for the row's span, so that rows of equal elements get different
///                        rounding errors; negative: the 15 steps of the grid span the row
template <class Arch, class T>
row_range encode_row(const T* row, const float* mean, const float* inverse_spread,
                     std::size_t width, std::uint8_t* codes, float dither = -1.0f) noexcept {
    const auto encode = [&](const auto& scaled) {
        const detail::rounded_range range = detail::find_range<Arch>(scaled, width, dither);
        detail::write_codes<Arch>(scaled, width, range, codes);
        return row_range{range.minimum.narrow, range.step.narrow};
    };
    if (mean == nullptr) return encode(detail::scaled_row<Arch, false, T>{row, nullptr, nullptr});
    return encode(detail::scaled_row<Arch, true, T>{row, mean, inverse_spread});
}

/// out[i] = minimum + step * code[i], two roundings at most.
///
/// @param codes  [code_row_bytes(width)]
/// @param out    [width]
template <class Arch>
void decode_row(const std::uint8_t* codes, const row_range& range, std::size_t width,
                float* out) noexcept {
    const auto minimum = static_cast<float>(range.minimum), step = static_cast<float>(range.step);
    for (std::size_t i = 0; i < width; ++i) {
        const unsigned byte = codes[i / 32 * 16 + i % 16];
        const unsigned code = (i & 16u) != 0 ? byte >> 4 : byte & 15u;
        out[i] = minimum + step * static_cast<float>(code);
    }
}

/// Prepares the coefficients of one head: integers w with |coefficient[c] - scale * w[c]| <=
/// scale / 2 * (1 + 2^-7), scale = max |coefficient| / greatest_code_row_weight(width) (at least
/// the smallest normal float). A coefficient that is not finite makes the scale NaN, and with
/// it every dot product.
///
/// @param coefficients  [width]
/// @param memory        [code_row_weight_count(width)], overwritten; the result points there and
///                      is for dot_code_rows of the same Arch and width
template <class Arch>
code_row_weights prepare_code_row_weights(const float* coefficients, std::size_t width,
                                          std::int16_t* memory) noexcept {
    namespace simd = sparq::detail::simd;
    const float greatest = detail::greatest_magnitude<Arch>(coefficients, width);
    const bool finite = greatest <= std::numeric_limits<float>::max();
    const float ratio = greatest / static_cast<float>(greatest_code_row_weight(width));
    const float least = std::numeric_limits<float>::min();
    const float scale = ratio > least ? ratio : least;
    const auto inverse = simd::splat<Arch>(finite ? 1.0f / scale : 0.0f);
    constexpr std::size_t units = simd::block_units<Arch>, block = 32 * units;
    for (std::size_t first = 0; first < width; first += 32) {
        std::int16_t* to = memory + first / block * block + first / 32 % units * 8;
        if (first + 32 <= width && finite) {
            detail::write_unit_weights<Arch>(coefficients + first, inverse, to);
            continue;
        }
        float copy[32] = {};
        for (std::size_t c = first; c < width && finite; ++c) copy[c - first] = coefficients[c];
        detail::write_unit_weights<Arch>(static_cast<const float*>(copy), inverse, to);
    }
    for (std::size_t unit = (width + 31) / 32; unit % units != 0; ++unit)
        for (std::size_t nibble = 0; nibble < 4; ++nibble)
            for (std::size_t w = 0; w < 8; ++w)
                memory[unit / units * block + (nibble * units + unit % units) * 8 + w] = 0;
    return {memory, finite ? scale : std::numeric_limits<float>::quiet_NaN()};
}

}  // namespace kernels
SPARQ_NAMESPACE_END
