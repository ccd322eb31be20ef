// SPDX-License-Identifier: MIT
// Time of a decode step over a long cache, dense and SparQ side by side.
#pragma once

#include <cstddef>
#include <sparq/params.hpp>

struct speed_options {
    std::size_t heads = 32, head_dim = 128, seq_len = 16384;  // one layer of Llama 2 7B
    std::size_t rounds = 9;
    sparq::sparq_params params{.r = 32, .k = 128, .local = 32};
};

/// One way to spend a step: medians over the rounds.
struct step_cost {
    double milliseconds = 0;
    double bytes = 0;
    double gigabytes_per_second() const { return bytes / milliseconds * 1e-6; }
};

struct speed_result {
    double cache_bytes = 0;  ///< K, V and the d_h-major copy of K
    step_cost roof;          ///< a streaming read of K and V, the faster of two ways
    step_cost dense;
    step_cost sparq;
    double speedup = 0;  ///< median over the rounds of dense time / SparQ time
    double speedup_low = 0, speedup_high = 0;
    double deviation = 0;  ///< largest distance of both from double precision, relative
    double bytes_ratio() const { return dense.bytes / sparq.bytes; }
    double efficiency() const { return speedup / bytes_ratio(); }
};

/// Single-threaded, half, G = 1. The cache and the flush buffer take 1.5 GB at the
/// default shape.
speed_result measure_speed(const speed_options& options);
