// SPDX-License-Identifier: MIT
// What xsimd 8.1 lacks, by intrinsics: fused multiply-add on AVX-512, two-byte types,
// cross-lane reductions, comparison masks. Overloads on the register type.
//
// All of it is always inlined: no symbol of it is left to be shared between
// translation units that are compiled with different flags.
#pragma once

#include <cstdint>
#include <cstring>

#include "../scalar_types.hpp"
#include "native_blocks.hpp"
#include "native_neon.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail::native {

void narrow(nowhere);
void gather_halves(nowhere);
void load_pairs(nowhere);
void exponential(nowhere);

#if defined(SPARQ_HAS_X86)

// --- 128 bits: the x86-64 baseline -------------------------------------------------

SPARQ_ALWAYS_INLINE __m128 multiply_add(__m128 a, __m128 b, __m128 c) noexcept {
#if defined(__FMA__)
    return _mm_fmadd_ps(a, b, c);
#else
    return _mm_add_ps(_mm_mul_ps(a, b), c);
#endif
}
SPARQ_ALWAYS_INLINE unsigned mask_at_least(__m128 a, __m128 b) noexcept {
    return static_cast<unsigned>(_mm_movemask_ps(_mm_cmpge_ps(a, b)));
}

/// Four halves in the lower 64 bits, by integer arithmetic; right with denormals off.
SPARQ_ALWAYS_INLINE __m128 widen_half_words(__m128i words) noexcept {
    const __m128i wide = _mm_unpacklo_epi16(words, _mm_setzero_si128());
    const __m128i sign = _mm_slli_epi32(_mm_and_si128(wide, _mm_set1_epi32(0x8000)), 16);
    const __m128i magnitude = _mm_slli_epi32(_mm_and_si128(wide, _mm_set1_epi32(0x7fff)), 13);
    const __m128i rebias = _mm_set1_epi32(112 << 23);
    const __m128i special = _mm_cmpgt_epi32(magnitude, _mm_set1_epi32((31 << 23) - 1));
    const __m128i subnormal = _mm_cmplt_epi32(magnitude, _mm_set1_epi32(1 << 23));
    __m128i normal = _mm_add_epi32(magnitude, rebias);
    normal = _mm_add_epi32(normal, _mm_and_si128(special, rebias));
    // A subnormal gets the exponent of 2^-14 and loses the implicit one again.
    const __m128i one = _mm_set1_epi32(113 << 23);
    const __m128 small =
        _mm_sub_ps(_mm_castsi128_ps(_mm_add_epi32(magnitude, one)), _mm_castsi128_ps(one));
    const __m128i chosen = _mm_or_si128(_mm_and_si128(subnormal, _mm_castps_si128(small)),
                                        _mm_andnot_si128(subnormal, normal));
    return _mm_castsi128_ps(_mm_or_si128(chosen, sign));
}
SPARQ_ALWAYS_INLINE __m128 widen(const half* p, __m128) noexcept {
    const __m128i words = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
#if defined(__F16C__)
    return _mm_cvtph_ps(words);
#else
    return widen_half_words(words);
#endif
}
SPARQ_ALWAYS_INLINE __m128 widen(const bfloat16* p, __m128) noexcept {
    const __m128i words = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), words));
}
SPARQ_ALWAYS_INLINE __m128 widen(const std::uint16_t* p, __m128) noexcept {
    const __m128i words = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm_cvtepi32_ps(_mm_unpacklo_epi16(words, _mm_setzero_si128()));
}
SPARQ_ALWAYS_INLINE __m128 widen(const std::uint8_t* p, __m128) noexcept {
    std::int32_t four;
    std::memcpy(&four, p, sizeof(four));
    const __m128i bytes = _mm_cvtsi32_si128(four);
    const __m128i words = _mm_unpacklo_epi8(bytes, _mm_setzero_si128());
    return _mm_cvtepi32_ps(_mm_unpacklo_epi16(words, _mm_setzero_si128()));
}
SPARQ_ALWAYS_INLINE __m128 widen(const std::int32_t* p, __m128) noexcept {
    return _mm_cvtepi32_ps(load_words(p));
}

