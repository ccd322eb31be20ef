// SPDX-License-Identifier: MIT
#include "calls_impl.hpp"
#include "tier_calls_impl.hpp"

template class sparq::kv_cache<sparq::half, float>;
template class sparq::kv_cache<sparq::half, sparq::half>;
template class sparq::kv_cache<sparq::half, sparq::bfloat16>;

namespace test {

template struct calls<::sparq::half, float>;
template struct calls<::sparq::half, ::sparq::half>;
template struct calls<::sparq::half, ::sparq::bfloat16>;
template struct tier_calls<::sparq::half>;

}  // namespace test
