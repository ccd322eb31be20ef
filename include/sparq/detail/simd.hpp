// SPDX-License-Identifier: MIT
// The vector operations that kernels are written in: functions on the f32<Arch> of
// simd_batch.hpp.
//
// What xsimd 8.1 lacks comes from native.hpp; with arch::plain f32<Arch> is an array of four
// floats.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>

#include "../config.hpp"
#include "arch.hpp"
#include "native_sums.hpp"
#include "simd_batch.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail::simd {

/// a * b + c: one rounding where the target has a fused instruction, two elsewhere.
template <class Arch>
SPARQ_ALWAYS_INLINE f32<Arch> multiply_add(const f32<Arch>& a, const f32<Arch>& b,
                                           const f32<Arch>& c) noexcept {
    if constexpr (is_plain<Arch>) {
        return a * b + c;
    } else {
        using reg = typename f32<Arch>::register_type;
        return f32<Arch>(
            native::multiply_add(static_cast<reg>(a), static_cast<reg>(b), static_cast<reg>(c)));
    }
}

/// The greater of each lane. A NaN may be lost: callers look for it elsewhere.
template <class Arch>
SPARQ_ALWAYS_INLINE f32<Arch> maximum(const f32<Arch>& a, const f32<Arch>& b) noexcept {
    if constexpr (is_plain<Arch>) {
        f32<Arch> result = a;
        for (std::size_t i = 0; i < lanes<Arch>; ++i)
            result.lane[i] = a.lane[i] < b.lane[i] ? b.lane[i] : a.lane[i];
        return result;
    } else {
        using reg = typename f32<Arch>::register_type;
        return f32<Arch>(native::maximum(static_cast<reg>(a), static_cast<reg>(b)));
    }
}

/// The lesser of each lane. A NaN may be lost.
template <class Arch>
SPARQ_ALWAYS_INLINE f32<Arch> minimum(const f32<Arch>& a, const f32<Arch>& b) noexcept {
    if constexpr (is_plain<Arch>) {
        f32<Arch> result = a;
        for (std::size_t i = 0; i < lanes<Arch>; ++i)
            result.lane[i] = b.lane[i] < a.lane[i] ? b.lane[i] : a.lane[i];
        return result;
    } else {
        using reg = typename f32<Arch>::register_type;
        return f32<Arch>(native::minimum(static_cast<reg>(a), static_cast<reg>(b)));
    }
}

/// e^x to 2 ulp for x <= 0; exactly 0 below -87.3 (AVX2), -87.7 (xsimd) or -106
/// (AVX-512, plain).
template <class Arch>
SPARQ_ALWAYS_INLINE f32<Arch> exponential(const f32<Arch>& x) noexcept {
    if constexpr (is_plain<Arch>) {
        f32<Arch> result = x;
        for (float& lane : result.lane) lane = std::exp(lane);
        return result;
    } else {
        using reg = typename f32<Arch>::register_type;
        if constexpr (requires(reg r) { native::exponential(r); })
            return f32<Arch>(native::exponential(static_cast<reg>(x)));
        else
            return xsimd::exp(x);
    }
}

/// Bit i: lane i of a is at least lane i of b. False where either is NaN.
template <class Arch>
SPARQ_ALWAYS_INLINE unsigned mask_at_least(const f32<Arch>& a, const f32<Arch>& b) noexcept {
    if constexpr (is_plain<Arch>) {
        unsigned mask = 0;
        for (std::size_t i = 0; i < lanes<Arch>; ++i) mask |= unsigned(a.lane[i] >= b.lane[i]) << i;
        return mask;
    } else {
        using reg = typename f32<Arch>::register_type;
        return native::mask_at_least(static_cast<reg>(a), static_cast<reg>(b));
    }
}

/// Reduces the lanes of four vectors: out[i] from x[i]. The upper half of the lanes goes
/// with the lower one until four are left, then op(op(x0, x2), op(x1, x3)).
template <class Arch, class PlainOp, class NativeOp>
SPARQ_ALWAYS_INLINE void reduce_lanes(const std::array<f32<Arch>, 4>& x, float* out, PlainOp plain,
                                      NativeOp op) noexcept {
    if constexpr (is_plain<Arch>) {
        for (std::size_t i = 0; i < 4; ++i)
            out[i] = plain(plain(x[i].lane[0], x[i].lane[2]), plain(x[i].lane[1], x[i].lane[3]));
    } else {
        using reg = typename f32<Arch>::register_type;
        native::store_floats(
            out, native::reduce_each(static_cast<reg>(x[0]), static_cast<reg>(x[1]),
                                     static_cast<reg>(x[2]), static_cast<reg>(x[3]), op));
    }
}

