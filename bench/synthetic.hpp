// SPDX-License-Identifier: MIT
// Caches and queries to measure with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <sparq/kv_cache.hpp>
#include <vector>

namespace bench {

/// Near enough to a normal distribution, and quick: the sum of four 16-bit numbers. Every
/// token is its own, since equal scores would give selection an unusual task.
class quick_normal {
   public:
    explicit quick_normal(std::uint64_t seed) noexcept : state_(seed) {}

    float operator()() noexcept {
        const std::uint64_t bits = next();
        const std::uint64_t sum =
            (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
        return (static_cast<float>(sum) - 131070.0f) / 37837.0f;  // 2 * 65535; 65536 / sqrt(3)
    }

   private:
    // splitmix64
    std::uint64_t next() noexcept {
        std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    std::uint64_t state_;
};

inline std::vector<float> normal_numbers(std::uint64_t seed, std::size_t count) {
    quick_normal normal(seed);
    std::vector<float> numbers(count);
    for (float& number : numbers) number = normal();
    return numbers;
}

template <class T>
sparq::kv_cache<T> make_cache(std::size_t heads_kv, std::size_t head_dim, std::size_t seq_len) {
    constexpr std::size_t most_floats = std::size_t{1} << 20;
    const std::size_t row = heads_kv * head_dim;
    const std::size_t block = std::clamp<std::size_t>(most_floats / row, 1, seq_len);
    std::vector<float> keys(block * row), values(block * row);
    quick_normal normal(seq_len + head_dim);
    sparq::kv_cache<T> cache(heads_kv, head_dim);
    cache.reserve(seq_len);
    while (cache.seq_len() < seq_len) {
        const std::size_t count = std::min(block, seq_len - cache.seq_len()) * row;
        for (std::size_t i = 0; i < count; ++i) keys[i] = normal();
        for (std::size_t i = 0; i < count; ++i) values[i] = normal();
        cache.append(std::span<const float>(keys).first(count),
                     std::span<const float>(values).first(count));
    }
    return cache;
}

/// Queries with heavy-tailed components, as those of real models, and so long that the
/// logits of a head have a standard deviation of 4.
inline std::vector<float> make_queries(std::size_t heads_q, std::size_t head_dim) {
    std::vector<float> q = normal_numbers(3, heads_q * head_dim);
    for (std::size_t h = 0; h < heads_q; ++h) {
        float* head = q.data() + h * head_dim;
        double square = 0;
        for (std::size_t c = 0; c < head_dim; ++c) {
            head[c] = head[c] * head[c] * head[c];
            square += double(head[c]) * double(head[c]);
        }
        const auto factor = static_cast<float>(4.0 * std::sqrt(double(head_dim) / square));
        for (std::size_t c = 0; c < head_dim; ++c) head[c] *= factor;
    }
    return q;
}

/// As many KV heads as fill `bytes` with K, V and the d_h-major copy of K, at least one.
inline std::size_t heads_to_fill(std::size_t bytes, std::size_t seq_len, std::size_t head_dim,
                                 std::size_t element_bytes, std::size_t multiple = 1) {
    const std::size_t head_bytes = 3 * seq_len * head_dim * element_bytes;
    const std::size_t heads = bytes / head_bytes / multiple * multiple;
    return std::max(heads, multiple);
}

}  // namespace bench
