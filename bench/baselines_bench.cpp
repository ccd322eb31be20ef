// SPDX-License-Identifier: MIT
// A decode step of every baseline, as the rows of steps_bench.cpp are: from flushed caches,
// in processor time, beside a streaming read of K and V in the same round.
#include "baselines_bench.hpp"

#include <benchmark/benchmark.h>

#include <cmath>
#include <iterator>
#include <memory>
#include <span>
#include <sparq/baselines.hpp>
#include <sparq/steps/attend_selected.hpp>
#include <string>
#include <vector>

#include "decode_case.hpp"
#include "memory.hpp"
#include "statistics.hpp"
#include "synthetic.hpp"

namespace bench {
namespace {

namespace methods = sparq::baselines;

constexpr std::size_t k = 128;

/// A cache, a query, and a step of each method. H2O's state is the one before the newest
/// token came, with k + 1 live tokens: a step drops one and attends as many.
template <class T>
class baseline_case {
   public:
    baseline_case(std::size_t cache_bytes, std::size_t head_dim, std::size_t seq_len,
                  std::size_t group)
        : cache_(make_cache<T>(heads_to_fill(cache_bytes, seq_len, head_dim, sizeof(T)), head_dim,
                               seq_len)),
          group_(group),
          q_(make_queries(heads_kv() * group, head_dim)),
          out_(q_.size()),
          pages_(heads_kv(), head_dim),
          h2o_(heads_kv(), {.k = k, .local = k / 4}),
          before_newest_(h2o_) {
        cache_.truncate(seq_len - 1);
        h2o();
        before_newest_ = h2o_;
        cache_.append(std::span<const float>(normal_numbers(5, heads_kv() * head_dim)),
                      std::span<const float>(normal_numbers(6, heads_kv() * head_dim)));
        spans_ = key_and_value_spans(cache_.view());
        pages_.append(cache_.view());
    }

    void roof() const { streaming_read(spans_, nullptr); }
    void lm_infinite() {
        methods::lm_infinite_attention(q_, cache_.view(), {.k = k}, out_, options());
    }
    void flexgen() { methods::flexgen_attention(q_, cache_.view(), {.k = k}, out_, options()); }
    void quest() { methods::quest_attention(q_, cache_.view(), pages_, {.k = k}, out_, options()); }
    void h2o() { h2o_.step(q_, cache_.view(), out_, options()); }
    void rewind_h2o() { h2o_ = before_newest_; }

    [[nodiscard]] std::size_t heads_kv() const { return cache_.heads_kv(); }
    [[nodiscard]] std::size_t roof_bytes() const {
        return 2 * cache_.seq_len() * heads_kv() * cache_.head_dim() * sizeof(T);
    }
    [[nodiscard]] const sparq::attention_report& report() const { return report_; }
    [[nodiscard]] bool is(std::size_t head_dim, std::size_t seq_len, std::size_t group) const {
        return cache_.head_dim() == head_dim && cache_.seq_len() == seq_len && group_ == group;
    }

    /// The latest step's output in KV head 0 against attend_selected over the tokens that
    /// it reports. FlexGen's, which keeps its weights, must not be longer.
    [[nodiscard]] std::string complaint() {
        const std::size_t width = group_ * cache_.head_dim();
        std::vector<std::uint32_t> tokens;
        for (std::size_t i = 0; i < report_.tokens_per_head; ++i)
            if (report_.tokens[i] != methods::no_token) tokens.push_back(report_.tokens[i]);
        std::vector<float> want(width), log_sum_exp(group_);
        sparq::attend_selected(cache_.view(), 0, std::span<const float>(q_).first(width), tokens,
                               0.0f, want, log_sum_exp);
        for (std::size_t c = 0; c < width; ++c) {
            const std::size_t h = c / cache_.head_dim();
            const float kept = std::exp(log_sum_exp[h] - report_.heads[h].log_sum_exp);
            if (!(std::fabs(out_[c] - kept * want[c]) <= 1e-3f))
                return "output " + std::to_string(c) + " is " + std::to_string(out_[c]) +
                       ", expected " + std::to_string(kept * want[c]);
        }
        return {};
    }