SPARQ_ALWAYS_INLINE __m128 add(__m128 a, __m128 b) noexcept { return _mm_add_ps(a, b); }
SPARQ_ALWAYS_INLINE __m128 maximum(__m128 a, __m128 b) noexcept { return _mm_max_ps(a, b); }
SPARQ_ALWAYS_INLINE __m128 minimum(__m128 a, __m128 b) noexcept { return _mm_min_ps(a, b); }

/// Four registers' lanes, each reduced as op(op(x0, x2), op(x1, x3)).
template <class Op>
SPARQ_ALWAYS_INLINE __m128 reduce_each(__m128 a, __m128 b, __m128 c, __m128 d, Op op) noexcept {
    const __m128 ab = op(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));  // a02 b02 a13 b13
    const __m128 cd = op(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
    return op(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
}

#if defined(__AVX__)
// --- 256 bits ----------------------------------------------------------------------

SPARQ_ALWAYS_INLINE __m256 multiply_add(__m256 a, __m256 b, __m256 c) noexcept {
#if defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#else
    return _mm256_add_ps(_mm256_mul_ps(a, b), c);
#endif
}
SPARQ_ALWAYS_INLINE unsigned mask_at_least(__m256 a, __m256 b) noexcept {
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
}
template <class T>
SPARQ_ALWAYS_INLINE __m256 widen(const T* p, __m256) noexcept {
    const __m128 low = widen(p, __m128{}), high = widen(p + 4, __m128{});
    return _mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1);
}
#if defined(__F16C__)
SPARQ_ALWAYS_INLINE __m256 widen(const half* p, __m256) noexcept {
    return _mm256_cvtph_ps(load_words(p));
}
SPARQ_ALWAYS_INLINE void narrow(half* p, __m256 x) noexcept {
    store_words(p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#endif
#if defined(__AVX2__)
SPARQ_ALWAYS_INLINE __m256 widen(const bfloat16* p, __m256) noexcept {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_words(p)), 16));
}
SPARQ_ALWAYS_INLINE __m256 widen(const std::uint16_t* p, __m256) noexcept {
    return _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(load_words(p)));
}
SPARQ_ALWAYS_INLINE __m256 widen(const std::uint8_t* p, __m256) noexcept {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}
#endif
#if defined(__AVX2__) && defined(__F16C__)
SPARQ_ALWAYS_INLINE void split_halves(__m256i both, __m256& first, __m256& second) noexcept {
    const __m256i split = _mm256_packus_epi32(_mm256_and_si256(both, _mm256_set1_epi32(0xffff)),
                                              _mm256_srli_epi32(both, 16));
    const __m256i sorted = _mm256_permute4x64_epi64(split, 0xd8);
    first = _mm256_cvtph_ps(_mm256_castsi256_si128(sorted));
    second = _mm256_cvtph_ps(_mm256_extracti128_si256(sorted, 1));
}
SPARQ_ALWAYS_INLINE void gather_halves(const void* pairs, const std::uint32_t* index, __m256& first,
                                       __m256& second) noexcept {
    const __m256i at = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index));
    split_halves(_mm256_i32gather_epi32(static_cast<const int*>(pairs), at, 4), first, second);
}
SPARQ_ALWAYS_INLINE void load_pairs(const void* pairs, __m256& first, __m256& second) noexcept {
    split_halves(_mm256_loadu_si256(static_cast<const __m256i*>(pairs)), first, second);
}
#endif
SPARQ_ALWAYS_INLINE __m256 maximum(__m256 a, __m256 b) noexcept { return _mm256_max_ps(a, b); }
SPARQ_ALWAYS_INLINE __m256 minimum(__m256 a, __m256 b) noexcept { return _mm256_min_ps(a, b); }
#if defined(__AVX2__) && defined(__FMA__)
/// e^x for x <= 0 within 1.1 ulp, 0 below -87.3: as the one of 512 bits, with 2^n from its
/// exponent bits.
SPARQ_ALWAYS_INLINE __m256 exponential(__m256 x) noexcept {
    const __m256 least = _mm256_set1_ps(-87.3f);  // 2^-126 and a little more
    const __m256 clamped = maximum(least, x);     // keeps a NaN
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(clamped, _mm256_set1_ps(1.44269504f)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 f = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), clamped);
    f = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), f);
    __m256 p = _mm256_set1_ps(1.0f / 5040.0f);
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f / 720.0f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f / 120.0f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f / 24.0f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f / 6.0f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    const __m256 scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
    // Not "x >= least": a NaN stays one.
    return _mm256_andnot_ps(_mm256_cmp_ps(x, least, _CMP_LT_OQ), scaled);
}
#endif

