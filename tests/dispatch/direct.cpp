// SPDX-License-Identifier: MIT
// Compiled with the flags of one instruction set.
#include "calls_impl.hpp"
#include "tiers_impl.hpp"

std::vector<dispatch_calls::result> dispatch_calls::SPARQ_TEST_UNIT::attend(const problem& p,
                                                                            element type) {
    return attend_on<sparq::default_arch>(p, type);
}

std::vector<dispatch_calls::result> dispatch_calls::SPARQ_TEST_UNIT::attend_tiers(const problem& p,
                                                                                  element type) {
    return attend_tiers_on<sparq::default_arch>(p, type);
}
