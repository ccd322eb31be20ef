// SPDX-License-Identifier: MIT
// Pieces of a softmax over contiguous logits, and how partial ones merge.
//
// Numerics: float; lane i sums the elements i (mod lanes) in ascending order, then
// sum_lanes. exp is within 2 ulp, 0 below -87.3 or less. A logit that is not finite
// makes the sum NaN, whatever its weight would be: so a NaN or an infinity that was
// read is seen in the result.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <limits>

#include "../config.hpp"
#include "../detail/multiply_add.hpp"
#include "../detail/simd.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

/// A softmax in the making: the maximum so far and the sum of exp(x - maximum).
struct softmax_state {
    float maximum = -std::numeric_limits<float>::infinity();
    float sum = 0.0f;
};

/// What two states' sums (and whatever was weighted with them) must be multiplied with
/// before they are added.
struct softmax_factors {
    float of_first, of_second;
};

/// Merges `other` into `state`. An empty state is neutral.
SPARQ_PER_ISA inline softmax_factors merge_softmax(softmax_state& state,
                                                   const softmax_state& other) noexcept {
    const float maximum = state.maximum < other.maximum ? other.maximum : state.maximum;
    const auto factor = [maximum](const softmax_state& s) {
        return s.maximum == maximum ? 1.0f : std::exp(s.maximum - maximum);
    };
    const softmax_factors factors{factor(state), factor(other)};
    state.sum =
        sparq::detail::multiply_add(state.sum, factors.of_first, other.sum * factors.of_second);
    state.maximum = maximum;
    return factors;
}

/// ln of the sum of exp(x) over all that went into the state.
SPARQ_PER_ISA inline float log_sum_exp(const softmax_state& state) noexcept {
    return state.maximum + std::log(state.sum);
}

namespace detail {

namespace simd = sparq::detail::simd;

/// What fills up a partial vector: no finite logit is less, exp of it is 0, and times 0
/// it is -0.
inline constexpr float padding_logit = std::numeric_limits<float>::lowest();

/// The n < lanes logits at x, padded so that they count for nothing.
template <class Arch>
SPARQ_ALWAYS_INLINE simd::f32<Arch> load_padded(const float* x, std::size_t n) noexcept {
    float copy[simd::lanes<Arch>];
    for (std::size_t i = 0; i < simd::lanes<Arch>; ++i) copy[i] = i < n ? x[i] : padding_logit;
    return simd::load<Arch>(static_cast<const float*>(copy));
}

/// Lane-wise maxima of n >= 1 logits.
template <class Arch>
SPARQ_ALWAYS_INLINE simd::f32<Arch> maxima_of(const float* x, std::size_t n) noexcept {
    auto greatest = simd::splat<Arch>(padding_logit);
    std::size_t i = 0;
    for (; i + simd::lanes<Arch> <= n; i += simd::lanes<Arch>)
        greatest = simd::maximum<Arch>(greatest, simd::load<Arch>(x + i));
    if (i < n) greatest = simd::maximum<Arch>(greatest, load_padded<Arch>(x + i, n - i));
    return greatest;
}

/// Lane-wise sums of exp(x[i] - shift), NaN where a logit is not finite; with Write,
/// weights[i] = exp(x[i] - shift) as well (weights may be x).
template <class Arch, bool Write>
SPARQ_ALWAYS_INLINE simd::f32<Arch> sums_of_exponentials(const float* x, std::size_t n, float shift,
                                                         float* weights) noexcept {
    const auto zero = simd::splat<Arch>(0.0f), offset = simd::splat<Arch>(shift);
    auto sum = zero, poison = zero;
    const auto add = [&](const simd::f32<Arch>& logit) {
        const simd::f32<Arch> weight = simd::exponential<Arch>(logit - offset);
        sum = sum + weight;
        poison = simd::multiply_add<Arch>(logit, zero, poison);
        return weight;
    };
    std::size_t i = 0;
    for (; i + simd::lanes<Arch> <= n; i += simd::lanes<Arch>) {
        const auto weight = add(simd::load<Arch>(x + i));
        if constexpr (Write) simd::store<Arch>(weights + i, weight);
    }
    if (i < n) {
        const auto weight = add(load_padded<Arch>(x + i, n - i));
        if constexpr (Write) simd::store_partial<Arch>(weights + i, weight, n - i);
    }
    return sum + poison;
}

}  // namespace detail

