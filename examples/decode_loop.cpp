// SPDX-License-Identifier: MIT
// How an engine decodes: a prompt fills the cache, then every step appends one token
// and attends. Each step is checked against dense attention.
//
// The check is exact although SparQ is an approximation. Without a tail the output is
// the mean of V over the chosen tokens, weighted as dense attention weighs them. Let m be
// the dense weight of all chosen tokens together and y_rest the same mean over the others:
//   y_dense = m * y + (1 - m) * y_rest,  so  |y - y_dense| <= (1 - m) * 2 * max |v|
// and m follows from the two log-sum-exps: m = exp(lse_chosen - lse_all).
#include <cstdio>
#include <sparq/sparq.hpp>

#include "synthetic.hpp"

namespace {

constexpr std::size_t heads_q = 8, heads_kv = 2, head_dim = 64;
constexpr std::size_t prompt_tokens = 100, steps = 900;

/// One attention layer of an engine: its cache, and the memory its calls reuse.
struct layer {
    sparq::kv_cache<sparq::half> cache{heads_kv, head_dim};
    sparq::workspace work;
    sparq::attention_report sparq_report, dense_report;
    std::vector<float> y = std::vector<float>(heads_q * head_dim);
    std::vector<float> y_dense = std::vector<float>(heads_q * head_dim);
    double largest_value = 0;  ///< max |v| of the rows appended so far
};

void append_tokens(layer& self, std::mt19937& random, std::size_t tokens) {
    const std::vector<float> keys = normal_numbers(random, tokens * heads_kv * head_dim);
    const std::vector<float> values = normal_numbers(random, keys.size());
    self.cache.append(keys, values);
    for (std::size_t row = 0; row < tokens * heads_kv; ++row) {
        const double length = norm(std::span(values).subspan(row * head_dim, head_dim));
        self.largest_value = std::max(self.largest_value, length);
    }
}

void attend(layer& self, std::span<const float> q) {
    const sparq::sparq_params params{
        .r = 16, .k = 128, .local = 32, .tail = sparq::tail_estimate::none};
    sparq::sparq_attention(q, self.cache, params, self.y,
                           {.work = &self.work, .report = &self.sparq_report});
    sparq::dense_attention(q, self.cache, self.y_dense,
                           {.work = &self.work, .report = &self.dense_report});
}

/// Whether every head is as near to dense attention as the weight it left out allows.
bool is_within_bound(const layer& self) {
    constexpr double rounding = 1e-4;  // float sums, and values rounded to half
    for (std::size_t h = 0; h < heads_q; ++h) {
        const auto y = std::span(self.y).subspan(h * head_dim, head_dim);
        const auto y_dense = std::span(self.y_dense).subspan(h * head_dim, head_dim);
        const double mass = std::exp(double(self.sparq_report.heads[h].log_sum_exp) -
                                     self.dense_report.heads[h].log_sum_exp);
        const double bound = (1 - mass) * 2 * self.largest_value;
        if (mass > 1 + rounding) return false;
        if (distance(y, y_dense) > bound + rounding * self.largest_value) return false;
    }
    return true;
}

}  // namespace

int main() {
    std::mt19937 random(2024);
    layer self;
    append_tokens(self, random, prompt_tokens);

    std::size_t wrong = 0;
    for (std::size_t step = 1; step <= steps; ++step) {
        append_tokens(self, random, 1);
        attend(self, peaked_query(random, heads_q * head_dim));
        if (!is_within_bound(self)) ++wrong;
        if (step % 150 != 0 && step != 1) continue;
        std::printf("step %3zu: S = %3zu, %5.1f of %5.1f KB read%s, error %.4f\n", step,
                    self.cache.seq_len(), double(self.sparq_report.bytes_read) / 1e3,
                    double(self.dense_report.bytes_read) / 1e3,
                    self.sparq_report.dense ? " (k >= S: dense)" : "",
                    relative_error(self.y, self.y_dense));
    }
    std::printf("%zu of %zu steps outside the bound\n", wrong, steps);
    return wrong == 0 ? 0 : 1;
}
