// SPDX-License-Identifier: MIT
// What a scan of codes adds up, for one strip: integers of stated rounding.
//
//   logit = bias + step * sum over the channels of entry(code)
//
// With p = weight * width of a channel and `bias` = sum of weight * (minimum + width / 2):
//   2 bits  channels i and i + half in pairs: entry(a, b) = (A a + B b + C + 128) >> 8
//   4 bits  entry(a) = (A a + C + 128) >> 8
//   8 bits  entry(a) = A a
// A and B are p / step * 256 rounded to integers, C makes the least entry 0 (the bias has
// it back) and step, one for each query head, makes the greatest 127. For 8 bits A is
// p / step and at most 32767.
//
// Traffic: 4 bytes of a range a channel and strip. Numerics: float up to A, B and C, exact
// integers from there: the same sums for every instruction set, given these. |error| <=
// (0.5 + 2^-6) step an entry; for 8 bits step / 2 times the code. Sums fit: 128 channels
// are at most 128 * 127 < 2^16 and 128 * 255 * 32767 < 2^31.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "../code_labels.hpp"
#include "../detail/simd.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

/// Channels and query heads whose codes are added up together.
inline constexpr std::size_t most_code_channels = 128;
inline constexpr std::size_t most_code_heads = 8;

/// What the strips of a scan have in common.
struct code_query {
    const float* weights;  ///< [heads, count], weights_stride >= count
    std::size_t heads, weights_stride;
    const std::uint32_t* components;  ///< [count], the channels
    std::size_t count;
};

/// Integer weights of one strip for at most most_code_heads heads and most_code_channels
/// channels: of a pair of channels for 2 bits, of a channel otherwise.
template <unsigned Bits>
struct code_weights {
    static constexpr std::size_t most = Bits == 2 ? most_code_channels / 2 : most_code_channels;
    std::size_t terms;  ///< pairs or channels
    float step[most_code_heads], bias[most_code_heads];
    std::int16_t a[most_code_heads][most], b[most_code_heads][most], c[most_code_heads][most];
};

namespace detail {

/// The ranges of a strip's scanned channels as floats.
struct scanned_ranges {
    float width[most_code_channels], middle[most_code_channels];  ///< minimum + width / 2
};

template <class Arch>
void gather_ranges(const code_range* ranges, const std::uint32_t* components, std::size_t count,
                   scanned_ranges& scanned) noexcept {
    for (std::size_t i = 0; i < count; ++i) {
        const code_range range = ranges[components[i]];
        scanned.width[i] = static_cast<float>(range.width);
        scanned.middle[i] = static_cast<float>(range.minimum) + 0.5f * scanned.width[i];
    }
}

/// The integers of one head. `p` [count, and zeros up to 2 * terms] holds weight * width.
/// Returns the sum of all C.
template <class Arch, unsigned Bits>
std::int32_t round_terms(const float* p, std::size_t terms, float scale, std::int16_t* a,
                         std::int16_t* b, std::int16_t* c) noexcept {
    constexpr int greatest = (1 << Bits) - 1;
    std::int32_t lowest = 0;
    for (std::size_t i = 0; i < terms; ++i) {
        a[i] = static_cast<std::int16_t>(std::nearbyint(p[i] * scale));
        if constexpr (Bits == 8) continue;
        b[i] = 0;
        if constexpr (Bits == 2)
            b[i] = static_cast<std::int16_t>(std::nearbyint(p[terms + i] * scale));
        const int least = std::min(0, greatest * a[i]) + std::min(0, greatest * b[i]);
        c[i] = static_cast<std::int16_t>(-least);
        lowest -= least;
    }
    return lowest;
}

template <class Arch, unsigned Bits>
void weigh_head(const float* weights, const scanned_ranges& ranges, std::size_t count,
                std::size_t h, code_weights<Bits>& out) noexcept {
    constexpr float greatest = (1 << Bits) - 1;
    float p[most_code_channels + 1];
    float bias = 0.0f, largest = 0.0f;
    for (std::size_t i = 0; i < count; ++i) {
        p[i] = weights[i] * ranges.width[i];
        bias += weights[i] * ranges.middle[i];
    }
    p[count] = 0.0f;  // an odd channel's partner
    for (std::size_t i = 0; i < out.terms; ++i) {
        const float span = std::fabs(p[i]) + (Bits == 2 ? std::fabs(p[out.terms + i]) : 0.0f);
        largest = span <= largest ? largest : span;  // keeps a NaN
    }
    constexpr float reach = Bits == 8 ? 32767.0f : 127.0f * 256.0f / greatest;
    float scale = reach / largest;
    if (!(largest * 0.0f == 0.0f && scale <= std::numeric_limits<float>::max())) {
        if (largest != 0.0f) bias += largest * 0.0f;  // NaN for what is not finite
        std::fill_n(p, count, 0.0f);
        scale = largest = 0.0f;
    }
    const float unit = largest / reach;
    const std::int32_t lowest = round_terms<Arch, Bits>(static_cast<const float*>(p), out.terms,
                                                        scale, out.a[h], out.b[h], out.c[h]);
    out.step[h] = Bits == 8 ? unit : 256.0f * unit;
    out.bias[h] = bias - unit * static_cast<float>(lowest);
}

}  // namespace detail

/// @param query   at most most_code_heads heads
/// @param first   the first of the channels that are weighed, `count` of them, at most
///                most_code_channels
/// @param ranges  [d_h] of the strip
template <class Arch, unsigned Bits>
void weigh_codes(const code_query& query, std::size_t first, std::size_t count,
                 const code_range* ranges, code_weights<Bits>& out) noexcept {
    detail::scanned_ranges scanned;
    detail::gather_ranges<Arch>(ranges, query.components + first, count, scanned);
    out.terms = Bits == 2 ? (count + 1) / 2 : count;
    for (std::size_t h = 0; h < query.heads; ++h)
        detail::weigh_head<Arch, Bits>(query.weights + h * query.weights_stride + first, scanned,
                                       count, h, out);
}

}  // namespace kernels
SPARQ_NAMESPACE_END
