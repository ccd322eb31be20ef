// SPDX-License-Identifier: MIT
// Blocks of 4-bit codes for kernels: code_block<Arch> and functions on it.
//
// A unit is 32 codes in 16 bytes: byte b has code b in its lower and code 16 + b in its
// upper nibble. A block has as many units as a vector of floats has quarters. Seen as 16-bit
// words, word w of a unit has codes 2w, 16 + 2w, 2w + 1 and 17 + 2w from its lowest nibble
// up; seen as 32-bit words, word l has codes 4l + m and 16 + 4l + m in byte m.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "native_packing.hpp"
#include "simd.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail::simd {

/// Codes and bytes of a unit.
inline constexpr std::size_t unit_codes = 32;
inline constexpr std::size_t unit_bytes = 16;

template <class Arch>
struct code_block_type {
    using type = typename native::code_block_of<lanes<Arch> >::type;
};
template <class Arch>
    requires is_plain<Arch>
struct code_block_type<Arch> {
    using type = std::array<std::uint32_t, 4>;
};
/// Codes, 16-bit words with a code each, or 32-bit sums.
template <class Arch>
using code_block = typename code_block_type<Arch>::type;

template <class Arch>
inline constexpr std::size_t block_units = lanes<Arch> / 4;
template <class Arch>
inline constexpr std::size_t block_bytes = block_units<Arch> * unit_bytes;
/// Weights that one add_products takes.
template <class Arch>
inline constexpr std::size_t block_words = 8 * block_units<Arch>;

/// The first `units` (1 to block_units) units at p, zeros behind them; reads nothing else.
template <class Arch>
SPARQ_ALWAYS_INLINE code_block<Arch> load_codes(const std::uint8_t* p,
                                                std::size_t units = block_units<Arch>) noexcept {
    if constexpr (is_plain<Arch>) {
        code_block<Arch> x;
        for (std::size_t i = 0; i < 4; ++i)
            x[i] = std::uint32_t(p[4 * i]) | std::uint32_t(p[4 * i + 1]) << 8 |
                   std::uint32_t(p[4 * i + 2]) << 16 | std::uint32_t(p[4 * i + 3]) << 24;
        return x;
    } else {
        return native::load_codes(p, units, code_block<Arch>{});
    }
}

/// Nibble K of every 16-bit word.
template <class Arch, int K>
SPARQ_ALWAYS_INLINE code_block<Arch> nibble_words(const code_block<Arch>& x) noexcept {
    if constexpr (is_plain<Arch>) {
        code_block<Arch> words;
        for (std::size_t i = 0; i < 4; ++i) words[i] = (x[i] >> (4 * K)) & 0x000f000fu;
        return words;
    } else {
        return native::nibble_words<K>(x);
    }
}

/// Adds the products of words and weights [block_words] to the sums, exactly; which sum
/// gets a product is not said.
template <class Arch>
SPARQ_ALWAYS_INLINE code_block<Arch> add_products(const code_block<Arch>& sums,
                                                  const code_block<Arch>& words,
                                                  const std::int16_t* weights) noexcept {
    if constexpr (is_plain<Arch>) {
        code_block<Arch> result = sums;
        for (std::size_t i = 0; i < 4; ++i)
            result[i] += (words[i] & 15u) * static_cast<std::uint32_t>(weights[2 * i]) +
                         (words[i] >> 16) * static_cast<std::uint32_t>(weights[2 * i + 1]);
        return result;
    } else {
        return native::add_products(sums, words, weights);
    }
}

/// out[i] = scale[i] * the sum of the lanes of x[i], rounded to float before and after.
template <class Arch>
SPARQ_ALWAYS_INLINE void scaled_sums_of_four(const std::array<code_block<Arch>, 4>& x,
                                             const std::array<float, 4>& scale,
                                             float* out) noexcept {
    if constexpr (is_plain<Arch>) {
        for (std::size_t i = 0; i < 4; ++i)
            out[i] = scale[i] * static_cast<float>(static_cast<std::int32_t>(x[i][0] + x[i][1] +
                                                                             x[i][2] + x[i][3]));
    } else {
        native::store_floats(out, native::multiply(native::sum_each(x[0], x[1], x[2], x[3]),
                                                   native::load_floats(scale.data())));
    }
}

/// The upper nibbles of the bytes where the lower ones were.
template <class Arch>
SPARQ_ALWAYS_INLINE code_block<Arch> upper_nibbles(const code_block<Arch>& x) noexcept {
    if constexpr (is_plain<Arch>)
        return {x[0] >> 4, x[1] >> 4, x[2] >> 4, x[3] >> 4};
    else
        return native::upper_nibbles(x);
}

