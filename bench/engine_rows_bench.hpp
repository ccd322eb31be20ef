// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

namespace bench {

/// Rows half/d:D/S:8192/H:N/G:G/engine_dense: dense attention over rows as an engine keeps them,
/// the KV heads of a token side by side, [S, H_kv, d_h]; and the same as a kv_cache has them.
void register_engine_rows(std::size_t rounds);

}  // namespace bench
