// SPDX-License-Identifier: MIT
// 4-bit codes by intrinsics: blocks of them, their products with 16-bit weights, their
// values as floats. A block has as many bytes as a vector of floats; overloads on its type.
//
// All of it is always inlined: no symbol of it is left to be shared between
// translation units that are compiled with different flags.
#pragma once

#include <cstddef>
#include <cstdint>

#include "native_blocks.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail::native {

/// The type of a block for vectors of `Lanes` floats.
template <std::size_t Lanes>
struct code_block_of {
    using type = nowhere;
};

#if defined(SPARQ_HAS_X86)

/// The value in a register, computed here: g++ would add the integers of a tile in an order
/// of its own, with more of them alive than there are registers (half the speed for G = 4).
template <class Block>
SPARQ_ALWAYS_INLINE Block in_register(Block x) noexcept {
#if defined(__GNUC__) || defined(__clang__)
    asm("" : "+v"(x));
#endif
    return x;
}

// --- 128 bits ----------------------------------------------------------------------

template <>
struct code_block_of<4> {
    using type = __m128i;
};

SPARQ_ALWAYS_INLINE __m128i load_codes(const std::uint8_t* p, std::size_t, __m128i) noexcept {
    return load_words(p);
}
/// Nibble K of every 16-bit word.
template <int K>
SPARQ_ALWAYS_INLINE __m128i nibble_words(__m128i x) noexcept {
    const __m128i shifted = K == 0 ? x : _mm_srli_epi16(x, 4 * K);
    return K == 3 ? shifted : _mm_and_si128(shifted, _mm_set1_epi16(15));
}
/// sums + the products of words and weights, added in pairs.
SPARQ_ALWAYS_INLINE __m128i add_products(__m128i sums, __m128i words,
                                         const std::int16_t* weights) noexcept {
    return in_register(_mm_add_epi32(sums, _mm_madd_epi16(words, load_words(weights))));
}
SPARQ_ALWAYS_INLINE __m128 multiply(__m128 a, __m128 b) noexcept { return _mm_mul_ps(a, b); }
/// The four sums of the lanes of a, b, c and d as floats.
SPARQ_ALWAYS_INLINE __m128 sum_each(__m128i a, __m128i b, __m128i c, __m128i d) noexcept {
    const __m128i ab = _mm_add_epi32(_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
    const __m128i cd = _mm_add_epi32(_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
    return _mm_cvtepi32_ps(_mm_add_epi32(_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd)));
}
/// The upper nibbles of the bytes where the lower ones were.
SPARQ_ALWAYS_INLINE __m128i upper_nibbles(__m128i x) noexcept { return _mm_srli_epi32(x, 4); }
/// The lower nibble of byte `byte` of every 32-bit word, times 256^byte.
SPARQ_ALWAYS_INLINE __m128 nibble_floats(__m128i x, unsigned byte) noexcept {
    return _mm_cvtepi32_ps(_mm_and_si128(x, _mm_set1_epi32(15 << (8 * byte))));
}
/// Byte b: the lowest bits of words b and 16 + b.
SPARQ_ALWAYS_INLINE void pack_codes(const float* words, std::uint8_t* out) noexcept {
    const auto bytes_of_four = [words](std::size_t i) {
        const __m128i lower = load_words(words + i), upper = load_words(words + 16 + i);
        return _mm_and_si128(_mm_or_si128(lower, _mm_slli_epi32(upper, 4)), _mm_set1_epi32(255));
    };
    store_words(out, _mm_packus_epi16(_mm_packs_epi32(bytes_of_four(0), bytes_of_four(4)),
                                      _mm_packs_epi32(bytes_of_four(8), bytes_of_four(12))));
}

#if defined(__AVX2__)
// --- 256 bits ----------------------------------------------------------------------

template <>
struct code_block_of<8> {
    using type = __m256i;
};

SPARQ_ALWAYS_INLINE __m256i load_codes(const std::uint8_t* p, std::size_t units, __m256i) noexcept {
    if (units == 1) return _mm256_inserti128_si256(_mm256_setzero_si256(), load_words(p), 0);
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
template <int K>
SPARQ_ALWAYS_INLINE __m256i nibble_words(__m256i x) noexcept {
    const __m256i shifted = K == 0 ? x : _mm256_srli_epi16(x, 4 * K);
    return K == 3 ? shifted : _mm256_and_si256(shifted, _mm256_set1_epi16(15));
}
SPARQ_ALWAYS_INLINE __m256i add_products(__m256i sums, __m256i words,
                                         const std::int16_t* weights) noexcept {
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
    return in_register(_mm256_add_epi32(sums, _mm256_madd_epi16(words, w)));
}
SPARQ_ALWAYS_INLINE __m128 sum_each(__m256i a, __m256i b, __m256i c, __m256i d) noexcept {
    const __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    const __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    const __m256i all =
        _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
    return _mm_cvtepi32_ps(
        _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1)));
}
SPARQ_ALWAYS_INLINE __m256i upper_nibbles(__m256i x) noexcept { return _mm256_srli_epi32(x, 4); }
SPARQ_ALWAYS_INLINE __m256 nibble_floats(__m256i x, unsigned byte) noexcept {
    return _mm256_cvtepi32_ps(_mm256_and_si256(x, _mm256_set1_epi32(15 << (8 * byte))));
}
#elif defined(__AVX__)
// --- 256 bits of floats, 128 of integers -------------------------------------------

