// SPDX-License-Identifier: MIT
// A strip of token rows into channel rows: out[c][t] = rows[t][c].
//
// Traffic: reads and writes `tokens` * `width` elements once. Elements of equal type
// are moved as they are (bit for bit, 8 x 8 or 4 x 4 at a time); others are rounded.
#pragma once

#include <concepts>
#include <cstddef>
#include <type_traits>

#include "../detail/simd.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

namespace detail {

using sparq::detail::native::zip_lower;
using sparq::detail::native::zip_upper;

/// Transposes N rows of N elements in registers: log2(N) perfect shuffles of all N * N.
template <std::size_t N, class Block>
SPARQ_ALWAYS_INLINE void transpose_block(Block (&row)[N]) noexcept {
    Block shuffled[N];
    SPARQ_UNROLL
    for (std::size_t step = 1; step < N; step *= 2) {
        SPARQ_UNROLL
        for (std::size_t i = 0; i < N / 2; ++i) {
            shuffled[2 * i] = zip_lower(row[i], row[i + N / 2]);
            shuffled[2 * i + 1] = zip_upper(row[i], row[i + N / 2]);
        }
        SPARQ_UNROLL
        for (std::size_t i = 0; i < N; ++i) row[i] = shuffled[i];
    }
}

template <class T>
SPARQ_ALWAYS_INLINE void transpose_square(const T* rows, std::size_t row_stride, T* out,
                                          std::size_t out_stride) noexcept {
    namespace native = sparq::detail::native;
    if constexpr (sizeof(T) == 2) {
        native::word_block block[8];
        SPARQ_UNROLL
        for (std::size_t i = 0; i < 8; ++i) block[i] = native::load_words(rows + i * row_stride);
        transpose_block(block);
        SPARQ_UNROLL
        for (std::size_t i = 0; i < 8; ++i) native::store_words(out + i * out_stride, block[i]);
    } else {
        native::float_block block[4];
        SPARQ_UNROLL
        for (std::size_t i = 0; i < 4; ++i) block[i] = native::load_floats(rows + i * row_stride);
        transpose_block(block);
        SPARQ_UNROLL
        for (std::size_t i = 0; i < 4; ++i) native::store_floats(out + i * out_stride, block[i]);
    }
}

}  // namespace detail

/// @param rows  [tokens, width], row_stride >= width
/// @param out   [width, tokens], out_stride >= tokens; does not overlap rows
template <class Arch, class T, class Label>
void transpose_rows(const T* rows, std::size_t row_stride, std::size_t tokens, std::size_t width,
                    Label* out, std::size_t out_stride) noexcept {
    std::size_t whole_width = 0, whole_tokens = 0;
    if constexpr (std::same_as<T, Label> && !sparq::detail::simd::is_plain<Arch>) {
        constexpr std::size_t side = sizeof(T) == 2 ? 8 : 4;
        whole_width = width / side * side;
        whole_tokens = tokens / side * side;
        for (std::size_t c = 0; c < whole_width; c += side)
            for (std::size_t t = 0; t < whole_tokens; t += side)
                detail::transpose_square(rows + t * row_stride + c, row_stride,
                                         out + c * out_stride + t, out_stride);
    }
    for (std::size_t c = 0; c < width; ++c)
        for (std::size_t t = c < whole_width ? whole_tokens : 0; t < tokens; ++t) {
            if constexpr (std::same_as<T, Label>)
                out[c * out_stride + t] = rows[t * row_stride + c];
            else
                out[c * out_stride + t] = Label(static_cast<float>(rows[t * row_stride + c]));
        }
}

}  // namespace kernels
SPARQ_NAMESPACE_END
