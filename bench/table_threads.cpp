// SPDX-License-Identifier: MIT
// The rows on two threads, in wall time: only a quiet machine says anything here.
#include <algorithm>
#include <map>
#include <string>
#include <thread>

#include "decode_case.hpp"
#include "synthetic.hpp"
#include "table.hpp"
#include "thread_pool.hpp"

namespace bench {
namespace {

using sense = table_row::sense;
using T = sparq::half;

constexpr std::size_t head_dim = 128, threads = 2;

using named_times = std::map<std::string, seconds>;

/// Rounds of roof, dense and SparQ, each on one thread and on two.
named_times time_on_threads(const speed_table& table, decode_case<T>& step, thread_pool& pool) {
    const interleaving how{table.settings.rounds, [&] { table.flush(&pool); }, wall_seconds};
    return time_interleaved(how, {{"roof", [&] { step.roof(); }},
                                  {"roof 2", [&] { step.roof(&pool); }},
                                  {"dense", [&] { step.dense(); }},
                                  {"dense 2", [&] { step.dense(&pool); }},
                                  {"sparq", [&] { step.sparq(); }},
                                  {"sparq 2", [&] { step.sparq(&pool); }}});
}

struct shares {
    spread dense, sparq;
};

/// What dense and SparQ reach of the roof with two threads.
shares shares_of_roof(const decode_case<T>& step, const named_times& times) {
    const auto share = [&](const char* name, std::size_t bytes) {
        return spread_of(
            ratios(times.at("roof 2"), times.at(name), double(bytes) / double(step.roof_bytes())));
    };
    return {share("dense 2", step.dense_report().bytes_read),
            share("sparq 2", step.sparq_report().bytes_read)};
}

void add_gain_rows(speed_table& table, const decode_case<T>& step, const named_times& times) {
    const seconds roof_gain = ratios(times.at("roof"), times.at("roof 2"));
    table.add({"two threads: gain of the streaming roof", step.shape(), spread_of(roof_gain),
               sense::information, 0, "wall time"});
    for (const std::string name : {"dense", "sparq"}) {
        const seconds gain = ratios(times.at(name), times.at(name + " 2"));
        table.add({"two threads: " + name + "'s gain / the roof's", step.shape(),
                   spread_of(ratios(gain, roof_gain)), sense::at_least, 0.9, "wall time"});
    }
}

/// A share of one long head against the share of many heads.
table_row long_head_row(const char* measure, const std::string& shape, const spread& value,
                        const spread& many_heads) {
    return {measure,
            shape,
            value,
            sense::at_least,
            0.95 * many_heads.median,
            "to reach: 0.95 of the share with many heads, S=65536"};
}

}  // namespace

void run_threads(speed_table& table) {
    if (std::thread::hardware_concurrency() < threads) return;
    thread_pool pool(threads);
    const auto params = usual_params(head_dim);
    shares many;
    for (const std::size_t seq_len : {16384u, 65536u}) {
        // A multiple of the threads, or one of them would have a head more to do.
        const std::size_t heads =
            heads_to_fill(table.settings.cache_bytes, seq_len, head_dim, sizeof(T), 2);
        const auto cache = make_cache<T>(heads, head_dim, seq_len);
        decode_case<T> step(cache, 1, params);
        const named_times times = time_on_threads(table, step, pool);
        table.check(step.shape(), step.complaint());
        add_gain_rows(table, step, times);
        many = shares_of_roof(step, times);
    }

    const std::size_t seq_len = std::size_t{1} << (table.settings.quick ? 17 : 20);
    const auto cache = make_cache<T>(1, head_dim, seq_len);
    decode_case<T> step(cache, 1, params);
    const named_times times = time_on_threads(table, step, pool);
    table.check(step.shape(), step.complaint());
    const shares one = shares_of_roof(step, times);
    table.add(long_head_row("one long head, two threads: dense share of roof", step.shape(),
                            one.dense, many.dense));
    table.add(long_head_row("one long head, two threads: SparQ share of roof", step.shape(),
                            one.sparq, many.sparq));
}

}  // namespace bench
