// SPDX-License-Identifier: MIT
// Every step of SparQ, SparQ, dense attention and the baselines as rows of Google Benchmark.
//
//   sparq_bench [--rounds=N] [--cache_mib=N] [--huge_pages] [--benchmark_filter=REGEX ..]
//
// A row is TYPE/d:D/S:S/G:G/WHAT. In every round the row times a streaming read of the
// cache's K and V beside what it is for (SparQ's rows time dense too), each from flushed
// caches, in processor time; its counters are medians over the rounds. A wrong result is
// an error of the row.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "append_bench.hpp"
#include "baselines_bench.hpp"
#include "code_rows_bench.hpp"
#include "decode_case.hpp"
#include "engine_rows_bench.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "statistics.hpp"
#include "synthetic.hpp"
#include "tiers_bench.hpp"

namespace {

using namespace bench;

struct settings {
    std::size_t rounds = 5;
    std::size_t cache_bytes = std::size_t{256} << 20;
};
settings chosen;

const cache_flusher& flush() {
    static const cache_flusher flusher;
    return flusher;
}

/// The latest shape's cache and case: rows of one shape follow each other and share them.
template <class T>
struct shape_store {
    std::size_t seq_len = 0, head_dim = 0;
    std::optional<sparq::kv_cache<T>> cache;
    std::unique_ptr<decode_case<T>> step;
    std::string complaint;