struct two_code_blocks {
    __m128i lower, upper;
};
template <>
struct code_block_of<8> {
    using type = two_code_blocks;
};

SPARQ_ALWAYS_INLINE two_code_blocks load_codes(const std::uint8_t* p, std::size_t units,
                                               two_code_blocks) noexcept {
    return {load_words(p), units == 1 ? _mm_setzero_si128() : load_words(p + 16)};
}
template <int K>
SPARQ_ALWAYS_INLINE two_code_blocks nibble_words(two_code_blocks x) noexcept {
    return {nibble_words<K>(x.lower), nibble_words<K>(x.upper)};
}
SPARQ_ALWAYS_INLINE two_code_blocks add_products(two_code_blocks sums, two_code_blocks words,
                                                 const std::int16_t* weights) noexcept {
    return {add_products(sums.lower, words.lower, weights),
            add_products(sums.upper, words.upper, weights + 8)};
}
SPARQ_ALWAYS_INLINE __m128 sum_each(two_code_blocks a, two_code_blocks b, two_code_blocks c,
                                    two_code_blocks d) noexcept {
    const auto fold = [](two_code_blocks x) { return _mm_add_epi32(x.lower, x.upper); };
    return sum_each(fold(a), fold(b), fold(c), fold(d));
}
SPARQ_ALWAYS_INLINE two_code_blocks upper_nibbles(two_code_blocks x) noexcept {
    return {upper_nibbles(x.lower), upper_nibbles(x.upper)};
}
SPARQ_ALWAYS_INLINE __m256 nibble_floats(two_code_blocks x, unsigned byte) noexcept {
    const __m128 lower = nibble_floats(x.lower, byte), upper = nibble_floats(x.upper, byte);
    return _mm256_insertf128_ps(_mm256_castps128_ps256(lower), upper, 1);
}
#endif  // __AVX2__, __AVX__

#if defined(__AVX512F__)
// --- 512 bits ----------------------------------------------------------------------

template <>
struct code_block_of<16> {
    using type = __m512i;
};

