// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

namespace bench {

/// Rows half/d:128/S:S/G:1/WHAT of labels of few bits, fixed tiers (their scan, what follows,
/// the whole) and two tolerances, on heads like real ones, and of appending to a tiered cache.
void register_tier_rows(std::size_t rounds, std::size_t cache_bytes);

}  // namespace bench
