// SPDX-License-Identifier: MIT
// Which intrinsics there are, and 128-bit blocks of elements: moved and zipped for
// transposes, added to doubles.
//
// All of it is always inlined: no symbol of it is left to be shared between
// translation units that are compiled with different flags.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../config.hpp"

#if defined(SPARQ_NO_INTRINSICS)
// As on a target that has none of those below: only arch::plain works.
#elif defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define SPARQ_HAS_X86 1
#elif defined(__aarch64__)
#include <arm_neon.h>
#define SPARQ_HAS_NEON 1
#endif

SPARQ_NAMESPACE_BEGIN
namespace detail::native {

/// Where a target has no instructions for something, its only overload takes this.
struct nowhere {};

/// Vector registers of a target whose vectors have `Lanes` floats.
#if defined(SPARQ_HAS_NEON)
template <std::size_t Lanes>
inline constexpr std::size_t registers = 32;
#else
template <std::size_t Lanes>
inline constexpr std::size_t registers = Lanes < 16 ? 16 : 32;
#endif

#if defined(SPARQ_HAS_X86)

using word_block = __m128i;  // 8 two-byte elements
using float_block = __m128;  // 4 floats

SPARQ_ALWAYS_INLINE word_block load_words(const void* p) noexcept {
    return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
SPARQ_ALWAYS_INLINE void store_words(void* p, word_block x) noexcept {
    _mm_storeu_si128(static_cast<__m128i*>(p), x);
}
SPARQ_ALWAYS_INLINE word_block zip_lower(word_block a, word_block b) noexcept {
    return _mm_unpacklo_epi16(a, b);
}
SPARQ_ALWAYS_INLINE word_block zip_upper(word_block a, word_block b) noexcept {
    return _mm_unpackhi_epi16(a, b);
}
SPARQ_ALWAYS_INLINE float_block load_floats(const float* p) noexcept { return _mm_loadu_ps(p); }
SPARQ_ALWAYS_INLINE void store_floats(float* p, float_block x) noexcept { _mm_storeu_ps(p, x); }
SPARQ_ALWAYS_INLINE float_block zip_lower(float_block a, float_block b) noexcept {
    return _mm_unpacklo_ps(a, b);
}
SPARQ_ALWAYS_INLINE float_block zip_upper(float_block a, float_block b) noexcept {
    return _mm_unpackhi_ps(a, b);
}
SPARQ_ALWAYS_INLINE void add_to_doubles(double* sums, __m128 x) noexcept {
    _mm_storeu_pd(sums, _mm_add_pd(_mm_loadu_pd(sums), _mm_cvtps_pd(x)));
    const __m128d upper = _mm_cvtps_pd(_mm_movehl_ps(x, x));
    _mm_storeu_pd(sums + 2, _mm_add_pd(_mm_loadu_pd(sums + 2), upper));
}
#if defined(__AVX__)
SPARQ_ALWAYS_INLINE void add_to_doubles(double* sums, __m256 x) noexcept {
    const __m256d lower = _mm256_cvtps_pd(_mm256_castps256_ps128(x));
    const __m256d upper = _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
    _mm256_storeu_pd(sums, _mm256_add_pd(_mm256_loadu_pd(sums), lower));
    _mm256_storeu_pd(sums + 4, _mm256_add_pd(_mm256_loadu_pd(sums + 4), upper));
}
#endif
#if defined(__AVX512F__)
SPARQ_ALWAYS_INLINE void add_to_doubles(double* sums, __m512 x) noexcept {
    const __m512d halves = _mm512_castps_pd(x);
    for (std::size_t i = 0; i < 2; ++i) {
        const __m256d half = i == 0 ? _mm512_maskz_extractf64x4_pd(0xff, halves, 0)
                                    : _mm512_maskz_extractf64x4_pd(0xff, halves, 1);
        const __m512d wide = _mm512_maskz_cvtps_pd(0xff, _mm256_castpd_ps(half));
        _mm512_storeu_pd(sums + 8 * i, _mm512_add_pd(_mm512_loadu_pd(sums + 8 * i), wide));
    }
}
#endif

#elif defined(SPARQ_HAS_NEON)

using word_block = uint16x8_t;
using float_block = float32x4_t;

SPARQ_ALWAYS_INLINE word_block load_words(const void* p) noexcept {
    return vld1q_u16(static_cast<const std::uint16_t*>(p));
}
SPARQ_ALWAYS_INLINE void store_words(void* p, word_block x) noexcept {
    vst1q_u16(static_cast<std::uint16_t*>(p), x);
}
SPARQ_ALWAYS_INLINE word_block zip_lower(word_block a, word_block b) noexcept {
    return vzip1q_u16(a, b);
}
SPARQ_ALWAYS_INLINE word_block zip_upper(word_block a, word_block b) noexcept {
    return vzip2q_u16(a, b);
}
SPARQ_ALWAYS_INLINE float_block load_floats(const float* p) noexcept { return vld1q_f32(p); }
SPARQ_ALWAYS_INLINE void store_floats(float* p, float_block x) noexcept { vst1q_f32(p, x); }
SPARQ_ALWAYS_INLINE float_block zip_lower(float_block a, float_block b) noexcept {
    return vzip1q_f32(a, b);
}
SPARQ_ALWAYS_INLINE float_block zip_upper(float_block a, float_block b) noexcept {
    return vzip2q_f32(a, b);
}
SPARQ_ALWAYS_INLINE void add_to_doubles(double* sums, float32x4_t x) noexcept {
    vst1q_f64(sums, vaddq_f64(vld1q_f64(sums), vcvt_f64_f32(vget_low_f32(x))));
    vst1q_f64(sums + 2, vaddq_f64(vld1q_f64(sums + 2), vcvt_high_f64_f32(x)));
}

#else

using word_block = nowhere;
using float_block = nowhere;

word_block load_words(nowhere);
void store_words(nowhere, word_block);
float_block load_floats(nowhere);
void store_floats(nowhere, float_block);
nowhere zip_lower(nowhere, nowhere);
nowhere zip_upper(nowhere, nowhere);
void add_to_doubles(nowhere, nowhere);

#endif

}  // namespace detail::native
SPARQ_NAMESPACE_END
