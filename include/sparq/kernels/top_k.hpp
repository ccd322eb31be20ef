// SPDX-License-Identifier: MIT
// The exact k largest of n floats without sorting: a threshold, then what reaches it.
//
// A lower bound of the threshold comes from maxima of groups of 16 scores: the k-th
// largest of them cannot exceed the k-th largest score, and hardly more than k scores
// reach it. Those are collected in one pass, and the exact threshold is found among
// them by bisecting the ordered integers that floats map to, each step a vector count.
// (std::nth_element over all scores costs more than reading the channels did.)
//
// Traffic: reads the scores once for the maxima, then the groups that reach the bound.
// Order: equal scores go to the lower index. A NaN ranks below every number.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "../config.hpp"
#include "../detail/simd.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

/// A value that at least k scores reach, and how many do.
struct top_k_threshold {
    float value;
    std::size_t count;
};

namespace detail {

namespace simd = sparq::detail::simd;

/// Scores of one group: vectors whose lane-wise maximum is taken.
inline constexpr std::size_t group_vectors = 16;

/// Monotone from floats (without NaN) to integers, and back.
SPARQ_PER_ISA constexpr std::int32_t to_ordered(float x) noexcept {
    const auto bits = std::bit_cast<std::int32_t>(x);
    return bits < 0 ? static_cast<std::int32_t>(0x80000000u - std::bit_cast<std::uint32_t>(x))
                    : bits;
}
SPARQ_PER_ISA constexpr float from_ordered(std::int32_t key) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(key);
    return std::bit_cast<float>(key < 0 ? 0x80000000u - bits : bits);
}

/// Calls body(i, mask) for each vector of scores; bit b: score i + b reaches the threshold.
template <class Arch, class Body>
SPARQ_ALWAYS_INLINE void for_masks_at_least(const float* x, std::size_t n, float threshold,
                                            const Body& body) noexcept {
    const auto limit = simd::splat<Arch>(threshold);
    std::size_t i = 0;
    for (; i + simd::lanes<Arch> <= n; i += simd::lanes<Arch>)
        body(i, simd::mask_at_least<Arch>(simd::load<Arch>(x + i), limit));
    if (const std::size_t rest = n - i; rest != 0)
        body(i, simd::mask_at_least<Arch>(simd::load_partial<Arch>(x + i, rest), limit) &
                    ((1u << rest) - 1u));
}

template <class Arch>
std::size_t count_at_least(const float* x, std::size_t n, float threshold) noexcept {
    std::size_t count = 0;
    for_masks_at_least<Arch>(x, n, threshold, [&](std::size_t, unsigned mask) {
        count += static_cast<std::size_t>(std::popcount(mask));
    });
    return count;
}

/// Collects the scores of x that reach the bound, with their indices; returns how many.
template <class Arch>
std::size_t collect_at_least(const float* x, std::size_t n, float bound, float* scores,
                             std::uint32_t* indices) noexcept {
    std::size_t count = 0;
    for_masks_at_least<Arch>(x, n, bound, [&](std::size_t i, unsigned mask) {
        for (; mask != 0; mask &= mask - 1) {
            const std::size_t at = i + static_cast<std::size_t>(std::countr_zero(mask));
            scores[count] = x[at];
            indices[count++] = static_cast<std::uint32_t>(at);
        }
    });
    return count;
}

/// maxima[g * lanes + lane]: the greatest of a lane over group_vectors vectors.
/// Only whole groups; returns the number of maxima.
template <class Arch>
std::size_t group_maxima(const float* x, std::size_t n, float* maxima) noexcept {
    constexpr std::size_t lanes = simd::lanes<Arch>;
    std::size_t count = 0;
    for (std::size_t i = 0; i + group_vectors * lanes <= n; i += group_vectors * lanes) {
        auto greatest = simd::load<Arch>(x + i);
        for (std::size_t v = 1; v < group_vectors; ++v)
            greatest = simd::maximum<Arch>(greatest, simd::load<Arch>(x + i + v * lanes));
        simd::store<Arch>(maxima + count, greatest);
        count += lanes;
    }
    return count;
}

}  // namespace detail

