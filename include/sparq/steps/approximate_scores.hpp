// SPDX-License-Identifier: MIT
// Step 1 of SparQ, continued (Algorithm 1, line 4): approximate logits of all tokens.
//
//   logits[h][t] = sum over c in i1 of (q[h][c] / tau[h]) * K[t, c]
//   s-hat[h]     = softmax(logits[h]), kept as the logits and their log-sum-exp
//
// Traffic: r channel rows of S labels: S * r * sizeof(Label) bytes, S * r * bits / 8 and
// some for ranges where labels are codes; tokens that are not labelled yet (under 64 in a
// kv_cache, 128 with codes) cost their whole K row. Writes 4 * S * G bytes
// of scratch that stays in a cache.
// Numerics: float, i1 in ascending order, the same sum from either layout.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#include "../config.hpp"
#include "../kernels/accumulate_channels.hpp"
#include "../kernels/softmax.hpp"
#include "../kernels/top_k.hpp"
#include "coded_scores.hpp"
#include "label_place.hpp"
#include "query_components.hpp"
#include "token_cursor.hpp"

SPARQ_NAMESPACE_BEGIN

namespace steps {

/// Tokens that are scanned as one run.
template <class Label>
inline constexpr std::size_t scan_tokens = scan_block_tokens;
template <coded_label Label>
inline constexpr std::size_t scan_tokens<Label> = code_run_bytes * 8 / Label::bits;

/// What a scan leaves: a score for every token, and for every block of
/// score_block_tokens the softmax state of each head.
struct scan_result {
    float* scores;  ///< [heads, stride]: logits, or exp(logit - its block's maximum)
    std::size_t heads, stride, tokens;
    float *maximum, *sum;  ///< [heads, blocks()]
    float* maxima;         ///< [maxima_per_block * blocks()] of one head's logits, or null
    bool as_weights;

    [[nodiscard]] SPARQ_PER_ISA std::size_t blocks() const noexcept {
        return (tokens + score_block_tokens - 1) / score_block_tokens;
    }
};

/// Takes the state of every block once its logits are there, in the order of the tokens.
/// It does not depend on how the history is cut into segments and tasks.
template <class Arch>
class block_states {
   public:
    SPARQ_PER_ISA block_states(const scan_result& result, std::size_t begin,
                               std::size_t end) noexcept
        : result_(result), next_(begin), end_(end) {}

    /// All logits before `token` are there.
    void scanned_to(std::size_t token) noexcept {
        while (next_ < token) {
            const std::size_t block_end = std::min(next_ + score_block_tokens, end_);
            if (token < block_end) return;
            take(next_ / score_block_tokens, next_, block_end);
            next_ = block_end;
        }
    }
    /// Where the block ends that is next.
    [[nodiscard]] SPARQ_PER_ISA std::size_t next_end() const noexcept {
        return next_ + score_block_tokens;
    }

   private:
    void take(std::size_t block, std::size_t begin, std::size_t end) const noexcept {
        if (result_.maxima != nullptr && end - begin == score_block_tokens)
            kernels::block_maxima<Arch>(result_.scores + begin,
                                        result_.maxima + block * maxima_per_block);
        for (std::size_t h = 0; h < result_.heads; ++h) {
            const kernels::softmax_state state = kernels::softmax_of<Arch>(
                result_.scores + h * result_.stride + begin, end - begin, result_.as_weights);
            result_.maximum[h * result_.blocks() + block] = state.maximum;
            result_.sum[h * result_.blocks() + block] = state.sum;
        }
    }

