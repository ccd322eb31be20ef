// SPDX-License-Identifier: MIT
// Step 1 of SparQ, continued (Algorithm 1, line 4): approximate logits of all tokens.
//
//   logits[h][t] = sum over c in i1 of (q[h][c] / tau[h]) * K[t, c]
//   s-hat[h]     = softmax(logits[h]), kept as the logits and their log-sum-exp
//
// Traffic: r channel rows of S labels: S * r * sizeof(Label) bytes; tokens that are not
// labelled yet (under 64 in a kv_cache) cost their whole K row. Writes 4 * S * G bytes
// of scratch that stays in a cache.
// Numerics: float, i1 in ascending order, the same sum from either layout.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "../config.hpp"
#include "../kernels/accumulate_channels.hpp"
#include "../kernels/softmax.hpp"
#include "query_components.hpp"
#include "token_cursor.hpp"

SPARQ_NAMESPACE_BEGIN

namespace steps {

/// What the scan multiplies keys with: q[h][i1] / tau[h].
struct scan_weights {
    const float* data;  ///< [heads, r]
    std::size_t heads, r;
    const std::uint32_t* components;  ///< [r]
};

/// Where a run of labels begins; no segment: nowhere.
template <class T, class Label>
struct label_place {
    const kv_segment<T, Label>* part = nullptr;
    std::size_t offset = 0;

    /// Pointers to the run in channels [first, first + count) of the chosen components.
    SPARQ_PER_ISA void point(const scan_weights& weights, std::size_t first, std::size_t count,
                             const Label** channels) const noexcept {
        for (std::size_t c = 0; c < count; ++c)
            channels[c] =
                part->keys_t + weights.components[first + c] * part->channel_stride + offset;
    }
};

/// Where the labels of the token lie that the cursor comes to next, if it has any.
template <class T, class Label>
SPARQ_PER_ISA label_place<T, Label> place_of(const kv_view<T, Label>& view,
                                             token_cursor<T, Label> cursor,
                                             std::size_t token) noexcept {
    if (token >= view.seq_len()) return {};
    cursor.seek(token);
    if (cursor.offset() >= cursor.segment().labelled) return {};
    return {&cursor.segment(), cursor.offset()};
}

/// n labelled tokens, channels_at_once channels at a time. Meanwhile it asks for the
/// next channels, and at the end for the first ones of what is scanned after these.
template <class Arch, class T, class Label>
void scan_channels(const label_place<T, Label>& here, std::size_t n, const scan_weights& weights,
                   const label_place<T, Label>& after, float* logits, std::size_t stride) noexcept {
    const Label* channels[channels_at_once];
    const Label* upcoming[channels_at_once];
    for (std::size_t i = 0; i < weights.r; i += channels_at_once) {
        const std::size_t count = std::min(channels_at_once, weights.r - i);
        here.point(weights, i, count, channels);
        std::copy_n(channels, count, upcoming);  // asks for nothing new, unless
        if (const std::size_t next = i + count; next < weights.r)
            here.point(weights, next, std::min(count, weights.r - next), upcoming);
        else if (after.part != nullptr)
            after.point(weights, 0, count, upcoming);
        kernels::accumulate_channels<Arch>(weights.data + i, weights.heads, weights.r, channels,
                                           count, n, i == 0, logits, stride, upcoming);
    }
}

/// n tokens that have no labels: their chosen components are brought into channel
/// order first, so that the sums are the same.
template <class Arch, class T, class Label>
void scan_rows(const kv_segment<T, Label>& part, std::size_t offset, std::size_t n,
               const scan_weights& weights, float* logits, std::size_t stride) noexcept {
    Label strip[channels_at_once][strip_tokens];
    const Label* channels[channels_at_once];
    for (std::size_t c = 0; c < channels_at_once; ++c) channels[c] = strip[c];
    for (std::size_t t = 0; t < n; t += strip_tokens) {
        const std::size_t tokens = std::min(strip_tokens, n - t);
        for (std::size_t i = 0; i < weights.r; i += channels_at_once) {
            const std::size_t count = std::min(channels_at_once, weights.r - i);
            for (std::size_t j = 0; j < tokens; ++j) {
                const T* row = part.keys + (offset + t + j) * part.key_stride;
                for (std::size_t c = 0; c < count; ++c)
                    if constexpr (std::same_as<T, Label>)
                        strip[c][j] = row[weights.components[i + c]];
                    else
                        strip[c][j] = Label(static_cast<float>(row[weights.components[i + c]]));
            }
            kernels::accumulate_channels<Arch>(weights.data + i, weights.heads, weights.r, channels,
                                               count, tokens, i == 0, logits + t, stride);
        }
    }
}

/// The approximate logits of tokens [begin, end), at most chunk_tokens, and the softmax
/// state of each head over them. Blocks end at multiples of scan_block_tokens, so that
/// the state does not depend on how the history is cut into segments.
///
/// @param logits  [heads, stride]; written at [h][begin .. end)
/// @param state   [heads], at state_stride from head to head
template <class Arch, class T, class Label>
void scan_chunk(const kv_view<T, Label>& view, std::size_t g, const scan_weights& weights,
                std::size_t begin, std::size_t end, float* logits, std::size_t stride,
                kernels::softmax_state* state, std::size_t state_stride) noexcept {
    token_cursor<T, Label> cursor(view, g);
    for (std::size_t h = 0; h < weights.heads; ++h) state[h * state_stride] = {};
    for (std::size_t block = begin; block < end; block += scan_block_tokens) {
        const std::size_t block_end = std::min(end, block + scan_block_tokens);
        for (std::size_t t = block; t < block_end;) {
            cursor.seek(t);
            const kv_segment<T, Label>& part = cursor.segment();
            const std::size_t offset = cursor.offset();
            std::size_t n = std::min(cursor.left(), block_end - t);
            if (offset < part.labelled) {
                n = std::min(n, part.labelled - offset);
                scan_channels<Arch>(label_place<T, Label>{&part, offset}, n, weights,
                                    place_of(view, cursor, t + n), logits + t, stride);
            } else {
                scan_rows<Arch>(part, offset, n, weights, logits + t, stride);
            }
            t += n;
        }
        for (std::size_t h = 0; h < weights.heads; ++h)
            kernels::merge_softmax(
                state[h * state_stride],
                kernels::softmax_of<Arch>(logits + h * stride + block, block_end - block));
    }
}

/// ln of the sum of exp of a head's logits, from the states of its chunks.
SPARQ_PER_ISA inline float merge_chunks(const kernels::softmax_state* states,
                                        std::size_t chunks) noexcept {
    kernels::softmax_state all;
    for (std::size_t c = 0; c < chunks; ++c) kernels::merge_softmax(all, states[c]);
    return kernels::log_sum_exp(all);
}

/// Bytes of keys that the scan of all heads reads.
template <class T, class Label>
SPARQ_PER_ISA std::size_t scan_bytes(const kv_view<T, Label>& view, std::size_t r) noexcept {
    std::size_t bytes = 0;
    for (std::size_t s = 0; s < view.segments_per_head(); ++s)
        for (std::size_t g = 0; g < view.heads_kv(); ++g) {
            const auto& part = view.segment(s, g);
            bytes += part.labelled * r * sizeof(Label) +
                     (part.tokens - part.labelled) * view.head_dim() * sizeof(T);
        }
    return bytes;
}

}  // namespace steps

