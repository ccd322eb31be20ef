// SPDX-License-Identifier: MIT
// Codes out of floats by intrinsics: pushed into 32-bit words, which then go to memory.
// Overloads on the type of the block of words, see native_codes.hpp.
//
// All of it is always inlined: no symbol of it is left to be shared between
// translation units that are compiled with different flags.
#pragma once

#include "native_codes.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail::native {

#if defined(SPARQ_HAS_X86)

/// The integer part of x >= 0 below what is in every 32-bit word, moved up by Bits.
template <int Bits>
SPARQ_ALWAYS_INLINE __m128i push_codes(__m128i words, __m128 x) noexcept {
    return _mm_or_si128(_mm_slli_epi32(words, Bits), _mm_cvttps_epi32(x));
}
/// The words as they are, in memory of floats.
SPARQ_ALWAYS_INLINE void store_block(float* p, __m128i x) noexcept { store_words(p, x); }

#if defined(__AVX2__)
template <int Bits>
SPARQ_ALWAYS_INLINE __m256i push_codes(__m256i words, __m256 x) noexcept {
    return _mm256_or_si256(_mm256_slli_epi32(words, Bits), _mm256_cvttps_epi32(x));
}
SPARQ_ALWAYS_INLINE void store_block(float* p, __m256i x) noexcept {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
}
#elif defined(__AVX__)
template <int Bits>
SPARQ_ALWAYS_INLINE two_code_blocks push_codes(two_code_blocks words, __m256 x) noexcept {
    return {push_codes<Bits>(words.lower, _mm256_castps256_ps128(x)),
            push_codes<Bits>(words.upper, _mm256_extractf128_ps(x, 1))};
}
SPARQ_ALWAYS_INLINE void store_block(float* p, two_code_blocks x) noexcept {
    store_words(p, x.lower), store_words(p + 4, x.upper);
}
#endif

#if defined(__AVX512F__)
template <int Bits>
SPARQ_ALWAYS_INLINE __m512i push_codes(__m512i words, __m512 x) noexcept {
    return _mm512_or_si512(_mm512_maskz_slli_epi32(0xffff, words, Bits),
                           _mm512_maskz_cvttps_epi32(0xffff, x));
}
SPARQ_ALWAYS_INLINE void store_block(float* p, __m512i x) noexcept { _mm512_storeu_si512(p, x); }
#endif

#elif defined(SPARQ_HAS_NEON)

template <int Bits>
SPARQ_ALWAYS_INLINE uint32x4_t push_codes(uint32x4_t words, float32x4_t x) noexcept {
    return vorrq_u32(vshlq_n_u32(words, Bits), vcvtq_u32_f32(x));
}
SPARQ_ALWAYS_INLINE void store_block(float* p, uint32x4_t x) noexcept {
    vst1q_f32(p, vreinterpretq_f32_u32(x));
}

#else

template <int Bits>
nowhere push_codes(nowhere, nowhere);
void store_block(nowhere, nowhere);

#endif

}  // namespace detail::native
SPARQ_NAMESPACE_END
