// SPDX-License-Identifier: MIT
// Which tokens are read at a threshold: those whose weight f reaches it (certain ones), and of
// the others each with probability f / (spread * threshold), by a fixed number u of its place
// (drawn ones).
//
// Both are the tokens with reach >= threshold, reach = f * max(1, 1 / (spread * u)): a lower
// threshold reads a superset.
//
// Traffic: 4 bytes a token and array, in L1 or L2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "../config.hpp"
#include "../detail/simd.hpp"
#include "top_k.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

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

/// reach[t] of tokens [first, first + n).
/// @param first    a multiple of token_uniforms::block
/// @param weights  [n], as reach
template <class Arch>
void find_reach(const float* weights, std::size_t first, std::size_t n, float spread,
                const token_uniforms& uniforms, float* reach) noexcept {
    namespace simd = sparq::detail::simd;
    const auto half = simd::splat<Arch>(0.5f), magic = simd::splat<Arch>(12582912.0f);
    const auto one = simd::splat<Arch>(1.0f), factor = simd::splat<Arch>(spread);
    for (std::size_t b = 0; b < n; b += token_uniforms::block) {
        const auto base = simd::splat<Arch>(uniforms.base(first + b));
        for (std::size_t j = 0; j < token_uniforms::block && b + j < n; j += simd::lanes<Arch>) {
            const auto sum = simd::load<Arch>(uniforms.within() + j) + base;  // in (0, 2)
            const auto u = sum - ((sum - half + magic) - magic);
            const auto grown = simd::maximum<Arch>(one, one / (factor * u));
            const std::size_t t = b + j, rest = n - t;
            if (rest >= simd::lanes<Arch>)
                simd::store<Arch>(reach + t, simd::load<Arch>(weights + t) * grown);
            else
                simd::store_partial<Arch>(
                    reach + t, simd::load_partial<Arch>(weights + t, rest) * grown, rest);
        }
    }
}

/// How many tokens were collected.
struct collected_tokens {
    std::size_t certain, drawn;
};

/// Collects both kinds, ascending each.
/// @param candidate  called with each of them, in the order of all
template <class Arch, class Candidate>
collected_tokens collect_reached(const float* weights, const float* reach, std::size_t n,
                                 float threshold, std::uint32_t* certain, std::uint32_t* drawn,
                                 Candidate&& candidate) noexcept {
    collected_tokens count{0, 0};
    detail::for_each_at_least<Arch>(reach, 0, n, threshold, [&](std::size_t token) {
        certain[count.certain] = drawn[count.drawn] = static_cast<std::uint32_t>(token);
        const bool is_certain = weights[token] >= threshold;
        count.certain += is_certain;
        count.drawn += !is_certain;
        candidate(token);
    });
    return count;
}

/// The tokens whose weight reaches the threshold, ascending; returns how many.
/// @param candidate  called with each of them
template <class Arch, class Candidate>
std::size_t collect_certain(const float* greatest, std::size_t n, float threshold,
                            std::uint32_t* tokens, Candidate&& candidate) noexcept {
    std::size_t count = 0;
    detail::for_each_at_least<Arch>(greatest, 0, n, threshold, [&](std::size_t token) {
        tokens[count++] = static_cast<std::uint32_t>(token);
        candidate(token);
    });
    return count;
}

}  // namespace kernels
SPARQ_NAMESPACE_END
