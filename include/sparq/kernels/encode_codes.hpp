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
#include "../detail/code_blocks.hpp"
#include "../detail/simd.hpp"
#include "convert.hpp"
#include "measure_channels.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

namespace detail {

enum class half_rounding { nearest, down, up };

/// x, rounded to the nearest half `nearest` = `wide`, as the half that is asked for.
SPARQ_PER_ISA inline half round_from(half nearest, float wide, float x,
                                     half_rounding rounding) noexcept {
    const bool step_up = rounding == half_rounding::up && x > wide;
    const bool step_down = rounding == half_rounding::down && x < wide;
    if (!step_up && !step_down) return nearest;
    const unsigned magnitude = nearest.bits & 0x7fffu, sign = nearest.bits & 0x8000u;
    if (magnitude == 0) return half::from_bits(step_up ? 0x0001 : 0x8001);
    const bool away = step_up == (sign == 0);
    return half::from_bits(
        static_cast<std::uint16_t>(sign | (away ? magnitude + 1 : magnitude - 1)));
}

/// Halves of some channels, and what they are.
template <class Arch>
struct channel_halves {
    static constexpr std::size_t most = channel_moments<Arch>::most;
    half narrow[most];
    float wide[most];

    /// x as halves: the nearest, or the nearest not above or not below; never infinite, and 0
    /// for a NaN, which only differences of huge keys give. Overwrites x.
    void round(float* x, const half_rounding* rounding, std::size_t channels) noexcept {
        constexpr float greatest = 65504.0f;
        for (std::size_t c = 0; c < channels; ++c)
            x[c] = x[c] != x[c] ? 0.0f : std::clamp(x[c], -greatest, greatest);
        convert_row<Arch>(static_cast<const float*>(x), channels, static_cast<half*>(narrow));
        convert_row<Arch>(static_cast<const half*>(narrow), channels, static_cast<float*>(wide));
        for (std::size_t c = 0; c < channels; ++c)
            narrow[c] = round_from(narrow[c], wide[c], x[c], rounding[c]);
        convert_row<Arch>(static_cast<const half*>(narrow), channels, static_cast<float*>(wide));
    }
};

/// The ranges, and what keys are coded with: minima and inverse widths.
/// @param low, inverse  [most]
template <class Arch, class Label>
void find_ranges(const channel_moments<Arch>& m, std::size_t channels, std::size_t counted,
                 code_range* ranges, float* low, float* inverse) noexcept {
    constexpr std::size_t most = channel_moments<Arch>::most;
    constexpr float codes = 1u << Label::bits;
    channel_halves<Arch> first{}, second{};
    float x[most] = {};
    bool reaches[most] = {};
    half_rounding rounding[most] = {};
    // The least key, then the width that reaches the greatest from there; or the deviation,
    // then the minimum.
    for (std::size_t c = 0; c < channels; ++c) {
        const float deviation = Label::bits == 2 ? std::sqrt(m.variance(c, counted)) : 0.0f;
        reaches[c] = Label::bits > 2 || m.greatest[c] - m.least[c] > codes * int2_reach * deviation;
        x[c] = reaches[c] ? m.least[c] : deviation;
        rounding[c] = reaches[c] ? half_rounding::down : half_rounding::nearest;
    }
    first.round(x, rounding, channels);
    for (std::size_t c = 0; c < channels; ++c) {
        x[c] = reaches[c] ? (m.greatest[c] - first.wide[c]) / codes
                          : m.first[c] + (m.mean_distance(c, counted) - 2.0f * first.wide[c]);
        rounding[c] = reaches[c] ? half_rounding::up : half_rounding::nearest;
    }
    second.round(x, rounding, channels);
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    for (std::size_t c = 0; c < channels; ++c) {
        const bool finite = m.probe[c] == 0.0f;
        const float width = reaches[c] ? second.wide[c] : first.wide[c];
        low[c] = !finite ? nan : reaches[c] ? first.wide[c] : second.wide[c];
        inverse[c] = finite && width > 0.0f ? 1.0f / width : 0.0f;
        ranges[c] = reaches[c] ? code_range{first.narrow[c], second.narrow[c]}
                               : code_range{second.narrow[c], first.narrow[c]};
        if (!finite) ranges[c] = {half::from_bits(0x7e00), half::from_bits(0)};
    }
}

/// The 16 bytes of a unit of each of the channels.
/// @param low, inverse  [channels], filled up to whole vectors
template <class Arch, class T, class Label>
void code_unit(const T* rows, std::size_t row_stride, std::size_t channels, const float* low,
               const float* inverse, Label* codes, std::size_t channel_stride) noexcept {
    namespace simd = sparq::detail::simd;
    using vec = simd::f32<Arch>;
    constexpr std::size_t per_byte = 8 / Label::bits;
    const vec zero = simd::splat<Arch>(0.0f);
    constexpr float count_of_codes = 1u << Label::bits;
    const vec greatest = simd::splat<Arch>(count_of_codes - 1.0f);
    for (std::size_t c = 0; c < channels; c += simd::lanes<Arch>) {
        const std::size_t count = std::min(simd::lanes<Arch>, channels - c);
        const vec minimum = simd::load<Arch>(low + c), scale = simd::load<Arch>(inverse + c);
        // Four bytes a channel and block, from the highest bits down.
        simd::code_block<Arch> words[4] = {};
        for (std::size_t m = 0; m < 4; ++m)
            for (std::size_t b = 4 * m + 4; b-- > 4 * m;)
                for (std::size_t s = per_byte; s-- != 0;) {
                    const vec key =
                        load_channels<Arch>(rows + (16 * s + b) * row_stride + c, count, 0);
                    // The other way round a NaN would stay, and there is no integer for it.
                    const vec place = simd::maximum<Arch>(zero, (key - minimum) * scale);
                    words[m] = simd::push_codes<Arch, static_cast<int>(Label::bits)>(
                        words[m], simd::minimum<Arch>(place, greatest));
                }
        simd::store_columns<Arch>(words, count,
                                  reinterpret_cast<std::uint8_t*>(codes + c * channel_stride),
                                  channel_stride);
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
        detail::find_ranges<Arch, Label>(moments, channels, tokens - skipped, ranges + c, low,
                                         inverse);
        for (std::size_t t = 0; t < tokens; t += unit)
            detail::code_unit<Arch>(rows + t * row_stride + c, row_stride, channels, low, inverse,
                                    codes + c * channel_stride + t / unit * 16, channel_stride);
    }
}

}  // namespace kernels
SPARQ_NAMESPACE_END
