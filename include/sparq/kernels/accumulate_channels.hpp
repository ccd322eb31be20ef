// SPDX-License-Identifier: MIT
// Approximate logits from channel rows of the d_h-major keys.
//
//   logits[h][t] = (first ? 0 : logits[h][t]) + sum over i of weights[h][i] * channels[i][t]
//
// Traffic: reads `count` rows of n elements once; the logits stay in L1 between calls.
// Numerics: float, one accumulator a token, channels in the order given, one fused
// multiply-add each; no order depends on the tiles.
// |error| <= r * eps * sum |weights[h][i] * channels[i][t]| over all r channels.
#pragma once

#include <algorithm>
#include <cstddef>

#include "../config.hpp"
#include "dot_rows.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

/// Channels that are read side by side for `heads` query heads: what memory likes best for
/// few of them; for more, fewer visits to their logits count.
template <class Arch>
SPARQ_PER_ISA constexpr std::size_t channels_at_once(std::size_t heads) noexcept {
    return sparq::detail::simd::lanes<Arch> < 16 && heads <= 2 ? 8 : most_channels_at_once;
}

namespace detail {

/// Vectors of tokens that go side by side. For few heads a line of each channel (two vectors at
/// least, whose sums are independent, and a quarter of the registers at most): what is asked for
/// goes out evenly between the products, and not in bursts that memory cannot take. For more
/// heads a weight is broadcast once for an eighth of the registers.
template <class Arch, std::size_t Heads, class Label>
inline constexpr std::size_t vectors_at_once =
    Heads > 2 ? simd::registers<Arch> / 8
              : std::clamp<std::size_t>(cache_line_bytes / sizeof(Label) / simd::lanes<Arch>, 2,
                                        simd::registers<Arch> / 4);

/// Asks for `Tokens` tokens of channel i. (Inlined: g++ 12 drops calls of what only prefetches.)
template <class Label, std::size_t Tokens>
struct channel_prefetch {
    const Label* const* wanted;
    std::size_t from;

    SPARQ_ALWAYS_INLINE void operator()(std::size_t i) const noexcept {
        for (std::size_t l = 0; l < Tokens; l += cache_line_bytes / sizeof(Label))
            simd::prefetch(wanted[i] + from + l);
    }
};

/// `Count` vectors of tokens, through all channels: the logits at `logits`, which are read unless
/// `first`, and channel i at channels[i] + token; ask(i) comes before channel i is read.
template <class Arch, std::size_t Heads, std::size_t Channels, std::size_t Count, class Label,
          class Load, class Store, class Ask>
SPARQ_ALWAYS_INLINE void add_channels(const float* weights, std::size_t weights_stride,
                                      const Label* const* channels, std::size_t token, bool first,
                                      float* logits, std::size_t logits_stride, const Load& load,
                                      const Store& store, const Ask& ask) noexcept {
    using vec = simd::f32<Arch>;
    constexpr std::size_t step = simd::lanes<Arch>;
    vec sum[Heads][Count];
    SPARQ_UNROLL
    for (std::size_t h = 0; h < Heads; ++h) {
        SPARQ_UNROLL
        for (std::size_t v = 0; v < Count; ++v)
            sum[h][v] = first ? simd::splat<Arch>(0.0f)
                              : load(logits + h * logits_stride + token + v * step);
    }
    for (std::size_t i = 0; i < Channels; ++i) {
        ask(i);
        vec key[Count];
        SPARQ_UNROLL
        for (std::size_t v = 0; v < Count; ++v) key[v] = load(channels[i] + token + v * step);
        SPARQ_UNROLL
        for (std::size_t h = 0; h < Heads; ++h) {
            const vec weight = simd::splat<Arch>(weights[h * weights_stride + i]);
            SPARQ_UNROLL
            for (std::size_t v = 0; v < Count; ++v)
                sum[h][v] = simd::multiply_add<Arch>(weight, key[v], sum[h][v]);
        }
    }
    SPARQ_UNROLL
    for (std::size_t h = 0; h < Heads; ++h) {
        SPARQ_UNROLL
        for (std::size_t v = 0; v < Count; ++v)
            store(logits + h * logits_stride + token + v * step, sum[h][v]);
    }
}

template <class Arch, std::size_t Heads, std::size_t Channels, class Label>
void accumulate_channel_tile(const float* weights, std::size_t weights_stride,
                             const Label* const* channels, std::size_t n, bool first, float* logits,
                             std::size_t logits_stride, const Label* const* wanted) noexcept {
    using vec = simd::f32<Arch>;
    constexpr std::size_t line = cache_line_bytes / sizeof(Label), lanes = simd::lanes<Arch>;
    constexpr std::size_t wide = vectors_at_once<Arch, Heads, Label>;
    constexpr std::size_t tokens = wide * lanes, turn = tokens < line ? line : tokens;
    const auto nothing = [](std::size_t) {};
    const auto add = [&](auto count, std::size_t t, const auto& ask) {
        add_channels<Arch, Heads, Channels, count()>(
            weights, weights_stride, channels, t, first, logits, logits_stride,
            [](const auto* p) { return simd::load<Arch>(p); },
            [](float* p, const vec& x) { simd::store<Arch>(p, x); }, ask);
    };
    const std::integral_constant<std::size_t, wide> tile;
    std::size_t t = 0;
    for (; wanted != nullptr && t + turn <= n; t += turn) {
        add(tile, t, channel_prefetch<Label, turn>{wanted, t});
        for (std::size_t v = tokens; v < turn; v += tokens) add(tile, t + v, nothing);
    }
    for (; t + tokens <= n; t += tokens) add(tile, t, nothing);
    const std::integral_constant<std::size_t, 1> one;
    for (; t + lanes <= n; t += lanes) add(one, t, nothing);
    if (const std::size_t rest = n - t; rest != 0)
        add_channels<Arch, Heads, Channels, 1>(
            weights, weights_stride, channels, t, first, logits, logits_stride,
            [rest](const auto* p) { return simd::load_partial<Arch>(p, rest); },
            [rest](float* p, const vec& x) { simd::store_partial<Arch>(p, x, rest); }, nothing);
}

}  // namespace detail

/// @param weights   [group, count], weights_stride >= count
/// @param channels  [count] pointers to n tokens of one channel, count <= most_channels_at_once
/// @param first     the logits hold nothing yet
/// @param logits    [group, n], logits_stride >= n; overlaps nothing
/// @param wanted    [count] pointers to n tokens that are asked for, line by line while those of
///                  the channels are computed; or null
template <class Arch, class Label>
void accumulate_channels(const float* weights, std::size_t group, std::size_t weights_stride,
                         const Label* const* channels, std::size_t count, std::size_t n, bool first,
                         float* logits, std::size_t logits_stride,
                         const Label* const* wanted = nullptr) noexcept {
    detail::for_head_tiles(group, [&](auto heads, std::size_t head) {
        const float* w = weights + head * weights_stride;
        float* out = logits + head * logits_stride;
        std::size_t i = 0;
        const auto take = [&](auto channel_count) {
            for (; i + channel_count() <= count; i += channel_count())
                detail::accumulate_channel_tile<Arch, heads(), channel_count()>(
                    w + i, weights_stride, channels + i, n, first && i == 0, out, logits_stride,
                    head == 0 && wanted != nullptr ? wanted + i : nullptr);
        };
        take(std::integral_constant<std::size_t, 16>{});
        take(std::integral_constant<std::size_t, 8>{});
        take(std::integral_constant<std::size_t, 4>{});
        take(std::integral_constant<std::size_t, 1>{});
    });
}

}  // namespace kernels
SPARQ_NAMESPACE_END
