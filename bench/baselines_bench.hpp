// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

namespace bench {

/// Rows TYPE/d:D/S:S/G:G/METHOD of the methods that SparQ is compared with, with k = 128,
/// beside a streaming read of the cache.
void register_baseline_rows(std::size_t rounds, std::size_t cache_bytes);

}  // namespace bench
