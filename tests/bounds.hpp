// SPDX-License-Identifier: MIT
// How far a float computation may lie from the reference, derived from what it does.
//
// u = 2^-24 is the rounding of one float operation. A sum of n products in any order
// is off by at most n u sum |products|; the error of a logit becomes a relative error
// of its weight (expm1); a softmax divides by a sum with the weighted mean of those
// errors. exp is trusted to 2 ulp and to reach 0 below -87.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "reference.hpp"

namespace bounds {

using reference::head;
using reference::indices;
using reference::numbers;
using reference::result;
using reference::settings;
using std::size_t;

inline constexpr double u = 0x1p-24;
inline constexpr double exp_error = 4 * u;  // 2 ulp
inline constexpr double underflow = 1e-37;  // weights below are 0 in float

struct limits {
    numbers logits;       // [G, S]
    numbers scan_lse;     // [G]
    numbers ranking;      // [S]
    numbers covered;      // [G]
    numbers log_sum_exp;  // [G]
    numbers mean;         // [d_v]
    numbers out;          // [G, d_v]
};

/// Roundings of a sum of n terms in blocks, whose partial sums are rescaled and merged: the
/// longest chain is one block and then a product, an exponential and a sum per block.
inline double block_roundings(size_t n, size_t block) {
    return static_cast<double>(std::min(n, block)) + 6.0 * static_cast<double>(n / block + 1);
}

/// Of attention: blocks of 16 or 32 rows, and of 8 or 4 where a row may be longer than 256 bytes.
inline double attend_roundings(size_t n, size_t row_elements) {
    const size_t least = row_elements * sizeof(float) <= 256 ? 16 : 4;
    return std::max(block_roundings(n, least), block_roundings(n, 32));
}

/// Of the scan's sum: 256 weights in four lanes or more, a product with an exponential for
/// each such block, and the blocks in as many lanes.
inline double scan_roundings(size_t n) { return 256 / 4 + 6 + static_cast<double>(n / 1024 + 1); }

/// What the inputs and the summation of the case add to the roundings of a product.
struct assumptions {
    double input_roundings = 0;  // of q and K together, and of V
    double mean_roundings = 2;   // of the mean value, which is summed in double
};

inline double count(size_t n) { return static_cast<double>(n); }

/// Relative error of 1 / tau: the sums are in double, 1 / sqrt(d_h) and the result in float.
inline constexpr double inverse_tau_error = 4 * u;

/// Absolute error of each approximate logit.
inline numbers scan_logits(const head& h, const result& res, const assumptions& a) {
    numbers error(h.group * h.seq_len);
    const double r = count(res.components.size());
    const double relative = u * (r + 3 + a.input_roundings) + inverse_tau_error;
    for (size_t j = 0; j < h.group; ++j)
        for (size_t t = 0; t < h.seq_len; ++t) {
            double sum = 0;
            for (size_t i : res.components)
                sum += std::abs(h.q[j * h.head_dim + i] * h.scanned[t * h.head_dim + i]);
            error[j * h.seq_len + t] = relative * sum * std::abs(res.inverse_tau[j]) + 1e-40;
        }
    return error;
}

/// Relative error of a weight exp(logit - top), given the error of the logit.
inline double weight_error(double logit_error, double below_top) {
    return std::expm1(logit_error + u * std::abs(below_top)) + exp_error;
}

/// Of a softmax over n logits: relative error of each weight before the division, and
/// their weighted mean, which is that of the sum.
struct softmax_errors {
    numbers each;
    double sum = 0;
};

inline softmax_errors softmax(const double* logits, const double* errors, size_t n,
                              double roundings, double lse) {
    softmax_errors out;
    const double top = *std::max_element(logits, logits + n);
    for (size_t i = 0; i < n; ++i) {
        out.each.push_back(weight_error(errors[i], logits[i] - top));
        out.sum += std::exp(logits[i] - lse) * out.each.back();
    }
    out.sum += u * (roundings + 8);
    return out;
}

inline void scan(const head& h, const settings& s, const result& res, const assumptions& a,
                 limits& lim) {
    const size_t n = h.seq_len;
    lim.logits = scan_logits(h, res, a);
    lim.scan_lse.clear();
    lim.covered.clear();
    lim.ranking.assign(n, 0.0);
    for (size_t j = 0; j < h.group; ++j) {
        const double* logits = &res.logits[j * n];
        const double lse = res.scan_lse[j];
        const softmax_errors soft = softmax(logits, &lim.logits[j * n], n, scan_roundings(n), lse);
        lim.scan_lse.push_back(soft.sum + exp_error + 4 * u * (1 + std::abs(lse)));
        // A weight is a product of two exponentials, its block's and its own within it.
        const double second = exp_error + u;
        double covered = 2 * u;
        for (size_t t : res.tokens)
            covered += std::exp(logits[t] - lse) * (soft.each[t] + second + lim.scan_lse[j] +
                                                    count(res.tokens.size()) * u) +
                       underflow;
        lim.covered.push_back(covered);
        for (size_t t = 0; t < n; ++t) {
            const double logit = lim.logits[j * n + t];
            const double size = u * (std::abs(logits[t]) + std::abs(lse));
            // A constant that all tokens share changes no order: G = 1 does not see the sum.
            const double shared = h.group > 1 ? lim.scan_lse[j] : 0.0;
            if (s.logit_sum)
                lim.ranking[t] += logit + u * count(h.group) * std::abs(logits[t]);
            else
                lim.ranking[t] = std::max(
                    lim.ranking[t], logit + 3 * size + shared + second + u * count(8 + h.group));
        }
    }
}

inline void attend(const head& h, const result& res, double scale, const assumptions& a,
                   limits& lim) {
    const size_t n = res.tokens.size();
    lim.log_sum_exp.clear();
    lim.out.assign(h.group * h.value_dim, 0.0);
    numbers errors(n);
    for (size_t j = 0; j < h.group; ++j) {
        for (size_t i = 0; i < n; ++i) {
            double sum = 0;
            for (size_t c = 0; c < h.head_dim; ++c)
                sum += std::abs(h.q[j * h.head_dim + c] * h.keys[res.tokens[i] * h.head_dim + c]);
            errors[i] = u * (count(h.head_dim) + 3 + a.input_roundings) * sum *
                            std::abs(reference::factor(h, scale)) +
                        1e-40;
        }
        const double* logits = &res.exact[j * n];
        const double roundings = attend_roundings(n, std::max(h.head_dim, h.value_dim));
        const softmax_errors soft =
            softmax(logits, errors.data(), n, roundings, res.log_sum_exp[j]);
        lim.log_sum_exp.push_back(soft.sum + 4 * u * (1 + std::abs(res.log_sum_exp[j])));
        for (size_t i = 0; i < n; ++i)
            for (size_t c = 0; c < h.value_dim; ++c)
                lim.out[j * h.value_dim + c] +=
                    (res.weights[j * n + i] *
                         (soft.each[i] + soft.sum + u * (roundings + 8 + a.input_roundings)) +
                     underflow) *
                    std::abs(h.values[res.tokens[i] * h.value_dim + c]);
    }
}

inline void tail(const head& h, const settings& s, const result& res, const assumptions& a,
                 limits& lim) {
    lim.mean.assign(h.value_dim, 0.0);
    for (size_t t = 0; t < h.seq_len; ++t)
        for (size_t c = 0; c < h.value_dim; ++c)
            lim.mean[c] += std::abs(h.values[t * h.value_dim + c]) / count(h.seq_len) * u *
                           (a.mean_roundings + a.input_roundings);
    if (!s.mean_tail) return;
    for (size_t j = 0; j < h.group; ++j)
        for (size_t c = 0; c < h.value_dim; ++c) {
            // y = alpha x + (1 - alpha) mean, so x - mean = (y - mean) / alpha.
            double& error = lim.out[j * h.value_dim + c];
            const double alpha = res.covered[j];
            const double y = res.out[j * h.value_dim + c];
            const double mean = res.mean[c];
            const double attended = alpha > 0 ? (y - (1 - alpha) * mean) / alpha : 0.0;
            error = alpha * error + (1 - alpha) * lim.mean[c] +
                    lim.covered[j] * (std::abs(attended - mean) + error) +
                    4 * u * (alpha * std::abs(attended) + std::abs(mean));
        }
}

/// Limits of a whole SparQ call whose reference is `res` (scan and finish done).
inline limits sparq(const head& h, const settings& s, const result& res,
                    const assumptions& a = {}) {
    limits lim;
    scan(h, s, res, a, lim);
    attend(h, res, s.scale, a, lim);
    tail(h, s, res, a, lim);
    return lim;
}

inline limits dense(const head& h, const result& res, double scale = 0, const assumptions& a = {}) {
    limits lim;
    lim.covered.assign(h.group, 0.0);
    attend(h, res, scale, a, lim);
    tail(h, settings{}, res, a, lim);
    return lim;
}

/// Whether `tokens` is a valid choice: ascending and distinct, k of them, the newest
/// `local` inside, and nothing left out that ranks clearly above something chosen.
inline bool is_valid_choice(const indices& tokens, const numbers& ranking, const numbers& error,
                            size_t k, size_t local) {
    const size_t n = ranking.size();
    if (tokens.size() != std::min(k, n)) return false;
    std::vector<char> chosen(n, 0);
    for (size_t i = 0; i < tokens.size(); ++i) {
        if (tokens[i] >= n || (i > 0 && tokens[i] <= tokens[i - 1])) return false;
        chosen[tokens[i]] = 1;
    }
    double lowest_in = INFINITY, highest_out = -INFINITY;
    for (size_t t = 0; t < n; ++t) {
        if (t + local >= n) {
            if (!chosen[t]) return false;
        } else if (chosen[t]) {
            lowest_in = std::min(lowest_in, ranking[t] + error[t]);
        } else {
            highest_out = std::max(highest_out, ranking[t] - error[t]);
        }
    }
    return lowest_in >= highest_out;
}

}  // namespace bounds
