// SPDX-License-Identifier: MIT
// What a user's first program does: one step of SparQ attention next to dense attention,
// for every element type. It fails when the two do not agree where they must.
#include <sparq/sparq.hpp>

#include <cmath>
#include <cstddef>
#include <iostream>
#include <vector>

namespace {

constexpr std::size_t heads_q = 4, heads_kv = 2, head_dim = 72, tokens = 300;

std::vector<float> waves(std::size_t count, float step) {
    std::vector<float> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = std::sin(step * static_cast<float>(i));
    return values;
}

// With k = S SparQ is dense attention; with fewer tokens it differs and stays finite.
template <class T>
bool agrees_with_dense() {
    sparq::kv_cache<T> cache(heads_kv, head_dim);
    const auto keys = waves(tokens * heads_kv * head_dim, 0.37f);
    const auto values = waves(tokens * heads_kv * head_dim, 0.91f);
    cache.append(std::span<const float>(keys), std::span<const float>(values));

    const auto q = waves(heads_q * head_dim, 1.3f);
    std::vector<float> dense(q.size()), same(q.size()), fewer(q.size());
    sparq::dense_attention(std::span<const float>(q), cache, std::span<float>(dense));
    sparq::sparq_attention(std::span<const float>(q), cache,
                           sparq::sparq_params{.r = 16, .k = tokens, .local = 8},
                           std::span<float>(same));
    sparq::sparq_attention(std::span<const float>(q), cache,
                           sparq::sparq_params{.r = 16, .k = 32, .local = 8},
                           std::span<float>(fewer));
    bool same_output = true, finite = true, differs = false;
    for (std::size_t i = 0; i < q.size(); ++i) {
        same_output = same_output && std::abs(dense[i] - same[i]) <= 1e-5f;
        finite = finite && std::isfinite(fewer[i]);
        differs = differs || fewer[i] != dense[i];
    }
    return same_output && finite && differs;
}

}  // namespace

int main() {
    std::cout << "sparq " << SPARQ_VERSION_STRING << '\n';
    const bool passed = agrees_with_dense<float>() && agrees_with_dense<sparq::half>() &&
                        agrees_with_dense<sparq::bfloat16>();
    std::cout << (passed ? "agrees with dense attention\n" : "differs from dense attention\n");
    return passed ? 0 : 1;
}
