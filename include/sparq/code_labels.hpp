// SPDX-License-Identifier: MIT
// Labels of few bits: what the d_h-major copy of the keys may consist of beside elements.
//
// Code i of a channel stands for minimum + (i + 1/2) * width, with a range (minimum, width)
// for each channel and strip of tokens. To rank tokens this is enough: the scan of SparQ
// reads bits / 16 of the bytes that half labels have.
//
// Units of 16 bytes, channel after channel:
//   2 bits  64 tokens: byte b holds tokens b, 16 + b, 32 + b, 48 + b, lowest bits first
//   4 bits  32 tokens: byte b holds tokens b and 16 + b, lowest bits first
//   8 bits  16 tokens in order
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "config.hpp"
#include "scalar_types.hpp"

SPARQ_NAMESPACE_BEGIN

/// Codes of 8 bits between the least and the greatest key of channel and strip.
/// |key - what the code stands for| <= width / 2 for every token but the code_sinks first.
struct int8_label {
    static constexpr unsigned bits = 8;
    std::uint8_t byte;
};
/// Codes of 4 bits, as those of 8.
struct int4_label {
    static constexpr unsigned bits = 4;
    std::uint8_t byte;
};
/// Codes of 2 bits: mean -+ 1/2 and 3/2 standard deviations of channel and strip. (On real
/// keys the noise is 10 to 25 % below that of codes between least and greatest.) But where
/// those would be more than int2_reach deviations wide, they are taken: a few far keys may be
/// what decides attention. |key - what the code stands for| <= width / 2 within two widths of
/// the range's middle, which are all keys then; else the range of the keys is 4 int2_reach
/// deviations at most, and with it the error 5.3 widths.
struct int2_label {
    static constexpr unsigned bits = 2;
    std::uint8_t byte;
};
inline constexpr float int2_reach = 1.7f;

template <class Label>
concept coded_label = std::same_as<Label, int8_label> || std::same_as<Label, int4_label> ||
                      std::same_as<Label, int2_label>;

/// What the d_h-major copy of the keys may consist of.
template <class Label>
concept label_element = cache_element<Label> || coded_label<Label>;

/// What the codes of one channel and strip stand for. Rounded before the keys are coded,
/// finite where the keys are; keys that are all alike may have the width 0. With a key that
/// is NaN or infinite the minimum is NaN: heads that scan the channel become NaN.
struct code_range {
    half minimum, width;
};

/// Tokens that are coded together as they come, with ranges of their own; and of a strip,
/// which is coded anew from its rows with one set of ranges once it is full: fewer ranges to
/// read. Segments of caches with such labels have whole strips, so that ranges depend on the
/// tokens only and not on how memory came.
inline constexpr std::size_t code_block_tokens = 64;
inline constexpr std::size_t code_strip_tokens = 512;

/// The first tokens of a sequence have no say in ranges: their keys are outliers in many
/// models. Their codes are the nearest there are.
inline constexpr std::size_t code_sinks = 4;

/// Tokens in the 16 bytes of a unit.
template <coded_label Label>
inline constexpr std::size_t code_unit_tokens = 128 / Label::bits;

/// Bytes of the codes of one channel of `tokens` tokens.
template <coded_label Label>
SPARQ_PER_ISA constexpr std::size_t code_bytes(std::size_t tokens) noexcept {
    return tokens * Label::bits / 8;
}

/// Consecutive tokens with one set of ranges. Places count from the first token of the
/// slab that the codes lie in.
template <coded_label Label>
struct code_strip {
    std::size_t begin, tokens;  ///< place of the first token; a multiple of code_block_tokens
    const Label* codes;         ///< channel c at codes + c * channel_stride
    std::size_t channel_stride;
    const code_range* ranges;  ///< [d_h]
};

/// In which row the ranges of `tokens` tokens, a strip or a block, from place `begin` on lie among
/// those of the slab. Strips are close together, in rows that blocks of strips before them
/// needed while these were not whole; the blocks of strip s are in rows 8 s to 8 s + 7.
SPARQ_PER_ISA constexpr std::size_t range_row(std::size_t begin, std::size_t tokens) noexcept {
    return begin / tokens;
}

/// The code of a token in one channel of a strip.
/// @param codes  the channel's first byte
/// @param t      token of the strip
template <coded_label Label>
SPARQ_PER_ISA unsigned code_at(const Label* codes, std::size_t t) noexcept {
    constexpr std::size_t unit = code_unit_tokens<Label>;
    const std::size_t within = t % unit;
    const unsigned byte = codes[t / unit * 16 + within % 16].byte;
    return (byte >> (within / 16 * Label::bits)) & ((1u << Label::bits) - 1);
}

SPARQ_NAMESPACE_END
