// SPDX-License-Identifier: MIT
// Token rows into codes of few bits, channel by channel, with a range for each channel.
//
//   code = clamp(floor((key - minimum) / width), 0, 2^bits - 1)
//   8, 4 bits  minimum: the least key, rounded down to half; width: what 2^bits codes from
//              there need to reach the greatest, rounded up
//   2 bits     width: the standard deviation; minimum: the mean less two of them. But where
//              that cuts off too much (see int2_label) as with 4 bits
//
// Traffic: reads `tokens` * `width` elements twice (a strip of 64 rows is in L1 then, one of
// 512 in L2), writes bits / 8 bytes for each and 4 bytes a channel.
// Numerics: float; ranges rounded to half and kept finite before anything is coded.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "../code_labels.hpp"
#include "../detail/simd.hpp"
#include "measure_channels.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

namespace detail {

/// x as a half: the nearest, or the nearest not above or not below x; never infinite, and 0
/// for a NaN, which only differences of huge keys give.
enum class half_rounding { nearest, down, up };
template <class Arch>
half finite_half(float x, half_rounding rounding) noexcept {
    constexpr float greatest = 65504.0f;
    if (!(x > -greatest)) return half(x <= -greatest ? -greatest : 0.0f);
    if (x >= greatest) return half(greatest);
    const half nearest(x);
    const float error = x - static_cast<float>(nearest);
    const bool step_up = rounding == half_rounding::up && error > 0.0f;
    const bool step_down = rounding == half_rounding::down && error < 0.0f;
    if (!step_up && !step_down) return nearest;
    const unsigned magnitude = nearest.bits & 0x7fffu, sign = nearest.bits & 0x8000u;
    if (magnitude == 0) return half::from_bits(step_up ? 0x0001 : 0x8001);
    const bool away = step_up == (sign == 0);
    return half::from_bits(
        static_cast<std::uint16_t>(sign | (away ? magnitude + 1 : magnitude - 1)));
}

template <class Arch, class Label>
code_range range_of(const channel_moments<Arch>& m, std::size_t c, std::size_t counted) noexcept {
    if (!(m.probe[c] == 0.0f)) return {half(std::numeric_limits<float>::quiet_NaN()), half(0.0f)};
    constexpr float codes = 1u << Label::bits;
    if constexpr (Label::bits == 2) {
        const float mean = m.mean_distance(c, counted);
        const float deviation = std::sqrt(m.variance(c, counted));
        if (!(m.greatest[c] - m.least[c] > codes * int2_reach * deviation)) {
            const half width = finite_half<Arch>(deviation, half_rounding::nearest);
            const float low = m.first[c] + (mean - 2.0f * static_cast<float>(width));
            return {finite_half<Arch>(low, half_rounding::nearest), width};
        }
    }
    const half low = finite_half<Arch>(m.least[c], half_rounding::down);
    const float reach = (m.greatest[c] - static_cast<float>(low)) / codes;
    return {low, finite_half<Arch>(reach, half_rounding::up)};
}

/// The 16 bytes of a unit of each of the channels.
/// @param low, inverse  [channels], filled up to whole vectors
template <class Arch, class T, class Label>
void code_unit(const T* rows, std::size_t row_stride, std::size_t channels, const float* low,
               const float* inverse, Label* codes, std::size_t channel_stride) noexcept {
    namespace simd = sparq::detail::simd;
    using vec = simd::f32<Arch>;
    constexpr std::size_t per_byte = 8 / Label::bits;
    constexpr float greatest = (1u << Label::bits) - 1;
    for (std::size_t c = 0; c < channels; c += simd::lanes<Arch>) {
        const std::size_t count = std::min(simd::lanes<Arch>, channels - c);
        const vec minimum = simd::load<Arch>(low + c), scale = simd::load<Arch>(inverse + c);
        for (std::size_t b = 0; b < 16; ++b) {
            std::uint32_t bytes[simd::lanes<Arch>] = {};
            for (std::size_t s = 0; s < per_byte; ++s) {
                const vec key = load_channels<Arch>(rows + (16 * s + b) * row_stride + c, count, 0);
                const vec place =
                    simd::minimum<Arch>((key - minimum) * scale, simd::splat<Arch>(greatest));
                float code[simd::lanes<Arch>];
                simd::store<Arch>(static_cast<float*>(code), place);
                for (std::size_t i = 0; i < simd::lanes<Arch>; ++i)
                    bytes[i] |= (code[i] > 0.0f ? static_cast<std::uint32_t>(code[i]) : 0u)
                                << (s * Label::bits);
            }
            for (std::size_t i = 0; i < count; ++i)
                codes[(c + i) * channel_stride + b].byte = static_cast<std::uint8_t>(bytes[i]);
        }
    }
}

}  // namespace detail

/// @param rows     [tokens, width], row_stride >= width; tokens a multiple of
///                 code_block_tokens
/// @param skipped  < tokens: so many rows at the begin have no say in the ranges
/// @param codes    [width, tokens] in units, channel_stride bytes apart; overlaps nothing
/// @param ranges   [width]
template <class Arch, class T, class Label>
void encode_rows(const T* rows, std::size_t row_stride, std::size_t tokens, std::size_t width,
                 std::size_t skipped, Label* codes, std::size_t channel_stride,
                 code_range* ranges) noexcept {
    detail::channel_moments<Arch> moments;
    constexpr std::size_t most = detail::channel_moments<Arch>::most;
    constexpr std::size_t unit = code_unit_tokens<Label>;
    for (std::size_t c = 0; c < width; c += most) {
        const std::size_t channels = std::min(most, width - c);
        detail::measure_channels<Arch, true, Label::bits == 2>(rows + c, row_stride, tokens,
                                                               skipped, channels, moments);
        float low[most] = {}, inverse[most] = {};
        for (std::size_t i = 0; i < channels; ++i) {
            ranges[c + i] = detail::range_of<Arch, Label>(moments, i, tokens - skipped);
            const auto step = static_cast<float>(ranges[c + i].width);
            low[i] = static_cast<float>(ranges[c + i].minimum);
            inverse[i] = step > 0.0f ? 1.0f / step : 0.0f;
        }
        for (std::size_t t = 0; t < tokens; t += unit)
            detail::code_unit<Arch>(rows + t * row_stride + c, row_stride, channels, low, inverse,
                                    codes + c * channel_stride + t / unit * 16, channel_stride);
    }
}

}  // namespace kernels
SPARQ_NAMESPACE_END
