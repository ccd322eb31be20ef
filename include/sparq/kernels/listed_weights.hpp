// SPDX-License-Identifier: MIT
// Passes over the weights of tokens that were read, for attention in tiers: scaled and summed
// up, drawn ones made to stand for those that were not, and what coarse codes of them cost.
//
// Traffic: 4 bytes a token and array, in L1 or L2. Numerics: float; lane i of a sum takes
// tokens i (mod lanes) in ascending order, then sum_lanes; n alone decides the order.
#pragma once

#include <cstddef>
#include <limits>

#include "../config.hpp"
#include "../detail/simd.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

namespace detail {

/// body(begin, count) for whole vectors and what is left.
template <class Arch, class Body>
SPARQ_ALWAYS_INLINE void for_vectors(std::size_t n, const Body& body) noexcept {
    constexpr std::size_t lanes = sparq::detail::simd::lanes<Arch>;
    std::size_t j = 0;
    for (; j + lanes <= n; j += lanes) body(j, lanes);
    if (j < n) body(j, n - j);
}

/// Zeros behind n < lanes.
template <class Arch>
SPARQ_ALWAYS_INLINE sparq::detail::simd::f32<Arch> load_some(const float* p,
                                                             std::size_t n) noexcept {
    namespace simd = sparq::detail::simd;
    return n == simd::lanes<Arch> ? simd::load<Arch>(p) : simd::load_partial<Arch>(p, n);
}
template <class Arch>
SPARQ_ALWAYS_INLINE void store_some(float* p, const sparq::detail::simd::f32<Arch>& x,
                                    std::size_t n) noexcept {
    namespace simd = sparq::detail::simd;
    if (n == simd::lanes<Arch>)
        simd::store<Arch>(p, x);
    else
        simd::store_partial<Arch>(p, x, n);
}

}  // namespace detail

/// weights[j] *= factor; returns their sum.
template <class Arch>
float scale_and_sum(float* weights, std::size_t n, float factor) noexcept {
    namespace simd = sparq::detail::simd;
    const auto scale = simd::splat<Arch>(factor);
    auto sum = simd::splat<Arch>(0.0f);
    detail::for_vectors<Arch>(n, [&](std::size_t j, std::size_t count) {
        const auto weight = detail::load_some<Arch>(weights + j, count) * scale;
        detail::store_some<Arch>(weights + j, weight, count);
        sum = sum + weight;
    });
    return simd::sum_lanes<Arch>(sum);
}

/// The sum of x[j] / chance[j]; chances are positive.
template <class Arch>
float sum_of_ratios(const float* x, const float* chance, std::size_t n) noexcept {
    namespace simd = sparq::detail::simd;
    const auto tiny = simd::splat<Arch>(std::numeric_limits<float>::min());
    auto sum = simd::splat<Arch>(0.0f);
    detail::for_vectors<Arch>(n, [&](std::size_t j, std::size_t count) {
        sum = sum + detail::load_some<Arch>(x + j, count) /
                        simd::maximum<Arch>(tiny, detail::load_some<Arch>(chance + j, count));
    });
    return simd::sum_lanes<Arch>(sum);
}

/// weights[j] *= factor / chance[j]. Their sum, and that of (1 - chance[j]) * weights[j]^2.
struct drawn_sums {
    float weights, variance;
};
template <class Arch>
drawn_sums scale_drawn(float* weights, const float* chance, std::size_t n, float factor) noexcept {
    namespace simd = sparq::detail::simd;
    const auto tiny = simd::splat<Arch>(std::numeric_limits<float>::min());
    const auto scale = simd::splat<Arch>(factor), one = simd::splat<Arch>(1.0f);
    auto sum = simd::splat<Arch>(0.0f), variance = sum;
    detail::for_vectors<Arch>(n, [&](std::size_t j, std::size_t count) {
        const auto share = detail::load_some<Arch>(chance + j, count);
        // In this order: behind the last token 0 / tiny, not 0 * infinity.
        const auto weight =
            detail::load_some<Arch>(weights + j, count) * scale / simd::maximum<Arch>(tiny, share);
        detail::store_some<Arch>(weights + j, weight, count);
        sum = sum + weight;
        variance = variance + (one - share) * (weight * weight);
    });
    return {simd::sum_lanes<Arch>(sum), simd::sum_lanes<Arch>(variance)};
}

/// Squared error that codes of rows are expected to cause:
///   scale * (factor * weights[j])^2
///         * (spread * grown(noise * key_step[j]^2) + value * value_step[j]^2)
/// with grown(x) = exp(x) - 1 to a third order (to 1 % up to 0.6).
struct code_cost {
    float scale, factor, noise, spread, value;

    template <class Arch>
    SPARQ_ALWAYS_INLINE sparq::detail::simd::f32<Arch> of(const float* weights,
                                                          const float* key_step,
                                                          const float* value_step,
                                                          std::size_t n) const noexcept {
        namespace simd = sparq::detail::simd;
        const auto splat = [](float x) { return simd::splat<Arch>(x); };
        const auto weight = detail::load_some<Arch>(weights, n) * splat(factor);
        const auto key = detail::load_some<Arch>(key_step, n);
        const auto step = detail::load_some<Arch>(value_step, n);
        const auto x = key * key * splat(noise);
        const auto third = simd::multiply_add<Arch>(x, splat(1.0f / 6.0f), splat(0.5f));
        const auto grown = x * simd::multiply_add<Arch>(x, third, splat(1.0f));
        return weight * weight * (grown * splat(spread) + step * step * splat(value)) *
               splat(scale);
    }
};

/// costs[j] += cost of j.
template <class Arch>
void add_code_costs(const code_cost& cost, const float* weights, const float* key_step,
                    const float* value_step, std::size_t n, float* costs) noexcept {
    detail::for_vectors<Arch>(n, [&](std::size_t j, std::size_t count) {
        const auto before = detail::load_some<Arch>(costs + j, count);
        detail::store_some<Arch>(
            costs + j, before + cost.of<Arch>(weights + j, key_step + j, value_step + j, count),
            count);
    });
}

/// The sum of share[j] * cost of j, where an infinite cost is the greatest float.
template <class Arch>
float sum_code_costs(const code_cost& cost, const float* weights, const float* key_step,
                     const float* value_step, const float* share, std::size_t n) noexcept {
    namespace simd = sparq::detail::simd;
    const auto most = simd::splat<Arch>(std::numeric_limits<float>::max());
    auto sum = simd::splat<Arch>(0.0f);
    detail::for_vectors<Arch>(n, [&](std::size_t j, std::size_t count) {
        const auto one = cost.of<Arch>(weights + j, key_step + j, value_step + j, count);
        sum = sum + simd::minimum<Arch>(one, most) * detail::load_some<Arch>(share + j, count);
    });
    return simd::sum_lanes<Arch>(sum);
}

}  // namespace kernels
SPARQ_NAMESPACE_END
