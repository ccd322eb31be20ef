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

#include <cstddef>

#include "../config.hpp"
#include "dot_rows.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

namespace detail {

template <class Arch, std::size_t Heads, std::size_t Channels, class Label>
void accumulate_channel_tile(const float* weights, std::size_t weights_stride,
                             const Label* const* channels, std::size_t n, bool first, float* logits,
                             std::size_t logits_stride, const Label* const* upcoming) noexcept {
    using vec = simd::f32<Arch>;
    const auto add_channels = [&](std::size_t t, const auto& load, const auto& store) {
        vec sum[Heads];
        for (std::size_t h = 0; h < Heads; ++h)
            sum[h] = first ? simd::splat<Arch>(0.0f) : load(logits + h * logits_stride + t);
        for (std::size_t i = 0; i < Channels; ++i) {
            const vec key = load(channels[i] + t);
            for (std::size_t h = 0; h < Heads; ++h) {
                const vec weight = simd::splat<Arch>(weights[h * weights_stride + i]);
                sum[h] = simd::multiply_add<Arch>(weight, key, sum[h]);
            }
        }
        for (std::size_t h = 0; h < Heads; ++h) store(logits + h * logits_stride + t, sum[h]);
    };
    const auto whole_vector = [&](std::size_t t) {
        add_channels(
            t, [](const auto* p) { return simd::load<Arch>(p); },
            [](float* p, const vec& x) { simd::store<Arch>(p, x); });
    };
    constexpr std::size_t line = cache_line_bytes / sizeof(Label);
    constexpr std::size_t ahead = channel_prefetch_bytes / sizeof(Label);
    std::size_t t = 0;
    // Until `end`, asking for what lies `ahead` of token t, where `wanted` is token `origin`.
    const auto lines_until = [&](std::size_t end, const Label* const* wanted, std::size_t origin) {
        for (; t + line <= end; t += line) {
            const std::size_t next = t + ahead > origin ? t + ahead - origin : 0;
            for (std::size_t i = 0; i < Channels; ++i) simd::prefetch(wanted[i] + next);
            for (std::size_t v = 0; v < line; v += simd::lanes<Arch>) whole_vector(t + v);
        }
    };
    if (n > ahead) lines_until(n - ahead, channels, 0);
    if (upcoming != nullptr) lines_until(n, upcoming, n);
    for (; t + simd::lanes<Arch> <= n; t += simd::lanes<Arch>) whole_vector(t);
    if (const std::size_t rest = n - t; rest != 0)
        add_channels(
            t, [rest](const auto* p) { return simd::load_partial<Arch>(p, rest); },
            [rest](float* p, const vec& x) { simd::store_partial<Arch>(p, x, rest); });
}

}  // namespace detail

/// @param weights   [group, count], weights_stride >= count
/// @param channels  [count] pointers to n tokens of one channel, count <= channels_at_once
/// @param first     the logits hold nothing yet
/// @param logits    [group, n], logits_stride >= n; overlaps nothing
/// @param upcoming  [count] pointers to what is wanted of each channel's stream next, or
///                  null; asked for while the last channel_prefetch_bytes are computed
template <class Arch, class Label>
void accumulate_channels(const float* weights, std::size_t group, std::size_t weights_stride,
                         const Label* const* channels, std::size_t count, std::size_t n, bool first,
                         float* logits, std::size_t logits_stride,
                         const Label* const* upcoming = nullptr) noexcept {
    detail::for_head_tiles<Arch>(group, [&](auto heads, std::size_t head) {
        const float* w = weights + head * weights_stride;
        float* out = logits + head * logits_stride;
        std::size_t i = 0;
        const auto take = [&](auto channel_count) {
            for (; i + channel_count() <= count; i += channel_count())
                detail::accumulate_channel_tile<Arch, heads(), channel_count()>(
                    w + i, weights_stride, channels + i, n, first && i == 0, out, logits_stride,
                    head == 0 && upcoming != nullptr ? upcoming + i : nullptr);
        };
        take(std::integral_constant<std::size_t, 16>{});
        take(std::integral_constant<std::size_t, 8>{});
        take(std::integral_constant<std::size_t, 4>{});
        take(std::integral_constant<std::size_t, 1>{});
    });
}

}  // namespace kernels
SPARQ_NAMESPACE_END