/// Scores every token of one KV head for the query heads of its group.
///
/// @param g            KV head
/// @param q            [G, d_h]
/// @param components   [r], each < d_h; ascending for the bits of sparq_attention
/// @param inverse_tau  [G], 1 / tau
/// @param logits       [G, S], overwritten
/// @param log_sum_exp  [G], overwritten: the weight of t is exp(logits[h][t] - log_sum_exp[h])
/// @throws std::invalid_argument for sizes outside these; std::bad_alloc for scratch
template <class Arch = default_arch, class T, class Label>
void approximate_scores(const kv_view<T, Label>& view, std::size_t g, std::span<const float> q,
                        std::span<const std::uint32_t> components,
                        std::span<const float> inverse_tau, std::span<float> logits,
                        std::span<float> log_sum_exp) {
    const std::size_t group = inverse_tau.size(), r = components.size();
    detail::check_head(g, view.heads_kv());
    detail::require_at_least_one("G, the size of inverse_tau,", group);
    detail::require_size("q", q.size(), group * view.head_dim(), "G * d_h");
    detail::check_components(components, view.head_dim());
    detail::require_size("logits", logits.size(), group * view.seq_len(), "G * S");
    detail::require_size("log_sum_exp", log_sum_exp.size(), group, "G");
    workspace scratch;
    auto* weights = reinterpret_cast<float*>(
        scratch.prepare(group * (r * sizeof(float) + sizeof(kernels::softmax_state))));
    auto* state = reinterpret_cast<kernels::softmax_state*>(weights + group * r);
    for (std::size_t h = 0; h < group; ++h)
        for (std::size_t i = 0; i < r; ++i)
            weights[h * r + i] = q[h * view.head_dim() + components[i]] * inverse_tau[h];
    std::vector<kernels::softmax_state> all(group);
    for (std::size_t begin = 0; begin < view.seq_len(); begin += chunk_tokens) {
        steps::scan_chunk<Arch>(view, g, {weights, group, r, components.data()}, begin,
                                std::min(view.seq_len(), begin + chunk_tokens), logits.data(),
                                view.seq_len(), state, 1);
        for (std::size_t h = 0; h < group; ++h) kernels::merge_softmax(all[h], state[h]);
    }
    for (std::size_t h = 0; h < group; ++h) log_sum_exp[h] = kernels::log_sum_exp(all[h]);
}

SPARQ_NAMESPACE_END
