// SPDX-License-Identifier: MIT
// Is what was timed also right? One group of query heads in double precision, from the
// formulas, sharing nothing with the library but the layout of the view.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <sparq/kv_view.hpp>
#include <sparq/params.hpp>
#include <string>
#include <vector>

namespace bench::exact {

using numbers = std::vector<double>;

inline constexpr double tolerance = 1e-3;  ///< of results that are near 1e-5 when right

template <class T, class Visit>
void for_each_token(const sparq::kv_view<T>& view, std::size_t g, const Visit& visit) {
    std::size_t token = 0;
    for (std::size_t s = 0; s < view.segments_per_head(); ++s) {
        const auto& part = view.segment(s, g);
        for (std::size_t t = 0; t < part.tokens; ++t, ++token)
            visit(token, part.keys + t * part.key_stride, part.values + t * part.value_stride);
    }
}

/// Attention of one query head over the tokens that is_attended accepts.
template <class T, class Predicate>
numbers attention(const sparq::kv_view<T>& view, std::size_t g, std::span<const float> q,
                  const Predicate& is_attended) {
    numbers sum(view.value_dim());
    double weights = 0;
    for_each_token(view, g, [&](std::size_t token, const T* key, const T* value) {
        if (!is_attended(token)) return;
        double logit = 0;
        for (std::size_t c = 0; c < q.size(); ++c) logit += double(q[c]) * double(float(key[c]));
        const double weight = std::exp(logit / std::sqrt(double(q.size())));
        weights += weight;
        for (std::size_t c = 0; c < sum.size(); ++c) sum[c] += weight * double(float(value[c]));
    });
    for (double& element : sum) element /= weights;
    return sum;
}

template <class T>
numbers mean_value(const sparq::kv_view<T>& view, std::size_t g) {
    numbers mean(view.value_dim());
    for_each_token(view, g, [&](std::size_t, const T*, const T* value) {
        for (std::size_t c = 0; c < mean.size(); ++c) mean[c] += double(float(value[c]));
    });
    for (double& element : mean) element /= double(view.seq_len());
    return mean;
}

/// The r components with the largest sum of |q| over the group [G, d_h].
inline std::vector<std::size_t> components(std::span<const float> q, std::size_t head_dim,
                                           std::size_t r) {
    numbers magnitude(head_dim);
    for (std::size_t i = 0; i < q.size(); ++i) magnitude[i % head_dim] += std::fabs(double(q[i]));
    std::vector<std::size_t> order(head_dim);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return magnitude[a] != magnitude[b] ? magnitude[a] > magnitude[b] : a < b;
    });
    order.resize(r);
    return order;
}

/// s-hat of one query head, [S].
template <class T>
numbers approximate_weights(const sparq::kv_view<T>& view, std::size_t g, std::span<const float> q,
                            const std::vector<std::size_t>& chosen) {
    double all = 0, part = 0;
    for (const float x : q) all += std::fabs(double(x));
    for (const std::size_t c : chosen) part += std::fabs(double(q[c]));
    const double tau = std::sqrt(double(q.size()) * part / all);
    numbers weights(view.seq_len());
    for_each_token(view, g, [&](std::size_t token, const T* key, const T*) {
        double logit = 0;
        for (const std::size_t c : chosen) logit += double(q[c]) * double(float(key[c]));
        weights[token] = std::exp(logit / tau);
    });
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (double& weight : weights) weight /= sum;
    return weights;
}

/// |y - exact| / |exact|
inline double deviation(std::span<const float> y, const numbers& expected) {
    double difference = 0, length = 0;
    for (std::size_t c = 0; c < y.size(); ++c) {
        difference += std::pow(double(y[c]) - expected[c], 2);
        length += std::pow(expected[c], 2);
    }
    return std::sqrt(difference / length);
}

/// Empty if the chosen tokens (ascending) hold the newest and rank at least as high as all
/// others, but for rounding.
inline std::string complaint_about_tokens(const numbers& ranking, std::size_t local,
                                          std::span<const std::uint32_t> tokens) {
    std::vector<bool> is_chosen(ranking.size());
    for (const std::uint32_t token : tokens) is_chosen[token] = true;
    const std::size_t older = ranking.size() - local;
    double worst_chosen = HUGE_VAL, best_left = 0;
    for (std::size_t t = 0; t < ranking.size(); ++t) {
        if (t >= older && !is_chosen[t]) return "a newest token was not chosen";
        if (t >= older) continue;
        if (is_chosen[t])
            worst_chosen = std::min(worst_chosen, ranking[t]);
        else
            best_left = std::max(best_left, ranking[t]);
    }
    const bool right = best_left <= worst_chosen * (1 + tolerance);
    return right ? "" : "a token was left out that ranks above a chosen one";
}

}  // namespace bench::exact
