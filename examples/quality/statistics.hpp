// SPDX-License-Identifier: MIT
// Means with their standard errors, and figures of one row of logits.
#pragma once

#include <cstddef>
#include <span>

namespace quality {

struct estimate {
    std::size_t count = 0;
    double mean = 0.0;
    double standard_error = 0.0;  ///< of the mean: s / sqrt(n); NaN for fewer than two
};
/// NaN mean for none.
estimate estimate_of(std::span<const double> values);

/// ln of the softmax weight of `token` < logits.size().
double log_probability(std::span<const float> logits, std::size_t token);
/// Sum of p (ln p - ln q), p and q the softmax of the two.
double kl_divergence(std::span<const float> logits_p, std::span<const float> logits_q);
/// The index of the largest; of equals the first.
std::size_t most_likely(std::span<const float> logits);

}  // namespace quality
