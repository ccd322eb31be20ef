// SPDX-License-Identifier: MIT
#include "statistics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace quality {
namespace {

double log_sum_exp(std::span<const float> x) {
    const double most = *std::max_element(x.begin(), x.end());
    double sum = 0.0;
    for (const float value : x) sum += std::exp(value - most);
    return most + std::log(sum);
}

}  // namespace

estimate estimate_of(std::span<const double> values) {
    constexpr double unknown = std::numeric_limits<double>::quiet_NaN();
    const auto n = static_cast<double>(values.size());
    if (values.empty()) return {0, unknown, unknown};
    double sum = 0.0, squares = 0.0;
    for (const double value : values) sum += value;
    const double mean = sum / n;
    for (const double value : values) squares += (value - mean) * (value - mean);
    return {values.size(), mean, values.size() < 2 ? unknown : std::sqrt(squares / (n - 1.0) / n)};
}

double log_probability(std::span<const float> logits, std::size_t token) {
    return logits[token] - log_sum_exp(logits);
}

double kl_divergence(std::span<const float> logits_p, std::span<const float> logits_q) {
    const double p_sum = log_sum_exp(logits_p), q_sum = log_sum_exp(logits_q);
    double sum = 0.0;
    for (std::size_t i = 0; i < logits_p.size(); ++i) {
        const double log_p = logits_p[i] - p_sum;
        sum += std::exp(log_p) * (log_p - (logits_q[i] - q_sum));
    }
    return sum;
}

std::size_t most_likely(std::span<const float> logits) {
    return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) -
                                    logits.begin());
}

}  // namespace quality
