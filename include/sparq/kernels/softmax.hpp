// SPDX-License-Identifier: MIT
// Pieces of a softmax over contiguous logits, and how partial ones merge.
//
// Numerics: float; lane i sums the elements i (mod lanes) in ascending order, then
// sum_lanes. exp is xsimd's, within 2 ulp, 0 below -87.7. A logit that is not finite
// makes the sum NaN, whatever its weight would be: so a NaN or an infinity that was
// read is seen in the result.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

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
inline softmax_factors merge_softmax(softmax_state& state, const softmax_state& other) noexcept {
    const float maximum = state.maximum < other.maximum ? other.maximum : state.maximum;
    const auto factor = [maximum](const softmax_state& s) {
        return s.maximum == maximum ? 1.0f : std::exp(s.maximum - maximum);
    };
    const softmax_factors factors{factor(state), factor(other)};
    state.sum = state.sum * factors.of_first + other.sum * factors.of_second;
    state.maximum = maximum;
    return factors;
}

/// ln of the sum of exp(x) over all that went into the state.
inline float log_sum_exp(const softmax_state& state) noexcept {
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

}  // namespace detail

/// The maximum of n >= 1 logits, a finite one at least. A NaN may be lost.
template <class Arch>
float greatest_logit(const float* x, std::size_t n) noexcept {
    namespace simd = sparq::detail::simd;
    auto greatest = simd::splat<Arch>(detail::padding_logit);
    std::size_t i = 0;
    for (; i + simd::lanes<Arch> <= n; i += simd::lanes<Arch>)
        greatest = simd::maximum<Arch>(greatest, simd::load<Arch>(x + i));
    if (i < n)
        greatest = simd::maximum<Arch>(greatest, detail::load_padded<Arch>(x + i, n - i));
    return simd::greatest_lane<Arch>(greatest);
}

/// The sum of exp(x[i] - shift); with Write, weights[i] = exp(x[i] - shift) as well
/// (weights may be x).
template <class Arch, bool Write>
float exponential_sum(const float* x, std::size_t n, float shift, float* weights) noexcept {
    namespace simd = sparq::detail::simd;
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
        const auto weight = add(detail::load_padded<Arch>(x + i, n - i));
        if constexpr (Write) simd::store_partial<Arch>(weights + i, weight, n - i);
    }
    return simd::sum_lanes<Arch>(sum) + simd::sum_lanes<Arch>(poison);
}

/// The state of n >= 1 logits.
template <class Arch>
softmax_state softmax_of(const float* x, std::size_t n) noexcept {
    const float maximum = greatest_logit<Arch>(x, n);
    return {maximum, exponential_sum<Arch, false>(x, n, maximum, nullptr)};
}

/// out[t] (+)= exp(x[t] - shift): adds one head's weights to a group's ranking.
template <class Arch>
void add_weights(const float* x, std::size_t n, float shift, bool first, float* out) noexcept {
    namespace simd = sparq::detail::simd;
    const auto offset = simd::splat<Arch>(shift);
    std::size_t i = 0;
    for (; i + simd::lanes<Arch> <= n; i += simd::lanes<Arch>) {
        auto weight = simd::exponential<Arch>(simd::load<Arch>(x + i) - offset);
        if (!first) weight = weight + simd::load<Arch>(out + i);
        simd::store<Arch>(out + i, weight);
    }
    if (const std::size_t rest = n - i; rest != 0) {
        auto weight = simd::exponential<Arch>(detail::load_padded<Arch>(x + i, rest) - offset);
        if (!first) weight = weight + simd::load_partial<Arch>(out + i, rest);
        simd::store_partial<Arch>(out + i, weight, rest);
    }
}

}  // namespace kernels
SPARQ_NAMESPACE_END