/// The upper half is taken with the lower one first.
template <class Op>
SPARQ_ALWAYS_INLINE __m128 reduce_each(__m256 a, __m256 b, __m256 c, __m256 d, Op op) noexcept {
    const auto fold = [op](__m256 x) {
        return op(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    };
    return reduce_each(fold(a), fold(b), fold(c), fold(d), op);
}
#endif  // __AVX__

#if defined(__AVX512F__)
// --- 512 bits. The maskz forms spare g++ 12 false warnings about _mm512_undefined; without
// optimisation some are macros of its that make a mask signed.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"

inline constexpr std::uint16_t all_lanes = 0xffff;

SPARQ_ALWAYS_INLINE __m512 multiply_add(__m512 a, __m512 b, __m512 c) noexcept {
    return _mm512_fmadd_ps(a, b, c);
}
SPARQ_ALWAYS_INLINE unsigned mask_at_least(__m512 a, __m512 b) noexcept {
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}
SPARQ_ALWAYS_INLINE __m512 maximum(__m512 a, __m512 b) noexcept {
    return _mm512_maskz_max_ps(all_lanes, a, b);
}
SPARQ_ALWAYS_INLINE __m512 minimum(__m512 a, __m512 b) noexcept {
    return _mm512_maskz_min_ps(all_lanes, a, b);
}
/// e^x for x <= 0 within 1.1 ulp: x = n ln2 + f, a polynomial of degree 7 in f, 2^n.
/// xsimd 8.1 has no fused multiply-add here: 1.5 ulp, 0.28 ns against 0.21 (g++ 12, Zen 4).
SPARQ_ALWAYS_INLINE __m512 exponential(__m512 x) noexcept {
    const __m512 clamped = maximum(_mm512_set1_ps(-106.0f), x);  // keeps a NaN
    const __m512 n = _mm512_maskz_roundscale_ps(
        all_lanes, _mm512_mul_ps(clamped, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    __m512 f = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), clamped);
    f = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), f);
    __m512 p = _mm512_set1_ps(1.0f / 5040.0f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f / 720.0f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f / 120.0f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f / 24.0f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f / 6.0f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(all_lanes, p, n);
}
SPARQ_ALWAYS_INLINE __m512 widen(const half* p, __m512) noexcept {
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_maskz_cvtph_ps(all_lanes, words);
}
SPARQ_ALWAYS_INLINE void narrow(half* p, __m512 x) noexcept {
    const __m256i words = _mm512_maskz_cvtps_ph(all_lanes, x, _MM_FROUND_TO_NEAREST_INT);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), words);
}
SPARQ_ALWAYS_INLINE __m512 widen(const bfloat16* p, __m512) noexcept {
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m512i wide = _mm512_maskz_cvtepu16_epi32(all_lanes, words);
    return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(all_lanes, wide, 16));
}
SPARQ_ALWAYS_INLINE __m512 widen(const std::uint16_t* p, __m512) noexcept {
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_maskz_cvtepi32_ps(all_lanes, _mm512_maskz_cvtepu16_epi32(all_lanes, words));
}
SPARQ_ALWAYS_INLINE __m512 widen(const std::uint8_t* p, __m512) noexcept {
    return _mm512_maskz_cvtepi32_ps(all_lanes,
                                    _mm512_maskz_cvtepu8_epi32(all_lanes, load_words(p)));
}
SPARQ_ALWAYS_INLINE __m512 widen(const std::int32_t* p, __m512) noexcept {
    return _mm512_maskz_cvtepi32_ps(all_lanes, _mm512_loadu_si512(p));
}
SPARQ_ALWAYS_INLINE void split_halves(__m512i both, __m512& first, __m512& second) noexcept {
    const __m512i upper = _mm512_maskz_srli_epi32(all_lanes, both, 16);
    first = _mm512_maskz_cvtph_ps(all_lanes, _mm512_maskz_cvtepi32_epi16(all_lanes, both));
    second = _mm512_maskz_cvtph_ps(all_lanes, _mm512_maskz_cvtepi32_epi16(all_lanes, upper));
}
SPARQ_ALWAYS_INLINE void gather_halves(const void* pairs, const std::uint32_t* index, __m512& first,
                                       __m512& second) noexcept {
    const __m512i at = _mm512_loadu_si512(index);
    split_halves(_mm512_mask_i32gather_epi32(_mm512_setzero_si512(), all_lanes, at, pairs, 4),
                 first, second);
}
SPARQ_ALWAYS_INLINE void load_pairs(const void* pairs, __m512& first, __m512& second) noexcept {
    split_halves(_mm512_loadu_si512(pairs), first, second);
}
SPARQ_ALWAYS_INLINE __m512 add(__m512 a, __m512 b) noexcept { return _mm512_add_ps(a, b); }

