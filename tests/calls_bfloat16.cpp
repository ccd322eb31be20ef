// SPDX-License-Identifier: MIT
#include "calls_impl.hpp"
#include "tier_calls_impl.hpp"

template class sparq::kv_cache<sparq::bfloat16, float>;
template class sparq::kv_cache<sparq::bfloat16, sparq::half>;
template class sparq::kv_cache<sparq::bfloat16, sparq::bfloat16>;

namespace test {

template struct calls<::sparq::bfloat16, float>;
template struct calls<::sparq::bfloat16, ::sparq::half>;
template struct calls<::sparq::bfloat16, ::sparq::bfloat16>;
template struct tier_calls<::sparq::bfloat16>;

}  // namespace test
