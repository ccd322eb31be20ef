// SPDX-License-Identifier: MIT
// Compiled for the baseline.
#include "calls_impl.hpp"
#include "tiers_impl.hpp"

#include <sparq/dispatch.hpp>

std::vector<dispatch_calls::result> dispatch_calls::dispatched(const problem& p, element type) {
    return attend_on<sparq::arch::dispatched>(p, type);
}

std::vector<dispatch_calls::result> dispatch_calls::dispatched_tiers(const problem& p,
                                                                     element type) {
    return attend_tiers_on<sparq::arch::dispatched>(p, type);
}
