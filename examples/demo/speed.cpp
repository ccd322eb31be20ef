// SPDX-License-Identifier: MIT
// Method: one process, one thread, processor time. Every round times roof, dense and
// SparQ one after the other, each after the caches were flushed by reading a gigabyte:
// SparQ touches an eighth of the cache, which would otherwise stay in L3.
#include "speed.hpp"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <random>
#include <span>
#include <sparq/sparq.hpp>
#include <vector>

#include "../synthetic.hpp"
#include "streaming_read.hpp"

namespace {

using cache_type = sparq::kv_cache<sparq::half>;

constexpr std::size_t flush_bytes = std::size_t{1} << 30;

/// Near enough to a normal distribution, and quick: the sum of four 16-bit numbers.
struct quick_normal {
    std::mt19937_64 random{16384};

    float operator()() {
        const std::uint64_t bits = random();
        const auto sum =
            (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
        return (float(sum) - 131070.0f) / 37837.0f;  // 2 * 65535; 65536 * sqrt(4 / 12)
    }
};

cache_type synthetic_cache(const speed_options& options) {
    constexpr std::size_t block = 1024;
    const std::size_t row = options.heads * options.head_dim;
    std::vector<float> keys(block * row), values(block * row);
    quick_normal normal;
    cache_type cache(options.heads, options.head_dim);
    cache.reserve(options.seq_len);
    while (cache.seq_len() < options.seq_len) {
        const std::size_t count = std::min(block, options.seq_len - cache.seq_len()) * row;
        std::generate_n(keys.begin(), count, std::ref(normal));
        std::generate_n(values.begin(), count, std::ref(normal));
        cache.append(std::span(keys).first(count), std::span(values).first(count));
    }
    return cache;
}

/// A query whose components are heavy-tailed, as those of real models are, and so long
/// that the logits have a standard deviation of 4.
std::vector<float> synthetic_query(const speed_options& options) {
    quick_normal normal{std::mt19937_64(3)};
    std::vector<float> q(options.heads * options.head_dim);
    for (float& component : q) component = std::pow(normal(), 3.0f);
    for (std::size_t h = 0; h < options.heads; ++h) {
        const auto head = std::span(q).subspan(h * options.head_dim, options.head_dim);
        const auto factor = float(4.0 * std::sqrt(double(options.head_dim)) / norm(head));
        for (float& component : head) component *= factor;
    }
    return q;
}

template <std::size_t prefetch_bytes>
std::uint64_t read_keys_and_values(const sparq::kv_view<sparq::half>& view) {
    std::uint64_t sum = 0;
    const auto read = [&](const sparq::half* rows, std::size_t count) {
        sum += streaming_read<prefetch_bytes>(std::as_bytes(std::span(rows, count)));
    };
    for (std::size_t g = 0; g < view.heads_kv(); ++g)
        for (std::size_t s = 0; s < view.segments_per_head(); ++s) {
            const auto& part = view.segment(s, g);
            read(part.keys, part.tokens * part.key_stride);
            read(part.values, part.tokens * part.value_stride);
        }
    return sum;
}

template <class Step>
double milliseconds(const Step& step) {
    const std::clock_t start = std::clock();
    step();
    return 1e3 * double(std::clock() - start) / CLOCKS_PER_SEC;
}

double median(std::vector<double> numbers) {
    const auto middle = numbers.begin() + std::ptrdiff_t(numbers.size() / 2);
    std::nth_element(numbers.begin(), middle, numbers.end());
    return *middle;
}

/// Attention of one head in double precision over the tokens `is_attended` accepts.
template <class Predicate>
std::vector<double> exact_head(const cache_type& cache, std::span<const float> q, std::size_t g,
                               const Predicate& is_attended) {
    const auto view = cache.view();
    std::vector<double> sum(view.value_dim());
    double weights = 0;
    std::size_t token = 0;
    for (std::size_t s = 0; s < view.segments_per_head(); ++s) {
        const auto& part = view.segment(s, g);
        for (std::size_t t = 0; t < part.tokens; ++t, ++token) {
            if (!is_attended(token)) continue;
            double logit = 0;
            for (std::size_t i = 0; i < q.size(); ++i)
                logit += double(q[i]) * double(float(part.keys[t * part.key_stride + i]));
            const double weight = std::exp(logit / std::sqrt(double(q.size())));
            weights += weight;
            for (std::size_t i = 0; i < sum.size(); ++i)
                sum[i] += weight * double(float(part.values[t * part.value_stride + i]));
        }
    }
    for (double& element : sum) element /= weights;
    return sum;
}

double deviation_from(std::span<const float> y, const std::vector<double>& exact) {
    double difference = 0, length = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
        difference += std::pow(double(y[i]) - exact[i], 2);
        length += std::pow(exact[i], 2);
    }
    return std::sqrt(difference / length);
}

/// Compares the last head of both outputs with double precision. SparQ's is compared over
/// the tokens it chose, without the tail, whose weight has no other source than itself.
double check_against_double(const cache_type& cache, std::span<const float> q,
                            sparq::sparq_params params) {
    const std::size_t g = cache.heads_kv() - 1, d_h = cache.head_dim();
    std::vector<float> y(q.size());
    sparq::attention_report report;
    report.keep_tokens = true;
    const auto last_y = std::span(y).last(d_h);
    const auto last_q = q.last(d_h);

    sparq::dense_attention(q, cache, y);
    const double dense =
        deviation_from(last_y, exact_head(cache, last_q, g, [](std::size_t) { return true; }));

    params.tail = sparq::tail_estimate::none;
    sparq::sparq_attention(q, cache, params, y, {.report = &report});
    const auto tokens = std::span(report.tokens).last(report.tokens_per_head);
    const auto is_chosen = [&](std::size_t token) {
        return std::binary_search(tokens.begin(), tokens.end(), std::uint32_t(token));
    };
    return std::max(dense, deviation_from(last_y, exact_head(cache, last_q, g, is_chosen)));
}

}  // namespace

