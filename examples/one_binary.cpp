// SPDX-License-Identifier: MIT
// One binary for all processors: this file is compiled for the baseline, the kernels are
// chosen when the program runs. Try SPARQ_ISA=sse2.
#include <cmath>
#include <cstdio>
#include <sparq/dispatch.hpp>
#include <sparq/sparq.hpp>

#include "synthetic.hpp"

int main() {
    using sparq::arch::dispatched;
    constexpr std::size_t heads = 8, head_dim = 64, tokens = 4096;
    std::mt19937 random(6);
    sparq::kv_cache<sparq::half> cache(heads, head_dim);
    cache.append<dispatched>(normal_numbers(random, tokens * heads * head_dim),
                             normal_numbers(random, tokens * heads * head_dim));
    const std::vector<float> q = peaked_query(random, heads * head_dim);
    const sparq::sparq_params params{.r = 16, .k = 128, .local = 32};

    std::vector<float> y(q.size()), y_baseline(q.size());
    sparq::sparq_attention<dispatched>(q, cache, params, y);
    sparq::sparq_attention(q, cache, params, y_baseline);  // as this file is compiled

    float largest = 0;
    for (std::size_t i = 0; i < y.size(); ++i)
        largest = std::max(largest, std::abs(y[i] - y_baseline[i]));
    std::printf("kernels for %s, within %.0e of the baseline's result\n",
                sparq::dispatch::name(sparq::dispatch::active()), static_cast<double>(largest));
    return largest < 1e-3f ? 0 : 1;
}
