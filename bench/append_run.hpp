// SPDX-License-Identifier: MIT
// Appending token after token, beside a memcpy of the same bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <sparq/kv_cache.hpp>
#include <vector>

#include "memory.hpp"
#include "statistics.hpp"
#include "synthetic.hpp"

namespace bench {

/// What a decode loop hands over: some tokens in turn, fresh from the projections and so
/// in a near cache.
struct new_tokens {
    static constexpr std::size_t count = 16;

    explicit new_tokens(std::size_t width)
        : row(width),
          keys(normal_numbers(1, count * width)),
          values(normal_numbers(2, count * width)) {}

    [[nodiscard]] std::span<const float> key(std::size_t t) const {
        return std::span(keys).subspan(t % count * row, row);
    }
    [[nodiscard]] std::span<const float> value(std::size_t t) const {
        return std::span(values).subspan(t % count * row, row);
    }

    std::size_t row;
    std::vector<float> keys, values;
};

/// Seconds of each of n appends to a cache.
template <class Cache>
seconds time_appends(Cache& cache, const new_tokens& tokens, std::size_t n) {
    seconds times(n);
    double before = processor_seconds();
    for (std::size_t t = 0; t < n; ++t) {
        cache.append(tokens.key(t), tokens.value(t));
        const double now = processor_seconds();
        times[t] = now - before;
        before = now;
    }
    return times;
}

/// Seconds of each of n copies of `bytes` bytes to consecutive places.
inline seconds time_copies(std::byte* destination, const new_tokens& tokens, std::size_t bytes,
                           std::size_t n) {
    const byte_span source = std::as_bytes(std::span(tokens.keys));
    const std::size_t slots = std::max<std::size_t>(1, source.size() / bytes);
    seconds times(n);
    double before = processor_seconds();
    for (std::size_t t = 0; t < n; ++t) {
        std::memcpy(destination + t * bytes, source.data() + t % slots * bytes, bytes);
        asm volatile("" : : "r"(destination) : "memory");
        const double now = processor_seconds();
        times[t] = now - before;
        before = now;
    }
    return times;
}

/// Their sum, without what reading the clock added to each.
inline double sum_of(const seconds& times) {
    const double clock = processor_clock_cost();
    double sum = 0;
    for (const double time : times) sum += std::max(0.0, time - clock);
    return sum;
}

/// Bytes that one token writes: K, V and the d_h-major copy of K.
template <class T>
constexpr std::size_t append_bytes(std::size_t width) {
    return 3 * width * sizeof(T);
}

}  // namespace bench