SPARQ_ALWAYS_INLINE __m512i load_codes(const std::uint8_t* p, std::size_t units, __m512i) noexcept {
    const auto words = static_cast<__mmask16>((1u << (4 * units)) - 1);
    return _mm512_maskz_loadu_epi32(words, p);
}
template <int K>
SPARQ_ALWAYS_INLINE __m512i nibble_words(__m512i x) noexcept {
    const __m512i shifted = K == 0 ? x : _mm512_maskz_srli_epi32(0xffff, x, 4 * K);
    return _mm512_and_si512(shifted, _mm512_set1_epi32(0x000f000f));
}
SPARQ_ALWAYS_INLINE __m512i add_products(__m512i sums, __m512i words,
                                         const std::int16_t* weights) noexcept {
    const __m512i w = _mm512_loadu_si512(weights);
#if defined(__AVX512BW__)
    return in_register(_mm512_add_epi32(sums, _mm512_madd_epi16(words, w)));
#else
    // The words are 0 to 15: what is above the lower half of a product is the sign's affair.
    const auto all = static_cast<__mmask16>(0xffff);
    const __m512i even = _mm512_maskz_srai_epi32(all, _mm512_maskz_slli_epi32(all, w, 16), 16);
    const __m512i odd = _mm512_maskz_srai_epi32(all, w, 16);
    const __m512i lower = _mm512_mullo_epi32(_mm512_and_si512(words, _mm512_set1_epi32(15)), even);
    const __m512i upper = _mm512_mullo_epi32(_mm512_maskz_srli_epi32(all, words, 16), odd);
    return _mm512_add_epi32(sums, _mm512_add_epi32(lower, upper));
#endif
}
SPARQ_ALWAYS_INLINE __m128 sum_each(__m512i a, __m512i b, __m512i c, __m512i d) noexcept {
    const auto pairs = [](__m512i x, __m512i y) {
        return _mm512_add_epi32(_mm512_maskz_unpacklo_epi32(0xffff, x, y),
                                _mm512_maskz_unpackhi_epi32(0xffff, x, y));
    };
    const __m512i ab = pairs(a, b), cd = pairs(c, d);
    const __m512i all = _mm512_add_epi32(_mm512_maskz_unpacklo_epi64(0xff, ab, cd),
                                         _mm512_maskz_unpackhi_epi64(0xff, ab, cd));
    const __m256i half = _mm256_add_epi32(_mm512_maskz_extracti64x4_epi64(0xff, all, 0),
                                          _mm512_maskz_extracti64x4_epi64(0xff, all, 1));
    return _mm_cvtepi32_ps(
        _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
}
SPARQ_ALWAYS_INLINE __m512i upper_nibbles(__m512i x) noexcept {
    return _mm512_maskz_srli_epi32(0xffff, x, 4);
}
SPARQ_ALWAYS_INLINE __m512 nibble_floats(__m512i x, unsigned byte) noexcept {
    return _mm512_maskz_cvtepi32_ps(0xffff,
                                    _mm512_and_si512(x, _mm512_set1_epi32(15 << (8 * byte))));
}
/// Byte b: the lowest bits of words b of both.
SPARQ_ALWAYS_INLINE void pack_codes(__m512 lower, __m512 upper, std::uint8_t* out) noexcept {
    const auto all = static_cast<__mmask16>(0xffff);
    const __m512i shifted = _mm512_maskz_slli_epi32(all, _mm512_castps_si512(upper), 4);
    const __m512i both = _mm512_or_si512(_mm512_castps_si512(lower), shifted);
    store_words(out, _mm512_maskz_cvtepi32_epi8(all, both));
}
#endif  // __AVX512F__

#elif defined(SPARQ_HAS_NEON)

template <>
struct code_block_of<4> {
    using type = uint32x4_t;
};

SPARQ_ALWAYS_INLINE uint32x4_t load_codes(const std::uint8_t* p, std::size_t, uint32x4_t) noexcept {
    return vreinterpretq_u32_u8(vld1q_u8(p));
}
template <int K>
SPARQ_ALWAYS_INLINE uint32x4_t nibble_words(uint32x4_t x) noexcept {
    const uint32x4_t mask = vdupq_n_u32(0x000f000f);
    if constexpr (K == 0)
        return vandq_u32(x, mask);
    else
        return vandq_u32(vshrq_n_u32(x, 4 * K), mask);
}
SPARQ_ALWAYS_INLINE uint32x4_t add_products(uint32x4_t sums, uint32x4_t words,
                                            const std::int16_t* weights) noexcept {
    const int16x8_t codes = vreinterpretq_s16_u32(words), w = vld1q_s16(weights);
    const int32x4_t half =
        vmlal_s16(vreinterpretq_s32_u32(sums), vget_low_s16(codes), vget_low_s16(w));
    return vreinterpretq_u32_s32(vmlal_high_s16(half, codes, w));
}
SPARQ_ALWAYS_INLINE float32x4_t multiply(float32x4_t a, float32x4_t b) noexcept {
    return vmulq_f32(a, b);
}
SPARQ_ALWAYS_INLINE float32x4_t sum_each(uint32x4_t a, uint32x4_t b, uint32x4_t c,
                                         uint32x4_t d) noexcept {
    const uint32x4_t sums = vpaddq_u32(vpaddq_u32(a, b), vpaddq_u32(c, d));
    return vcvtq_f32_s32(vreinterpretq_s32_u32(sums));
}
SPARQ_ALWAYS_INLINE uint32x4_t upper_nibbles(uint32x4_t x) noexcept { return vshrq_n_u32(x, 4); }
SPARQ_ALWAYS_INLINE float32x4_t nibble_floats(uint32x4_t x, unsigned byte) noexcept {
    return vcvtq_f32_u32(vandq_u32(x, vdupq_n_u32(15u << (8 * byte))));
}
SPARQ_ALWAYS_INLINE void pack_codes(const float* words, std::uint8_t* out) noexcept {
    const auto bytes_of_four = [words](std::size_t i) {
        const uint32x4_t lower = vreinterpretq_u32_f32(vld1q_f32(words + i));
        const uint32x4_t upper = vreinterpretq_u32_f32(vld1q_f32(words + 16 + i));
        return vmovn_u32(vorrq_u32(lower, vshlq_n_u32(upper, 4)));
    };
    const auto bytes_of_eight = [&](std::size_t i) {
        return vmovn_u16(vcombine_u16(bytes_of_four(i), bytes_of_four(i + 4)));
    };
    vst1q_u8(out, vcombine_u8(bytes_of_eight(0), bytes_of_eight(8)));
}

#else

nowhere load_codes(nowhere, std::size_t, nowhere);
template <int K>
nowhere nibble_words(nowhere);
nowhere add_products(nowhere, nowhere, nowhere);
nowhere multiply(nowhere, nowhere);
nowhere sum_each(nowhere, nowhere, nowhere, nowhere);
nowhere upper_nibbles(nowhere);
nowhere nibble_floats(nowhere, unsigned);
void pack_codes(nowhere, nowhere);

#endif

}  // namespace detail::native
SPARQ_NAMESPACE_END
