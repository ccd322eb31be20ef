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

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

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
struct code_weights {
    const std::int16_t* weights;  ///< [code_weight_count(width)], in an order of the Arch's own
    float scale;
};

/// Elements of the memory behind a code_weights, the same for every Arch.
SPARQ_PER_ISA constexpr std::size_t code_weight_count(std::size_t width) noexcept {
    return (width + 127) / 128 * 128;
}

/// The greatest magnitude of an integer weight: 16 bits, fewer where 15 * weight * width would
/// not fit into the 32 bits of a sum (width > 4369).
SPARQ_PER_ISA constexpr std::int32_t greatest_code_weight(std::size_t width) noexcept {
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

/// To half, infinite values to the largest finite one. A NaN stays one.
template <class Arch>
SPARQ_ALWAYS_INLINE half to_finite_half(float x) noexcept {
    constexpr float largest = 65504.0f;
    return half(x > largest ? largest : x < -largest ? -largest : x);
}

/// The range of the row's elements; a NaN or an infinity among them makes the minimum NaN.
template <class Arch, class Row>
row_range find_range(const Row& row, std::size_t width) noexcept {
    using vec = simd::f32<Arch>;
    constexpr std::size_t lanes = simd::lanes<Arch>;
    const vec zero = simd::splat<Arch>(0.0f);
    vec greatest = width >= lanes ? row.load(0) : row.load_partial(0, width);
    vec lowest = greatest, poison = zero;
    const auto take = [&](const vec& z) {
        greatest = simd::maximum<Arch>(greatest, z);
        lowest = simd::minimum<Arch>(lowest, z);
        poison = simd::multiply_add<Arch>(z, zero, poison);  // NaN unless z is finite
    };
    std::size_t i = 0;
    for (; i + lanes <= width; i += lanes) take(row.load(i));
    if (i < width) take(row.load_partial(i, width - i));
    float ends[4], poisoned[4];
    const vec negated = zero - lowest;
    simd::greatest_lanes_of_four<Arch>({greatest, negated, greatest, negated}, ends);
    simd::sum_lanes_of_four<Arch>({poison, poison, poison, poison}, poisoned);
    row_range range{};
    range.minimum = to_finite_half<Arch>(poisoned[0] - ends[1]);
    // From the rounded minimum, so that the top is where it should be.
    const float step = (ends[0] - static_cast<float>(range.minimum)) / 15.0f;
    range.step = to_finite_half<Arch>(step > 0.0f ? step : 0.0f);
    return range;
}

template <class Arch, class Row>
void write_codes(const Row& row, std::size_t width, const row_range& range,
                 std::uint8_t* codes) noexcept {
    using vec = simd::f32<Arch>;
    constexpr std::size_t lanes = simd::lanes<Arch>;
    const auto step = static_cast<float>(range.step);
    const vec minimum = simd::splat<Arch>(static_cast<float>(range.minimum));
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
        std::size_t i = 0;
        for (; i < simd::unit_codes && i + lanes <= count; i += lanes)
            simd::store<Arch>(words + i, code(row.load(first + i)));
        if (i < simd::unit_codes) {
            if (i < count)
                simd::store<Arch>(words + i, code(row.load_partial(first + i, count - i)));
            for (i = count; i < simd::unit_codes; ++i) words[i] = 0.0f;
        }
        simd::pack_codes<Arch>(words, codes + first / 2);
    }
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
template <class Arch, class T>
row_range encode_row(const T* row, const float* mean, const float* inverse_spread,
                     std::size_t width, std::uint8_t* codes) noexcept {
    const auto encode = [&](const auto& scaled) {
        const row_range range = detail::find_range<Arch>(scaled, width);
        detail::write_codes<Arch>(scaled, width, range, codes);
        return range;
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
/// scale / 2 * (1 + 2^-7), scale = max |coefficient| / greatest_code_weight(width) (at least
/// the smallest normal float). A coefficient that is not finite makes the scale NaN, and with
/// it every dot product.
///
/// @param coefficients  [width]
/// @param memory        [code_weight_count(width)], overwritten; the result points there and
///                      is for dot_code_rows of the same Arch and width
template <class Arch>
code_weights prepare_code_weights(const float* coefficients, std::size_t width,
                                  std::int16_t* memory) noexcept {
    const std::size_t count = code_weight_count(width);
    float greatest = 0.0f, poison = 0.0f;
    for (std::size_t c = 0; c < width; ++c) {
        const float size = coefficients[c] < 0.0f ? -coefficients[c] : coefficients[c];
        greatest = size > greatest ? size : greatest;
        poison += coefficients[c] * 0.0f;
    }
    const float ratio = greatest / static_cast<float>(greatest_code_weight(width));
    const float least = std::numeric_limits<float>::min();
    const float scale = ratio > least ? ratio : least;
    const float inverse = 1.0f / scale;
    const bool finite = poison == 0.0f;
    constexpr std::size_t units = detail::simd::block_units<Arch>;
    // 1.5 * 2^23: added to an integer, it leaves it, rounded, in the lower 22 bits.
    constexpr float magic = 12582912.0f;
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t word = i % (8 * units), nibble = i / (8 * units) % 4;
        const std::size_t unit = i / (32 * units) * units + word / 8;
        const std::size_t c = 32 * unit + 16 * (nibble % 2) + 2 * (word % 8) + nibble / 2;
        const float x = c < width && finite ? coefficients[c] * inverse : 0.0f;
        memory[i] = static_cast<std::int16_t>(std::bit_cast<std::int32_t>(x + magic) - 0x4b400000);
    }
    return {memory, finite ? scale : std::numeric_limits<float>::quiet_NaN()};
}

}  // namespace kernels
SPARQ_NAMESPACE_END
