// SPDX-License-Identifier: MIT
// The rows about labels of few bits and attention in tiers.
#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "append_run.hpp"
#include "decode_case.hpp"
#include "table.hpp"
#include "tier_case.hpp"

namespace bench {
namespace {

using sense = table_row::sense;

/// Times less than dense attention's to reach; 0: none.
struct tier_targets {
    std::size_t seq_len;
    double int4, fixed;
};
constexpr tier_targets lengths[] = {
    {1024, 0, 0}, {4096, 0, 0}, {16384, 11, 9}, {65536, 16, 18}, {262144, 0, 0}};

struct way {
    const char* name;
    void (tier_case::*call)();
};
constexpr way ways[] = {{"SparQ r=32 k=128", &tier_case::sparq},
                        {"int8 labels r=32 k=128", &tier_case::int8_labels},
                        {"int4 labels r=32 k=128", &tier_case::int4_labels},
                        {"int2 labels r=32 k=128", &tier_case::int2_labels},
                        {"fixed tiers 32, 1024, 64", &tier_case::fixed_tiers},
                        {"tolerance 0.05", &tier_case::tolerance_05},
                        {"tolerance 0.1", &tier_case::tolerance_10},
                        {"dense, 8-bit rows", &tier_case::dense_int8_rows},
                        {"tolerance 0.05, 8-bit rows", &tier_case::tolerance_05_int8_rows},
                        {"tolerance 0.1, 8-bit rows", &tier_case::tolerance_10_int8_rows}};

double target_of(const way& one, const tier_targets& targets) {
    if (one.call == &tier_case::int4_labels) return targets.int4;
    return one.call == &tier_case::fixed_tiers ? targets.fixed : 0;
}

void add_way(speed_table& table, tier_case& step, const way& one, double target,
             const std::map<std::string, seconds>& times) {
    (step.*one.call)();
    const auto bytes = double(step.report().bytes_read), all = double(step.roof_bytes());
    const auto heads = double(step.heads());
    const seconds& own = times.at(one.name);
    char note[64];
    std::snprintf(note, sizeof note, "%.1fx fewer bytes, error %.3f", all / bytes,
                  step.mean_error());
    table.add({std::string(one.name) + ": dense time / time", step.shape(),
               spread_of(ratios(times.at("dense"), own)),
               target > 0 ? sense::at_least : sense::information, target, note});
    table.times.push_back({step.shape(), one.name, 1e6 * spread_of(own).median / heads,
                           bytes / heads,
                           spread_of(ratios(times.at("roof"), own, bytes / all)).median});
}

void run_length(speed_table& table, const tier_targets& targets) {
    constexpr std::size_t head_dim = 128, most_bytes = std::size_t{256} << 20;
    const std::size_t bytes = std::min(table.settings.cache_bytes, most_bytes);
    tier_case step(heads_to_fill(bytes, targets.seq_len, head_dim, sizeof(tier_case::T)), head_dim,
                   targets.seq_len);
    std::vector<candidate> candidates{{"roof", [&] { step.roof(); }},
                                      {"dense", [&] { step.dense(); }}};
    for (const way& one : ways)
        candidates.push_back({one.name, [&step, call = one.call] { (step.*call)(); }});
    const auto times = time_interleaved(table.one_thread(), candidates);
    table.check(step.shape(), step.complaint());
    for (const char* part : {"roof", "dense"})
        table.times.push_back({step.shape(),
                               std::string(part) == "roof" ? "streaming read of K, V" : part,
                               1e6 * spread_of(times.at(part)).median / double(step.heads()),
                               double(step.roof_bytes()) / double(step.heads()),
                               spread_of(ratios(times.at("roof"), times.at(part))).median});
    step.dense();
    for (const way& one : ways) add_way(table, step, one, target_of(one, targets), times);
}

/// A token of 32 heads appended to tiered caches and to one of SparQ's.
void run_tiered_append(speed_table& table) {
    constexpr std::size_t heads = 32, head_dim = 128;
    const std::size_t n = table.settings.quick ? 2048 : 8192;
    const new_tokens tokens(heads * head_dim);
    sparq::kv_cache<sparq::half> plain(heads, head_dim);
    sparq::tiered_cache<sparq::half> tiered(heads, head_dim);
    sparq::tiered_cache<sparq::int8_row> tiered8(heads, head_dim);
    seconds plain_times, tiered_times, tiered8_times;
    for (std::size_t round = 0; round < 4; ++round) {
        plain.clear(), tiered.clear(), tiered8.clear();
        const double published = sum_of(time_appends(plain, tokens, n));
        const double own = sum_of(time_appends(tiered, tokens, n));
        const double own8 = sum_of(time_appends(tiered8, tokens, n));
        if (round == 0) continue;  // new memory
        plain_times.push_back(published), tiered_times.push_back(own);
        tiered8_times.push_back(own8);
    }
    const std::string shape = "half S=1.." + std::to_string(n) + " H_kv=32 d_h=128";
    table.add({"append: tiered cache's time / SparQ cache's", shape,
               spread_of(ratios(tiered_times, plain_times)), sense::at_most, 2,
               "memory written before"});
    table.add({"append: tiered cache of 8-bit rows' time / SparQ cache's", shape,
               spread_of(ratios(tiered8_times, plain_times)), sense::information, 0,
               "memory written before"});
    const auto per_head = [&](const seconds& times) {
        return 1e6 * spread_of(times).median / double(n * heads);
    };
    table.times.push_back({shape, "append to SparQ's cache", per_head(plain_times), 0, 0});
    table.times.push_back({shape, "append to a tiered cache", per_head(tiered_times), 0, 0});
    table.times.push_back(
        {shape, "append to a tiered cache of 8-bit rows", per_head(tiered8_times), 0, 0});
}

}  // namespace

void run_tiers(speed_table& table) {
    for (const tier_targets& length : lengths)
        if (!table.settings.quick || length.seq_len <= 16384) run_length(table, length);
    run_tiered_append(table);
}

}  // namespace bench
