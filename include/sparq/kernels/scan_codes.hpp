// SPDX-License-Identifier: MIT
// Approximate logits from codes of few bits.
//
//   logits[h][t] = sum over the channels c of weights[h][c] * (minimum_c + (code + 1/2) width_c)
//
// Traffic: bits / 8 bytes a token and channel, once for all query heads, and 4 bytes a
// channel and strip. Writes 4 bytes a token and head.
// Numerics: integer sums of code_weights.hpp, with its bound; then bias + step * sum in
// float. No order depends on the tiles, and a token's logit depends on its strip only.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "../config.hpp"
#include "code_weights.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

namespace detail {

/// What a token's codes add up to.
template <unsigned Bits>
using code_sum = std::conditional_t<Bits == 8, std::int32_t, std::uint16_t>;

/// Channels of a strip from some token on: term i reads first[i], for 2 bits second[i] too.
struct code_channels {
    const std::uint8_t* first[most_code_channels];
    const std::uint8_t* second[most_code_channels / 2];
};

/// Sums of code_block_tokens tokens without vector code of ours.
template <class Arch, unsigned Bits>
void add_codes(const code_channels& channels, std::size_t byte, const code_weights<Bits>& weights,
               std::size_t h, code_sum<Bits>* sums) noexcept {
    constexpr std::size_t tokens = code_block_tokens, unit = 128 / Bits;
    constexpr unsigned mask = (1u << Bits) - 1;
    std::fill_n(sums, tokens, code_sum<Bits>(0));
    for (std::size_t i = 0; i < weights.terms; ++i) {
        const int a = weights.a[h][i];
        const int b = Bits == 2 ? weights.b[h][i] : 0, c = Bits == 8 ? 0 : weights.c[h][i];
        for (std::size_t u = 0; u < tokens; u += unit)
            for (std::size_t t = 0; t < 16; ++t) {
                const std::size_t at = byte + u / unit * 16 + t;
                const unsigned x = channels.first[i][at];
                const unsigned y = Bits == 2 ? channels.second[i][at] : 0u;
                for (unsigned s = 0; s < 8 / Bits; ++s) {
                    const int first = static_cast<int>((x >> (s * Bits)) & mask);
                    const int second = static_cast<int>((y >> (s * Bits)) & mask);
                    const int entry =
                        Bits == 8 ? a * first : (a * first + b * second + c + 128) >> 8;
                    code_sum<Bits>& sum = sums[u + 16 * s + t];
                    sum = static_cast<code_sum<Bits>>(sum + entry);
                }
            }
    }
}

/// The logits of tokens [first, first + n) of a strip from `count` channels.
template <class Arch, class Label>
void scan_strip_channels(const code_strip<Label>& strip, const code_query& query,
                         std::size_t channel, std::size_t count, std::size_t first, std::size_t n,
                         float* logits, std::size_t logits_stride) noexcept {
    constexpr unsigned bits = Label::bits;
    code_weights<bits> weights;
    weigh_codes<Arch>(query, channel, count, strip.ranges, weights);
    code_channels channels;
    const auto pointer = [&](std::size_t i) {
        return &strip
                    .codes[query.components[channel + std::min(i, count - 1)] *
                           strip.channel_stride]
                    .byte;
    };
    for (std::size_t i = 0; i < weights.terms; ++i) {
        channels.first[i] = pointer(i);
        if constexpr (bits == 2) channels.second[i] = pointer(weights.terms + i);
    }
    constexpr std::size_t tokens = code_block_tokens;
    for (std::size_t t = first / tokens * tokens; t < first + n; t += tokens) {
        const std::size_t from = std::max(t, first), end = std::min(t + tokens, first + n);
        for (std::size_t h = 0; h < query.heads; ++h) {
            code_sum<bits> sums[tokens];
            add_codes<Arch, bits>(channels, t * bits / 8, weights, h, sums);
            float* out = logits + h * logits_stride;
            for (std::size_t i = from; i < end; ++i) {
                const float sum =
                    weights.bias[h] + weights.step[h] * static_cast<float>(sums[i - t]);
                out[i - first] = channel == 0 ? sum : out[i - first] + sum;
            }
        }
    }
}

}  // namespace detail

/// @param query   any number of heads and channels
/// @param first   the first token of the strip that is scanned, n of them
/// @param logits  [heads, n], logits_stride >= n; overlaps nothing
template <class Arch, class Label>
void scan_codes(const code_strip<Label>& strip, const code_query& query, std::size_t first,
                std::size_t n, float* logits, std::size_t logits_stride) noexcept {
    for (std::size_t h = 0; h < query.heads; h += most_code_heads) {
        code_query part = query;
        part.weights += h * query.weights_stride;
        part.heads = std::min(most_code_heads, query.heads - h);
        for (std::size_t c = 0; c < query.count; c += most_code_channels)
            detail::scan_strip_channels<Arch>(strip, part, c,
                                              std::min(most_code_channels, query.count - c), first,
                                              n, logits + h * logits_stride, logits_stride);
    }
}

}  // namespace kernels
SPARQ_NAMESPACE_END
