// SPDX-License-Identifier: MIT
// The calls that the test compares, compiled for an instruction set each, or dispatched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dispatch_calls {

enum class element { float_, half, bfloat16 };

/// q [heads_kv * group, head_dim], keys [S, heads_kv, head_dim], values [S, heads_kv, value_dim].
struct problem {
    std::size_t heads_kv, group, head_dim, value_dim, seq_len;
    std::vector<float> q, keys, values;
};

/// What a call gave. Plain data: these units share no function.
struct result {
    std::vector<float> out, covered, log_sum_exp;  ///< [heads_q, value_dim], [heads_q] each
    std::vector<std::uint32_t> tokens;
    std::size_t bytes_read = 0;
    // In tiers:
    std::vector<float> expected_error;        ///< [heads_q]
    std::vector<std::size_t> exact, refined;  ///< [heads_q], as the report has them
    std::size_t dense_heads = 0;
    std::vector<float> moments;         ///< [heads_kv, 3, head_dim], of the view
    std::vector<double> value_squares;  ///< [heads_kv]
    std::vector<std::uint8_t> rows;     ///< code rows of every token and head
};

/// SparQ over a cache, dense attention over it, SparQ planned for three threads, SparQ over an
/// engine's own K and V with key_labels, SparQ over codes, and dense attention over the engine's
/// rows: one result each.
using attend_function = std::vector<result>(const problem&, element);

/// attend_tiers: in tiers, to a tolerance, with fixed tiers, densely, and planned for three
/// threads; and beside an engine's K and V of which some are written anew. Of float and half.
attend_function dispatched, dispatched_tiers;
namespace baseline {
attend_function attend, attend_tiers;
}
namespace avx2 {
attend_function attend, attend_tiers;
}
namespace avx512 {
attend_function attend, attend_tiers;
}

}  // namespace dispatch_calls
