// SPDX-License-Identifier: MIT
// The baselines for one KV head in double, from their definitions, and how far a float
// computation of their weights may lie from it. Shares nothing with the library.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "bounds.hpp"
#include "reference.hpp"

namespace reference {

/// Exact weights of one query head over some tokens, and the relative error of each in float.
struct exact_weights {
    numbers weights, relative;
    double log_sum_exp = 0, log_sum_exp_error = 0;
};

inline exact_weights weigh(const head& h, size_t j, const indices& tokens, double scale = 0,
                           double input_roundings = 0) {
    const size_t n = tokens.size();
    numbers logits(n), errors(n);
    for (size_t i = 0; i < n; ++i) {
        double size = 0;
        for (size_t c = 0; c < h.head_dim; ++c) {
            const double x = h.q[j * h.head_dim + c] * h.keys[tokens[i] * h.head_dim + c];
            logits[i] += x * factor(h, scale);
            size += std::abs(x * factor(h, scale));
        }
        errors[i] = bounds::u * (bounds::count(h.head_dim) + 3 + input_roundings) * size + 1e-40;
    }
    exact_weights w;
    w.log_sum_exp = log_sum_exp(logits.data(), n);
    w.log_sum_exp_error = bounds::softmax(logits.data(), errors.data(), n,
                                          bounds::block_roundings(n, n), w.log_sum_exp)
                              .sum +
                          4 * bounds::u * (1 + std::abs(w.log_sum_exp));
    for (size_t i = 0; i < n; ++i) {
        const double below = logits[i] - w.log_sum_exp;
        w.weights.push_back(std::exp(below));
        w.relative.push_back(bounds::weight_error(errors[i] + w.log_sum_exp_error, below));
    }
    return w;
}

inline indices all_tokens(const head& h) {
    indices all(h.seq_len);
    std::iota(all.begin(), all.end(), size_t{0});
    return all;
}

/// The first `initial` and the newest k - initial.
inline indices lm_infinite(size_t seq_len, size_t k, size_t initial) {
    indices tokens;
    for (size_t t = 0; t < seq_len; ++t)
        if (t < initial || t + (k - initial) >= seq_len) tokens.push_back(t);
    return tokens;
}

/// What a method says with a choice of tokens that it is given or makes.
struct choice {
    numbers ranking, error;  // [S] or [pages]
};

/// FlexGen's ranking: the logarithm of the summed weights.
inline choice flexgen_ranking(const head& h, double scale = 0, double input_roundings = 0) {
    choice c{numbers(h.seq_len, 0.0), numbers(h.seq_len, 0.0)};
    for (size_t j = 0; j < h.group; ++j) {
        const exact_weights w = weigh(h, j, all_tokens(h), scale, input_roundings);
        for (size_t t = 0; t < h.seq_len; ++t) {
            c.ranking[t] += w.weights[t];
            c.error[t] = std::max(c.error[t], w.relative[t]);
        }
    }
    for (size_t t = 0; t < h.seq_len; ++t) {
        c.ranking[t] = std::log(c.ranking[t]);
        c.error[t] += bounds::u * (8 + bounds::count(h.group));
    }
    return c;
}

enum class mass { lost, renormalise, spread };

struct outputs {
    numbers out, limit;  // [G, d_v]
    numbers covered, covered_limit;
};

inline outputs flexgen(const head& h, const indices& tokens, mass what, double scale = 0,
                       double input_roundings = 0) {
    const size_t n = tokens.size(), width = h.value_dim;
    outputs o{numbers(h.group * width, 0.0), numbers(h.group * width, 0.0), {}, {}};
    for (size_t j = 0; j < h.group; ++j) {
        const exact_weights all = weigh(h, j, all_tokens(h), scale, input_roundings);
        const exact_weights kept = weigh(h, j, tokens, scale, input_roundings);
        double covered = 0, covered_error = 8 * bounds::u;
        numbers left(width, 0.0), left_size(width, 0.0);
        std::vector<char> chosen(h.seq_len, 0);
        for (size_t i = 0; i < n; ++i) {
            chosen[tokens[i]] = 1;
            const bool own = what == mass::renormalise;
            const double w = own ? kept.weights[i] : all.weights[tokens[i]];
            const double e = own ? kept.relative[i] : all.relative[tokens[i]];
            covered += all.weights[tokens[i]];
            covered_error +=
                all.weights[tokens[i]] * (all.relative[tokens[i]] + 2 * kept.log_sum_exp_error);
            for (size_t c = 0; c < width; ++c) {
                const double v = h.values[tokens[i] * width + c];
                o.out[j * width + c] += w * v;
                o.limit[j * width + c] +=
                    (w * (e + bounds::u * (bounds::count(n) + 4 + input_roundings)) +
                     bounds::underflow) *
                    std::abs(v);
            }
        }
        o.covered.push_back(covered);
        o.covered_limit.push_back(covered_error);
        if (what != mass::spread || n == h.seq_len) continue;
        for (size_t t = 0; t < h.seq_len; ++t)
            for (size_t c = 0; c < width; ++c) {
                left[c] += chosen[t] ? 0.0 : h.values[t * width + c];
                left_size[c] += std::abs(h.values[t * width + c]);
            }
        const double each = 1 / bounds::count(h.seq_len - n);
        for (size_t c = 0; c < width; ++c) {
            double& y = o.out[j * width + c];
            y += (1 - covered) * each * left[c];
            o.limit[j * width + c] += covered_error * each * std::abs(left[c]) +
                                      2 * bounds::u * std::abs(y) +
                                      each * left_size[c] * bounds::u * (input_roundings + 1e-3);
        }
    }
    return o;
}

/// Quest's bound of each page: sum over the group of sum over c of max(q_c min_c, q_c max_c).
inline choice quest_bounds(const head& h, double sign = 1) {
    choice r;
    for (size_t first = 0; first < h.seq_len; first += 16) {
        const size_t end = std::min(first + 16, h.seq_len);
        double bound = 0, size = 0;
        for (size_t c = 0; c < h.head_dim; ++c) {
            double low = INFINITY, high = -INFINITY;
            for (size_t t = first; t < end; ++t) {
                low = std::min(low, h.keys[t * h.head_dim + c]);
                high = std::max(high, h.keys[t * h.head_dim + c]);
            }
            for (size_t j = 0; j < h.group; ++j) {
                const double q = sign * h.q[j * h.head_dim + c];
                bound += std::max(q * low, q * high);
                size += std::abs(std::max(q * low, q * high));
            }
        }
        r.ranking.push_back(bound);
        r.error.push_back(bounds::u * bounds::count(2 * h.head_dim + h.group + 3) * size + 1e-40);
    }
    return r;
}

/// H2O on one KV head with an entry for every token that ever was.
struct h2o {
    numbers score, error;
    std::vector<char> alive;