   private:
    sparq::call_options options() {
        report_.keep_tokens = true;
        return {.work = &work_, .report = &report_};
    }

    sparq::kv_cache<T> cache_;
    std::size_t group_;
    std::vector<byte_span> spans_;
    std::vector<float> q_, out_;
    methods::quest_pages<T> pages_;
    methods::h2o_state h2o_, before_newest_;
    sparq::workspace work_;
    sparq::attention_report report_;
};

template <class T>
struct method {
    const char* name;
    void (baseline_case<T>::*prepare)();  ///< not timed
    void (baseline_case<T>::*step)();
};

template <class T>
const method<T> all_methods[] = {
    {"h2o", &baseline_case<T>::rewind_h2o, &baseline_case<T>::h2o},
    {"lm_infinite", nullptr, &baseline_case<T>::lm_infinite},
    {"flexgen", nullptr, &baseline_case<T>::flexgen},
    {"quest", nullptr, &baseline_case<T>::quest},
};

template <class Call>
double flushed_seconds(const Call& call) {
    static const cache_flusher flush;
    flush();
    const double start = processor_seconds();
    call();
    return processor_seconds() - start;
}

template <class T>
void run_row(benchmark::State& state, const method<T>& row, std::size_t cache_bytes,
             std::size_t head_dim, std::size_t seq_len, std::size_t group) {
    static std::unique_ptr<baseline_case<T>> shape;  // rows of one shape follow each other
    if (!shape || !shape->is(head_dim, seq_len, group)) {
        shape.reset();
        shape = std::make_unique<baseline_case<T>>(cache_bytes, head_dim, seq_len, group);
    }
    seconds times, roof_times;
    for ([[maybe_unused]] auto round : state) {
        roof_times.push_back(flushed_seconds([&] { shape->roof(); }));
        if (row.prepare != nullptr) (*shape.*row.prepare)();
        times.push_back(flushed_seconds([&] { (*shape.*row.step)(); }));
        state.SetIterationTime(times.back());
    }
    if (const std::string wrong = shape->complaint(); !wrong.empty())
        state.SkipWithError(wrong.c_str());
    const auto heads = static_cast<double>(shape->heads_kv());
    const auto bytes = static_cast<double>(shape->report().bytes_read);
    const auto roof_bytes = static_cast<double>(shape->roof_bytes());
    const double median = spread_of(times).median;
    state.counters["us_per_head"] = 1e6 * median / heads;
    state.counters["bytes"] = bytes;
    state.counters["GB/s"] = 1e-9 * bytes / median;
    state.counters["of_roof"] = spread_of(ratios(roof_times, times, bytes / roof_bytes)).median;
    state.SetLabel("H_kv=" + std::to_string(shape->heads_kv()));
    if (&row == &all_methods<T>[std::size(all_methods<T>) - 1]) shape.reset();
}

template <class T>
void register_rows(std::size_t rounds, std::size_t cache_bytes) {
    for (const std::size_t head_dim : {128u, 64u})
        for (std::size_t seq_len = 1024; seq_len <= 65536; seq_len *= 4)
            for (const std::size_t group : {1u, 4u})
                for (const method<T>& row : all_methods<T>)
                    benchmark::RegisterBenchmark(
                        (type_name<T>() + "/d:" + std::to_string(head_dim) + "/S:" +
                         std::to_string(seq_len) + "/G:" + std::to_string(group) + "/" + row.name)
                            .c_str(),
                        [&row, cache_bytes, head_dim, seq_len, group](benchmark::State& state) {
                            run_row<T>(state, row, cache_bytes, head_dim, seq_len, group);
                        })
                        ->Iterations(static_cast<benchmark::IterationCount>(rounds))
                        ->UseManualTime()
                        ->Unit(benchmark::kMicrosecond);
}

}  // namespace

void register_baseline_rows(std::size_t rounds, std::size_t cache_bytes) {
    register_rows<sparq::half>(rounds, cache_bytes);
    register_rows<sparq::bfloat16>(rounds, cache_bytes);
    register_rows<float>(rounds, cache_bytes);
}

}  // namespace bench
