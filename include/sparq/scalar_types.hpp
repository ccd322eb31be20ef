// SPDX-License-Identifier: MIT
// half and bfloat16: two-byte storage for keys and values, exact conversions.
//
// The library's own types, since neither _Float16 nor __bf16 exists in every
// supported compiler. They store; arithmetic is done in float. half has the bits of
// IEEE 754 binary16 (as in ggml_fp16_t), bfloat16 the upper half of a binary32.
//
// Numerics: to float exact; from float round to nearest, ties to even, subnormals
// kept, overflow to infinity. A NaN stays a NaN of the same sign with the upper
// payload bits, and becomes quiet.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>

#include "config.hpp"

SPARQ_NAMESPACE_BEGIN

namespace detail {

SPARQ_PER_ISA constexpr float half_bits_to_float(std::uint16_t bits) noexcept {
    const std::uint32_t sign = std::uint32_t(bits & 0x8000u) << 16;
    const std::uint32_t magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) {  // infinity, or a NaN made quiet
        const std::uint32_t quiet = magnitude > 0x7c00u ? 0x00400000u : 0u;
        return std::bit_cast<float>(sign | 0x7f800000u | quiet | ((magnitude & 0x3ffu) << 13));
    }
    if (magnitude >= 0x0400u)
        return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
    // Subnormal: magnitude * 2^-24, exact in float.
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(value));
}

SPARQ_PER_ISA constexpr std::uint16_t float_to_half_bits(float value) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    std::uint32_t result = 0;
    if (magnitude > 0x7f800000u) {
        result = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
    } else if (magnitude >= 0x477ff000u) {  // 65520: rounds to infinity
        result = 0x7c00u;
    } else if (magnitude >= 0x38800000u) {  // 2^-14: a normal half
        result = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    } else if (magnitude > 0x33000000u) {  // above 2^-25: a subnormal half
        const std::uint32_t shift = 126u - (magnitude >> 23);
        const std::uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
        const std::uint32_t kept = significand >> shift;
        const std::uint32_t rest = significand & ((1u << shift) - 1u);
        const std::uint32_t tie = 1u << (shift - 1u);
        result = kept + ((rest > tie || (rest == tie && (kept & 1u) != 0u)) ? 1u : 0u);
    }
    return static_cast<std::uint16_t>(sign | result);
}

SPARQ_PER_ISA constexpr std::uint16_t float_to_bfloat16_bits(float value) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return static_cast<std::uint16_t>((bits >> 16) | 0x0040u);
    return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

SPARQ_PER_ISA constexpr float bfloat16_bits_to_float(std::uint16_t bits) noexcept {
    const std::uint32_t quiet = (bits & 0x7fffu) > 0x7f80u ? 0x00400000u : 0u;
    return std::bit_cast<float>((std::uint32_t(bits) << 16) | quiet);
}

}  // namespace detail

/// IEEE 754 binary16 as storage.
struct half {
    std::uint16_t bits;

    half() = default;
    SPARQ_PER_ISA explicit constexpr half(float value) noexcept
        : bits(detail::float_to_half_bits(value)) {}
    SPARQ_PER_ISA explicit constexpr operator float() const noexcept {
        return detail::half_bits_to_float(bits);
    }

    static constexpr half from_bits(std::uint16_t bits) noexcept {
        half result{};
        result.bits = bits;
        return result;
    }
};

/// The upper 16 bits of an IEEE 754 binary32 as storage.
struct bfloat16 {
    std::uint16_t bits;

    bfloat16() = default;
    SPARQ_PER_ISA explicit constexpr bfloat16(float value) noexcept
        : bits(detail::float_to_bfloat16_bits(value)) {}
    SPARQ_PER_ISA explicit constexpr operator float() const noexcept {
        return detail::bfloat16_bits_to_float(bits);
    }

    static constexpr bfloat16 from_bits(std::uint16_t bits) noexcept {
        bfloat16 result{};
        result.bits = bits;
        return result;
    }
};

static_assert(sizeof(half) == 2 && sizeof(bfloat16) == 2);

/// What keys, values and their d_h-major copy may consist of.
template <class T>
concept cache_element =
    std::same_as<T, float> || std::same_as<T, half> || std::same_as<T, bfloat16>;

SPARQ_NAMESPACE_END
