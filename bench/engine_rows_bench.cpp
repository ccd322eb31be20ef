// SPDX-License-Identifier: MIT
// Dense attention over an engine's own K and V, beside a kv_cache of the same tokens and a
// streaming read of the engine's, each from flushed caches, in processor time.
#include "engine_rows_bench.hpp"

#include <benchmark/benchmark.h>

#include <sparq/dense_attention.hpp>
#include <sparq/kv_cache.hpp>
#include <sparq/strided_kv.hpp>
#include <string>
#include <vector>

#include "checks.hpp"
#include "memory.hpp"
#include "statistics.hpp"
#include "synthetic.hpp"

namespace bench {
namespace {

using sparq::half;

constexpr std::size_t seq_len = 8192;

struct shape {
    std::size_t heads_kv, head_dim, group;
};
// As models have them: few and many heads, short rows and long, G of 1 to 8.
constexpr shape shapes[] = {{8, 128, 1},  {8, 128, 4},  {8, 128, 8}, {32, 128, 1},
                            {24, 128, 1}, {64, 128, 1}, {3, 64, 3},  {8, 64, 4},
                            {2, 64, 7},   {4, 256, 2},  {8, 96, 4},  {2, 128, 8}};

std::vector<half> halves(std::uint64_t seed, std::size_t count) {
    std::vector<half> all;
    all.reserve(count);
    for (const float x : normal_numbers(seed, count)) all.emplace_back(x);
    return all;
}

/// The same tokens as an engine and as a cache keep them, and a query.
class engine_case {
   public:
    explicit engine_case(const shape& dims)
        : dims_(dims),
          keys_(halves(1, seq_len * dims.heads_kv * dims.head_dim)),
          values_(halves(2, keys_.size())),
          cache_(dims.heads_kv, dims.head_dim),
          q_(make_queries(dims.heads_kv * dims.group, dims.head_dim)),
          out_(q_.size()),
          spans_{std::as_bytes(std::span(keys_)), std::as_bytes(std::span(values_))} {
        cache_.append(std::span<const half>(keys_), std::span<const half>(values_));
    }

    [[nodiscard]] sparq::kv_view<half> view() {
        const std::size_t token = dims_.heads_kv * dims_.head_dim;
        sparq::strided_kv<half> rows;
        rows.keys = keys_.data();
        rows.values = values_.data();
        rows.heads_kv = dims_.heads_kv;
        rows.head_dim = rows.value_dim = dims_.head_dim;
        rows.cells = seq_len;
        rows.key_token_stride = rows.value_token_stride = token;
        rows.key_head_stride = rows.value_head_stride = dims_.head_dim;
        const sparq::token_range all{0, seq_len};
        return storage_.assign(rows, {&all, 1});
    }
    void roof() const { streaming_read(spans_, nullptr); }
    void engine() { sparq::dense_attention(q_, view(), out_, {.work = &work_}); }
    void cache() { sparq::dense_attention(q_, cache_, out_, {.work = &work_}); }

    /// Of the last query head.
    [[nodiscard]] bool is_right() {
        engine();
        const std::span<const float> q = std::span(q_).last(dims_.head_dim);
        const auto want =
            exact::attention(view(), dims_.heads_kv - 1, q, [](std::size_t) { return true; });
        return exact::deviation(std::span(out_).last(dims_.head_dim), want) < exact::tolerance;
    }
    [[nodiscard]] double bytes() const {
        return static_cast<double>(spans_[0].size() + spans_[1].size());
    }

   private:
    shape dims_;
    std::vector<half> keys_, values_;  ///< [S, H_kv, d_h]
    sparq::kv_cache<half> cache_;
    std::vector<float> q_, out_;
    std::vector<byte_span> spans_;
    sparq::kv_view_storage<half> storage_;
    sparq::workspace work_;
};

void run(benchmark::State& state, const shape& dims) {
    static const cache_flusher flush;
    engine_case step(dims);
    if (!step.is_right()) return state.SkipWithError("dense attention over an engine's rows");
    const auto timed = [&](auto call) {
        flush();
        const double start = processor_seconds();
        (step.*call)();
        return processor_seconds() - start;
    };
    seconds times, cache_times, roof_times;
    for ([[maybe_unused]] auto round : state) {
        roof_times.push_back(timed(&engine_case::roof));
        cache_times.push_back(timed(&engine_case::cache));
        times.push_back(timed(&engine_case::engine));
        state.SetIterationTime(times.back());
    }
    state.counters["us_per_head"] =
        1e6 * spread_of(times).median / static_cast<double>(dims.heads_kv);
    state.counters["bytes"] = step.bytes();
    state.counters["GB/s"] = 1e-9 * step.bytes() / spread_of(times).median;
    state.counters["of_roof"] = spread_of(ratios(roof_times, times)).median;
    state.counters["of_cache_time"] = spread_of(ratios(times, cache_times)).median;
}

}  // namespace

void register_engine_rows(std::size_t rounds) {
    for (const shape& dims : shapes) {
        const std::string name = "half/d:" + std::to_string(dims.head_dim) +
                                 "/S:" + std::to_string(seq_len) +
                                 "/H:" + std::to_string(dims.heads_kv) +
                                 "/G:" + std::to_string(dims.group) + "/engine_dense";
        benchmark::RegisterBenchmark(name.c_str(),
                                     [&dims](benchmark::State& state) { run(state, dims); })
            ->Iterations(static_cast<benchmark::IterationCount>(rounds))
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond);
    }
}

}  // namespace bench
