// SPDX-License-Identifier: MIT
#include "tier_calls_impl.hpp"

namespace test {

template struct tier_calls<::sparq::int8_row>;

}  // namespace test
