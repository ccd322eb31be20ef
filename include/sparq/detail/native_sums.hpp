// SPDX-License-Identifier: MIT
// Sums of the lanes of many registers at once, by intrinsics: each has the bits of reduce_each
// (native.hpp), for fewer shuffles.
//
// All of it is always inlined, as in native.hpp.
#pragma once

#include <cstddef>

#include "native.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail::native {

void sum_each_of_eight(nowhere);
void sum_each_of_sixteen(nowhere);

#if defined(SPARQ_HAS_X86)

#if defined(__AVX__)
/// Of those at x.
SPARQ_ALWAYS_INLINE __m256 sum_each_of_eight(const float* x, __m256) noexcept {
    const auto fold = [x](std::size_t i) {  // of registers i and i + 4
        const __m256 a = _mm256_loadu_ps(x + 8 * i), b = _mm256_loadu_ps(x + 8 * (i + 4));
        return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20),
                             _mm256_permute2f128_ps(a, b, 0x31));
    };
    const auto zip = [](__m256 a, __m256 b) {
        return _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    };
    const __m256 ab = zip(fold(0), fold(1)), cd = zip(fold(2), fold(3));
    return _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
}
#endif  // __AVX__

#if defined(__AVX512F__)
/// Lane i of the result is the sum of x[i].
SPARQ_ALWAYS_INLINE __m512 sum_each_of_sixteen(const __m512 (&x)[16]) noexcept {
    const auto halves = [](__m512 a, __m512 b) {
        return _mm512_add_ps(_mm512_maskz_shuffle_f32x4(all_lanes, a, b, 0x44),
                             _mm512_maskz_shuffle_f32x4(all_lanes, a, b, 0xee));
    };
    // Quarter k has what is left of x[4 k + i].
    const auto quarters = [&](std::size_t i) {
        const __m512 ab = halves(x[i], x[4 + i]), cd = halves(x[8 + i], x[12 + i]);
        return _mm512_add_ps(_mm512_maskz_shuffle_f32x4(all_lanes, ab, cd, 0x88),
                             _mm512_maskz_shuffle_f32x4(all_lanes, ab, cd, 0xdd));
    };
    const auto pairs = [](__m512 a, __m512 b) {
        return _mm512_add_ps(_mm512_maskz_shuffle_ps(all_lanes, a, b, 0x44),
                             _mm512_maskz_shuffle_ps(all_lanes, a, b, 0xee));
    };
    const __m512 ab = pairs(quarters(0), quarters(1)), cd = pairs(quarters(2), quarters(3));
    return _mm512_add_ps(_mm512_maskz_shuffle_ps(all_lanes, ab, cd, 0x88),
                         _mm512_maskz_shuffle_ps(all_lanes, ab, cd, 0xdd));
}
#endif  // __AVX512F__

#endif  // SPARQ_HAS_X86

}  // namespace detail::native
SPARQ_NAMESPACE_END
