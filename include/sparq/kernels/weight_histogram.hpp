// SPDX-License-Identifier: MIT
// weight_histogram: how many of the scanned weights lie in each eighth of an octave, for
// thresholds without sorting; and the passes over all tokens that go with it.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "../config.hpp"
#include "../detail/simd.hpp"
#include "top_k.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

/// Of weights from 0 to about 1. Thresholds are lower bounds of bins, called edges: 2^-64 and
/// less share the lowest one, the highest ones lie 12 octaves above any weight.
class weight_histogram {
   public:
    static constexpr std::size_t bins = 640;

    SPARQ_PER_ISA void clear() noexcept {
        for (auto& part : count_) part.fill(0);
    }
    /// Negative weights count as 0 here; at_least and below do not see them.
    SPARQ_PER_ISA void add(const float* weights, std::size_t n) noexcept {
        std::size_t i = 0;  // two tables: neighbours of one bin do not wait for each other
        for (; i + 2 <= n; i += 2) {
            ++count_[0][bin_of(weights[i])];
            ++count_[1][bin_of(weights[i + 1])];
        }
        if (i < n) ++count_[0][bin_of(weights[i])];
    }
    /// After the last add: sums up from both ends.
    SPARQ_PER_ISA void finish() noexcept {
        count_[0][0] = count_[1][0] = 0;
        float sum = 0.0f;
        std::uint32_t count = 0;
        for (std::size_t b = 0; b < bins; ++b) {
            below_[b] = sum;
            sum += static_cast<float>(count_[0][b] + count_[1][b]) * 0.5f * (edge(b) + edge(b + 1));
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

/// Adds n tokens of one head to the sums. With one head p / f is 1 everywhere.
template <class Arch>
void sum_weights(const float* p, const float* greatest, std::size_t n, weight_sums& sums) noexcept {
    namespace simd = sparq::detail::simd;
    // Keeps 0 / 0 away where all heads' weights vanish.
    const auto tiny = simd::splat<Arch>(std::numeric_limits<float>::min());
    auto sum = simd::splat<Arch>(0.0f), squares = sum, ratios = sum;
    const auto take = [&](const simd::f32<Arch>& weight, const simd::f32<Arch>& most) {
        const auto square = weight * weight;
        sum = sum + weight;
        squares = squares + square;
        ratios = ratios + square / simd::maximum<Arch>(most, tiny);
    };
    std::size_t t = 0;
    for (; t + simd::lanes<Arch> <= n; t += simd::lanes<Arch>)
        take(simd::load<Arch>(p + t), simd::load<Arch>(greatest + t));
    if (const std::size_t rest = n - t; rest != 0)
        take(simd::load_partial<Arch>(p + t, rest), simd::load_partial<Arch>(greatest + t, rest));
    sums.p += static_cast<double>(simd::sum_lanes<Arch>(sum));
    sums.squares += static_cast<double>(simd::sum_lanes<Arch>(squares));
    sums.squares_by_greatest += static_cast<double>(simd::sum_lanes<Arch>(ratios));
}

/// Fixed numbers in (0, 1), one a token, spread evenly over any stretch of tokens: multiples
/// of the golden ratio modulo 1, in exact integers.
class token_uniforms {
   public:
    SPARQ_PER_ISA explicit token_uniforms(std::size_t tokens) noexcept
        : offset_(static_cast<std::uint32_t>(tokens) * 3242174889u) {
        for (std::size_t j = 0; j < block; ++j) within_[j] = to_float(golden * std::uint32_t(j));
    }
    static constexpr std::size_t block = 64;

    /// What the block's first token adds to `within`, modulo 1.
    [[nodiscard]] SPARQ_PER_ISA float base(std::size_t first_token) const noexcept {
        return to_float(golden * static_cast<std::uint32_t>(first_token + 1) + offset_);
    }
    [[nodiscard]] const float* within() const noexcept { return within_.data(); }

   private:
    static constexpr std::uint32_t golden = 2654435769u;
    SPARQ_PER_ISA static float to_float(std::uint32_t x) noexcept {
        return static_cast<float>(x >> 8) * 0x1p-24f + 0x1p-25f;
    }
    std::uint32_t offset_;
    std::array<float, block> within_;
};

/// Tokens with threshold > greatest[t] >= scale * u[t], ascending: the sampled ones.
/// @param candidate  called with each of them
template <class Arch, class Candidate>
std::size_t collect_sampled(const float* greatest, std::size_t n, float threshold, float scale,
                            const token_uniforms& uniforms, std::uint32_t* tokens,
                            Candidate&& candidate) noexcept {
    namespace simd = sparq::detail::simd;
    const auto limit = simd::splat<Arch>(threshold), factor = simd::splat<Arch>(scale);
    const auto half = simd::splat<Arch>(0.5f), magic = simd::splat<Arch>(12582912.0f);
    std::size_t count = 0;
    for (std::size_t first = 0; first < n; first += token_uniforms::block) {
        const auto base = simd::splat<Arch>(uniforms.base(first));
        for (std::size_t j = 0; j < token_uniforms::block && first + j < n;
             j += simd::lanes<Arch>) {
            const std::size_t t = first + j, rest = n - t;
            const auto sum = simd::load<Arch>(uniforms.within() + j) + base;  // in (0, 2)
            const auto u = sum - ((sum - half + magic) - magic);
            const auto weight = rest < simd::lanes<Arch>
                                    ? simd::load_partial<Arch>(greatest + t, rest)
                                    : simd::load<Arch>(greatest + t);
            unsigned mask = simd::mask_at_least<Arch>(weight, factor * u) &
                            ~simd::mask_at_least<Arch>(weight, limit);
            if (rest < simd::lanes<Arch>) mask &= (1u << rest) - 1u;
            for (; mask != 0; mask &= mask - 1) {
                const std::size_t token = t + static_cast<std::size_t>(std::countr_zero(mask));
                tokens[count++] = static_cast<std::uint32_t>(token);
                candidate(token);
            }
        }
    }
    return count;
}

/// The tokens whose weight reaches the threshold, ascending; returns how many.
/// @param candidate  called with each of them
template <class Arch, class Candidate>
std::size_t collect_certain(const float* greatest, std::size_t n, float threshold,
                            std::uint32_t* tokens, Candidate&& candidate) noexcept {
    std::size_t count = 0;
    detail::for_masks_at_least<Arch>(greatest, n, threshold, [&](std::size_t i, unsigned mask) {
        for (; mask != 0; mask &= mask - 1) {
            const std::size_t token = i + static_cast<std::size_t>(std::countr_zero(mask));
            tokens[count++] = static_cast<std::uint32_t>(token);
            candidate(token);
        }
    });
    return count;
}

}  // namespace kernels
SPARQ_NAMESPACE_END
