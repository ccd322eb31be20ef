// SPDX-License-Identifier: MIT
// Bytes by intrinsics: what a scan of codes does with registers of them.
//
// byte_ops<N> works on registers of N bytes, lanes of 16 bytes each; there is one for each
// width that the translation unit is compiled for. Words are of 16 bits, longs of 32.
// All of it is always inlined, as in native.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "native_blocks.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail::native {

template <std::size_t Bytes>
struct byte_ops;

#define SPARQ_OP SPARQ_ALWAYS_INLINE static

#if defined(SPARQ_HAS_X86)

template <>
struct byte_ops<16> {
    using reg = __m128i;
    SPARQ_OP reg zero() noexcept { return _mm_setzero_si128(); }
    SPARQ_OP reg load(const void* p) noexcept { return load_words(p); }
    SPARQ_OP reg load_lane(const void* p) noexcept { return load_words(p); }
    SPARQ_OP void store(void* p, reg x) noexcept { store_words(p, x); }
    SPARQ_OP reg splat(std::uint8_t x) noexcept { return _mm_set1_epi8(static_cast<char>(x)); }
    SPARQ_OP reg splat_long(std::int32_t x) noexcept { return _mm_set1_epi32(x); }
    SPARQ_OP reg both(reg a, reg b) noexcept { return _mm_and_si128(a, b); }
    SPARQ_OP reg either(reg a, reg b) noexcept { return _mm_or_si128(a, b); }
    template <int N>
    SPARQ_OP reg right(reg x) noexcept {
        return _mm_srli_epi16(x, N);
    }
    template <int N>
    SPARQ_OP reg left(reg x) noexcept {
        return _mm_slli_epi16(x, N);
    }
    SPARQ_OP reg add_bytes(reg a, reg b) noexcept { return _mm_add_epi8(a, b); }
    SPARQ_OP reg add_words(reg a, reg b) noexcept { return _mm_add_epi16(a, b); }
    SPARQ_OP reg subtract_words(reg a, reg b) noexcept { return _mm_sub_epi16(a, b); }
    SPARQ_OP reg add_longs(reg a, reg b) noexcept { return _mm_add_epi32(a, b); }
    SPARQ_OP reg zip_bytes_lower(reg a, reg b) noexcept { return _mm_unpacklo_epi8(a, b); }
    SPARQ_OP reg zip_bytes_upper(reg a, reg b) noexcept { return _mm_unpackhi_epi8(a, b); }
    SPARQ_OP reg zip_words_lower(reg a, reg b) noexcept { return _mm_unpacklo_epi16(a, b); }
    SPARQ_OP reg zip_words_upper(reg a, reg b) noexcept { return _mm_unpackhi_epi16(a, b); }
    SPARQ_OP reg multiply_add_words(reg a, reg b) noexcept { return _mm_madd_epi16(a, b); }
#if defined(__SSSE3__)
    SPARQ_OP reg look_up(reg table, reg index) noexcept { return _mm_shuffle_epi8(table, index); }
#endif
};

/// out[i] = (words[i] + rest[i]) >> 8 of 16 words in two blocks, as bytes.
SPARQ_ALWAYS_INLINE void store_upper_bytes(std::uint8_t* out, __m128i low, __m128i high) noexcept {
    store_words(out, _mm_packus_epi16(_mm_srli_epi16(low, 8), _mm_srli_epi16(high, 8)));
}
/// a * x + y + c in words.
SPARQ_ALWAYS_INLINE __m128i multiply_add_words(std::int16_t a, __m128i x, __m128i y) noexcept {
    return _mm_add_epi16(_mm_mullo_epi16(_mm_set1_epi16(a), x), y);
}
SPARQ_ALWAYS_INLINE __m128i add_words(__m128i x, __m128i y) noexcept { return _mm_add_epi16(x, y); }
SPARQ_ALWAYS_INLINE __m128i splat_words(int x) noexcept {
    return _mm_set1_epi16(static_cast<short>(x));
}

