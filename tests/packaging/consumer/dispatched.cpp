// SPDX-License-Identifier: MIT
// A program for all processors: compiled for the baseline, with kernels chosen at run time.
// Says which ran, and fails when they do not agree with its own code.
#include <sparq/dispatch.hpp>
#include <sparq/sparq.hpp>

#include <cmath>
#include <cstddef>
#include <iostream>
#include <vector>

int main() {
    constexpr std::size_t heads = 2, head_dim = 72, tokens = 300;
    std::vector<float> keys(tokens * heads * head_dim), values(keys.size());
    for (std::size_t i = 0; i < keys.size(); ++i) {
        keys[i] = std::sin(0.37f * static_cast<float>(i));
        values[i] = std::cos(0.91f * static_cast<float>(i));
    }
    const std::vector<float> q(keys.end() - heads * head_dim, keys.end());

    using sparq::arch::dispatched;
    sparq::kv_cache<sparq::half> cache(heads, head_dim);
    cache.append<dispatched>(keys, values);
    std::vector<float> out(q.size()), own(q.size());
    const sparq::sparq_params params{.r = 16, .k = tokens, .local = 8};
    sparq::sparq_attention<dispatched>(q, cache, params, out);
    sparq::sparq_attention(q, cache, params, own);

    bool same = true;
    const auto compare = [&] {
        for (std::size_t i = 0; i < out.size(); ++i)
            same = same && std::abs(out[i] - own[i]) <= 1e-5f;
    };
    compare();

    sparq::tiered_cache<sparq::half> tiers(heads, head_dim);
    tiers.append<dispatched>(keys, values);
    const sparq::tiered_params exact{.tolerance = 0.0f};
    sparq::sparq_attention<dispatched>(q, tiers, exact, out);
    compare();
    std::cout << "sparq " << SPARQ_VERSION_STRING << '\n'
              << "kernels for " << sparq::dispatch::name(sparq::dispatch::active()) << '\n';
    return same ? 0 : 1;
}