/// The greatest of n >= 1 logits. A NaN may be lost.
template <class Arch>
float greatest(const float* x, std::size_t n) noexcept {
    return sparq::detail::simd::greatest_lane<Arch>(detail::maxima_of<Arch>(x, n));
}

/// The state of n >= 1 logits.
/// @param write  makes weights of the logits: exp(logit - maximum)
template <class Arch>
softmax_state softmax_of(float* x, std::size_t n, bool write = false) noexcept {
    const float maximum = greatest<Arch>(x, n);
    const auto sums = write ? detail::sums_of_exponentials<Arch, true>(x, n, maximum, x)
                            : detail::sums_of_exponentials<Arch, false>(x, n, maximum, nullptr);
    return {maximum, sparq::detail::simd::sum_lanes<Arch>(sums)};
}

/// ln of the sum of exp over everything that n >= 1 states cover. The states' maxima and
/// sums stand apart.
template <class Arch>
float log_sum_exp_of(const float* maximum, const float* sum, std::size_t n) noexcept {
    namespace simd = sparq::detail::simd;
    const float all = greatest<Arch>(maximum, n);
    const auto offset = simd::splat<Arch>(all);
    auto total = simd::splat<Arch>(0.0f);
    std::size_t i = 0;
    for (; i + simd::lanes<Arch> <= n; i += simd::lanes<Arch>)
        total = simd::multiply_add<Arch>(
            simd::load<Arch>(sum + i),
            simd::exponential<Arch>(simd::load<Arch>(maximum + i) - offset), total);
    if (const std::size_t rest = n - i; rest != 0)
        total = simd::multiply_add<Arch>(
            simd::load_partial<Arch>(sum + i, rest),
            simd::exponential<Arch>(detail::load_padded<Arch>(maximum + i, rest) - offset), total);
    return log_sum_exp({all, simd::sum_lanes<Arch>(total)});
}

namespace detail {

/// Raises the maxima of states to those of a block of whole vectors.
template <class Arch>
void raise_maxima(const float* logits, std::size_t heads, std::size_t stride, std::size_t n,
                  softmax_state* state, float* lane_sums, float* rescale) noexcept {
    for (std::size_t h = 0; h < heads; ++h) {
        const float before = state[h].maximum, block = greatest<Arch>(logits + h * stride, n);
        if (before < block) state[h].maximum = block;
        rescale[h] = before < block ? std::exp(before - block) : 1.0f;
        float* sums = lane_sums + h * simd::lanes<Arch>;
        simd::store<Arch>(sums, simd::load<Arch>(sums) * simd::splat<Arch>(rescale[h]));
    }
}

}  // namespace detail