#if defined(__AVX2__)
template <>
struct byte_ops<32> {
    using reg = __m256i;
    SPARQ_OP reg zero() noexcept { return _mm256_setzero_si256(); }
    SPARQ_OP reg load(const void* p) noexcept {
        return _mm256_loadu_si256(static_cast<const __m256i*>(p));
    }
    SPARQ_OP reg load_lane(const void* p) noexcept {
        return _mm256_broadcastsi128_si256(load_words(p));
    }
    SPARQ_OP void store(void* p, reg x) noexcept {
        _mm256_storeu_si256(static_cast<__m256i*>(p), x);
    }
    SPARQ_OP reg splat(std::uint8_t x) noexcept { return _mm256_set1_epi8(static_cast<char>(x)); }
    SPARQ_OP reg splat_long(std::int32_t x) noexcept { return _mm256_set1_epi32(x); }
    SPARQ_OP reg both(reg a, reg b) noexcept { return _mm256_and_si256(a, b); }
    SPARQ_OP reg either(reg a, reg b) noexcept { return _mm256_or_si256(a, b); }
    template <int N>
    SPARQ_OP reg right(reg x) noexcept {
        return _mm256_srli_epi16(x, N);
    }
    template <int N>
    SPARQ_OP reg left(reg x) noexcept {
        return _mm256_slli_epi16(x, N);
    }
    SPARQ_OP reg add_bytes(reg a, reg b) noexcept { return _mm256_add_epi8(a, b); }
    SPARQ_OP reg add_words(reg a, reg b) noexcept { return _mm256_add_epi16(a, b); }
    SPARQ_OP reg subtract_words(reg a, reg b) noexcept { return _mm256_sub_epi16(a, b); }
    SPARQ_OP reg add_longs(reg a, reg b) noexcept { return _mm256_add_epi32(a, b); }
    SPARQ_OP reg zip_bytes_lower(reg a, reg b) noexcept { return _mm256_unpacklo_epi8(a, b); }
    SPARQ_OP reg zip_bytes_upper(reg a, reg b) noexcept { return _mm256_unpackhi_epi8(a, b); }
    SPARQ_OP reg zip_words_lower(reg a, reg b) noexcept { return _mm256_unpacklo_epi16(a, b); }
    SPARQ_OP reg zip_words_upper(reg a, reg b) noexcept { return _mm256_unpackhi_epi16(a, b); }
    SPARQ_OP reg multiply_add_words(reg a, reg b) noexcept { return _mm256_madd_epi16(a, b); }
    SPARQ_OP reg look_up(reg table, reg index) noexcept {
        return _mm256_shuffle_epi8(table, index);
    }
};
#endif  // __AVX2__

#if defined(__AVX512BW__)
template <>
struct byte_ops<64> {
    using reg = __m512i;
    static constexpr std::uint64_t all_bytes = ~std::uint64_t(0);
    static constexpr std::uint32_t all_words = ~std::uint32_t(0);
    SPARQ_OP reg zero() noexcept { return _mm512_setzero_si512(); }
    SPARQ_OP reg load(const void* p) noexcept { return _mm512_loadu_si512(p); }
    SPARQ_OP reg load_lane(const void* p) noexcept {
        return _mm512_maskz_broadcast_i32x4(0xffff, load_words(p));
    }
    SPARQ_OP void store(void* p, reg x) noexcept { _mm512_storeu_si512(p, x); }
    SPARQ_OP reg splat(std::uint8_t x) noexcept { return _mm512_set1_epi8(static_cast<char>(x)); }
    SPARQ_OP reg splat_long(std::int32_t x) noexcept { return _mm512_set1_epi32(x); }
    SPARQ_OP reg both(reg a, reg b) noexcept { return _mm512_and_si512(a, b); }
    SPARQ_OP reg either(reg a, reg b) noexcept { return _mm512_or_si512(a, b); }
    template <int N>
    SPARQ_OP reg right(reg x) noexcept {
        return _mm512_maskz_srli_epi16(all_words, x, N);
    }
    template <int N>
    SPARQ_OP reg left(reg x) noexcept {
        return _mm512_maskz_slli_epi16(all_words, x, N);
    }
    SPARQ_OP reg add_bytes(reg a, reg b) noexcept { return _mm512_add_epi8(a, b); }
    SPARQ_OP reg add_words(reg a, reg b) noexcept { return _mm512_add_epi16(a, b); }
    SPARQ_OP reg subtract_words(reg a, reg b) noexcept { return _mm512_sub_epi16(a, b); }
    SPARQ_OP reg add_longs(reg a, reg b) noexcept { return _mm512_add_epi32(a, b); }
    SPARQ_OP reg zip_bytes_lower(reg a, reg b) noexcept {
        return _mm512_maskz_unpacklo_epi8(all_bytes, a, b);
    }
    SPARQ_OP reg zip_bytes_upper(reg a, reg b) noexcept {
        return _mm512_maskz_unpackhi_epi8(all_bytes, a, b);
    }
    SPARQ_OP reg zip_words_lower(reg a, reg b) noexcept {
        return _mm512_maskz_unpacklo_epi16(all_words, a, b);
    }
    SPARQ_OP reg zip_words_upper(reg a, reg b) noexcept {
        return _mm512_maskz_unpackhi_epi16(all_words, a, b);
    }
    SPARQ_OP reg multiply_add_words(reg a, reg b) noexcept {
        return _mm512_maskz_madd_epi16(0xffff, a, b);
    }
    SPARQ_OP reg look_up(reg table, reg index) noexcept {
        return _mm512_maskz_shuffle_epi8(all_bytes, table, index);
    }
};

