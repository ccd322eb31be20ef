// SPDX-License-Identifier: MIT
// The rows on one thread: many heads, groups, small heads, short caches.
#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "decode_case.hpp"
#include "synthetic.hpp"
#include "table.hpp"

namespace bench {
namespace {

using sense = table_row::sense;
using named_times = std::map<std::string, seconds>;

/// The numbers to reach with many heads, G = 1.
struct length_targets {
    std::size_t seq_len;
    double half_efficiency, float_efficiency;
};
constexpr length_targets lengths[] = {{4096, 0.75, 0.80}, {16384, 0.85, 0.88}, {65536, 0.90, 0.92}};
constexpr double dense_of_roof = 0.92;

template <class T>
double bytes_ratio(const decode_case<T>& step) {
    return double(step.dense_report().bytes_read) / double(step.sparq_report().bytes_read);
}

template <class T>
seconds efficiencies(const decode_case<T>& step, const seconds& dense, const seconds& sparq) {
    return ratios(dense, sparq, 1.0 / bytes_ratio(step));
}

template <class T>
spread share_of_roof(const decode_case<T>& step, const seconds& roof, const seconds& times,
                     std::size_t bytes) {
    return spread_of(ratios(roof, times, double(bytes) / double(step.roof_bytes())));
}

/// The lines of a shape: roof, dense and SparQ from the rounds.
template <class T>
void add_whole_times(speed_table& table, const decode_case<T>& step, const seconds& roof,
                     const seconds& dense, const seconds& sparq) {
    const auto heads = double(step.heads_kv());
    const auto add = [&](const char* part, const seconds& times, std::size_t bytes) {
        table.times.push_back({step.shape(), part, 1e6 * spread_of(times).median / heads,
                               double(bytes) / heads,
                               share_of_roof(step, roof, times, bytes).median});
    };
    add("streaming read of K, V", roof, step.roof_bytes());
    add("dense", dense, step.dense_report().bytes_read);
    add("SparQ", sparq, step.sparq_report().bytes_read);
}

/// Times SparQ's public steps head by head, which is the order in which the whole call
/// runs them, and adds a line for each.
template <class T>
void add_step_times(speed_table& table, decode_case<T>& step, const seconds& roof) {
    using member = void (decode_case<T>::*)(std::size_t);
    const sparq::step_bytes& bytes = step.sparq_report().bytes;
    const struct {
        const char* name;
        member call;
        std::size_t bytes;
    } parts[] = {{"  components", &decode_case<T>::choose_components, 0},
                 {"  scan", &decode_case<T>::approximate_scores, bytes.scan},
                 {"  selection", &decode_case<T>::select_tokens, 0},
                 {"  gather", &decode_case<T>::attend_selected, bytes.selected},
                 {"  tail", &decode_case<T>::estimate_tail, bytes.tail}};
    constexpr std::size_t count = std::size(parts);
    const double clock = processor_clock_cost(), heads = double(step.heads_kv());
    std::vector<seconds> totals(count, seconds(table.settings.rounds));
    for (std::size_t round = 0; round < table.settings.rounds; ++round) {
        table.flush();
        for (std::size_t g = 0; g < step.heads_kv(); ++g)
            for (std::size_t i = 0; i < count; ++i) {
                const double start = processor_seconds();
                (step.*parts[i].call)(g);
                totals[i][round] += std::max(0.0, processor_seconds() - start - clock);
            }
    }
    const double roof_rate = double(step.roof_bytes()) / spread_of(roof).median;
    for (std::size_t i = 0; i < count; ++i) {
        const double median = spread_of(totals[i]).median;
        table.times.push_back({step.shape(), parts[i].name, 1e6 * median / heads,
                               double(parts[i].bytes) / heads,
                               double(parts[i].bytes) / median / roof_rate});
    }
}

template <class T>
void add_group_rows(speed_table& table, const decode_case<T>& four, const named_times& times) {
    const auto row = [&](const char* measure, const seconds& with_four, const seconds& with_one,
                         double target) {
        table.add({measure,
                   four.shape(),
                   spread_of(ratios(with_four, with_one)),
                   sense::at_most,
                   target,
                   {}});
    };
    row("G = 4: dense time / dense time with G = 1", times.at("dense 4"), times.at("dense"), 1.15);
    row("G = 4: SparQ time / SparQ time with G = 1", times.at("sparq 4"), times.at("sparq"), 1.3);
    table.add({"G = 4: SparQ efficiency",
               four.shape(),
               spread_of(efficiencies(four, times.at("dense 4"), times.at("sparq 4"))),
               sense::information,
               0,
               {}});
}

/// The rows and times of a case with many heads and G = 1.
/// @return  SparQ's efficiency
template <class T>
double add_length_rows(speed_table& table, decode_case<T>& one, const named_times& times,
                       double target) {
    const seconds &roof = times.at("roof"), &dense = times.at("dense"), &sparq = times.at("sparq");
    table.check(one.shape(), one.complaint());
    table.add({"dense: share of roof",
               one.shape(),
               share_of_roof(one, roof, dense, one.dense_report().bytes_read),
               sense::at_least,
               dense_of_roof,
               {}});
    const spread efficiency = spread_of(efficiencies(one, dense, sparq));
    table.add({"SparQ: efficiency",
               one.shape(),
               efficiency,
               target > 0 ? sense::at_least : sense::information,
               target,
               {}});
    table.add({"SparQ: share of roof",
               one.shape(),
               share_of_roof(one, roof, sparq, one.sparq_report().bytes_read),
               sense::information,
               0,
               {}});
    add_whole_times(table, one, roof, dense, sparq);
    add_step_times(table, one, roof);
    return efficiency.median;
}

/// One length: G = 1, and if wanted G = 4 on the same cache in the same rounds.
/// @return  SparQ's efficiency with G = 1
template <class T>
double run_length(speed_table& table, std::size_t seq_len, double target, bool with_groups) {
    constexpr std::size_t head_dim = 128;
    const std::size_t heads =
        heads_to_fill(table.settings.cache_bytes, seq_len, head_dim, sizeof(T));
    const auto cache = make_cache<T>(heads, head_dim, seq_len);
    decode_case<T> one(cache, 1, usual_params(head_dim)), four(cache, 4, usual_params(head_dim));
    std::vector<candidate> candidates = {{"roof", [&] { one.roof(); }},
                                         {"dense", [&] { one.dense(); }},
                                         {"sparq", [&] { one.sparq(); }}};
    if (with_groups) {
        candidates.push_back({"dense 4", [&] { four.dense(); }});
        candidates.push_back({"sparq 4", [&] { four.sparq(); }});
    }
    const named_times times = time_interleaved(table.one_thread(), candidates);
    const double efficiency = add_length_rows(table, one, times, target);
    if (with_groups) {
        table.check(four.shape(), four.complaint());
        add_group_rows(table, four, times);
        add_whole_times(table, four, times.at("roof"), times.at("dense 4"), times.at("sparq 4"));
        add_step_times(table, four, times.at("roof"));
    }
    return efficiency;
}

/// Small heads: the bytes of a row are few, so what a row costs beside them shows.
void run_small(speed_table& table, std::size_t r, bool has_targets) {
    constexpr std::size_t head_dim = 64, seq_len = 16384, group = 8;
    using T = sparq::half;
    const std::size_t heads =
        heads_to_fill(table.settings.cache_bytes, seq_len, head_dim, sizeof(T));
    const auto cache = make_cache<T>(heads, head_dim, seq_len);
    auto params = usual_params(head_dim);
    params.r = r;
    decode_case<T> step(cache, group, params);
    const named_times times =
        time_interleaved(table.one_thread(), {{"roof", [&] { step.roof(); }},
                                              {"dense", [&] { step.dense(); }},
                                              {"sparq", [&] { step.sparq(); }}});
    const seconds &roof = times.at("roof"), &dense = times.at("dense"), &sparq = times.at("sparq");
    table.check(step.shape(), step.complaint());
    const sense wanted = has_targets ? sense::at_least : sense::information;
    table.add({"G = 8, small heads: dense share of roof",
               step.shape(),
               share_of_roof(step, roof, dense, step.dense_report().bytes_read),
               wanted,
               0.85,
               {}});
    table.add({"G = 8, small heads: SparQ efficiency",
               step.shape(),
               spread_of(efficiencies(step, dense, sparq)),
               wanted,
               0.75,
               {}});
    add_whole_times(table, step, roof, dense, sparq);
    add_step_times(table, step, roof);
}

struct short_shape {
    std::size_t group, head_dim;
    bool flushed;
};

/// SparQ's time over dense's at each short length; the row is the worst of them.
template <class T>
void run_short(speed_table& table, const short_shape& shape) {
    constexpr std::size_t cache_bytes = std::size_t{32} << 20, warm_heads = 2;
    const std::vector<std::size_t> all = {256, 320, 384, 512, 640, 768, 1024, 1536, 2048};
    const std::vector<std::size_t> few = {256, 512, 1024};
    interleaving how = table.one_thread();
    if (!shape.flushed) how.before_each = nullptr;
    table_row worst;
    worst.measure = shape.flushed ? "short caches: SparQ time / dense time, the worst"
                                  : "short warm caches: SparQ / dense, the worst";
    worst.wanted = sense::at_most;
    worst.target = 1.05;
    for (const std::size_t seq_len : table.settings.quick ? few : all) {
        const std::size_t heads =
            shape.flushed ? heads_to_fill(cache_bytes, seq_len, shape.head_dim, sizeof(T))
                          : warm_heads;
        const auto cache = make_cache<T>(heads, shape.head_dim, seq_len);
        sparq::sparq_params params = usual_params(shape.head_dim);
        params.dense_below = 8 * params.k;  // as its description says
        decode_case<T> step(cache, shape.group, params);
        const named_times times = time_interleaved(
            how, {{"dense", [&] { step.dense(); }}, {"sparq", [&] { step.sparq(); }}});
        table.check(step.shape(), step.complaint());
        const spread ratio = spread_of(ratios(times.at("sparq"), times.at("dense")));
        char note[48];
        std::snprintf(note, sizeof note, "%s%zu%s %.2f", worst.note.empty() ? "" : ", ", seq_len,
                      step.sparq_report().dense ? "d" : "", ratio.median);
        worst.note += note;
        if (ratio.median > worst.value.median) worst.value = ratio, worst.shape = step.shape();
    }
    table.add(worst);
}

}  // namespace

void run_many_heads(speed_table& table) {
    for (const length_targets& length : lengths) {
        const double half =
            run_length<sparq::half>(table, length.seq_len, length.half_efficiency, true);
        run_length<float>(table, length.seq_len, length.float_efficiency, false);
        const double bfloat16 = run_length<sparq::bfloat16>(table, length.seq_len, 0, false);
        const double ratio = bfloat16 / half;
        table.add({"bfloat16: efficiency / that of half",
                   "S=" + std::to_string(length.seq_len),
                   {ratio, ratio, ratio},
                   sense::at_least,
                   0.95,
                   "ratio of two medians"});
    }
}

void run_small_heads(speed_table& table) {
    run_small(table, 16, true);
    run_small(table, 32, false);
}

void run_short_caches(speed_table& table) {
    run_short<sparq::half>(table, {1, 128, true});
    run_short<float>(table, {1, 128, true});
    run_short<sparq::bfloat16>(table, {1, 128, true});
    run_short<sparq::half>(table, {4, 128, true});
    run_short<sparq::half>(table, {8, 64, true});
    run_short<sparq::half>(table, {1, 128, false});
}

}  // namespace bench
