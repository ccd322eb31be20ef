// SPDX-License-Identifier: MIT
// Step 2 of SparQ (Algorithm 1, lines 5 and 6): the tokens to attend, and their mass.
//
//   ranking = sum over the group of s-hat (or of its logits)
//   i2      = the k best of the ranking, the `local` newest tokens forced in among them
//   alpha   = sum of s-hat over i2, for each query head
//
// Traffic: logits that the scan left in a cache; nothing of K or V.
// Ties go to the older token. A query head that read something not finite has no say.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include "../config.hpp"
#include "../detail/arch.hpp"
#include "../detail/check.hpp"
#include "../kernels/softmax.hpp"
#include "../kernels/top_k.hpp"
#include "../params.hpp"
#include "../workspace.hpp"

SPARQ_NAMESPACE_BEGIN

namespace steps {

/// The approximate logits of a group and what makes weights of them:
///   s-hat[h][t] = exp(logits[h][t] - m) * exp(m - log_sum_exp[h])
/// with m the maximum of the block of score_block_tokens in which t lies. (So a scan can
/// take the first factor before it knows the second.)
struct SPARQ_ISA_TYPE approximate_weights {
    const float* logits;  ///< [heads, stride], tokens of a head together
    std::size_t heads, stride, tokens;
    const float* log_sum_exp;        ///< [heads]
    const float* maximum = nullptr;  ///< [heads, blocks] if they are known