/// The greatest value that k of the n scores reach, or a smaller one that exactly k
/// reach. Needs 1 <= k <= n. With fewer than k numbers among the scores: -infinity and
/// how many numbers there are.
template <class Arch>
top_k_threshold find_threshold(const float* scores, std::size_t n, std::size_t k) noexcept {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    top_k_threshold best{-infinity, detail::count_at_least<Arch>(scores, n, -infinity)};
    if (best.count <= k) return best;
    // In 64 bits, so that the distance of the two ends cannot overflow.
    std::int64_t reached = detail::to_ordered(-infinity);
    std::int64_t missed = std::int64_t{detail::to_ordered(infinity)} + 1;
    while (missed - reached > 1 && best.count != k) {
        const std::int64_t middle = reached + (missed - reached) / 2;
        const float value = detail::from_ordered(static_cast<std::int32_t>(middle));
        const std::size_t count = detail::count_at_least<Arch>(scores, n, value);
        if (count >= k) {
            reached = middle;
            best = {value, count};
        } else {
            missed = middle;
        }
    }
    return best;
}

/// A bound that at least k of the n scores reach; -infinity where none is known.
template <class Arch>
float find_lower_bound(const float* scores, std::size_t n, std::size_t k, float* maxima) noexcept {
    const std::size_t groups = detail::group_maxima<Arch>(scores, n, maxima);
    if (groups < 2 * k) return -std::numeric_limits<float>::infinity();
    return find_threshold<Arch>(maxima, groups, k).value;
}

/// Floats of scratch that top_k needs for n scores.
SPARQ_PER_ISA constexpr std::size_t top_k_scratch_floats(std::size_t n) noexcept {
    return n + n / detail::group_vectors;
}

/// Writes the indices of the k largest of n scores in ascending order; 1 <= k <= n < 2^32.
///
/// @param scratch   [top_k_scratch_floats(n)] floats
/// @param indices   [n]: the k results first, the rest is scratch
/// @return          the threshold that the chosen scores reach
template <class Arch>
float top_k(const float* scores, std::size_t n, std::size_t k, float* scratch,
            std::uint32_t* indices) noexcept {
    float* candidates = scratch + n / detail::group_vectors;
    const float bound = find_lower_bound<Arch>(scores, n, k, scratch);
    const std::size_t found = detail::collect_at_least<Arch>(scores, n, bound, candidates, indices);
    if (found < k) {  // NaN among the scores: they fill up, the oldest first
        std::size_t count = 0, missing = k - found;
        for (std::size_t i = 0; i < n; ++i) {
            const bool is_number = scores[i] == scores[i];
            if (is_number || missing != 0) indices[count++] = static_cast<std::uint32_t>(i);
            if (!is_number && missing != 0) --missing;
        }
        return -std::numeric_limits<float>::infinity();
    }
    const top_k_threshold threshold = find_threshold<Arch>(candidates, found, k);
    // More than k reach it only where scores equal it: those take turns from the oldest.
    std::size_t surplus = threshold.count - k, equal = 0, count = 0;
    for (std::size_t i = 0; surplus != 0 && i < found; ++i)
        equal += candidates[i] == threshold.value ? 1u : 0u;
    std::size_t equal_wanted = equal - surplus;
    for (std::size_t i = 0; i < found; ++i) {
        if (!(candidates[i] >= threshold.value)) continue;
        if (surplus != 0 && candidates[i] == threshold.value) {
            if (equal_wanted == 0) continue;
            --equal_wanted;
        }
        indices[count++] = indices[i];
    }
    return threshold.value;
}

}  // namespace kernels
SPARQ_NAMESPACE_END
