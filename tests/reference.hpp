// SPDX-License-Identifier: MIT
// SparQ attention for one KV head and its group of query heads, in double precision,
// written from the formulas of the paper and sharing nothing with the library.
// Every intermediate is kept, so each step of the library has something to be held to.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

namespace reference {

using std::size_t;
using numbers = std::vector<double>;
using indices = std::vector<size_t>;

/// One KV head: q [G, d_h], keys and scanned [S, d_h], values [S, d_v].
/// `scanned` is what the approximate scores are computed from: the keys, rounded to
/// the element type of their d_h-major copy.
struct head {
    size_t group = 1, head_dim = 0, value_dim = 0, seq_len = 0;
    numbers q, keys, scanned, values;
};

struct settings {
    size_t r = 1, k = 1, local = 0;
    bool mean_tail = false;
    bool logit_sum = false;
    double scale = 0;  // 0: 1 / sqrt(d_h)
};

struct result {
    indices components;   // [r] ascending
    numbers inverse_tau;  // [G]
    numbers logits;       // [G, S] of the approximate weights
    numbers scan_lse;     // [G] ln sum exp of the above
    numbers ranking;      // [S]; the logarithm of the summed weights, or the summed logits
    indices tokens;       // [min(k, S)] ascending
    numbers covered;      // [G]
    numbers exact;        // [G, n] logits of the chosen tokens
    numbers weights;      // [G, n]
    numbers log_sum_exp;  // [G] over the chosen tokens
    numbers mean;         // [d_v]
    numbers out;          // [G, d_v]
};

inline double factor(const head& h, double scale) {
    return scale != 0 ? scale : 1.0 / std::sqrt(static_cast<double>(h.head_dim));
}

inline double dot(const double* a, const double* b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

inline double log_sum_exp(const double* logits, size_t n) {
    const double top = *std::max_element(logits, logits + n);
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += std::exp(logits[i] - top);
    return top + std::log(sum);
}

/// The n largest, equal ones by lower index, as ascending indices.
inline indices largest(const numbers& score, size_t n) {
    indices order(score.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
        return score[a] != score[b] ? score[a] > score[b] : a < b;
    });
    order.resize(std::min(n, order.size()));
    std::sort(order.begin(), order.end());
    return order;
}

/// Step 1a: i1, shared by the group.
inline indices choose_components(const head& h, size_t r) {
    numbers magnitude(h.head_dim, 0.0);
    for (size_t j = 0; j < h.group; ++j)
        for (size_t i = 0; i < h.head_dim; ++i) magnitude[i] += std::abs(h.q[j * h.head_dim + i]);
    return largest(magnitude, r);
}

/// Step 1b: 1 / tau of query head j. A head that is zero on i1 (or everywhere) takes tau =
/// sqrt(d_h).
inline double inverse_tau(const head& h, size_t j, const indices& components, double scale) {
    double all = 0, chosen = 0;
    for (size_t i = 0; i < h.head_dim; ++i) all += std::abs(h.q[j * h.head_dim + i]);
    for (size_t i : components) chosen += std::abs(h.q[j * h.head_dim + i]);
    return factor(h, scale) * (chosen > 0 ? std::sqrt(all / chosen) : 1.0);
}

/// Step 1c: the logits of the approximate weights of query head j.
inline numbers approximate_logits(const head& h, size_t j, const indices& components,
                                  double inverse_temperature) {
    numbers logits(h.seq_len);
    for (size_t t = 0; t < h.seq_len; ++t) {
        double sum = 0;
        for (size_t i : components) sum += h.q[j * h.head_dim + i] * h.scanned[t * h.head_dim + i];
        logits[t] = sum * inverse_temperature;
    }
    return logits;
}

/// Step 2a: what tokens are ranked by. Sums of weights are kept as logarithms, in which
/// no weight is too small to be told from another.
inline numbers rank_tokens(const numbers& logits, const numbers& lse, size_t seq_len,
                           bool logit_sum) {
    const size_t group = lse.size();
    numbers ranking(seq_len);
    numbers column(group);
    for (size_t t = 0; t < seq_len; ++t) {
        for (size_t j = 0; j < group; ++j)
            column[j] = logits[j * seq_len + t] - (logit_sum ? 0.0 : lse[j]);
        ranking[t] = logit_sum ? std::accumulate(column.begin(), column.end(), 0.0)
                               : log_sum_exp(column.data(), group);
    }
    return ranking;
}

/// Step 2b: i2, the `local` newest inside k, ties to the older token.
inline indices select_tokens(const numbers& ranking, size_t k, size_t local) {
    const size_t seq_len = ranking.size();
    if (k >= seq_len) local = seq_len;
    k = std::min(k, seq_len);
    const size_t older = seq_len - local;
    indices chosen = largest(
        numbers(ranking.begin(), ranking.begin() + static_cast<std::ptrdiff_t>(older)), k - local);
    for (size_t t = older; t < seq_len; ++t) chosen.push_back(t);
    return chosen;
}

/// Step 2c: alpha of query head j.
inline double covered(const numbers& logits, const numbers& lse, size_t seq_len, size_t j,
                      const indices& tokens) {
    double sum = 0;
    for (size_t t : tokens) sum += std::exp(logits[j * seq_len + t] - lse[j]);
    return sum;
}

/// Step 3: exact attention of the group over `tokens`.
inline void attend(const head& h, const indices& tokens, double scale, result& out) {
    const size_t n = tokens.size();
    out.tokens = tokens;
    out.exact.assign(h.group * n, 0.0);
    out.weights.assign(h.group * n, 0.0);
    out.log_sum_exp.assign(h.group, 0.0);
    out.out.assign(h.group * h.value_dim, 0.0);
    for (size_t j = 0; j < h.group; ++j) {
        double* logits = &out.exact[j * n];
        for (size_t i = 0; i < n; ++i)
            logits[i] = factor(h, scale) *
                        dot(&h.q[j * h.head_dim], &h.keys[tokens[i] * h.head_dim], h.head_dim);
        out.log_sum_exp[j] = log_sum_exp(logits, n);
        for (size_t i = 0; i < n; ++i) {
            const double weight = std::exp(logits[i] - out.log_sum_exp[j]);
            out.weights[j * n + i] = weight;
            for (size_t c = 0; c < h.value_dim; ++c)
                out.out[j * h.value_dim + c] += weight * h.values[tokens[i] * h.value_dim + c];
        }
    }
}

inline numbers mean_value(const head& h) {
    numbers mean(h.value_dim, 0.0);
    for (size_t t = 0; t < h.seq_len; ++t)
        for (size_t c = 0; c < h.value_dim; ++c) mean[c] += h.values[t * h.value_dim + c];
    for (double& m : mean) m /= static_cast<double>(h.seq_len);
    return mean;
}

/// Steps 1 and 2: everything up to the choice of tokens.
inline result scan(const head& h, const settings& s) {
    result res;
    res.components = choose_components(h, s.r);
    for (size_t j = 0; j < h.group; ++j) {
        res.inverse_tau.push_back(inverse_tau(h, j, res.components, s.scale));
        const numbers row = approximate_logits(h, j, res.components, res.inverse_tau[j]);
        res.logits.insert(res.logits.end(), row.begin(), row.end());
        res.scan_lse.push_back(log_sum_exp(row.data(), row.size()));
    }
    res.ranking = rank_tokens(res.logits, res.scan_lse, h.seq_len, s.logit_sum);
    res.tokens = select_tokens(res.ranking, s.k, s.local);
    return res;
}

/// Alpha, step 3 and the tail, over the given tokens.
inline void finish(const head& h, const settings& s, const indices& tokens, result& res) {
    res.covered.clear();
    for (size_t j = 0; j < h.group; ++j)
        res.covered.push_back(covered(res.logits, res.scan_lse, h.seq_len, j, tokens));
    attend(h, tokens, s.scale, res);
    res.mean = mean_value(h);
    if (!s.mean_tail) return;
    for (size_t j = 0; j < h.group; ++j)
        for (size_t c = 0; c < h.value_dim; ++c) {
            double& y = res.out[j * h.value_dim + c];
            y = res.covered[j] * y + (1.0 - res.covered[j]) * res.mean[c];
        }
}

inline result sparq(const head& h, const settings& s) {
    result res = scan(h, s);
    const indices tokens = res.tokens;
    finish(h, s, tokens, res);
    return res;
}

inline result dense(const head& h, double scale = 0) {
    result res;
    indices all(h.seq_len);
    std::iota(all.begin(), all.end(), size_t{0});
    attend(h, all, scale, res);
    res.covered.assign(h.group, 1.0);
    res.mean = mean_value(h);
    return res;
}

}  // namespace reference
