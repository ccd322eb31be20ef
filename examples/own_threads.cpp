// SPDX-License-Identifier: MIT
// An engine with threads of its own: the step is planned once, then every thread runs its
// share, meeting at the engine's own barrier. The result has the same bits as a serial call.
#include <barrier>
#include <cstdio>
#include <sparq/sparq.hpp>
#include <thread>

#include "synthetic.hpp"

int main() {
    constexpr std::size_t threads = 4, heads_q = 6, heads_kv = 2, head_dim = 64, tokens = 5000;
    std::mt19937 random(3);
    sparq::kv_cache<float> cache(heads_kv, head_dim);
    cache.append(normal_numbers(random, tokens * heads_kv * head_dim),
                 normal_numbers(random, tokens * heads_kv * head_dim));
    const std::vector<float> q = peaked_query(random, heads_q * head_dim);
    const sparq::sparq_params params{.r = 16, .k = 128, .local = 32};

    std::vector<float> y(q.size());
    auto plan = sparq::plan_sparq(q, cache.view(), params, y);
    std::barrier meet(threads);
    std::vector<std::jthread> pool;
    for (std::size_t ith = 0; ith < threads; ++ith)
        pool.emplace_back([&, ith] { plan.run(ith, threads, [&] { meet.arrive_and_wait(); }); });
    pool.clear();  // joins

    std::vector<float> y_serial(q.size());
    sparq::sparq_attention(q, cache, params, y_serial);
    std::printf("%zu threads for %zu heads, %s\n", threads, heads_kv,
                y == y_serial ? "same bits as one thread" : "DIFFERENT from one thread");
    return y == y_serial ? 0 : 1;
}
