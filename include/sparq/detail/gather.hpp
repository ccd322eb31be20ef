// SPDX-License-Identifier: MIT
// Pairs of halves from memory, in the manner of simd.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "simd.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail::simd {

/// Pairs of halves that lie together, `lanes` of them, one in each of two vectors.
template <class Arch, class Pair>
SPARQ_ALWAYS_INLINE void load_pairs(const Pair* pairs, f32<Arch>& first,
                                    f32<Arch>& second) noexcept {
    static_assert(sizeof(Pair) == 2 * sizeof(half));
    if constexpr (!is_plain<Arch>) {
        using reg = typename f32<Arch>::register_type;
        if constexpr (requires(reg& r) { native::load_pairs(pairs, r, r); }) {
            reg one, two;
            native::load_pairs(pairs, one, two);
            first = f32<Arch>(one), second = f32<Arch>(two);
            return;
        }
    }
    half both[2 * lanes<Arch>], one[lanes<Arch>], two[lanes<Arch>];
    std::memcpy(static_cast<void*>(both), pairs, sizeof(both));
    for (std::size_t i = 0; i < lanes<Arch>; ++i) one[i] = both[2 * i], two[i] = both[2 * i + 1];
    first = load<Arch>(static_cast<const half*>(one));
    second = load<Arch>(static_cast<const half*>(two));
}

/// The first n <= lanes of them, zeros behind.
template <class Arch, class Pair>
SPARQ_ALWAYS_INLINE void load_pairs(const Pair* pairs, std::size_t n, f32<Arch>& first,
                                    f32<Arch>& second) noexcept {
    if (n == lanes<Arch>) return load_pairs<Arch>(pairs, first, second);
    Pair some[lanes<Arch>] = {};
    for (std::size_t i = 0; i < n; ++i) some[i] = pairs[i];
    load_pairs<Arch>(static_cast<const Pair*>(some), first, second);
}

/// Pairs of halves at pairs[index[i]], one in each of two vectors.
template <class Arch, class Pair>
SPARQ_ALWAYS_INLINE void gather_halves(const Pair* pairs, const std::uint32_t* index,
                                       f32<Arch>& first, f32<Arch>& second) noexcept {
    static_assert(sizeof(Pair) == 2 * sizeof(half));
    if constexpr (!is_plain<Arch>) {
        using reg = typename f32<Arch>::register_type;
        if constexpr (requires(reg& r) { native::gather_halves(pairs, index, r, r); }) {
            reg one, two;
            native::gather_halves(pairs, index, one, two);
            first = f32<Arch>(one), second = f32<Arch>(two);
            return;
        }
    }
    half one[lanes<Arch>], two[lanes<Arch>];
    for (std::size_t i = 0; i < lanes<Arch>; ++i) {
        half pair[2];
        std::memcpy(static_cast<void*>(pair), pairs + index[i], sizeof(pair));
        one[i] = pair[0], two[i] = pair[1];
    }
    first = load<Arch>(static_cast<const half*>(one));
    second = load<Arch>(static_cast<const half*>(two));
}

}  // namespace detail::simd
SPARQ_NAMESPACE_END
