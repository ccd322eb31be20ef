// SPDX-License-Identifier: MIT
// What the channels of consecutive rows are like: extremes, means and variances.
//
// Traffic: reads `tokens` * `width` elements once.
// Numerics: float, sums about the first counted key, a channel's tokens in ascending order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>

#include "../config.hpp"
#include "../detail/multiply_add.hpp"
#include "../detail/simd.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {
namespace detail {

/// Vectors of channels that are coded together: one cache line of two-byte elements.
inline constexpr std::size_t coded_vectors = 4;

/// What is known of the channels of some vectors. Infinite or NaN `probe`: so was a key.
template <class Arch>
struct channel_moments {
    static constexpr std::size_t most = coded_vectors * sparq::detail::simd::lanes<Arch>;
    float first[most], sum[most], squares[most];  // of key - first
    float least[most], greatest[most];
    float probe[most];

    [[nodiscard]] float mean_distance(std::size_t c, std::size_t counted) const noexcept {
        return sum[c] / static_cast<float>(counted);
    }
    [[nodiscard]] float variance(std::size_t c, std::size_t counted) const noexcept {
        const float shift = mean_distance(c, counted);
        return std::max(0.0f, sparq::detail::multiply_add(
                                  -shift, shift, squares[c] / static_cast<float>(counted)));
    }
};

/// Vector v of up to coded_vectors, of which `channels` lanes count.
template <class Arch, class T>
sparq::detail::simd::f32<Arch> load_channels(const T* row, std::size_t channels,
                                             std::size_t v) noexcept {
    namespace simd = sparq::detail::simd;
    const std::size_t c = v * simd::lanes<Arch>;
    if (c + simd::lanes<Arch> <= channels) return simd::load<Arch>(row + c);
    return simd::load_partial<Arch>(row + c, channels - c);
}

/// @param rows  the channels' first one in the first row
template <class Arch, bool Extremes, bool Moments, class T>
void measure_channels(const T* rows, std::size_t row_stride, std::size_t tokens,
                      std::size_t skipped, std::size_t channels,
                      channel_moments<Arch>& moments) noexcept {
    namespace simd = sparq::detail::simd;
    using vec = simd::f32<Arch>;
    const std::size_t vectors = (channels + simd::lanes<Arch> - 1) / simd::lanes<Arch>;
    const vec zero = simd::splat<Arch>(0.0f);
    for (std::size_t v = 0; v < vectors; ++v) {
        const vec first = load_channels<Arch>(rows + skipped * row_stride, channels, v);
        vec low = first, high = first, sum = zero, squares = zero, probe = zero;
        for (std::size_t t = 0; t < tokens; ++t) {
            const vec key = load_channels<Arch>(rows + t * row_stride, channels, v);
            probe = simd::multiply_add<Arch>(key, zero, probe);
            if (t < skipped) continue;
            if constexpr (Extremes) {
                low = simd::minimum<Arch>(low, key);
                high = simd::maximum<Arch>(high, key);
            }
            if constexpr (Moments) {
                const vec distance = key - first;
                sum = sum + distance;
                squares = simd::multiply_add<Arch>(distance, distance, squares);
            }
        }
        const std::size_t c = v * simd::lanes<Arch>;
        simd::store<Arch>(moments.probe + c, probe);
        simd::store<Arch>(moments.first + c, first);
        if constexpr (Extremes) {
            simd::store<Arch>(moments.least + c, low);
            simd::store<Arch>(moments.greatest + c, high);
        }
        if constexpr (Moments) {
            simd::store<Arch>(moments.sum + c, sum);
            simd::store<Arch>(moments.squares + c, squares);
        }
    }
}

}  // namespace detail

/// Mean and variance of each channel; NaN and 0 where a key, counted or not, is not finite.
///
/// @param rows      [tokens, width], row_stride >= width
/// @param skipped   < tokens: so many rows at the begin do not count
/// @param mean      [width], overwritten, as variance; |error| <= (3 tokens + 6) 2^-24 times the
///                  greatest distance from the first counted key, squared for the variance
template <class Arch, class T>
void measure_rows(const T* rows, std::size_t row_stride, std::size_t tokens, std::size_t skipped,
                  std::size_t width, float* mean, float* variance) noexcept {
    detail::channel_moments<Arch> moments;
    constexpr std::size_t most = detail::channel_moments<Arch>::most;
    for (std::size_t c = 0; c < width; c += most) {
        const std::size_t channels = std::min(most, width - c), counted = tokens - skipped;
        detail::measure_channels<Arch, false, true>(rows + c, row_stride, tokens, skipped, channels,
                                                    moments);
        for (std::size_t i = 0; i < channels; ++i) {
            const bool finite = moments.probe[i] == 0.0f;
            mean[c + i] = finite ? moments.first[i] + moments.mean_distance(i, counted)
                                 : std::numeric_limits<float>::quiet_NaN();
            variance[c + i] = finite ? moments.variance(i, counted) : 0.0f;
        }
    }
}

}  // namespace kernels
SPARQ_NAMESPACE_END