    scan_result result_;
    std::size_t next_, end_;
};

/// n labelled tokens from `token`, some channels at a time. Meanwhile it asks
/// for the next channels, and at the end for the first ones of what is scanned after
/// these. The last channels go block by block, and the states are taken while memory
/// brings the next block.
/// @param behind  what follows if no labels do, asked for before these last channels
template <class Arch, class T, class Label>
void scan_channels(const label_place<T, Label>& here, std::size_t token, std::size_t n,
                   const scan_weights& weights, const label_place<T, Label>& after,
                   const scan_result& result, block_states<Arch>& states,
                   const unlabelled_rows<T, Label>& behind) noexcept {
    constexpr std::size_t line = cache_line_bytes / sizeof(Label);
    const std::size_t at_once = kernels::channels_at_once<Arch>(weights.heads);
    channel_streams<Label> s(n, std::min(n, channel_prefetch_bytes(at_once) / sizeof(Label)));
    const auto accumulate = [&](std::size_t i, std::size_t count, std::size_t from,
                                std::size_t end) {
        const Label *present[most_channels_at_once], *wanted[most_channels_at_once];
        const bool asks = s.seek(from, count, present, wanted);
        kernels::accumulate_channels<Arch>(weights.data + i, weights.heads, weights.r, present,
                                           count, end - from, i == 0, result.scores + token + from,
                                           result.stride, asks ? wanted : nullptr);
    };
    std::size_t i = 0;
    for (; i + at_once < weights.r; i += at_once) {
        const std::size_t rest = std::min(at_once, weights.r - i - at_once);
        here.point(weights, i, at_once, s.channels);
        here.point(weights, i + at_once, rest, s.next);
        std::copy_n(s.channels, at_once - rest, s.next + rest);  // asks for nothing new
        const std::size_t turn = std::min(n, (n - s.ahead + line - 1) / line * line);
        accumulate(i, at_once, 0, turn);
        accumulate(i, at_once, turn, n);
    }
    const std::size_t count = weights.r - i;
    here.point(weights, i, count, s.channels);
    s.next_is_known = after.part != nullptr;
    if (s.next_is_known)
        after.point(weights, 0, count, s.next);
    else
        behind.ask();
    for (std::size_t from = 0; from < n;) {
        const std::size_t end = std::min(states.next_end() - token, n);
        accumulate(i, count, from, end);
        states.scanned_to(token + end);
        from = end;
    }
}

/// Whether a place is that of a sequence's first token.
template <class T, class Label>
SPARQ_PER_ISA bool is_first(const label_place<T, Label>& here, std::size_t token) noexcept {
    return token == 0 && here.offset == 0 && here.part->offset == 0;
}

/// n labelled tokens from `token` where labels are codes. The first tokens of a sequence, whose
/// codes are only the nearest there are (code_sinks), are scanned from their rows: models with
/// attention sinks give them much of the weight.
template <class Arch, class T, class Label>
void scan_coded_place(const label_place<T, Label>& here, std::size_t token, std::size_t n,
                      const scan_weights& weights, const label_place<T, Label>& after,
                      std::size_t head_dim, const scan_result& result,
                      block_states<Arch>& states) noexcept {
    code_strip<Label> next;
    if (after.part != nullptr) next = code_strip_of(*after.part, after.offset, head_dim);
    std::size_t sinks = is_first(here, token) ? std::min(code_sinks, n) : 0;
    scan_coded<Arch>(*here.part, here.offset, n, head_dim, query_of(weights),
                     after.part != nullptr ? &next : nullptr, result.scores + token, result.stride,
                     [&](std::size_t done) {
                         if (sinks != 0 && done >= sinks) {
                             scan_uncoded<Arch>(*here.part, 0, sinks, head_dim, query_of(weights),
                                                result.scores, result.stride);
                             sinks = 0;
                         }
                         states.scanned_to(token + done);
                     });
}

/// n tokens that have no labels: their chosen components are brought into channel
/// order first, so that the sums are the same.
template <class Arch, class T, class Label>
void scan_rows(const kv_segment<T, Label>& part, std::size_t offset, std::size_t n,
               const scan_weights& weights, float* logits, std::size_t stride) noexcept {
    const std::size_t at_once = kernels::channels_at_once<Arch>(weights.heads);
    Label strip[most_channels_at_once][strip_tokens];
    const Label* channels[most_channels_at_once];
    for (std::size_t c = 0; c < at_once; ++c) channels[c] = strip[c];
    for (std::size_t t = 0; t < n; t += strip_tokens) {
        const std::size_t tokens = std::min(strip_tokens, n - t);
        for (std::size_t i = 0; i < weights.r; i += at_once) {
            const std::size_t count = std::min(at_once, weights.r - i);
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

/// The approximate scores of tokens [begin, end) and the states of their blocks.
/// @param begin  a multiple of score_block_tokens; so is end, or it is seq_len
template <class Arch, class T, class Label>
void scan_chunk(const kv_view<T, Label>& view, std::size_t g, const scan_weights& weights,
                std::size_t begin, std::size_t end, const scan_result& result) noexcept {
    token_cursor<T, Label> cursor(view, g);
    block_states<Arch> states(result, begin, end);
    for (std::size_t t = begin; t < end;) {
        cursor.seek(t);
        const kv_segment<T, Label>& part = cursor.segment();
        const std::size_t offset = cursor.offset();
        std::size_t n = std::min({cursor.left(), end - t, scan_tokens<Label>});
        if (offset < part.labelled) {
            n = std::min(n, part.labelled - offset);
            const label_place<T, Label> here{&part, offset}, after = place_of(view, cursor, t + n);
            const unlabelled_rows<T, Label> behind{view, g, t + n, end};
            if constexpr (coded_label<Label>) {
                if (after.part == nullptr) behind.ask();
                scan_coded_place<Arch>(here, t, n, weights, after, view.head_dim(), result, states);
            } else {
                scan_channels<Arch>(here, t, n, weights, after, result, states, behind);
            }
        } else {
            if constexpr (coded_label<Label>)
                scan_uncoded<Arch>(part, offset, n, view.head_dim(), query_of(weights),
                                   result.scores + t, result.stride);
            else
                scan_rows<Arch>(part, offset, n, weights, result.scores + t, result.stride);
            states.scanned_to(t + n);
        }
        t += n;
    }
}

/// log_sum_exp[h] = ln of the sum of exp of a head's logits.
template <class Arch>
void merge_blocks(const scan_result& result, float* log_sum_exp) noexcept {
    const std::size_t blocks = result.blocks();
    for (std::size_t h = 0; h < result.heads; ++h)
        log_sum_exp[h] = kernels::log_sum_exp_of<Arch>(result.maximum + h * blocks,
                                                       result.sum + h * blocks, blocks);
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
    const std::size_t blocks = (view.seq_len() + score_block_tokens - 1) / score_block_tokens;
    auto* weights =
        reinterpret_cast<float*>(scratch.prepare(group * (r + 2 * blocks) * sizeof(float)));
    for (std::size_t h = 0; h < group; ++h)
        for (std::size_t i = 0; i < r; ++i)
            weights[h * r + i] = q[h * view.head_dim() + components[i]] * inverse_tau[h];
    float* maximum = weights + group * r;
    const steps::scan_result result{logits.data(),  group,   view.seq_len(),
                                    view.seq_len(), maximum, maximum + group * blocks,
                                    nullptr,        false};
    steps::scan_chunk<Arch>(view, g, {weights, group, r, components.data()}, 0, view.seq_len(),
                            result);
    steps::merge_blocks<Arch>(result, log_sum_exp.data());
}

SPARQ_NAMESPACE_END