/// Takes a block of logits for each head into its state, and makes weights of them:
/// exp(logit - the state's maximum). Most blocks hold no new maximum and touch nothing but
/// the sums of their lanes.
///
/// @param logits     [heads, stride] logits, then weights; whole vectors are read and
///                   written, what lies behind the n-th counts for nothing
/// @param n          at least 1; padded to whole vectors at most the stride
/// @param state      [heads], their sums are left alone
/// @param lane_sums  [heads, lanes] of weights, NaN where a logit was not finite
/// @param rescale    [heads], what was weighted before must be multiplied with
/// @return           whether that is anything but 1
template <class Arch>
bool take_softmax_block(float* logits, std::size_t heads, std::size_t stride, std::size_t n,
                        softmax_state* state, float* lane_sums, float* rescale) noexcept {
    namespace simd = sparq::detail::simd;
    constexpr std::size_t lanes = simd::lanes<Arch>;
    constexpr unsigned all = (1u << lanes) - 1u;
    const std::size_t padded = simd::padded<Arch>(n);
    unsigned steady = all;
    for (std::size_t h = 0; h < heads; ++h) {
        float* row = logits + h * stride;
        for (std::size_t i = n; i < padded; ++i) row[i] = detail::padding_logit;
        auto greatest = simd::load<Arch>(row);
        for (std::size_t i = lanes; i < padded; i += lanes)
            greatest = simd::maximum<Arch>(greatest, simd::load<Arch>(row + i));
        steady &= simd::mask_at_least<Arch>(simd::splat<Arch>(state[h].maximum), greatest);
    }
    if (steady != all)
        detail::raise_maxima<Arch>(logits, heads, stride, padded, state, lane_sums, rescale);
    const auto zero = simd::splat<Arch>(0.0f);
    for (std::size_t h = 0; h < heads; ++h) {
        const auto offset = simd::splat<Arch>(state[h].maximum);
        auto sum = simd::load<Arch>(lane_sums + h * lanes);
        for (float* x = logits + h * stride; x != logits + h * stride + padded; x += lanes) {
            const auto logit = simd::load<Arch>(x);
            const auto weight = simd::exponential<Arch>(logit - offset);
            simd::store<Arch>(x, weight);
            sum = sum + simd::multiply_add<Arch>(logit, zero, weight);
        }
        simd::store<Arch>(lane_sums + h * lanes, sum);
    }
    return steady != all;
}

/// out[t] (+)= factor * x[t].
template <class Arch>
void add_scaled(const float* x, std::size_t n, float factor, bool first, float* out) noexcept {
    namespace simd = sparq::detail::simd;
    const auto scale = simd::splat<Arch>(factor);
    std::size_t i = 0;
    for (; i + simd::lanes<Arch> <= n; i += simd::lanes<Arch>) {
        const auto before = first ? simd::splat<Arch>(0.0f) : simd::load<Arch>(out + i);
        simd::store<Arch>(out + i,
                          simd::multiply_add<Arch>(simd::load<Arch>(x + i), scale, before));
    }
    if (const std::size_t rest = n - i; rest != 0) {
        const auto before =
            first ? simd::splat<Arch>(0.0f) : simd::load_partial<Arch>(out + i, rest);
        simd::store_partial<Arch>(
            out + i, simd::multiply_add<Arch>(simd::load_partial<Arch>(x + i, rest), scale, before),
            rest);
    }
}

/// out[i] = exp(x[i] - shift) for x[i] <= shift; out may be x.
template <class Arch>
void exponentials(const float* x, std::size_t n, float shift, float* out) noexcept {
    static_cast<void>(detail::sums_of_exponentials<Arch, true>(x, n, shift, out));
}

/// The sum of a[i] * b[i]; lane i takes i (mod lanes), whatever the compiler contracts.
template <class Arch>
float sum_of_products(const float* a, const float* b, std::size_t n) noexcept {
    namespace simd = sparq::detail::simd;
    auto sum = simd::splat<Arch>(0.0f);
    std::size_t i = 0;
    for (; i + simd::lanes<Arch> <= n; i += simd::lanes<Arch>)
        sum = simd::multiply_add<Arch>(simd::load<Arch>(a + i), simd::load<Arch>(b + i), sum);
    if (const std::size_t rest = n - i; rest != 0)
        sum = simd::multiply_add<Arch>(simd::load_partial<Arch>(a + i, rest),
                                       simd::load_partial<Arch>(b + i, rest), sum);
    return simd::sum_lanes<Arch>(sum);
}

/// exp(x) for x <= 0: the bits of `exponentials`.
template <class Arch>
float exponential(float x) noexcept {
    exponentials<Arch>(&x, 1, 0.0f, &x);
    return x;
}

}  // namespace kernels
SPARQ_NAMESPACE_END
