// SPDX-License-Identifier: MIT
// Recorded decode steps replayed through every way of attention: what each reads and how far
// it is from dense attention.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <sparq/kv_cache.hpp>
#include <sparq/tiered_attention.hpp>
#include <string>
#include <vector>

#include "../examples/demo/accuracy.hpp"

namespace bench {

/// A layer's history in every layout that a method attends.
struct replay_caches {
    explicit replay_caches(const recorded_layer& layer);
    /// The next `tokens` of the layer.
    void append(const recorded_layer& layer, std::size_t tokens);

    sparq::kv_cache<sparq::half> plain;
    sparq::kv_cache<sparq::half, sparq::int8_label> int8;
    sparq::kv_cache<sparq::half, sparq::int4_label> int4;
    sparq::kv_cache<sparq::half, sparq::int2_label> int2;
    sparq::tiered_cache<sparq::half> tiered;
    sparq::tiered_cache<sparq::int8_row> tiered8;
};

/// One way of attention with all its parameters.
struct replay_method {
    /// dense, SparQ, int8/int4/int2 labels, fixed tiers, tolerance; dense and tolerance with
    /// ", 8-bit rows" too
    std::string family;
    std::string settings;  ///< as "r 16, k 128, mean tail"
    double tolerance = 0;  ///< 0 for those that have none
    std::function<void(const replay_caches&, std::span<const float> q, std::span<float> out,
                       const sparq::call_options&)>
        call;
};

/// All that are compared, for heads of d_h.
std::vector<replay_method> replay_methods(std::size_t head_dim);

/// Of one method, over rows and query heads.
struct replay_figures {
    double bytes = 0, dense_bytes = 0;
    std::vector<double> errors;    ///< |y - y_dense| / |y_dense|
    std::vector<double> expected;  ///< what the report expects; tolerances only
    std::vector<double> refined, exact;
    std::vector<char> is_dense;  ///< heads that were attended whole

    void add(const replay_figures& other);
    [[nodiscard]] double fewer_bytes() const { return dense_bytes / bytes; }
    [[nodiscard]] double mean_error() const;
};

double mean_of(const std::vector<double>& numbers);
/// The value below which a share of the numbers is; 0 for none.
double percentile(std::vector<double> numbers, double share);

/// Replays `rows` rows of the layer, evenly spaced, the last among them (0: all of them).
/// @return [methods]
std::vector<replay_figures> replay(const recorded_layer& layer,
                                   const std::vector<replay_method>& methods, std::size_t rows);

}  // namespace bench
