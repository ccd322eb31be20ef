// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

namespace bench {

/// Rows code_rows/d:D/G:G/dot, accumulate and code_rows/d:D/encode, prepare: kernels on rows
/// of 4-bit codes in L2, ns a row.
void register_code_row_rows(std::size_t rounds);

}  // namespace bench
