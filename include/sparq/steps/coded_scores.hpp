// SPDX-License-Identifier: MIT
// Step 1 of SparQ over labels of few bits: the strips of a segment, one after the other.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>

#include "../config.hpp"
#include "../kernels/dot_rows.hpp"
#include "../kernels/int8_rows.hpp"
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

/// Bytes of the rows of a KV head's first segment that a scan reads: code_sinks of a sequence.
template <class T, class Label>
SPARQ_PER_ISA std::size_t sink_bytes(const kv_segment<T, Label>& first,
                                     std::size_t head_dim) noexcept {
    return first.offset == 0 ? std::min(code_sinks, first.labelled) * bytes_of_row<T>(head_dim) : 0;
}

/// Bytes of keys that the scan of all heads reads.
template <class T, class Label>
SPARQ_PER_ISA std::size_t scan_bytes(const kv_view<T, Label>& view, std::size_t r) noexcept {
    std::size_t bytes = 0;
    for (std::size_t s = 0; s < view.segments_per_head(); ++s)
        for (std::size_t g = 0; g < view.heads_kv(); ++g) {
            const auto& part = view.segment(s, g);
            bytes += (part.tokens - part.labelled) * view.head_dim() * sizeof(T);
            if constexpr (coded_label<Label>) {
                bytes += coded_bytes(part, r, view.head_dim());
                if (s == 0) bytes += sink_bytes(part, view.head_dim());
            } else
                bytes += part.labelled * r * sizeof(Label);
        }
    return bytes;
}

/// Rows and columns that scan_uncoded multiplies at once.
inline constexpr std::size_t uncoded_rows = 64, uncoded_columns = 256;

/// sums[h][j] = queries[h] . columns [first, first + width) of row j.
/// @param queries  [heads, uncoded_columns], of these columns only
/// @param rows     n <= uncoded_rows of them, row_stride apart
template <class Arch, class T>
void dot_columns(const float* queries, std::size_t heads, const T* rows, std::size_t row_stride,
                 std::size_t n, std::size_t first, std::size_t width, float* sums) noexcept {
    if constexpr (std::same_as<T, int8_row>) {
        // A row's range lies before its first code, so a later one does not begin a row.
        float values[uncoded_columns];
        const float* const row = values;
        for (std::size_t j = 0; j < n; ++j) {
            kernels::decode_int8_row<Arch>(rows + j * row_stride, first, width, values);
            kernels::dot_rows<Arch>(queries, heads, uncoded_columns, &row, 1, width, sums + j,
                                    uncoded_rows);
        }
    } else {
        const T* parts[uncoded_rows];
        for (std::size_t j = 0; j < n; ++j) parts[j] = rows + j * row_stride + first;
        kernels::dot_rows<Arch>(queries, heads, uncoded_columns,
                                static_cast<const T* const*>(parts), n, width, sums, uncoded_rows);
    }
}

/// Logits of n tokens of a segment that have no codes yet: dot products of their rows with
/// queries that are 0 in the channels that are not scanned. (A key that is not finite
/// there makes the logit NaN until the token is coded.)
template <class Arch, class T, class Label>
void scan_uncoded(const kv_segment<T, Label>& part, std::size_t offset, std::size_t n,
                  std::size_t head_dim, const kernels::code_query& query, float* logits,
                  std::size_t stride) noexcept {
    constexpr std::size_t most_heads = kernels::most_code_heads;
    for (std::size_t h = 0; h < query.heads; h += most_heads)
        for (std::size_t column = 0; column < head_dim; column += uncoded_columns) {
            const std::size_t heads = std::min(most_heads, query.heads - h);
            const std::size_t width = std::min(uncoded_columns, head_dim - column);
            float dense[most_heads][uncoded_columns] = {}, sums[most_heads][uncoded_rows];
            for (std::size_t i = 0; i < query.count; ++i)
                if (query.components[i] - column < width)
                    for (std::size_t j = 0; j < heads; ++j)
                        dense[j][query.components[i] - column] =
                            query.weights[(h + j) * query.weights_stride + i];
            for (std::size_t t = 0; t < n; t += uncoded_rows) {
                const std::size_t count = std::min(uncoded_rows, n - t);
                dot_columns<Arch>(static_cast<const float*>(dense[0]), heads,
                                  part.keys + (offset + t) * part.key_stride, part.key_stride,
                                  count, column, width, static_cast<float*>(sums[0]));
                for (std::size_t j = 0; j < heads; ++j)
                    for (std::size_t i = 0; i < count; ++i) {
                        float& logit = logits[(h + j) * stride + t + i];
                        logit = column == 0 ? sums[j][i] : logit + sums[j][i];
                    }
            }
        }
}

}  // namespace steps
SPARQ_NAMESPACE_END
