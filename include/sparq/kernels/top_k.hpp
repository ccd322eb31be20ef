// SPDX-License-Identifier: MIT
// The exact k largest of n floats without sorting: a threshold, then what reaches it.
//
// A lower bound of the threshold comes from maxima of groups of 16 scores: the k-th
// largest of them cannot exceed the k-th largest score, and hardly more than k scores
// reach it. Those are collected in one pass, and the exact threshold is found among
// them by bisecting the ordered integers that floats map to, each step a vector count.
// (std::nth_element over all scores costs more than reading the channels did.)
//
// Traffic: reads the scores once for the maxima, unless they are known, and once to collect.
// Order: equal scores go to the lower index. A NaN ranks below every number.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
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

/// Scores whose indices are found before the first of them is used.
inline constexpr std::size_t listed_at_once = 512;

/// Writes the indices of those of n <= listed_at_once scores that reach the threshold; returns
/// how many. Which vectors have some is written down first: a branch for each of them would
/// often be foretold wrongly. Most have one or two, so a second is written and may not count.
/// @param indices  room for n
template <class Arch>
std::size_t list_at_least(const float* x, std::size_t n, float threshold,
                          std::uint32_t* indices) noexcept {
    std::uint32_t begin[listed_at_once / simd::lanes<Arch> + 1];
    unsigned masks[listed_at_once / simd::lanes<Arch> + 1];
    std::size_t vectors = 0, count = 0;
    for_masks_at_least<Arch>(x, n, threshold, [&](std::size_t i, unsigned mask) {
        begin[vectors] = static_cast<std::uint32_t>(i);
        masks[vectors] = mask;
        vectors += mask != 0;
    });
    const auto lowest = [](unsigned mask) {
        return static_cast<std::uint32_t>(std::countr_zero(mask));
    };
    for (std::size_t v = 0; v < vectors; ++v) {
        unsigned mask = masks[v];
        indices[count++] = begin[v] + lowest(mask);
        mask &= mask - 1;
        if (begin[v] + simd::lanes<Arch> <= n) {
            indices[count] = begin[v] + lowest(mask);
            count += mask != 0;
            mask &= mask - (mask != 0);
        }
        for (; mask != 0; mask &= mask - 1) indices[count++] = begin[v] + lowest(mask);
    }
    return count;
}

/// Calls body(i) for each i of [begin, end) whose score x[i] reaches the threshold, ascending.
template <class Arch, class Body>
SPARQ_ALWAYS_INLINE void for_each_at_least(const float* x, std::size_t begin, std::size_t end,
                                           float threshold, const Body& body) noexcept {
    std::uint32_t listed[listed_at_once];
    for (; begin < end; begin += listed_at_once) {
        const std::size_t n = std::min(end - begin, listed_at_once);
        const std::size_t count = list_at_least<Arch>(x + begin, n, threshold, listed);
        for (std::size_t j = 0; j < count; ++j) body(begin + listed[j]);
    }
}

/// Scores that a vector of maxima covers: so many for each of its lanes.
inline constexpr std::size_t scores_per_maximum = score_block_tokens / maxima_per_block;

