// SPDX-License-Identifier: MIT
// Step 1 of SparQ over labels of few bits: the strips of a segment, one after the other.
#pragma once

#include <algorithm>
#include <cstddef>

#include "../config.hpp"
#include "../kernels/scan_codes.hpp"
#include "../kv_view.hpp"

SPARQ_NAMESPACE_BEGIN
namespace steps {

/// Logits of n coded tokens of a segment from `offset` on.
/// @param after    the strip that is scanned after these, or null
/// @param logits   [heads, n], stride >= n
/// @param scanned  called as scanned(m): the first m of them are there
template <class Arch, class T, class Label, class Scanned>
void scan_coded(const kv_segment<T, Label>& part, std::size_t offset, std::size_t n,
                std::size_t head_dim, const kernels::code_query& query,
                const code_strip<Label>* after, float* logits, std::size_t stride,
                const Scanned& scanned) noexcept {
    const std::size_t most = kernels::run_strips<Label::bits>(query.heads, query.count);
    code_strip<Label> strips[kernels::most_run_strips];
    for (std::size_t done = 0; done < n;) {
        std::size_t count = 0, end = done;
        for (; end < n && count < most; ++count) {
            strips[count] = code_strip_of(part, offset + end, head_dim);
            end = std::min(n, strips[count].begin + strips[count].tokens - part.offset - offset);
        }
        code_strip<Label> following;
        if (end < n) following = code_strip_of(part, offset + end, head_dim);
        const std::size_t first = part.offset + offset + done;
        kernels::scan_codes<Arch>(
            kernels::code_run<Label>{strips, count, first, first + (end - done)}, query,
            end < n ? &following : after, logits + done, stride,
            [&](std::size_t place) { scanned(done + (place - first)); });
        done = end;
    }
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
