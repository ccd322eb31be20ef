// SPDX-License-Identifier: MIT
// The rows about appending one token of all heads.
#include <algorithm>
#include <string>

#include "append_run.hpp"
#include "decode_case.hpp"
#include "table.hpp"

namespace bench {
namespace {

using sense = table_row::sense;
using T = sparq::half;

constexpr std::size_t heads = 32, head_dim = 128, width = heads * head_dim;

/// Of each token the least time of all runs: a pause of the machine does not come at the
/// same token every time, a reallocation would.
seconds least_of(const std::vector<seconds>& runs) {
    seconds least = runs[0];
    for (const seconds& run : runs)
        for (std::size_t t = 0; t < least.size(); ++t) least[t] = std::min(least[t], run[t]);
    return least;
}

struct append_times {
    std::vector<seconds> growing;   ///< of each append, of each run
    seconds fresh, fresh_copy;      ///< a run in all, into new memory
    seconds written, written_copy;  ///< the same into memory written before
};

append_times measure(std::size_t n, std::size_t runs) {
    constexpr std::size_t bytes = append_bytes<T>(width);
    const new_tokens tokens(width);
    // With the program's huge pages the cache has to know of them: it then takes the next
    // segment's from the system a few at a time.
    const auto pages =
        huge_pages_requested() ? sparq::memory_policy::huge_pages : sparq::memory_policy::system;
    append_times times;
    for (std::size_t run = 0; run < runs; ++run) {
        sparq::kv_cache<T> cache(heads, head_dim, head_dim, pages);
        const untouched_bytes copy = allocate_untouched(n * bytes);
        times.growing.push_back(time_appends(cache, tokens, n));
        times.fresh.push_back(sum_of(times.growing.back()));
        times.fresh_copy.push_back(sum_of(time_copies(copy.get(), tokens, bytes, n)));
        cache.clear();
        times.written.push_back(sum_of(time_appends(cache, tokens, n)));
        times.written_copy.push_back(sum_of(time_copies(copy.get(), tokens, bytes, n)));
    }
    return times;
}

}  // namespace

void run_append(speed_table& table) {
    const std::size_t n = table.settings.quick ? 2048 : 16384, runs = table.settings.quick ? 3 : 5;
    const append_times times = measure(n, runs);
    const std::string shape = type_name<T>() + " S=1.." + std::to_string(n) +
                              " H_kv=" + std::to_string(heads) + " d_h=" + std::to_string(head_dim);
    table.add({"append: time / memcpy, memory written before",
               shape,
               spread_of(ratios(times.written, times.written_copy)),
               sense::at_most,
               3,
               {}});
    table.add({"append: time / memcpy, new memory on both sides",
               shape,
               spread_of(ratios(times.fresh, times.fresh_copy)),
               sense::at_most,
               3,
               {}});
    const spread single = spread_of(least_of(times.growing));
    const double slowest = single.high / single.median;
    table.add({"append: the slowest / the median",
               shape,
               {slowest, slowest, slowest},
               sense::at_most,
               20,
               "not reserved; of each token the least of " + std::to_string(runs) + " runs"});
    table.times.push_back({shape, "append, a token of all heads", 1e6 * single.median / heads,
                           double(append_bytes<T>(width)) / heads, 0});
}

}  // namespace bench
