// SPDX-License-Identifier: MIT
// Step 2 of SparQ on what a scan left: ranking, selection and alpha without a second
// exponential of any token.
//
// With several query heads the scan leaves weights relative to the maximum of their block
// of score_block_tokens: s-hat[h][t] = scores[h][t] * exp(maximum[h][block] - lse[h]),
// with the bits that select_tokens.hpp takes from logits.
//
// Traffic: scratch only. Numerics: float; s-hat is within 5 ulp of exp(logit - lse), and
// sums over the heads go in ascending order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "../config.hpp"
#include "approximate_scores.hpp"
#include "select_tokens.hpp"

SPARQ_NAMESPACE_BEGIN
namespace steps {

/// A scan with what makes weights of its scores.
struct scanned_tokens {
    scan_result scan;
    float* log_sum_exp;  ///< [heads]
    float* factors;      ///< [heads, blocks]: exp(maximum - log_sum_exp)
    float* ranking;      ///< [tokens] scratch where heads > 1
    float* maxima;       ///< [maxima_per_block * blocks] scratch

    [[nodiscard]] SPARQ_PER_ISA bool is_finite(std::size_t h) const noexcept {
        return std::isfinite(log_sum_exp[h]);
    }
    [[nodiscard]] SPARQ_PER_ISA approximate_weights logits() const noexcept {
        return {scan.scores, scan.heads, scan.stride, scan.tokens, log_sum_exp, scan.maximum};
    }
};

/// What threads need that rank blocks [begin, end) of a scan that left weights, once all of it is
/// there: log_sum_exp, in a place of their own where several rank at a time, and these blocks'
/// factors.
template <class Arch>
void weigh_blocks(const scanned_tokens& tokens, std::size_t begin, std::size_t end) noexcept {
    merge_blocks<Arch>(tokens.scan, tokens.log_sum_exp);
    const std::size_t blocks = tokens.scan.blocks();
    for (std::size_t h = 0; h < tokens.scan.heads; ++h)
        kernels::exponentials<Arch>(tokens.scan.maximum + h * blocks + begin, end - begin,
                                    tokens.log_sum_exp[h], tokens.factors + h * blocks + begin);
}

/// ranking[t] = sum over the group of s-hat[h][t] in blocks [begin, end), and its maxima.
template <class Arch>
void rank_blocks(const scanned_tokens& tokens, std::size_t begin, std::size_t end) noexcept {
    const scan_result& scan = tokens.scan;
    weigh_blocks<Arch>(tokens, begin, end);
    for (std::size_t block = begin; block < end; ++block) {
        const std::size_t first_token = block * score_block_tokens;
        const std::size_t n = std::min(score_block_tokens, scan.tokens - first_token);
        bool first = true;
        for (std::size_t h = 0; h < scan.heads; ++h) {
            if (!tokens.is_finite(h)) continue;
            kernels::add_scaled<Arch>(scan.scores + h * scan.stride + first_token, n,
                                      tokens.factors[h * scan.blocks() + block], first,
                                      tokens.ranking + first_token);
            first = false;
        }
        if (first) std::fill_n(tokens.ranking + first_token, n, 0.0f);
        if (n == score_block_tokens)
            kernels::block_maxima<Arch>(tokens.ranking + first_token,
                                        tokens.maxima + block * maxima_per_block);
    }
}

/// Selects by what the scan left, with several query heads after rank_blocks. A single query
/// head's tokens are ranked by their logits themselves: the order of its weights, which no
/// underflow can disturb.
///
/// @return  false where weights so small decide that logits are needed: nothing of use is
///          in `chosen` then (select_for_group)
template <class Arch, class Candidate>
bool select_scanned(const scanned_tokens& tokens, std::size_t k, std::size_t local, float* scratch,
                    std::uint32_t* chosen, Candidate&& candidate) noexcept {
    const bool ranked = tokens.scan.heads > 1;
    if (ranked && !tokens.scan.as_weights) return false;
    const float reached =
        select_tokens<Arch>(ranked ? tokens.ranking : tokens.scan.scores, tokens.scan.tokens, k,
                            local, tokens.maxima, scratch, chosen, candidate);
    return !ranked || reached >= least_reliable_weight;
}

/// alpha of one query head, at most 1; NaN for a head that read something not finite.
/// @param scratch  [2 * count]
template <class Arch>
float covered_mass(const scanned_tokens& tokens, std::size_t h, const std::uint32_t* chosen,
                   std::size_t count, float* scratch) noexcept {
    if (!tokens.scan.as_weights)
        return covered_mass<Arch>(tokens.logits(), h, chosen, count, scratch);
    const float* scores = tokens.scan.scores + h * tokens.scan.stride;
    const float* factors = tokens.factors + h * tokens.scan.blocks();
    for (std::size_t j = 0; j < count; ++j) {
        scratch[j] = scores[chosen[j]];
        scratch[count + j] = factors[chosen[j] / score_block_tokens];
    }
    const float mass = kernels::sum_of_products<Arch>(scratch, scratch + count, count);
    return mass > 1.0f ? 1.0f : mass;
}

}  // namespace steps
SPARQ_NAMESPACE_END