    decode_case<T>& get(std::size_t wanted_len, std::size_t wanted_dim, std::size_t group) {
        if (!cache || seq_len != wanted_len || head_dim != wanted_dim) {
            step.reset(), cache.reset();
            seq_len = wanted_len, head_dim = wanted_dim;
            cache = make_cache<T>(heads_to_fill(chosen.cache_bytes, seq_len, head_dim, sizeof(T)),
                                  head_dim, seq_len);
        }
        if (!step || step->group() != group) {
            step = std::make_unique<decode_case<T>>(*cache, group, usual_params(head_dim));
            step->dense();
            step->sparq();
            complaint = step->complaint();
        }
        return *step;
    }
};

/// What a row times. `bytes`: of the cache, once measured. A step works head by head;
/// `prepare` is done before a head's step and not timed.
template <class T>
struct row_kind {
    const char* name;
    std::size_t (*bytes)(const decode_case<T>&);
    void (*whole)(decode_case<T>&);
    void (decode_case<T>::*prepare)(std::size_t);
    void (decode_case<T>::*step)(std::size_t);
};

template <class T>
const row_kind<T> kinds[] = {
    {"choose_components", [](const decode_case<T>&) { return std::size_t{0}; }, nullptr, nullptr,
     &decode_case<T>::choose_components},
    {"approximate_scores", [](const decode_case<T>& c) { return c.sparq_report().bytes.scan; },
     nullptr, nullptr, &decode_case<T>::approximate_scores},
    {"select_tokens", [](const decode_case<T>&) { return std::size_t{0}; }, nullptr,
     &decode_case<T>::approximate_scores, &decode_case<T>::select_tokens},
    {"attend_selected", [](const decode_case<T>& c) { return c.sparq_report().bytes.selected; },
     nullptr, nullptr, &decode_case<T>::attend_selected},
    {"tail", [](const decode_case<T>& c) { return c.sparq_report().bytes.tail; }, nullptr, nullptr,
     &decode_case<T>::estimate_tail},
    {"dense", [](const decode_case<T>& c) { return c.dense_report().bytes_read; },
     [](decode_case<T>& c) { c.dense(); }, nullptr, nullptr},
    {"sparq", [](const decode_case<T>& c) { return c.sparq_report().bytes_read; },
     [](decode_case<T>& c) { c.sparq(); }, nullptr, nullptr},
};

template <class Call>
double flushed_seconds(const Call& call) {
    flush()();
    const double start = processor_seconds();
    call();
    return processor_seconds() - start;
}

template <class T>
double row_seconds(const row_kind<T>& kind, decode_case<T>& step) {
    if (kind.whole != nullptr) return flushed_seconds([&] { kind.whole(step); });
    const auto all_heads = [&] {
        for (std::size_t g = 0; g < step.heads_kv(); ++g) (step.*kind.step)(g);
    };
    if (kind.prepare == nullptr) return flushed_seconds(all_heads);
    const double clock = processor_clock_cost();
    double total = 0;
    for (std::size_t g = 0; g < step.heads_kv(); ++g) {
        (step.*kind.prepare)(g);
        const double start = processor_seconds();
        (step.*kind.step)(g);
        total += processor_seconds() - start - clock;
    }
    return total;
}

void set_counters(benchmark::State& state, const seconds& times, const seconds& roof_times,
                  double bytes, double roof_bytes, double heads) {
    const double median = spread_of(times).median;
    state.counters["us_per_head"] = 1e6 * median / heads;
    if (bytes == 0) return;
    state.counters["bytes"] = bytes;
    state.counters["GB/s"] = 1e-9 * bytes / median;
    state.counters["of_roof"] = spread_of(ratios(roof_times, times, bytes / roof_bytes)).median;
}

template <class T>
void run_row(benchmark::State& state, const row_kind<T>& kind, std::size_t head_dim,
             std::size_t seq_len, std::size_t group) {
    static shape_store<T> store;
    decode_case<T>& step = store.get(seq_len, head_dim, group);
    if (!store.complaint.empty()) {
        state.SkipWithError(store.complaint.c_str());
        return;
    }
    const bool is_sparq = std::string_view(kind.name) == "sparq";
    seconds times, roof_times, dense_times;
    for ([[maybe_unused]] auto round : state) {
        roof_times.push_back(flushed_seconds([&] { step.roof(); }));
        if (is_sparq) dense_times.push_back(flushed_seconds([&] { step.dense(); }));
        times.push_back(row_seconds(kind, step));
        state.SetIterationTime(times.back());
    }
    const auto bytes = static_cast<double>(kind.bytes(step));
    set_counters(state, times, roof_times, bytes, static_cast<double>(step.roof_bytes()),
                 static_cast<double>(step.heads_kv()));
    if (is_sparq) {
        const auto dense_bytes = static_cast<double>(step.dense_report().bytes_read);
        state.counters["speedup"] = spread_of(ratios(dense_times, times)).median;
        state.counters["efficiency"] =
            spread_of(ratios(dense_times, times, bytes / dense_bytes)).median;
        state.counters["fell_back"] = step.sparq_report().dense ? 1 : 0;
    }
    state.SetLabel("H_kv=" + std::to_string(step.heads_kv()));
}

template <class T>
void register_rows() {
    for (const std::size_t head_dim : {128u, 64u})
        for (std::size_t seq_len = 1024; seq_len <= 131072; seq_len *= 2)
            for (const std::size_t group : {1u, 4u, 8u})
                for (const row_kind<T>& kind : kinds<T>) {
                    const std::string name = type_name<T>() + "/d:" + std::to_string(head_dim) +
                                             "/S:" + std::to_string(seq_len) +
                                             "/G:" + std::to_string(group) + "/" + kind.name;
                    benchmark::RegisterBenchmark(
                        name.c_str(),
                        [&kind, head_dim, seq_len, group](benchmark::State& state) {
                            run_row<T>(state, kind, head_dim, seq_len, group);
                        })
                        ->Iterations(static_cast<benchmark::IterationCount>(chosen.rounds))
                        ->UseManualTime()
                        ->Unit(benchmark::kMicrosecond);
                }
}

/// Takes this program's own options out of the arguments.
void take_options(int& count, char** arguments) {
    int kept = 1;
    for (int i = 1; i < count; ++i) {
        const std::string_view argument = arguments[i];
        const auto number = [&] {
            return std::strtoull(arguments[i] + argument.find('=') + 1, nullptr, 10);
        };
        if (argument.starts_with("--rounds="))
            chosen.rounds = std::max<std::size_t>(1, number());
        else if (argument.starts_with("--cache_mib="))
            chosen.cache_bytes = std::max<std::size_t>(1, number()) << 20;
        else if (argument == "--huge_pages")
            request_huge_pages();
        else
            arguments[kept++] = arguments[i];
    }
    count = kept;
}

}  // namespace

int main(int argc, char** argv) {
    take_options(argc, argv);
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::AddCustomContext("cpu", cpu_name());
    benchmark::AddCustomContext("instruction_set", instruction_set());
    benchmark::AddCustomContext("compiler", compiler());
    benchmark::AddCustomContext("pages", huge_pages_requested() ? "huge" : "default");
    register_rows<sparq::half>();
    register_rows<sparq::bfloat16>();
    register_rows<float>();
    register_append_rows(chosen.rounds);
    register_engine_rows(chosen.rounds);
    register_code_row_rows(chosen.rounds);
    register_baseline_rows(chosen.rounds, chosen.cache_bytes);
    register_tier_rows(chosen.rounds, chosen.cache_bytes);
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
}
