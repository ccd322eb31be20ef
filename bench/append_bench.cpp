// SPDX-License-Identifier: MIT
#include "append_bench.hpp"

#include <benchmark/benchmark.h>

#include <string>

#include "append_run.hpp"
#include "decode_case.hpp"

namespace bench {
namespace {

constexpr std::size_t heads = 32, tokens_a_round = 2048;

/// The memory has been written before, on both sides.
template <class T>
void append_row(benchmark::State& state, std::size_t head_dim) {
    const std::size_t width = heads * head_dim, bytes = append_bytes<T>(width);
    const new_tokens tokens(width);
    sparq::kv_cache<T> cache(heads, head_dim);
    const untouched_bytes copy = allocate_untouched(tokens_a_round * bytes);
    time_appends(cache, tokens, tokens_a_round);
    time_copies(copy.get(), tokens, bytes, tokens_a_round);
    seconds append_times, copy_times;
    for ([[maybe_unused]] auto round : state) {
        cache.clear();
        append_times.push_back(sum_of(time_appends(cache, tokens, tokens_a_round)));
        copy_times.push_back(sum_of(time_copies(copy.get(), tokens, bytes, tokens_a_round)));
        state.SetIterationTime(append_times.back() / double(tokens_a_round));
    }
    const double median = spread_of(append_times).median / double(tokens_a_round);
    state.counters["bytes"] = double(bytes);
    state.counters["GB/s"] = 1e-9 * double(bytes) / median;
    state.counters["of_memcpy"] = spread_of(ratios(append_times, copy_times)).median;
    if (cache.seq_len() != tokens_a_round) state.SkipWithError("tokens are missing");
}

template <class T>
void register_append(std::size_t rounds) {
    for (const std::size_t head_dim : {128u, 64u})
        benchmark::RegisterBenchmark(
            (type_name<T>() + "/d:" + std::to_string(head_dim) + "/append").c_str(),
            [head_dim](benchmark::State& state) { append_row<T>(state, head_dim); })
            ->Iterations(static_cast<benchmark::IterationCount>(rounds))
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond);
}

}  // namespace

void register_append_rows(std::size_t rounds) {
    register_append<sparq::half>(rounds);
    register_append<sparq::bfloat16>(rounds);
    register_append<float>(rounds);
}

}  // namespace bench