/// The lower nibble of byte `byte` of every 32-bit word, times 256^byte (exact).
template <class Arch>
SPARQ_ALWAYS_INLINE f32<Arch> nibble_floats(const code_block<Arch>& x, unsigned byte) noexcept {
    if constexpr (is_plain<Arch>) {
        f32<Arch> result;
        for (std::size_t i = 0; i < 4; ++i)
            result.lane[i] =
                static_cast<float>(static_cast<std::int32_t>(x[i] & (15u << (8 * byte))));
        return result;
    } else {
        return f32<Arch>(native::nibble_floats(x, byte));
    }
}

/// out[b]: the lowest bits of words b and 16 + b.
template <class Arch>
SPARQ_ALWAYS_INLINE void pack_codes(const float* words, std::uint8_t* out) noexcept {
    if constexpr (is_plain<Arch>) {
        for (std::size_t b = 0; b < unit_bytes; ++b)
            out[b] = static_cast<std::uint8_t>((std::bit_cast<std::uint32_t>(words[b]) & 15u) |
                                               std::bit_cast<std::uint32_t>(words[16 + b]) << 4);
    } else {
        native::pack_codes(words, out);
    }
}

/// The same of two vectors of words.
template <class Arch>
    requires(2 * lanes<Arch> == unit_codes)
SPARQ_ALWAYS_INLINE void pack_codes(const f32<Arch>& lower, const f32<Arch>& upper,
                                    std::uint8_t* out) noexcept {
    using reg = typename f32<Arch>::register_type;
    native::pack_codes(static_cast<reg>(lower), static_cast<reg>(upper), out);
}

/// The integer part of x >= 0 below what is in every 32-bit word, moved up by Bits.
template <class Arch, int Bits>
SPARQ_ALWAYS_INLINE code_block<Arch> push_codes(const code_block<Arch>& words,
                                                const f32<Arch>& x) noexcept {
    if constexpr (is_plain<Arch>) {
        code_block<Arch> result;
        for (std::size_t i = 0; i < 4; ++i)
            result[i] = words[i] << Bits | static_cast<std::uint32_t>(x.lane[i]);
        return result;
    } else {
        using reg = typename f32<Arch>::register_type;
        return native::push_codes<Bits>(words, static_cast<reg>(x));
    }
}

/// Column i < columns of the four rows of words: 16 bytes, lowest ones first, at
/// out + i * stride.
template <class Arch>
SPARQ_ALWAYS_INLINE void store_columns(const code_block<Arch> (&rows)[4], std::size_t columns,
                                       std::uint8_t* out, std::size_t stride) noexcept {
    if constexpr (is_plain<Arch>) {
        for (std::size_t i = 0; i < columns; ++i)
            for (std::size_t b = 0; b < 16; ++b)
                out[i * stride + b] = static_cast<std::uint8_t>(rows[b / 4][i] >> (b % 4 * 8));
    } else {
        using native::zip_lower, native::zip_upper;
        float words[4][lanes<Arch>];
        for (std::size_t m = 0; m < 4; ++m) native::store_block(words[m], rows[m]);
        for (std::size_t l = 0; l < columns; l += 4) {
            const auto row = [&](std::size_t m) { return native::load_floats(words[m] + l); };
            const auto a = zip_lower(row(0), row(2)), b = zip_lower(row(1), row(3));
            const auto c = zip_upper(row(0), row(2)), d = zip_upper(row(1), row(3));
            float column[4][4];
            native::store_floats(column[0], zip_lower(a, b));
            native::store_floats(column[1], zip_upper(a, b));
            native::store_floats(column[2], zip_lower(c, d));
            native::store_floats(column[3], zip_upper(c, d));
            for (std::size_t i = 0; i < 4 && l + i < columns; ++i)
                std::memcpy(out + (l + i) * stride, column[i], 16);
        }
    }
}

/// sums[4 l + m] += from[m * stride + l] for l and m below 4.
template <class Arch>
SPARQ_ALWAYS_INLINE void add_transposed(const float* from, std::size_t stride,
                                        float* sums) noexcept {
    if constexpr (is_plain<Arch>) {
        for (std::size_t l = 0; l < 4; ++l)
            for (std::size_t m = 0; m < 4; ++m) sums[4 * l + m] += from[m * stride + l];
    } else {
        using native::zip_lower, native::zip_upper;
        const auto row = [&](std::size_t m) { return native::load_floats(from + m * stride); };
        const auto add = [&](std::size_t l, const auto& x) {
            native::store_floats(sums + 4 * l, native::add(native::load_floats(sums + 4 * l), x));
        };
        const auto a = zip_lower(row(0), row(2)), b = zip_lower(row(1), row(3));  // lanes 0 and 1
        const auto c = zip_upper(row(0), row(2)), d = zip_upper(row(1), row(3));
        add(0, zip_lower(a, b)), add(1, zip_upper(a, b));
        add(2, zip_lower(c, d)), add(3, zip_upper(c, d));
    }
}

}  // namespace detail::simd
SPARQ_NAMESPACE_END