/// Tables of `terms` terms, an even number, two at a time:
///   out[i][code] = (a[i] * first[code] + b[i] * second[code] + c[i] + 128) >> 8
/// in words, a, b (without it if null) and c the lower words of floats that come in sixteens.
SPARQ_ALWAYS_INLINE void store_tables(const float* a, const float* b, const float* c,
                                      std::size_t terms, const std::uint16_t (&first)[16],
                                      const std::uint16_t (&second)[16], std::uint8_t* out,
                                      __m512i) noexcept {
    using ops = byte_ops<64>;
    const auto twice = [](const std::uint16_t* words) {
        return _mm512_maskz_broadcast_i64x4(0xff, byte_ops<32>::load(words));
    };
    const __m512i of_a = twice(first), of_b = twice(second), half = _mm512_set1_epi32(128);
    const __m512i front = _mm512_maskz_set1_epi16(0xffff0000u, 2);
    for (std::size_t i = 0; i < terms; i += 16) {
        const __m512i all_a = ops::load(a + i), all_b = b == nullptr ? all_a : ops::load(b + i);
        const __m512i all_c = _mm512_add_epi32(ops::load(c + i), half);
        for (std::size_t j = 0; j < std::min<std::size_t>(16, terms - i); j += 2) {
            const __m512i words = _mm512_add_epi16(front, _mm512_set1_epi16(short(2 * j)));
            const auto of_two = [&words](__m512i x) {
                return _mm512_maskz_permutexvar_epi16(ops::all_words, words, x);
            };
            __m512i entry =
                _mm512_add_epi16(_mm512_mullo_epi16(of_two(all_a), of_a), of_two(all_c));
            if (b != nullptr)
                entry = _mm512_add_epi16(entry, _mm512_mullo_epi16(of_two(all_b), of_b));
            const __m256i bytes = _mm512_maskz_cvtepi16_epi8(ops::all_words, ops::right<8>(entry));
            byte_ops<32>::store(out + (i + j) * 16, bytes);
        }
    }
}
#endif  // __AVX512BW__

#elif defined(SPARQ_HAS_NEON)

