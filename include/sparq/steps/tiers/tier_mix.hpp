// SPDX-License-Identifier: MIT
// Tiered attention: the output of one KV head's group from what has been read so far, and
// how far it is likely to be off.
//
// Tokens are in three sets. Exact ones X and certain ones A have been read, with weights
// e = exp(logit - shift). Of the others, the tail, some B were drawn with probabilities pi in
// proportion to their scanned weight s. Two outputs:
//
//   mean tail     y0 = (sum over X, A of e v + (sum of s over the tail) * mean v of the tail) / z0
//   sampled tail  y1 = (sum over X, A of e v + sum over B of w v) / z1,  w = e / pi * fix
//
// fix makes the drawn tokens' scanned weights sum up to the tail's. y1 is right on average
// whatever the values are, y0 has less noise where the tail is like its mean.
// y = y0 + shrink * (y1 - y0) with shrink = max(0, 1 - N / |y1 - y0|^2), N the variance of y1
// (the positive-part James-Stein estimator).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "../../config.hpp"
#include "../../detail/multiply_add.hpp"
#include "../../kernels/listed_weights.hpp"
#include "../../kernels/softmax.hpp"
#include "../../kernels/weight_histogram.hpp"

SPARQ_NAMESPACE_BEGIN
namespace steps {

/// A token with scanned weight s is drawn with probability s / (draw_spread * threshold).
inline constexpr float draw_spread = 2.0f;
/// Share of tolerance^2 that sampling may use; what it leaves goes to the 4-bit rows.
inline constexpr float sampling_share = 0.7f;
/// The estimated deviation is multiplied with it: the true error is then what is expected, in
/// the median over real heads (docs/tiers.md).
inline constexpr float sampling_safety = 0.72f;
/// A batch is enough up to this times its share.
inline constexpr float sampling_slack = 1.2f;
/// Of the sampling variance that is left where the mean tail is taken.
inline constexpr float unshrunk_share = 0.7f;
/// Least share of the variance that scanned weights predict that is believed.
inline constexpr float least_variance_share = 0.5f;
inline constexpr std::size_t most_batches = 4;
/// How many scanned weights are counted to find thresholds, at least (all of fewer).
inline constexpr std::size_t counted_weights = 2048;
/// Least rows of the first batch, and by how much the risk is taken for less than what scanned
/// weights promise, so that few heads read too much.
inline constexpr float first_rows = 32.0f, first_risk = 0.4f;
/// A batch multiplies the rows read by this at most.
inline constexpr float batch_growth = 4.0f;

/// One head's sums over what was read, all with weights exp(logit - shift).
struct SPARQ_ISA_TYPE head_mix {
    float exact = 0.0f;         ///< weight of X
    float certain = 0.0f;       ///< of A
    float drawn = 0.0f;         ///< of B: the sum of w
    float fix = 1.0f;           ///< in w
    float tail = 0.0f;          ///< scanned weight of all that are not in X and A
    kernels::weight_sums seen;  ///< of the scanned weights of A
    float variance = 0.0f;      ///< N, of y1
    float spread = 0.0f;        ///< mean square of |v - y|
    float shrink = 0.0f;
    float risk = 0.0f;  ///< expected squared relative error of the tail
    float size = 0.0f;  ///< |y|^2

    [[nodiscard]] float z0() const noexcept { return exact + certain + tail; }
    [[nodiscard]] float z1() const noexcept { return exact + certain + drawn; }
    /// What the weights of A (and X), and of B, are multiplied with in the output.
    [[nodiscard]] float certain_factor() const noexcept {
        return shrink / z1() + (1.0f - shrink) / z0();
    }
    [[nodiscard]] float drawn_factor() const noexcept { return shrink / z1(); }
    [[nodiscard]] float mean_factor() const noexcept { return (1.0f - shrink) * tail / z0(); }
};

/// weights[j] = exp(logits[j] - shift); returns their sum. What is far above the shift is cut
/// off (all of them by one factor), so that sums stay finite.
template <class Arch>
float relative_weights(const float* logits, std::size_t n, float shift, float* weights) noexcept {
    if (n == 0) return 0.0f;
    const float greatest = kernels::greatest<Arch>(logits, n);
    const float factor = std::exp(std::min(greatest - shift, 80.0f));
    kernels::exponentials<Arch>(logits, n, greatest, weights);
    return kernels::scale_and_sum<Arch>(weights, n, factor);
}

/// Makes w of the drawn tokens' e, in place; sets mix.drawn, mix.fix, and mix.variance for values
/// whose mean squared distance from the output is 1.
///
/// @param scanned  [n] scanned weights
/// @param chance   [n] pi
template <class Arch>
void weigh_drawn(float* weights, const float* scanned, const float* chance, std::size_t n,
                 head_mix& mix) noexcept {
    const float represented = kernels::sum_of_ratios<Arch>(scanned, chance, n);
    mix.fix = represented > 0.0f ? mix.tail / represented : 1.0f;
    const kernels::drawn_sums drawn = kernels::scale_drawn<Arch>(weights, chance, n, mix.fix);
    mix.drawn = drawn.weights;
    mix.variance = drawn.variance / (mix.z1() * mix.z1());
}

/// Sets shrink, size and risk from the two outputs.
/// @param sampled  [n], y1
/// @param mean     [n], y0, then y
SPARQ_PER_ISA inline void shrink_tail(const float* sampled, float* mean, std::size_t n,
                                      head_mix& mix) noexcept {
    float distance = 0.0f;
    for (std::size_t c = 0; c < n; ++c)
        distance = detail::multiply_add(sampled[c] - mean[c], sampled[c] - mean[c], distance);
    mix.shrink = distance > 0.0f ? std::max(0.0f, 1.0f - mix.variance / distance) : 1.0f;
    mix.size = 0.0f;
    for (std::size_t c = 0; c < n; ++c) {
        mean[c] = detail::multiply_add(mix.shrink, sampled[c] - mean[c], mean[c]);
        mix.size = detail::multiply_add(mean[c], mean[c], mix.size);
    }
    mix.size = std::max(mix.size, std::numeric_limits<float>::min());
    mix.risk = sampling_safety * sampling_safety * mix.variance / mix.size *
               detail::multiply_add(1.0f - unshrunk_share, mix.shrink, unshrunk_share);
}

}  // namespace steps
SPARQ_NAMESPACE_END