    [[nodiscard]] const float* head(std::size_t h) const noexcept { return logits + h * stride; }
    [[nodiscard]] bool is_finite(std::size_t h) const noexcept {
        return std::isfinite(log_sum_exp[h]);
    }
    [[nodiscard]] SPARQ_PER_ISA std::size_t blocks() const noexcept {
        return (tokens + score_block_tokens - 1) / score_block_tokens;
    }
    [[nodiscard]] SPARQ_PER_ISA std::size_t block_size(std::size_t block) const noexcept {
        const std::size_t left = tokens - block * score_block_tokens;
        return left < score_block_tokens ? left : score_block_tokens;
    }
};

/// The maximum of a head's logits in a block.
template <class Arch>
float block_maximum(const approximate_weights& weights, std::size_t h, std::size_t block) noexcept {
    if (weights.maximum != nullptr) return weights.maximum[h * weights.blocks() + block];
    return kernels::greatest<Arch>(weights.head(h) + block * score_block_tokens,
                                   weights.block_size(block));
}

/// ranking[t] = the sum over the group of s-hat[h][t].
template <class Arch>
void rank_by_weight(const approximate_weights& weights, float* ranking) noexcept {
    float exponentials[score_block_tokens];
    for (std::size_t block = 0; block < weights.blocks(); ++block) {
        const std::size_t begin = block * score_block_tokens, n = weights.block_size(block);
        bool first = true;
        for (std::size_t h = 0; h < weights.heads; ++h) {
            if (!weights.is_finite(h)) continue;
            const float shift = block_maximum<Arch>(weights, h, block);
            kernels::exponentials<Arch>(weights.head(h) + begin, n, shift, exponentials);
            kernels::add_scaled<Arch>(exponentials, n,
                                      kernels::exponential<Arch>(shift - weights.log_sum_exp[h]),
                                      first, ranking + begin);
            first = false;
        }
        if (first) std::fill_n(ranking + begin, n, 0.0f);
    }
}

SPARQ_PER_ISA inline void rank_by_logit(const approximate_weights& weights,
                                        float* ranking) noexcept {
    std::fill_n(ranking, weights.tokens, 0.0f);
    for (std::size_t h = 0; h < weights.heads; ++h)
        for (std::size_t t = 0; weights.is_finite(h) && t < weights.tokens; ++t)
            ranking[t] += weights.head(h)[t];
}

/// Under this a sum of weights may have lost terms to underflow (exp is 0 below e^-87.7).
inline constexpr float least_reliable_weight = 1e-30f;

/// Gives the tokens under that their logarithm instead: less than any sum, and in the
/// order that sums without underflow would have. Slow, seldom needed.
SPARQ_PER_ISA inline void rank_small_weights(const approximate_weights& weights,
                                             float* ranking) noexcept {
    for (std::size_t t = 0; t < weights.tokens; ++t) {
        if (ranking[t] >= least_reliable_weight) continue;
        kernels::softmax_state sum;
        for (std::size_t h = 0; h < weights.heads; ++h)
            if (weights.is_finite(h))
                kernels::merge_softmax(sum, {weights.head(h)[t] - weights.log_sum_exp[h], 1.0f});
        ranking[t] = kernels::log_sum_exp(sum);
    }
}

/// The k tokens to attend, ascending: the `local` newest and the best of the others.
///
/// @param ranking    [tokens]
/// @param maxima     kernels::group_maxima of the ranking, or null
/// @param scratch    [top_k_scratch_floats(tokens)]
/// @param chosen     [tokens]: the k results first, the rest is scratch
/// @param candidate  called early, in ascending order, with hardly more than k tokens,
///                   all chosen ones among them
/// @return           the ranking that the chosen ones reach, those forced in aside
template <class Arch, class Candidate = kernels::ignore_candidate>
float select_tokens(const float* ranking, std::size_t tokens, std::size_t k, std::size_t local,
                    const float* maxima, float* scratch, std::uint32_t* chosen,
                    Candidate&& candidate = {}) noexcept {
    const std::size_t older = tokens - local, free = k - local;
    float reached = std::numeric_limits<float>::infinity();
    if (free != 0) {
        reached = kernels::top_k<Arch>(ranking, older, free, maxima, scratch, chosen, candidate);
        if (!kernels::top_k_is_early(older, free))
            for (std::size_t j = 0; j < free; ++j) candidate(chosen[j]);
    }
    for (std::size_t i = 0; i < local; ++i) {
        chosen[free + i] = static_cast<std::uint32_t>(older + i);
        candidate(older + i);
    }
    return reached;
}

/// Ranks and selects by logits of whatever size. A single query head's tokens are ranked
/// by its logits themselves: the order of its weights, which no underflow can disturb.
/// @param ranking  [tokens] scratch, not used when G = 1
template <class Arch>
void select_for_group(const approximate_weights& weights, group_ranking by, std::size_t k,
                      std::size_t local, float* ranking, float* scratch,
                      std::uint32_t* chosen) noexcept {
    if (weights.heads > 1 && by == group_ranking::logit_sum) {
        rank_by_logit(weights, ranking);
    } else if (weights.heads > 1) {
        rank_by_weight<Arch>(weights, ranking);
        rank_small_weights(weights, ranking);
    }
    select_tokens<Arch>(weights.heads > 1 ? ranking : weights.logits, weights.tokens, k, local,
                        nullptr, scratch, chosen);
}

/// alpha of one query head, at most 1; NaN for a head that read something not finite.
/// @param scratch  [2 * count]
template <class Arch>
float covered_mass(const approximate_weights& weights, std::size_t h, const std::uint32_t* chosen,
                   std::size_t count, float* scratch) noexcept {
    float* maxima = scratch + count;
    for (std::size_t j = 0; j < count; ++j) {
        const std::size_t block = chosen[j] / score_block_tokens;
        const bool known = j != 0 && chosen[j - 1] / score_block_tokens == block;
        maxima[j] = known ? maxima[j - 1] : block_maximum<Arch>(weights, h, block);
        scratch[j] = weights.head(h)[chosen[j]] - maxima[j];
    }
    kernels::exponentials<Arch>(scratch, count, 0.0f, scratch);
    kernels::exponentials<Arch>(maxima, count, weights.log_sum_exp[h], maxima);
    const float mass = kernels::sum_of_products<Arch>(scratch, maxima, count);
    return mass > 1.0f ? 1.0f : mass;
}

}  // namespace steps

