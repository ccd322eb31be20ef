// SPDX-License-Identifier: MIT
// int8_row: rows of K and V as codes of 8 bits, for half of the memory that half takes.
//
// A row of n values is n codes, a byte each, with their range before the first of them:
// value i = minimum + step * code[i]. A pointer to a row points to its first code.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "config.hpp"
#include "scalar_types.hpp"

SPARQ_NAMESPACE_BEGIN

/// One code of a row; the element type of tiered_cache<int8_row> and its views. A row of K spans
/// its values with the codes 0 to 255: |value - code's| <= step / 2 and a rounding of floats,
/// step = (greatest - least) / 255. A row of V has a grid of 254 steps for them that begins a
/// fraction of a step below the least, a fraction of the token's own: where a model writes the
/// same row for every occurrence of a word, errors do not add up (on recorded attention the
/// error of flat heads becomes a half to a third).
///
/// A NaN, an infinity or a magnitude over 1e38 makes the minimum, and so the whole row, NaN.
struct int8_row {
    std::uint8_t code;
};

/// What the codes of a row stand for. Float: the range of small rows would be lost in half.
struct int8_range {
    float minimum, step;
};

/// What rows of K and V may consist of.
template <class T>
concept row_element = cache_element<T> || std::same_as<T, int8_row>;

/// Elements that lie before a row's first and belong to it.
template <row_element T>
inline constexpr std::size_t row_prefix = std::same_as<T, int8_row> ? sizeof(int8_range) : 0;

/// Elements from one row of `width` values to the next where they lie close together.
template <row_element T>
SPARQ_PER_ISA constexpr std::size_t elements_of_row(std::size_t width) noexcept {
    return width + row_prefix<T>;
}

/// Bytes of a row, its range included.
template <row_element T>
SPARQ_PER_ISA constexpr std::size_t bytes_of_row(std::size_t width) noexcept {
    return elements_of_row<T>(width) * sizeof(T);
}

SPARQ_PER_ISA inline int8_range range_of(const int8_row* row) noexcept {
    int8_range range;
    std::memcpy(&range, row - sizeof(range), sizeof(range));
    return range;
}

SPARQ_NAMESPACE_END
