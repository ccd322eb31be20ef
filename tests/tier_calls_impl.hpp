// SPDX-License-Identifier: MIT
// The definitions behind tier_calls.hpp; each calls_<element>.cpp instantiates its share.
#pragma once

#include <type_traits>

#include "tier_calls.hpp"

namespace test {

template <class T>
void tier_calls<T>::append(cache& history, std::span<const float> keys,
                           std::span<const float> values) {
    history.template append<arch>(keys, values);
}

template <class T>
void tier_calls<T>::append_rounded(cache& history, std::span<const element> keys,
                                   std::span<const element> values) {
    history.template append<arch>(keys, values);
}

template <class T>
void tier_calls<T>::truncate(cache& history, std::size_t n) {
    history.template truncate<arch>(n);
}

template <class T>
void tier_calls<T>::tiered(std::span<const float> q, const view& history,
                           const sparq::tiered_params& params, std::span<float> out,
                           const sparq::call_options& options) {
    sparq::sparq_attention<arch>(q, history, params, out, options);
}

template <class T>
void tier_calls<T>::tiered_on(const any_executor& executor, std::span<const float> q,
                              const view& history, const sparq::tiered_params& params,
                              std::span<float> out, const sparq::call_options& options) {
    sparq::sparq_attention<arch>(q, history, params, out, options, executor);
}

template <class T>
typename tier_calls<T>::plan tier_calls<T>::make_plan(std::span<const float> q, const view& history,
                                                      const sparq::tiered_params& params,
                                                      std::span<float> out,
                                                      const sparq::call_options& options) {
    return sparq::plan_tiered<arch>(q, history, params, out, options);
}

template <class T>
void tier_calls<T>::run_plan(const plan& planned, std::size_t ith, std::size_t nth,
                             const any_barrier& barrier) {
    planned.run(ith, nth, barrier);
}

template <class T>
void tier_calls<T>::dense(std::span<const float> q, const view& history, float scale,
                          std::span<float> out, const sparq::call_options& options) {
    if (scale == 0)
        sparq::dense_attention<arch>(q, history.rows(), out, options);
    else
        sparq::dense_attention<arch>(q, history.rows(), scale, out, options);
}

}  // namespace test
