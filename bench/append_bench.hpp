// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

namespace bench {

/// Rows TYPE/d:D/append: one token of 32 KV heads, beside a memcpy of the bytes it writes.
void register_append_rows(std::size_t rounds);

}  // namespace bench
