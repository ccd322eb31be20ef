// SPDX-License-Identifier: MIT
// Step 1 of SparQ over labels of few bits: the strips of a segment, one after the other.
#pragma once

#include <cstddef>

#include "../config.hpp"
#include "../kernels/scan_codes.hpp"
#include "../kv_view.hpp"

SPARQ_NAMESPACE_BEGIN
namespace steps {

/// Logits of n coded tokens of a segment from `offset` on.
/// @param logits   [heads, n], stride >= n
/// @param scanned  called as scanned(m): the first m of them are there
template <class Arch, class T, class Label, class Scanned>
void scan_coded(const kv_segment<T, Label>& part, std::size_t offset, std::size_t n,
                std::size_t head_dim, const kernels::code_query& query, float* logits,
                std::size_t stride, const Scanned& scanned) noexcept {
    std::size_t done = 0;
    for_code_strips(part, offset, offset + n, head_dim,
                    [&](const code_strip<Label>& strip, std::size_t first, std::size_t count) {
                        kernels::scan_codes<Arch>(strip, query, first, count, logits + done,
                                                  stride);
                        done += count;
                        scanned(done);
                    });
}

/// Bytes of codes and ranges that a scan of r channels reads of a segment.
template <class T, class Label>
SPARQ_PER_ISA std::size_t coded_bytes(const kv_segment<T, Label>& part, std::size_t r,
                                      std::size_t head_dim) noexcept {
    std::size_t bytes = 0;
    for_code_strips(part, 0, part.labelled, head_dim,
                    [&](const code_strip<Label>&, std::size_t, std::size_t n) {
                        bytes += r * (sizeof(code_range) + (n * Label::bits + 7) / 8);
                    });
    return bytes;
}

/// What the channels of rows are brought into for the scan: labels, or elements where
/// labels are codes.
template <class T, class Label>
struct row_label {
    using type = Label;
};
template <class T, coded_label Label>
struct row_label<T, Label> {
    using type = T;
};

}  // namespace steps
SPARQ_NAMESPACE_END