speed_result measure_speed(const speed_options& options) {
    const cache_type cache = synthetic_cache(options);
    const std::vector<float> q = synthetic_query(options);
    std::vector<float> y(q.size());
    sparq::workspace work;
    sparq::attention_report dense_report, sparq_report;
    const std::vector<std::byte> flush_buffer(flush_bytes, std::byte{1});
    std::uint64_t kept = 0;  // printed nowhere, but the reads may not be optimised away
    const auto flush = [&] { kept += streaming_read(flush_buffer); };

    const auto roof = [&] { kept += read_keys_and_values<1024>(cache.view()); };
    const auto roof_without_prefetch = [&] { kept += read_keys_and_values<0>(cache.view()); };
    const auto dense = [&] {
        sparq::dense_attention(q, cache, y, {.work = &work, .report = &dense_report});
    };
    const auto sparq = [&] {
        sparq::sparq_attention(q, cache, options.params, y,
                               {.work = &work, .report = &sparq_report});
    };
    dense(), sparq();  // the workspace and the reports get their memory

    std::vector<double> roof_times, plain_roof_times, dense_times, sparq_times, speedups;
    for (std::size_t round = 0; round < options.rounds; ++round) {
        flush(), roof_times.push_back(milliseconds(roof));
        flush(), plain_roof_times.push_back(milliseconds(roof_without_prefetch));
        flush(), dense_times.push_back(milliseconds(dense));
        flush(), sparq_times.push_back(milliseconds(sparq));
        speedups.push_back(dense_times.back() / sparq_times.back());
    }
    asm volatile("" : : "r"(kept));

    const auto elements = double(options.heads * options.head_dim * options.seq_len);
    const auto [low, high] = std::minmax_element(speedups.begin(), speedups.end());
    return {.cache_bytes = 3 * elements * sizeof(sparq::half),
            .roof = {std::min(median(roof_times), median(plain_roof_times)),
                     2 * elements * sizeof(sparq::half)},
            .dense = {median(dense_times), double(dense_report.bytes_read)},
            .sparq = {median(sparq_times), double(sparq_report.bytes_read)},
            .speedup = median(speedups),
            .speedup_low = *low,
            .speedup_high = *high,
            .deviation = check_against_double(cache, q, options.params)};
}
