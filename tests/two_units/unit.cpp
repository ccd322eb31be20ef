// SPDX-License-Identifier: MIT
#include "unit.hpp"

#include <stdexcept>

#include <sparq/sparq.hpp>

namespace units::SPARQ_TEST_UNIT {

bool attend(const float* q, const float* keys, const float* values, std::size_t seq_len,
            std::size_t r, float* out) {
    constexpr std::size_t row = heads_kv * dim, heads = heads_kv * group;
    sparq::kv_cache<sparq::half> cache(heads_kv, dim);
    cache.append(std::span(keys, seq_len * row), std::span(values, seq_len * row));
    const std::span<const float> queries(q, heads * dim);
    const std::span<float> result(out, heads * dim);
    if (r == 0)
        sparq::dense_attention(queries, cache, result);
    else
        sparq::sparq_attention(queries, cache, {.r = r, .k = k, .local = local}, result);
    try {
        sparq::sparq_attention(queries, cache, {.r = dim + 1, .k = k, .local = local}, result);
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

std::size_t lanes() { return sparq::detail::simd::lanes<sparq::default_arch>; }

}  // namespace units::SPARQ_TEST_UNIT