    /// Token score.size() comes.
    void add() { score.push_back(0), error.push_back(0), alive.push_back(1); }
    [[nodiscard]] indices live() const {
        indices tokens;
        for (size_t t = 0; t < alive.size(); ++t)
            if (alive[t]) tokens.push_back(t);
        return tokens;
    }
    /// The weights of one query (h.q, all heads of the group) are added.
    void take_query(const head& h, double scale = 0, double input_roundings = 0) {
        const indices tokens = live();
        for (size_t j = 0; j < h.group; ++j) {
            const exact_weights w = weigh(h, j, tokens, scale, input_roundings);
            for (size_t i = 0; i < tokens.size(); ++i) {
                const double part = w.weights[i] / bounds::count(h.group);
                score[tokens[i]] += part;
                error[tokens[i]] += part * w.relative[i] + bounds::underflow;
            }
        }
    }
    /// Which live tokens stay: the best k + 1, the newest local + 1 among them.
    [[nodiscard]] indices best(size_t k, size_t local) const {
        const indices tokens = live();
        if (tokens.size() <= k + 1) return tokens;
        numbers merit;
        for (size_t t : tokens)
            merit.push_back(t + local + 1 >= score.size() ? INFINITY : score[t]);
        indices stay;
        for (size_t i : largest(merit, k + 1)) stay.push_back(tokens[i]);
        return stay;
    }
    /// Whether `stay` is a choice that float scores allow.
    [[nodiscard]] bool allows(const indices& stay, size_t k, size_t local) const {
        const indices tokens = live();
        if (stay.size() != std::min(k + 1, tokens.size())) return false;
        double lowest_in = INFINITY, highest_out = -INFINITY;
        size_t found = 0;
        for (size_t t : tokens) {
            const double slack = error[t] + 2 * bounds::u * score[t];
            const bool in = std::binary_search(stay.begin(), stay.end(), t);
            found += in ? 1 : 0;
            if (t + local + 1 >= score.size()) {
                if (!in) return false;
            } else if (in) {
                lowest_in = std::min(lowest_in, score[t] + slack);
            } else {
                highest_out = std::max(highest_out, score[t] - slack);
            }
        }
        return found == stay.size() && lowest_in >= highest_out;
    }
    void keep(const indices& stay) {
        for (size_t t = 0; t < alive.size(); ++t)
            alive[t] = std::binary_search(stay.begin(), stay.end(), t) ? 1 : 0;
    }
};

}  // namespace reference