/// Halves, then quarters are taken together (two registers at a time), then
/// op(op(x0, x2), op(x1, x3)) of each quarter.
template <class Op>
SPARQ_ALWAYS_INLINE __m128 reduce_each(__m512 a, __m512 b, __m512 c, __m512 d, Op op) noexcept {
    const auto halves = [op](__m512 x, __m512 y) {
        return op(_mm512_maskz_shuffle_f32x4(all_lanes, x, y, 0x44),
                  _mm512_maskz_shuffle_f32x4(all_lanes, x, y, 0xee));
    };
    const __m512 ab = halves(a, b), cd = halves(c, d);
    __m512 all = op(_mm512_maskz_shuffle_f32x4(all_lanes, ab, cd, 0x88),
                    _mm512_maskz_shuffle_f32x4(all_lanes, ab, cd, 0xdd));
    all = op(all, _mm512_maskz_permute_ps(all_lanes, all, 0x4e));
    all = op(all, _mm512_maskz_permute_ps(all_lanes, all, 0xb1));
    // By no compress, which takes five cycles on Zen 4.
    all = _mm512_maskz_permutexvar_ps(all_lanes, _mm512_set4_epi32(12, 8, 4, 0), all);
    return _mm512_maskz_extractf32x4_ps(0xf, all, 0);
}
#pragma GCC diagnostic pop
#endif  // __AVX512F__

#elif !defined(SPARQ_HAS_NEON)

nowhere multiply_add(nowhere, nowhere, nowhere);
nowhere add(nowhere, nowhere);
nowhere maximum(nowhere, nowhere);
nowhere minimum(nowhere, nowhere);
unsigned mask_at_least(nowhere, nowhere);
nowhere widen(nowhere, nowhere);
nowhere reduce_each(nowhere, nowhere, nowhere, nowhere, nowhere);

#endif

}  // namespace detail::native
SPARQ_NAMESPACE_END
