// SPDX-License-Identifier: MIT
// SparQ inside an engine that owns its K and V. The engine keeps them as llama.cpp does:
// cells of half, one row a token, the heads of a token side by side. key_labels holds only
// what SparQ needs besides: the d_h-major copy of the keys and the sums of the values.
//
// The sequence here occupies cells 0..999 and 1200..1999; the cells between belong to
// somebody else. The result must equal that of a kv_cache filled with just those tokens.
#include <array>
#include <cstdio>
#include <sparq/sparq.hpp>

#include "synthetic.hpp"

namespace {

constexpr std::size_t heads_q = 8, heads_kv = 2, head_dim = 64;
constexpr std::size_t cells = 2000, row = heads_kv * head_dim;
constexpr std::array<sparq::token_range, 2> visible{{{0, 1000}, {1200, cells}}};

/// The engine's memory.
struct engine {
    std::vector<sparq::half> keys, values;  // [cells, heads_kv, d_h]

    sparq::strided_kv<sparq::half> strided() const {
        return {.keys = keys.data(),
                .values = values.data(),
                .heads_kv = heads_kv,
                .head_dim = head_dim,
                .value_dim = head_dim,
                .cells = cells,
                .key_token_stride = row,
                .key_head_stride = head_dim,
                .value_token_stride = row,
                .value_head_stride = head_dim};
    }
};

std::vector<sparq::half> random_rows(std::mt19937& random) {
    std::vector<sparq::half> rows;
    for (const float number : normal_numbers(random, cells * row)) rows.emplace_back(number);
    return rows;
}

/// The same tokens in a cache of their own.
sparq::kv_cache<sparq::half> copy_of_visible(const engine& self) {
    sparq::kv_cache<sparq::half> cache(heads_kv, head_dim);
    for (const auto [begin, end] : visible) {
        const std::size_t first = begin * row, count = (end - begin) * row;
        cache.append(std::span(self.keys).subspan(first, count),
                     std::span(self.values).subspan(first, count));
    }
    return cache;
}

}  // namespace

int main() {
    std::mt19937 random(11);
    engine self{random_rows(random), random_rows(random)};
    sparq::key_labels<sparq::half> labels(heads_kv, head_dim, head_dim);
    labels.append(self.strided(), cells);  // after a prompt; then append(..., 1) every step

    self.keys[500 * row] = sparq::half(3.0f);  // the engine overwrites a cell (a reused slot)
    labels.rewrite(self.strided(), 500);

    sparq::kv_view_storage<sparq::half> storage;  // reused: no allocation once grown
    const auto view = labels.view(self.strided(), visible, storage);
    const sparq::kv_cache<sparq::half> cache = copy_of_visible(self);

    const std::vector<float> q = peaked_query(random, heads_q * head_dim);
    std::vector<float> y(q.size()), y_cache(q.size()), y_dense(q.size());
    const sparq::sparq_params params{.r = 16, .k = 128, .local = 32};
    sparq::sparq_attention(q, view, params, y);
    sparq::sparq_attention(q, cache, params, y_cache);
    sparq::dense_attention(q, view, y_dense);

    const double difference = relative_error(y, y_cache);
    std::printf("%zu of %zu cells visible; against a cache of its own: %.1e, against dense: %.3f\n",
                view.seq_len(), cells, difference, relative_error(y, y_dense));
    return difference < 1e-5 ? 0 : 1;
}
