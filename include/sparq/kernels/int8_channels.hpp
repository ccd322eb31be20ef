// SPDX-License-Identifier: MIT
// Rows of 8-bit codes (int8_row.hpp) where channels are measured and coded: what the codes stand
// for, decoded some channels at a time.
//
// Traffic: the rows once or twice, in pieces of 16 codes.
// Numerics: those of the kernels for float rows.
#pragma once

#include <algorithm>
#include <cstddef>

#include "../code_labels.hpp"
#include "../config.hpp"
#include "encode_codes.hpp"
#include "int8_rows.hpp"
#include "measure_channels.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {
namespace detail {

/// Channels that are decoded together: of a strip that takes 32 KB.
inline constexpr std::size_t int8_channels = 16;

/// body(rows, first, n): channels [first, first + n) of `tokens` rows as floats, int8_channels
/// from row to row.
/// @tparam Tokens  at most so many
template <class Arch, std::size_t Tokens, class Body>
void for_decoded_channels(const int8_row* rows, std::size_t row_stride, std::size_t tokens,
                          std::size_t width, const Body& body) noexcept {
    alignas(cache_line_bytes) float decoded[Tokens * int8_channels];
    for (std::size_t c = 0; c < width; c += int8_channels) {
        const std::size_t n = std::min(int8_channels, width - c);
        for (std::size_t t = 0; t < tokens; ++t)
            decode_int8_row<Arch>(rows + t * row_stride, c, n, decoded + t * int8_channels);
        body(static_cast<const float*>(decoded), c, n);
    }
}

}  // namespace detail

/// See measure_channels.hpp; of at most a block.
template <class Arch>
void measure_rows(const int8_row* rows, std::size_t row_stride, std::size_t tokens,
                  std::size_t skipped, std::size_t width, float* mean, float* variance) noexcept {
    detail::for_decoded_channels<Arch, code_block_tokens>(
        rows, row_stride, tokens, width, [&](const float* decoded, std::size_t c, std::size_t n) {
            measure_rows<Arch>(decoded, detail::int8_channels, tokens, skipped, n, mean + c,
                               variance + c);
        });
}

/// See encode_codes.hpp; of at most a strip.
template <class Arch, class Label>
void encode_rows(const int8_row* rows, std::size_t row_stride, std::size_t tokens,
                 std::size_t width, std::size_t skipped, Label* codes, std::size_t channel_stride,
                 code_range* ranges) noexcept {
    detail::for_decoded_channels<Arch, code_strip_tokens>(
        rows, row_stride, tokens, width, [&](const float* decoded, std::size_t c, std::size_t n) {
            encode_rows<Arch>(decoded, detail::int8_channels, tokens, n, skipped,
                              codes + c * channel_stride, channel_stride, ranges + c);
        });
}

}  // namespace kernels
SPARQ_NAMESPACE_END
