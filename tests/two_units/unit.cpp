// SPDX-License-Identifier: MIT
#include "unit.hpp"

#include <stdexcept>
#include <utility>
#include <vector>

#include <sparq/sparq.hpp>

namespace units::SPARQ_TEST_UNIT {
namespace {

/// What it holds goes elsewhere and back, by every move that it has.
template <class T>
void move_around(T& object) {
    T elsewhere(std::move(object));
    object = std::move(elsewhere);
}

}  // namespace

bool attend(const float* q, const float* keys, const float* values, std::size_t seq_len,
            std::size_t r, float* out) {
    constexpr std::size_t row = heads_kv * dim, heads = heads_kv * group;
    sparq::kv_cache<sparq::half> cache(heads_kv, dim);
    cache.append(std::span(keys, seq_len * row), std::span(values, seq_len * row));
    move_around(cache);
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

void attend_tiers(const float* q, const float* keys, const float* values, std::size_t seq_len,
                  float* out) {
    constexpr std::size_t row = heads_kv * dim, size = row * group;
    const std::span<const float> queries(q, size), all_keys(keys, seq_len * row),
        all_values(values, seq_len * row);
    const sparq::tiered_params params{.tolerance = tolerance};
    const std::size_t half = seq_len / 2;
    sparq::tiered_cache<float> cache(heads_kv, dim);
    cache.append(all_keys, all_values);
    cache.truncate(half);
    cache.append(all_keys.subspan(half * row), all_values.subspan(half * row));
    move_around(cache);
    sparq::sparq_attention(queries, cache, params, std::span(out, size));

    const sparq::strided_kv<float> engine{keys,    values, nullptr, heads_kv, dim, dim,
                                          seq_len, row,    dim,     row,      dim};
    sparq::tier_codes<float> codes(heads_kv, dim, dim);
    codes.append(engine, seq_len);
    codes.truncate(half);
    codes.append(engine, seq_len - half);
    codes.rewrite(engine, 3);
    codes.rewrite(engine, seq_len - 1);
    move_around(codes);
    sparq::tiered_view_storage<float> storage;
    const sparq::token_range all{0, seq_len};
    const auto view = codes.view(engine, {&all, 1}, storage);
    sparq::plan_tiered(queries, view, params, std::span(out + size, size))
        .run(sparq::serial_executor{});
}

std::size_t lanes() { return sparq::detail::simd::lanes<sparq::default_arch>; }

}  // namespace units::SPARQ_TEST_UNIT