namespace detail {

/// The weights of a group in caller's spans, or a refusal.
SPARQ_PER_ISA inline steps::approximate_weights check_weights(std::span<const float> logits,
                                                              std::span<const float> log_sum_exp) {
    require_at_least_one("G, the size of log_sum_exp,", log_sum_exp.size());
    const std::size_t group = log_sum_exp.size(), tokens = logits.size() / group;
    if (tokens == 0 || logits.size() % group != 0)
        refuse("logits", detail::text("of size ", logits.size()),
               detail::text("a multiple of G = ", group, ", not 0"));
    return {logits.data(), group, tokens, tokens, log_sum_exp.data()};
}

SPARQ_PER_ISA inline void check_tokens(std::span<const std::uint32_t> tokens, std::size_t seq_len) {
    if (tokens.empty()) refuse("tokens", "empty", "at least one token");
    for (std::size_t j = 0; j < tokens.size(); ++j)
        if (tokens[j] >= seq_len || (j != 0 && tokens[j] <= tokens[j - 1]))
            refuse(detail::text("tokens[", j, "]"), tokens[j],
                   detail::text("ascending and less than S = ", seq_len));
}

}  // namespace detail

/// The order of the tokens for a group: the sum over its heads of the approximate
/// weights, or of the approximate logits. A sum of weights under 1e-30 stands as its
/// logarithm, which is negative: a greater value is a better rank throughout.
///
/// @param logits       [G, S] from approximate_scores
/// @param log_sum_exp  [G]
/// @param ranking      [S], overwritten
/// @throws std::invalid_argument for sizes outside these
template <class Arch = default_arch>
void rank_tokens(std::span<const float> logits, std::span<const float> log_sum_exp,
                 group_ranking by, std::span<float> ranking) {
    const steps::approximate_weights weights = detail::check_weights(logits, log_sum_exp);
    detail::require_size("ranking", ranking.size(), weights.tokens, "S");
    if (by == group_ranking::logit_sum) {
        steps::rank_by_logit(weights, ranking.data());
    } else {
        steps::rank_by_weight<Arch>(weights, ranking.data());
        steps::rank_small_weights(weights, ranking.data());
    }
}

/// Selects k tokens: the `local` newest, and the best-ranked of the others.
///
/// @param ranking  [S], any order of merit; a NaN ranks last
/// @param local    0 .. k
/// @param tokens   [k], overwritten, ascending; 1 <= k <= S
/// @throws std::invalid_argument for sizes outside these; std::bad_alloc for scratch
template <class Arch = default_arch>
void select_tokens(std::span<const float> ranking, std::size_t local,
                   std::span<std::uint32_t> tokens) {
    const std::size_t n = ranking.size(), k = tokens.size();
    if (k == 0 || k > n) detail::refuse("k", k, detail::text("1 .. S = ", n));
    if (n > std::numeric_limits<std::uint32_t>::max()) detail::refuse("S", n, "less than 2^32");
    if (local > k) detail::refuse("local", local, detail::text("0 .. k = ", k));
    const std::size_t floats = kernels::top_k_scratch_floats(n);
    workspace scratch;
    auto* memory = reinterpret_cast<float*>(scratch.prepare((floats + n) * sizeof(float)));
    auto* chosen = reinterpret_cast<std::uint32_t*>(memory + floats);
    steps::select_tokens<Arch>(ranking.data(), n, k, local, nullptr, memory, chosen);
    std::copy_n(chosen, k, tokens.begin());
}

/// alpha of each query head of a group.
///
/// @param logits       [G, S] from approximate_scores
/// @param log_sum_exp  [G]
/// @param tokens       ascending, distinct, each < S
/// @param covered      [G], overwritten; in [0, 1], NaN where the head is not finite
/// @throws std::invalid_argument for sizes outside these; std::bad_alloc for scratch
template <class Arch = default_arch>
void covered_mass(std::span<const float> logits, std::span<const float> log_sum_exp,
                  std::span<const std::uint32_t> tokens, std::span<float> covered) {
    const steps::approximate_weights weights = detail::check_weights(logits, log_sum_exp);
    detail::require_size("covered", covered.size(), weights.heads, "G");
    detail::check_tokens(tokens, weights.tokens);
    workspace scratch;
    auto* memory = reinterpret_cast<float*>(scratch.prepare(2 * tokens.size() * sizeof(float)));
    for (std::size_t h = 0; h < weights.heads; ++h)
        covered[h] = steps::covered_mass<Arch>(weights, h, tokens.data(), tokens.size(), memory);
}

SPARQ_NAMESPACE_END