template <>
struct byte_ops<16> {
    using reg = uint8x16_t;
    SPARQ_OP uint16x8_t words(reg x) noexcept { return vreinterpretq_u16_u8(x); }
    SPARQ_OP reg bytes(uint16x8_t x) noexcept { return vreinterpretq_u8_u16(x); }
    SPARQ_OP reg zero() noexcept { return vdupq_n_u8(0); }
    SPARQ_OP reg load(const void* p) noexcept {
        return vld1q_u8(static_cast<const std::uint8_t*>(p));
    }
    SPARQ_OP reg load_lane(const void* p) noexcept { return load(p); }
    SPARQ_OP void store(void* p, reg x) noexcept { vst1q_u8(static_cast<std::uint8_t*>(p), x); }
    SPARQ_OP reg splat(std::uint8_t x) noexcept { return vdupq_n_u8(x); }
    SPARQ_OP reg splat_long(std::int32_t x) noexcept {
        return vreinterpretq_u8_s32(vdupq_n_s32(x));
    }
    SPARQ_OP reg both(reg a, reg b) noexcept { return vandq_u8(a, b); }
    SPARQ_OP reg either(reg a, reg b) noexcept { return vorrq_u8(a, b); }
    template <int N>
    SPARQ_OP reg right(reg x) noexcept {
        return bytes(vshrq_n_u16(words(x), N));
    }
    template <int N>
    SPARQ_OP reg left(reg x) noexcept {
        return bytes(vshlq_n_u16(words(x), N));
    }
    SPARQ_OP reg add_bytes(reg a, reg b) noexcept { return vaddq_u8(a, b); }
    SPARQ_OP reg add_words(reg a, reg b) noexcept { return bytes(vaddq_u16(words(a), words(b))); }
    SPARQ_OP reg subtract_words(reg a, reg b) noexcept {
        return bytes(vsubq_u16(words(a), words(b)));
    }
    SPARQ_OP reg add_longs(reg a, reg b) noexcept {
        return vreinterpretq_u8_s32(vaddq_s32(vreinterpretq_s32_u8(a), vreinterpretq_s32_u8(b)));
    }
    SPARQ_OP reg zip_bytes_lower(reg a, reg b) noexcept { return vzip1q_u8(a, b); }
    SPARQ_OP reg zip_bytes_upper(reg a, reg b) noexcept { return vzip2q_u8(a, b); }
    SPARQ_OP reg zip_words_lower(reg a, reg b) noexcept {
        return bytes(vzip1q_u16(words(a), words(b)));
    }
    SPARQ_OP reg zip_words_upper(reg a, reg b) noexcept {
        return bytes(vzip2q_u16(words(a), words(b)));
    }
    SPARQ_OP reg multiply_add_words(reg a, reg b) noexcept {
        const int16x8_t x = vreinterpretq_s16_u8(a), y = vreinterpretq_s16_u8(b);
        return vreinterpretq_u8_s32(
            vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y)));
    }
    SPARQ_OP reg look_up(reg table, reg index) noexcept { return vqtbl1q_u8(table, index); }
};

SPARQ_ALWAYS_INLINE void store_upper_bytes(std::uint8_t* out, uint16x8_t low,
                                           uint16x8_t high) noexcept {
    vst1q_u8(out, vcombine_u8(vshrn_n_u16(low, 8), vshrn_n_u16(high, 8)));
}
SPARQ_ALWAYS_INLINE uint16x8_t multiply_add_words(std::int16_t a, uint16x8_t x,
                                                  uint16x8_t y) noexcept {
    return vmlaq_n_u16(y, x, static_cast<std::uint16_t>(a));
}
SPARQ_ALWAYS_INLINE uint16x8_t add_words(uint16x8_t x, uint16x8_t y) noexcept {
    return vaddq_u16(x, y);
}
SPARQ_ALWAYS_INLINE uint16x8_t splat_words(int x) noexcept {
    return vdupq_n_u16(static_cast<std::uint16_t>(x));
}

#else

void store_upper_bytes(std::uint8_t*, nowhere, nowhere);
nowhere multiply_add_words(std::int16_t, nowhere, nowhere);
nowhere add_words(nowhere, nowhere);
nowhere splat_words(int);

#endif

#undef SPARQ_OP

void store_tables(nowhere);  // elsewhere one table at a time

/// The widest registers with byte shuffles; 0 where there are none.
inline constexpr std::size_t look_up_bytes =
#if defined(SPARQ_HAS_X86) && defined(__AVX512BW__)
    64;
#elif defined(SPARQ_HAS_X86) && defined(__AVX2__)
    32;
#elif defined(SPARQ_HAS_NEON) || (defined(SPARQ_HAS_X86) && defined(__SSSE3__))
    16;
#else
    0;
#endif

}  // namespace detail::native
SPARQ_NAMESPACE_END
