// SPDX-License-Identifier: MIT
#include <cmath>
#include <cstdio>
#include <sparq/sparq.hpp>
#include <vector>

int main() {
    const std::size_t tokens = 4096, heads = 8, head_dim = 128;
    std::vector<float> keys(tokens * heads * head_dim), values(keys.size());  // [S, H_kv, d_h]
    for (std::size_t i = 0; i < keys.size(); ++i)
        keys[i] = values[i] = 2 * std::sin(float(i) * float(i));
    std::vector<float> q(keys.end() - heads * head_dim, keys.end()), out(q.size());  // [H_q, d_h]

    sparq::kv_cache<sparq::half> cache(heads, head_dim);
    cache.append(keys, values);  // the prompt at once, then a token a step
    sparq::attention_report report;
    sparq::sparq_attention(q, cache, {.r = 32, .k = 128, .local = 32}, out, {.report = &report});
    std::printf("%zu bytes read, covered %.3f\n", report.bytes_read, report.heads[0].covered);
}