/// out[i] = the sum of the lanes of x[i].
template <class Arch>
SPARQ_ALWAYS_INLINE void sum_lanes_of_four(const std::array<f32<Arch>, 4>& x, float* out) noexcept {
    reduce_lanes<Arch>(
        x, out, [](float a, float b) { return a + b; },
        [](auto a, auto b) { return native::add(a, b); });
}

/// out[i] = the greatest lane of x[i]. A NaN may be lost.
template <class Arch>
SPARQ_ALWAYS_INLINE void greatest_lanes_of_four(const std::array<f32<Arch>, 4>& x,
                                                float* out) noexcept {
    reduce_lanes<Arch>(
        x, out, [](float a, float b) { return a < b ? b : a; },
        [](auto a, auto b) { return native::maximum(a, b); });
}

/// Whether sums of sixteen vectors' lanes are one vector.
template <class Arch>
inline constexpr bool sums_sixteen = false;
template <class Arch>
    requires(lanes<Arch> == 16)
inline constexpr bool sums_sixteen<Arch> = true;

/// out[i] = the sum of the lanes of x[i].
template <class Arch>
    requires sums_sixteen<Arch>
SPARQ_ALWAYS_INLINE void sum_lanes_of_sixteen(const f32<Arch> (&x)[16], float* out) noexcept {
    using reg = typename f32<Arch>::register_type;
    reg all[16];
    SPARQ_UNROLL
    for (std::size_t i = 0; i < 16; i += 4) {
        SPARQ_UNROLL
        for (std::size_t j = i; j < i + 4; ++j) all[j] = static_cast<reg>(x[j]);
    }
    simd::store<Arch>(out, f32<Arch>(native::sum_each_of_sixteen(all)));
}

/// out[i] = the sum of the lanes of the i-th of n vectors at x; n is a multiple of 4.
template <class Arch>
SPARQ_ALWAYS_INLINE void sum_lanes_of_each(const float* x, std::size_t n, float* out) noexcept {
    constexpr std::size_t width = lanes<Arch>;
    std::size_t i = 0;
    if constexpr (!is_plain<Arch>) {
        using reg = typename f32<Arch>::register_type;
        if constexpr (requires(reg r) { native::sum_each_of_eight(x, r); })
            for (; i + 8 <= n; i += 8)
                simd::store<Arch>(out + i,
                                  f32<Arch>(native::sum_each_of_eight(x + i * width, reg{})));
    }
    for (; i < n; i += 4) {
        const float* y = x + i * width;
        sum_lanes_of_four<Arch>({load<Arch>(y), load<Arch>(y + width), load<Arch>(y + 2 * width),
                                 load<Arch>(y + 3 * width)},
                                out + i);
    }
}

template <class Arch>
SPARQ_ALWAYS_INLINE float sum_lanes(const f32<Arch>& x) noexcept {
    float sums[4];
    sum_lanes_of_four<Arch>({x, x, x, x}, sums);
    return sums[0];
}

template <class Arch>
SPARQ_ALWAYS_INLINE float greatest_lane(const f32<Arch>& x) noexcept {
    float all[4];
    greatest_lanes_of_four<Arch>({x, x, x, x}, all);
    return all[0];
}

/// sums[i] += lane i of x, in double.
template <class Arch>
SPARQ_ALWAYS_INLINE void add_to_doubles(double* sums, const f32<Arch>& x) noexcept {
    if constexpr (is_plain<Arch>) {
        for (std::size_t i = 0; i < lanes<Arch>; ++i) sums[i] += static_cast<double>(x.lane[i]);
    } else {
        native::add_to_doubles(sums, static_cast<typename f32<Arch>::register_type>(x));
    }
}

/// Asks for the line at p to come into L2; harmless for any address. (Into L1 no more than
/// its few fill buffers can be on their way.)
SPARQ_ALWAYS_INLINE void prefetch([[maybe_unused]] const void* p) noexcept {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(p, 0, 2);
#endif
}
/// The same into L1, for what is in L2 by now.
SPARQ_ALWAYS_INLINE void prefetch_from_l2([[maybe_unused]] const void* p) noexcept {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(p, 0, 3);
#endif
}

}  // namespace detail::simd
SPARQ_NAMESPACE_END
