// SPDX-License-Identifier: MIT
// Random problems of a given shape, the caches made of them, and what the reference
// says about each KV head.
#pragma once

#include <catch2/catch.hpp>

#include <cstdint>
#include <cstring>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "bounds.hpp"
#include "calls.hpp"
#include "numbers.hpp"
#include "reference.hpp"

namespace test {

using std::size_t;

struct shape {
    size_t heads_kv = 1, group = 1, head_dim = 64, value_dim = 64, seq_len = 100;
    [[nodiscard]] size_t heads_q() const { return heads_kv * group; }
};

inline std::ostream& operator<<(std::ostream& os, const shape& s) {
    return os << "heads_kv " << s.heads_kv << ", G " << s.group << ", d_h " << s.head_dim
              << ", d_v " << s.value_dim << ", S " << s.seq_len;
}

/// q [heads_q, d_h], keys [S, heads_kv, d_h], values [S, heads_kv, d_v], as a caller has them.
struct problem {
    shape dims;
    std::uint64_t seed = 0;
    std::vector<float> q, keys, values;
};

inline problem make_problem(const shape& dims, std::uint64_t seed, float q_size = 1.0f) {
    problem p{dims, seed, {}, {}, {}};
    p.q = grid_normals(dims.heads_q() * dims.head_dim, seed * 3 + 1, q_size);
    p.keys = normals(dims.seq_len * dims.heads_kv * dims.head_dim, seed * 3 + 2);
    p.values = normals(dims.seq_len * dims.heads_kv * dims.value_dim, seed * 3 + 3);
    return p;
}

/// Tokens [begin, end) of the rows of `data`.
inline std::span<const float> rows(const std::vector<float>& data, size_t width, size_t begin,
                                   size_t end) {
    return std::span<const float>(data).subspan(begin * width, (end - begin) * width);
}

template <class T, class Label = T>
void append_rows(sparq::kv_cache<T, Label>& cache, const problem& p, size_t begin, size_t end) {
    calls<T, Label>::append(cache, rows(p.keys, p.dims.heads_kv * p.dims.head_dim, begin, end),
                            rows(p.values, p.dims.heads_kv * p.dims.value_dim, begin, end));
}

template <class T, class Label = T>
sparq::kv_cache<T, Label> make_cache(const problem& p) {
    sparq::kv_cache<T, Label> cache(p.dims.heads_kv, p.dims.head_dim, p.dims.value_dim);
    append_rows(cache, p, 0, p.dims.seq_len);
    return cache;
}

/// KV head g of the problem, with keys and values rounded to T and what is scanned to Label.
template <class T, class Label>
reference::head reference_head(const problem& p, size_t g) {
    const shape& d = p.dims;
    reference::head h{d.group, d.head_dim, d.value_dim, d.seq_len, {}, {}, {}, {}};
    const size_t q_begin = g * d.group * d.head_dim;
    for (size_t i = 0; i < d.group * d.head_dim; ++i) h.q.push_back(p.q[q_begin + i]);
    for (size_t t = 0; t < d.seq_len; ++t) {
        for (size_t c = 0; c < d.head_dim; ++c) {
            const double key = nearest<T>(p.keys[(t * d.heads_kv + g) * d.head_dim + c]);
            h.keys.push_back(key);
            h.scanned.push_back(nearest<Label>(key));
        }
        for (size_t c = 0; c < d.value_dim; ++c)
            h.values.push_back(nearest<T>(p.values[(t * d.heads_kv + g) * d.value_dim + c]));
    }
    return h;
}

inline reference::settings reference_settings(const sparq::sparq_params& p, size_t group) {
    const bool tail = p.tail == sparq::tail_estimate::mean_value ||
                      (p.tail == sparq::tail_estimate::automatic && group == 1);
    return {p.r,
            p.k,
            p.local,
            tail,
            p.ranking == sparq::group_ranking::logit_sum,
            static_cast<double>(p.scale)};
}

/// The first entry of `got` outside its limit, or "" if there is none.
template <class Got>
std::string outside(const Got& got, const double* want, const double* limit, size_t n) {
    for (size_t i = 0; i < n; ++i)
        if (!(std::abs(static_cast<double>(got[i]) - want[i]) <= limit[i]))
            return "entry " + std::to_string(i) + ": got " + std::to_string(got[i]) +
                   ", reference " + std::to_string(want[i]) + ", off by " +
                   std::to_string(std::abs(static_cast<double>(got[i]) - want[i]) / limit[i]) +
                   " times the limit";
    return {};
}

/// What a call gave: out [heads_q, d_v] and its report.
struct answer {
    std::vector<float> out;
    sparq::attention_report report;
};

template <class T, class Label>
answer run_sparq(const problem& p, const sparq::kv_view<T, Label>& view,
                 const sparq::sparq_params& params) {
    answer a;
    a.out.assign(p.dims.heads_q() * p.dims.value_dim, -12345.0f);
    a.report.keep_tokens = true;
    sparq::call_options options;
    options.report = &a.report;
    calls<T, Label>::sparq(p.q, view, params, a.out, options);
    return a;
}

template <class T, class Label>
answer run_dense(const problem& p, const sparq::kv_view<T, Label>& view, float scale = 0) {
    answer a;
    a.out.assign(p.dims.heads_q() * p.dims.value_dim, -12345.0f);
    sparq::call_options options;
    options.report = &a.report;
    calls<T, Label>::dense(p.q, view, scale, a.out, options);
    return a;
}

/// Holds what a SparQ call gave for KV head g to the reference: the choice of tokens must
/// be valid within the error of the scores, the rest must follow from that choice.
std::string check_sparq_head(const reference::head& h, const reference::settings& s, size_t g,
                             const answer& a);
std::string check_dense_head(const reference::head& h, double scale, size_t g, const answer& a);

/// Runs SparQ and compares every KV head; "" when all is well.
template <class T, class Label>
std::string check_sparq(const problem& p, const sparq::kv_view<T, Label>& view,
                        const sparq::sparq_params& params) {
    const answer a = run_sparq(p, view, params);
    const reference::settings s = reference_settings(params, p.dims.group);
    for (size_t g = 0; g < p.dims.heads_kv; ++g) {
        const auto h = reference_head<T, Label>(p, g);
        const std::string wrong = check_sparq_head(h, s, g, a);
        if (!wrong.empty()) return "KV head " + std::to_string(g) + ": " + wrong;
    }
    return {};
}

template <class T, class Label>
std::string check_dense(const problem& p, const sparq::kv_view<T, Label>& view, float scale = 0) {
    const answer a = run_dense(p, view, scale);
    for (size_t g = 0; g < p.dims.heads_kv; ++g) {
        const auto h = reference_head<T, Label>(p, g);
        const std::string wrong = check_dense_head(h, static_cast<double>(scale), g, a);
        if (!wrong.empty()) return "KV head " + std::to_string(g) + ": " + wrong;
    }
    return {};
}

inline bool same_bits(std::span<const float> a, std::span<const float> b) {
    return a.size() == b.size() &&
           (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

inline bool same_head(const sparq::head_report& x, const sparq::head_report& y) {
    return same_bits({&x.covered, 1}, {&y.covered, 1}) &&
           same_bits({&x.log_sum_exp, 1}, {&y.log_sum_exp, 1}) &&
           same_bits({&x.expected_error, 1}, {&y.expected_error, 1}) &&
           same_bits({&x.tail_weight, 1}, {&y.tail_weight, 1}) && x.exact == y.exact &&
           x.refined == y.refined && x.dense == y.dense;
}

inline bool same_answer(const answer& a, const answer& b) {
    if (!same_bits(a.out, b.out) || a.report.tokens != b.report.tokens ||
        a.report.heads.size() != b.report.heads.size())
        return false;
    for (size_t i = 0; i < a.report.heads.size(); ++i)
        if (!same_head(a.report.heads[i], b.report.heads[i])) return false;
    return true;
}

}  // namespace test