/// Collects the scores of x that reach the bound, with their indices; returns how many.
/// @param maxima  [groups] of the first groups * scores_per_maximum scores: where none
///                reaches the bound, scores are passed over
template <class Arch, class Candidate>
std::size_t collect_at_least(const float* x, std::size_t n, float bound, const float* maxima,
                             std::size_t groups, float* scores, std::uint32_t* indices,
                             Candidate&& candidate) noexcept {
    std::size_t count = 0;
    const auto collect = [&](std::size_t begin, std::size_t end) {
        for_each_at_least<Arch>(x, begin, end, bound, [&](std::size_t i) {
            scores[count] = x[i];
            indices[count++] = static_cast<std::uint32_t>(i);
            candidate(i);
        });
    };
    constexpr std::size_t lanes = simd::lanes<Arch>;
    constexpr unsigned all = (1u << lanes) - 1u;
    // Not "maximum >= bound": a maximum may be NaN where a number of its group is greater.
    const auto below = simd::splat<Arch>(std::nextafter(bound, -std::numeric_limits<float>::max()));
    for (std::size_t g = 0; g < groups; g += lanes)
        if (simd::mask_at_least<Arch>(below, simd::load<Arch>(maxima + g)) != all)
            collect(g * scores_per_maximum, (g + lanes) * scores_per_maximum);
    collect(groups * scores_per_maximum, n);
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

/// maxima[m] of score_block_tokens scores: disjoint groups of 16 that cover them.
template <class Arch>
void block_maxima(const float* x, float* maxima) noexcept {
    namespace simd = sparq::detail::simd;
    constexpr std::size_t lanes = simd::lanes<Arch>, vectors = detail::scores_per_maximum;
    for (std::size_t m = 0; m < maxima_per_block; m += lanes, x += vectors * lanes) {
        auto greatest = simd::load<Arch>(x);
        for (std::size_t v = 1; v < vectors; ++v)
            greatest = simd::maximum<Arch>(greatest, simd::load<Arch>(x + v * lanes));
        simd::store<Arch>(maxima + m, greatest);
    }
}

/// The maxima of all whole blocks of n scores; returns their number.
template <class Arch>
std::size_t group_maxima(const float* x, std::size_t n, float* maxima) noexcept {
    for (std::size_t b = 0; b < n / score_block_tokens; ++b)
        block_maxima<Arch>(x + b * score_block_tokens, maxima + b * maxima_per_block);
    return n / score_block_tokens * maxima_per_block;
}

/// Floats of scratch that top_k needs for n scores.
SPARQ_PER_ISA constexpr std::size_t top_k_scratch_floats(std::size_t n) noexcept {
    return n + n / score_block_tokens * maxima_per_block;
}

/// Whether the maxima bound the k-th largest score: there have to be enough of them for the
/// k-th largest to come near it.
SPARQ_PER_ISA constexpr bool top_k_has_bound(std::size_t n, std::size_t k) noexcept {
    return n / score_block_tokens * maxima_per_block >= 2 * k;
}

/// Whether it comes so near that top_k names its candidates before it knows which of them are
/// chosen. With 2 k maxima a quarter of them is not, and reading their rows costs more than the
/// others gain by coming sooner (S = 4096, k = 128: SparQ's time 0.97 without).
SPARQ_PER_ISA constexpr bool top_k_is_early(std::size_t n, std::size_t k) noexcept {
    return n / score_block_tokens * maxima_per_block >= 8 * k;
}

namespace detail {

/// The indices of all numbers among n scores and of the `missing` oldest NaN.
SPARQ_PER_ISA inline void fill_up_with_nan(const float* scores, std::size_t n, std::size_t missing,
                                           std::uint32_t* indices) noexcept {
    std::size_t count = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const bool is_number = scores[i] == scores[i];
        if (is_number || missing != 0) indices[count++] = static_cast<std::uint32_t>(i);
        if (!is_number && missing != 0) --missing;
    }
}

}  // namespace detail

/// Nothing to do for a candidate.
struct ignore_candidate {
    void operator()(std::size_t) const noexcept {}
};

/// Writes the indices of the k largest of n scores in ascending order; 1 <= k <= n < 2^32.
///
/// @param maxima     group_maxima of the scores, or null: taken here
/// @param scratch    [top_k_scratch_floats(n)] floats
/// @param indices    [n]: the k results first, the rest is scratch
/// @param candidate  called with the index of each score that may be among the k largest,
///                   in ascending order, early: hardly more than k times. Not where the
///                   scores are too few for that (top_k_is_early)
/// @return           the threshold that the chosen scores reach
template <class Arch, class Candidate = ignore_candidate>
float top_k(const float* scores, std::size_t n, std::size_t k, const float* maxima, float* scratch,
            std::uint32_t* indices, Candidate&& candidate = {}) noexcept {
    const std::size_t groups = n / score_block_tokens * maxima_per_block;
    float* candidates = scratch + groups;
    float bound = -std::numeric_limits<float>::infinity();
    const bool bounded = top_k_has_bound(n, k);
    if (bounded) {
        if (maxima == nullptr) group_maxima<Arch>(scores, n, scratch);
        if (maxima == nullptr) maxima = scratch;
        bound = find_threshold<Arch>(maxima, groups, k).value;
    }
    const auto collect = [&](auto&& found) {
        return detail::collect_at_least<Arch>(scores, n, bound, maxima, bounded ? groups : 0,
                                              candidates, indices, found);
    };
    const std::size_t found =
        top_k_is_early(n, k) ? collect(candidate) : collect(ignore_candidate{});
    if (found < k) {
        detail::fill_up_with_nan(scores, n, k - found, indices);
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
    return std::max(threshold.value, bound);  // of just k candidates only the bound is known
}

}  // namespace kernels
SPARQ_NAMESPACE_END
