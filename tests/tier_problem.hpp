// SPDX-License-Identifier: MIT
// Problems for attention in tiers, the caches made of them, and dense attention in double.
#pragma once

#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "problem.hpp"
#include "tier_calls.hpp"

namespace test {

/// Keys with channels of different means and spreads and outliers as first tokens, as real
/// ones have them.
inline problem tier_problem(const shape& dims, std::uint64_t seed, float q_size = 1.0f) {
    problem p = make_problem(dims, seed, q_size);
    for (size_t i = 0; i < p.keys.size(); ++i) {
        const size_t c = i % dims.head_dim, t = i / (dims.head_dim * dims.heads_kv);
        if (c % 5 == 3 && t % 59 == 7) p.keys[i] = 9.0f + std::abs(p.keys[i]);
        p.keys[i] = p.keys[i] * std::ldexp(1.0f, static_cast<int>(c % 4) - 2) +
                    static_cast<float>(c % 5) - 2.0f;
    }
    for (size_t i = 0; i < std::min(p.keys.size(), 4 * dims.heads_kv * dims.head_dim); ++i)
        p.keys[i] *= 5.0f;
    return p;
}

/// Keys in three classes along one direction, so that no choice is near a tie: `top` tokens
/// with logits far above `middle` ones, and those far above the rest.
inline problem classes_problem(const shape& dims, std::uint64_t seed, size_t top, size_t middle) {
    problem p = make_problem(dims, seed, 0.02f);
    random_source source(seed);
    std::vector<float> direction(dims.head_dim);
    for (float& x : direction) x = source.below(2) == 0 ? 1.0f : -1.0f;
    const float size = 4.0f / std::sqrt(static_cast<float>(dims.head_dim));
    for (size_t i = 0; i < p.q.size(); ++i) p.q[i] = size * (direction[i % dims.head_dim] + p.q[i]);
    std::vector<size_t> order(dims.seq_len);
    std::iota(order.begin(), order.end(), size_t{0});
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[source.below(i)]);
    // Sinks, the newest tokens and those without 2-bit codes are of no class.
    size_t found = 0;
    std::vector<float> along(dims.seq_len, 0.0f);
    for (size_t t : order) {
        if (t < 4 || t + 130 >= dims.seq_len || found == top + middle) continue;
        along[t] = found++ < top ? 2.6f : 1.3f;
    }
    for (size_t i = 0; i < p.keys.size(); ++i) {
        const size_t c = i % dims.head_dim, t = i / dims.head_dim / dims.heads_kv;
        p.keys[i] = 0.15f * p.keys[i] + along[t] * direction[c] + 0.3f * static_cast<float>(c % 3);
    }
    return p;
}

template <class T>
void append_tiers(sparq::tiered_cache<T>& cache, const problem& p, size_t begin, size_t end) {
    tier_calls<T>::append(cache, rows(p.keys, p.dims.heads_kv * p.dims.head_dim, begin, end),
                          rows(p.values, p.dims.heads_kv * p.dims.value_dim, begin, end));
}

template <class T>
sparq::tiered_cache<T> make_tiers(const problem& p, size_t end) {
    sparq::tiered_cache<T> cache(p.dims.heads_kv, p.dims.head_dim, p.dims.value_dim);
    append_tiers(cache, p, 0, end);
    return cache;
}

template <class T>
sparq::tiered_cache<T> make_tiers(const problem& p) {
    return make_tiers<T>(p, p.dims.seq_len);
}

template <class T>
answer run_tiers(const problem& p, const sparq::tiered_view<T>& view,
                 const sparq::tiered_params& params) {
    answer a;
    a.out.assign(p.dims.heads_q() * p.dims.value_dim, -12345.0f);
    sparq::call_options options;
    options.report = &a.report;
    tier_calls<T>::tiered(p.q, view, params, a.out, options);
    return a;
}

template <class T>
answer run_tiers_dense(const problem& p, const sparq::tiered_view<T>& view, float scale = 0) {
    answer a;
    a.out.assign(p.dims.heads_q() * p.dims.value_dim, -12345.0f);
    sparq::call_options options;
    options.report = &a.report;
    tier_calls<T>::dense(p.q, view, scale, a.out, options);
    return a;
}

/// Same outputs and reports, bytes included.
inline bool same_tiers(const answer& a, const answer& b) {
    if (!same_bits(a.out, b.out) || a.report.heads.size() != b.report.heads.size()) return false;
    for (size_t i = 0; i < a.report.heads.size(); ++i)
        if (!same_head(a.report.heads[i], b.report.heads[i])) return false;
    return a.report.bytes_read == b.report.bytes_read &&
           a.report.bytes.scan == b.report.bytes.scan &&
           a.report.bytes.selected == b.report.bytes.selected &&
           a.report.bytes.tail == b.report.bytes.tail;
}

inline double norm(const double* x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += x[i] * x[i];
    return std::sqrt(sum);
}

/// |got - want| / |want| of one query head.
inline double relative_error(const float* got, const double* want, size_t n) {
    double off = 0;
    for (size_t i = 0; i < n; ++i) off += std::pow(static_cast<double>(got[i]) - want[i], 2);
    return std::sqrt(off) / std::max(norm(want, n), 1e-300);
}

/// One sorted sample's value that a share of it stays under.
inline double quantile(std::vector<double> sample, double share) {
    if (sample.empty()) return NAN;
    std::sort(sample.begin(), sample.end());
    const double place = share * static_cast<double>(sample.size() - 1);
    return sample[static_cast<size_t>(std::llround(place))];
}

}  // namespace test
