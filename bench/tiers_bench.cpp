// SPDX-License-Identifier: MIT
#include "tiers_bench.hpp"

#include <benchmark/benchmark.h>

#include <memory>
#include <string>

#include "append_run.hpp"
#include "statistics.hpp"
#include "tier_case.hpp"

namespace bench {
namespace {

constexpr std::size_t head_dim = 128;

struct row_kind {
    const char* name;
    void (tier_case::*whole)();
    /// Of fixed tiers, head by head; `prepare` is not timed.
    void (tier_case::*prepare)(std::size_t);
    void (tier_case::*step)(std::size_t);
};
constexpr row_kind kinds[] = {
    {"int8_labels", &tier_case::int8_labels, nullptr, nullptr},
    {"int4_labels", &tier_case::int4_labels, nullptr, nullptr},
    {"int2_labels", &tier_case::int2_labels, nullptr, nullptr},
    {"tiers_scan", &tier_case::fixed_tiers, nullptr, &tier_case::scan_head},
    {"tiers_refine_and_exact", &tier_case::fixed_tiers, &tier_case::scan_head,
     &tier_case::read_head},
    {"tiers_fixed", &tier_case::fixed_tiers, nullptr, nullptr},
    {"tolerance_0.05", &tier_case::tolerance_05, nullptr, nullptr},
    {"tolerance_0.1", &tier_case::tolerance_10, nullptr, nullptr},
    {"dense_int8_rows", &tier_case::dense_int8_rows, nullptr, nullptr},
    {"tolerance_0.05_int8_rows", &tier_case::tolerance_05_int8_rows, nullptr, nullptr},
    {"tolerance_0.1_int8_rows", &tier_case::tolerance_10_int8_rows, nullptr, nullptr},
};

template <class Call>
double flushed_seconds(const Call& call) {
    static const cache_flusher flush;
    flush();
    const double start = processor_seconds();
    call();
    return processor_seconds() - start;
}

double row_seconds(const row_kind& kind, tier_case& step) {
    if (kind.step == nullptr) return flushed_seconds([&] { (step.*kind.whole)(); });
    if (kind.prepare == nullptr)
        return flushed_seconds([&] {
            for (std::size_t g = 0; g < step.heads(); ++g) (step.*kind.step)(g);
        });
    const double clock = processor_clock_cost();
    double total = 0;
    for (std::size_t g = 0; g < step.heads(); ++g) {
        (step.*kind.prepare)(g);
        const double start = processor_seconds();
        (step.*kind.step)(g);
        total += processor_seconds() - start - clock;
    }
    return total;
}

std::size_t bytes_of(const row_kind& kind, const sparq::attention_report& report) {
    if (kind.step == nullptr) return report.bytes_read;
    return kind.prepare == nullptr ? report.bytes.scan : report.bytes.selected + report.bytes.tail;
}

/// The latest shape's; rows of one shape follow each other.
struct shape_store {
    std::size_t seq_len = 0;
    std::unique_ptr<tier_case> step;
    std::string complaint;

    tier_case& get(std::size_t wanted, std::size_t cache_bytes) {
        if (!step || seq_len != wanted) {
            step.reset();
            seq_len = wanted;
            step = std::make_unique<tier_case>(
                heads_to_fill(cache_bytes, wanted, head_dim, sizeof(tier_case::T)), head_dim,
                wanted);
            complaint = step->complaint();
        }
        return *step;
    }
};

void run_row(benchmark::State& state, const row_kind& kind, std::size_t seq_len,
             std::size_t cache_bytes) {
    static shape_store store;
    tier_case& step = store.get(seq_len, cache_bytes);
    if (!store.complaint.empty()) {
        state.SkipWithError(store.complaint.c_str());
        return;
    }
    seconds times, roof_times, dense_times;
    for ([[maybe_unused]] auto round : state) {
        roof_times.push_back(flushed_seconds([&] { step.roof(); }));
        dense_times.push_back(flushed_seconds([&] { step.dense(); }));
        times.push_back(row_seconds(kind, step));
        state.SetIterationTime(times.back());
    }
    (step.*kind.whole)();
    const auto bytes = double(bytes_of(kind, step.report()));
    const double median = spread_of(times).median;
    state.counters["us_per_head"] = 1e6 * median / double(step.heads());
    state.counters["bytes"] = bytes;
    state.counters["GB/s"] = 1e-9 * bytes / median;
    state.counters["of_roof"] =
        spread_of(ratios(roof_times, times, bytes / double(step.roof_bytes()))).median;
    state.counters["speedup"] = spread_of(ratios(dense_times, times)).median;
    state.counters["error"] = step.mean_error();
    state.SetLabel("H_kv=" + std::to_string(step.heads()));
    if (&kind == &kinds[std::size(kinds) - 1]) store.step.reset();
}

template <class T>
void append_row(benchmark::State& state) {
    constexpr std::size_t heads = 32, tokens_a_round = 2048;
    const new_tokens tokens(heads * head_dim);
    sparq::tiered_cache<T> tiered(heads, head_dim);
    sparq::kv_cache<sparq::half> plain(heads, head_dim);
    time_appends(tiered, tokens, tokens_a_round);
    time_appends(plain, tokens, tokens_a_round);
    seconds times, plain_times;
    for ([[maybe_unused]] auto round : state) {
        tiered.clear(), plain.clear();
        times.push_back(sum_of(time_appends(tiered, tokens, tokens_a_round)));
        plain_times.push_back(sum_of(time_appends(plain, tokens, tokens_a_round)));
        state.SetIterationTime(times.back() / double(tokens_a_round));
    }
    state.counters["of_sparq_cache"] = spread_of(ratios(times, plain_times)).median;
    if (tiered.seq_len() != tokens_a_round) state.SkipWithError("tokens are missing");
}

}  // namespace

void register_tier_rows(std::size_t rounds, std::size_t cache_bytes) {
    const auto add = [&](const std::string& name, auto run) {
        benchmark::RegisterBenchmark(name.c_str(), run)
            ->Iterations(static_cast<benchmark::IterationCount>(rounds))
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond);
    };
    for (const std::size_t seq_len : {1024u, 4096u, 16384u, 65536u})
        for (const row_kind& kind : kinds)
            add("half/d:128/S:" + std::to_string(seq_len) + "/G:1/" + kind.name,
                [&kind, seq_len, cache_bytes](benchmark::State& state) {
                    run_row(state, kind, seq_len, cache_bytes);
                });
    add("half/d:128/append_tiered", append_row<sparq::half>);
    add("half/d:128/append_tiered_int8_rows", append_row<sparq::int8_row>);
}

}  // namespace bench
