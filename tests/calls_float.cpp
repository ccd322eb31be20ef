// SPDX-License-Identifier: MIT
#include "calls_impl.hpp"
#include "tier_calls_impl.hpp"

template class sparq::kv_cache<float, float>;
template class sparq::kv_cache<float, sparq::half>;
template class sparq::kv_cache<float, sparq::bfloat16>;

namespace test {

template struct calls<float, float>;
template struct calls<float, ::sparq::half>;
template struct calls<float, ::sparq::bfloat16>;
template struct tier_calls<float>;

}  // namespace test
