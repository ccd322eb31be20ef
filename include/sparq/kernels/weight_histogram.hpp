// SPDX-License-Identifier: MIT
// weight_histogram: how many of the scanned weights lie in each eighth of an octave, for
// thresholds without sorting; and the weights' sums.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "../config.hpp"
#include "../detail/multiply_add.hpp"
#include "../detail/simd.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

/// Of weights from 0 to about 1. Thresholds are lower bounds of bins, called edges: 2^-64 and
/// less share the lowest one, the highest ones lie 12 octaves above any weight.
class SPARQ_ISA_TYPE weight_histogram {
   public:
    static constexpr std::size_t bins = 640;

    SPARQ_PER_ISA void clear() noexcept {
        for (auto& part : count_) part.fill(0);
    }
    /// Takes weights [first, n), every step-th. Negative ones count as 0 here; at_least and
    /// below do not see them.
    SPARQ_PER_ISA void add(const float* weights, std::size_t n, std::size_t first = 0,
                           std::size_t step = 1) noexcept {
        std::size_t i = first;  // two tables: neighbours of one bin do not wait for each other
        for (; i + step < n; i += 2 * step) {
            ++count_[0][bin_of(weights[i])];
            ++count_[1][bin_of(weights[i + step])];
        }
        if (i < n) ++count_[0][bin_of(weights[i])];
    }
    /// After the last add: sums up from both ends.
    /// @param step  each weight that was taken stands for so many
    SPARQ_PER_ISA void finish(std::uint32_t step = 1) noexcept {
        count_[0][0] = count_[1][0] = 0;
        for (auto& part : count_)
            for (std::uint32_t& one : part) one *= step;
        float sum = 0.0f;
        std::uint32_t count = 0;
        for (std::size_t b = 0; b < bins; ++b) {
            below_[b] = sum;
            const auto tokens = static_cast<float>(count_[0][b] + count_[1][b]);
            sum = sparq::detail::multiply_add(tokens * 0.5f, edge(b) + edge(b + 1), sum);
        }
        for (std::size_t b = bins; b-- != 0;) {
            count += count_[0][b] + count_[1][b];
            at_least_[b] = static_cast<float>(count);
        }
    }

    /// How many weights reach the edge of bin b; the sum of those that do not, taken at the
    /// middles of their bins.
    [[nodiscard]] float at_least(std::size_t b) const noexcept { return at_least_[b]; }
    [[nodiscard]] float below(std::size_t b) const noexcept { return below_[b]; }
    /// The sum of all.
    [[nodiscard]] float total() const noexcept { return below_[bins - 1]; }
    [[nodiscard]] SPARQ_PER_ISA static float edge(std::size_t b) noexcept {
        return std::bit_cast<float>((static_cast<std::int32_t>(b) + lowest) << fraction_bits);
    }

    SPARQ_PER_ISA static std::size_t bin_of(float weight) noexcept {
        const std::int32_t bin = (std::bit_cast<std::int32_t>(weight) >> fraction_bits) - lowest;
        return static_cast<std::size_t>(std::clamp(bin, 0, static_cast<std::int32_t>(bins) - 1));
    }

   private:
    static constexpr int fraction_bits = 20;
    static constexpr std::int32_t lowest = (127 - 64) * 8;

    std::array<std::array<std::uint32_t, bins>, 2> count_;
    std::array<float, bins> at_least_, below_;
};

/// Sums over tokens of one head's weights p, with f their maximum over the heads.
struct weight_sums {
    double p = 0.0, squares = 0.0, squares_by_greatest = 0.0;  ///< of p, p^2, p^2 / f
};

/// Weights of n tokens of a block, in place: p[h][t] = factor[h] * p[h][t]; and
/// greatest[t] = max over h of them.
template <class Arch>
void scale_weights(float* p, std::size_t stride, std::size_t heads, const float* factor,
                   std::size_t factor_stride, std::size_t n, float* greatest) noexcept {
    namespace simd = sparq::detail::simd;
    for (std::size_t h = 0; h < heads; ++h) {
        float* row = p + h * stride;
        const auto scale = simd::splat<Arch>(factor[h * factor_stride]);
        std::size_t t = 0;
        for (; t + simd::lanes<Arch> <= n; t += simd::lanes<Arch>) {
            const auto weight = simd::load<Arch>(row + t) * scale;
            simd::store<Arch>(row + t, weight);
            simd::store<Arch>(
                greatest + t,
                h == 0 ? weight : simd::maximum<Arch>(weight, simd::load<Arch>(greatest + t)));
        }
        for (; t < n; ++t) {
            row[t] *= factor[h * factor_stride];
            greatest[t] = h == 0 ? row[t] : std::max(greatest[t], row[t]);
        }
    }
}

/// inverse[t] = 1 / greatest[t], finite where that is 0. May be in place.
template <class Arch>
void invert_weights(const float* greatest, std::size_t n, float* inverse) noexcept {
    namespace simd = sparq::detail::simd;
    const auto tiny = simd::splat<Arch>(std::numeric_limits<float>::min());
    const auto one = simd::splat<Arch>(1.0f);
    std::size_t t = 0;
    for (; t + simd::lanes<Arch> <= n; t += simd::lanes<Arch>)
        simd::store<Arch>(inverse + t,
                          one / simd::maximum<Arch>(simd::load<Arch>(greatest + t), tiny));
    for (; t < n; ++t) inverse[t] = 1.0f / std::max(greatest[t], std::numeric_limits<float>::min());
}

/// Adds n tokens of one head to the sums.
/// @param inverse  of f; null where there is no other head: f is p
template <class Arch>
void sum_weights(const float* p, const float* inverse, std::size_t n, weight_sums& sums) noexcept {
    namespace simd = sparq::detail::simd;
    auto sum = simd::splat<Arch>(0.0f), squares = sum, ratios = sum;
    const auto take = [&](const simd::f32<Arch>& weight) {
        sum = sum + weight;
        squares = simd::multiply_add<Arch>(weight, weight, squares);
    };
    const auto take_ratio = [&](const simd::f32<Arch>& weight, const simd::f32<Arch>& over) {
        ratios = simd::multiply_add<Arch>(weight * weight, over, ratios);
    };
    const bool alone = inverse == nullptr;
    std::size_t t = 0;
    for (; t + simd::lanes<Arch> <= n; t += simd::lanes<Arch>) {
        take(simd::load<Arch>(p + t));
        if (!alone) take_ratio(simd::load<Arch>(p + t), simd::load<Arch>(inverse + t));
    }
    if (const std::size_t rest = n - t; rest != 0) {
        const auto weight = simd::load_partial<Arch>(p + t, rest);
        take(weight);
        if (!alone) take_ratio(weight, simd::load_partial<Arch>(inverse + t, rest));
    }
    sums.p += static_cast<double>(simd::sum_lanes<Arch>(sum));
    sums.squares += static_cast<double>(simd::sum_lanes<Arch>(squares));
    sums.squares_by_greatest += static_cast<double>(simd::sum_lanes<Arch>(alone ? sum : ratios));
}

}  // namespace kernels
SPARQ_NAMESPACE_END
