// SPDX-License-Identifier: MIT
// native.hpp's functions for NEON.
#pragma once

#include <cstdint>
#include <cstring>

#include "../scalar_types.hpp"
#include "native_blocks.hpp"

#if defined(SPARQ_HAS_NEON)

SPARQ_NAMESPACE_BEGIN
namespace detail::native {

SPARQ_ALWAYS_INLINE float32x4_t multiply_add(float32x4_t a, float32x4_t b, float32x4_t c) noexcept {
    return vfmaq_f32(c, a, b);
}
SPARQ_ALWAYS_INLINE unsigned mask_at_least(float32x4_t a, float32x4_t b) noexcept {
    constexpr std::uint32_t bits[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vcgeq_f32(a, b), vld1q_u32(bits)));
}
SPARQ_ALWAYS_INLINE float32x4_t widen(const half* p, float32x4_t) noexcept {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(p))));
}
SPARQ_ALWAYS_INLINE void narrow(half* p, float32x4_t x) noexcept {
    vst1_u16(reinterpret_cast<std::uint16_t*>(p), vreinterpret_u16_f16(vcvt_f16_f32(x)));
}
SPARQ_ALWAYS_INLINE float32x4_t widen(const bfloat16* p, float32x4_t) noexcept {
    const uint16x4_t words = vld1_u16(reinterpret_cast<const std::uint16_t*>(p));
    return vreinterpretq_f32_u32(vshll_n_u16(words, 16));
}
SPARQ_ALWAYS_INLINE float32x4_t widen(const std::uint16_t* p, float32x4_t) noexcept {
    return vcvtq_f32_u32(vmovl_u16(vld1_u16(p)));
}
SPARQ_ALWAYS_INLINE float32x4_t widen(const std::uint8_t* p, float32x4_t) noexcept {
    std::uint32_t four;
    std::memcpy(&four, p, sizeof(four));
    const uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(four));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))));
}
SPARQ_ALWAYS_INLINE float32x4_t widen(const std::int32_t* p, float32x4_t) noexcept {
    return vcvtq_f32_s32(vld1q_s32(p));
}
SPARQ_ALWAYS_INLINE float32x4_t add(float32x4_t a, float32x4_t b) noexcept {
    return vaddq_f32(a, b);
}
SPARQ_ALWAYS_INLINE float32x4_t maximum(float32x4_t a, float32x4_t b) noexcept {
    return vmaxq_f32(a, b);
}
SPARQ_ALWAYS_INLINE float32x4_t minimum(float32x4_t a, float32x4_t b) noexcept {
    return vminq_f32(a, b);
}

/// Four registers' lanes, each reduced as op(op(x0, x2), op(x1, x3)).
template <class Op>
SPARQ_ALWAYS_INLINE float32x4_t reduce_each(float32x4_t a, float32x4_t b, float32x4_t c,
                                            float32x4_t d, Op op) noexcept {
    const float32x4_t ab = op(vzip1q_f32(a, b), vzip2q_f32(a, b));  // a02 b02 a13 b13
    const float32x4_t cd = op(vzip1q_f32(c, d), vzip2q_f32(c, d));
    return op(vcombine_f32(vget_low_f32(ab), vget_low_f32(cd)),
              vcombine_f32(vget_high_f32(ab), vget_high_f32(cd)));
}

}  // namespace detail::native
SPARQ_NAMESPACE_END

#endif
