// SPDX-License-Identifier: MIT
// The entry points of attention in tiers on the instruction set that this executable tests,
// compiled once per element type, as calls.hpp has it for the others.
#pragma once

#include <functional>
#include <span>
#include <type_traits>

#include <sparq/tiered_attention.hpp>

#include "calls.hpp"

namespace test {

/// Any executor, at the price of an indirect call a task.
using any_body = std::function<void(std::size_t)>;
using any_executor = std::function<void(std::size_t, const any_body&)>;
using any_barrier = std::function<void()>;

template <class T>
struct tier_calls {
    using cache = sparq::tiered_cache<T>;
    using view = sparq::tiered_view<T>;
    using plan = sparq::tiered_plan<arch, T>;
    /// Elements that are appended without rounding, or instead of floats to be coded.
    using element = std::conditional_t<std::is_same_v<T, ::sparq::int8_row>, ::sparq::half, T>;

    static void append(cache& history, std::span<const float> keys, std::span<const float> values);
    static void append_rounded(cache& history, std::span<const element> keys,
                               std::span<const element> values);
    static void truncate(cache& history, std::size_t n);
    static void tiered(std::span<const float> q, const view& history,
                       const sparq::tiered_params& params, std::span<float> out,
                       const sparq::call_options& options = {});
    static void tiered_on(const any_executor& executor, std::span<const float> q,
                          const view& history, const sparq::tiered_params& params,
                          std::span<float> out, const sparq::call_options& options = {});
    static plan make_plan(std::span<const float> q, const view& history,
                          const sparq::tiered_params& params, std::span<float> out,
                          const sparq::call_options& options = {});
    static void run_plan(const plan& planned, std::size_t ith, std::size_t nth,
                         const any_barrier& barrier);
    static void dense(std::span<const float> q, const view& history, float scale,
                      std::span<float> out, const sparq::call_options& options = {});
};

#ifndef SPARQ_TEST_FEW_TYPES
extern template struct tier_calls<float>;
extern template struct tier_calls<::sparq::half>;
extern template struct tier_calls<::sparq::bfloat16>;
extern template struct tier_calls<::sparq::int8_row>;
#endif

/// Calls body<T>() for the n-th element type, counted round.
template <class Body>
void with_elements(std::size_t n, const Body& body) {
    if (n % 3 == 0) body.template operator()<::sparq::half>();
    if (n % 3 == 1) body.template operator()<float>();
    if (n % 3 == 2) body.template operator()<::sparq::bfloat16>();
}

}  // namespace test
