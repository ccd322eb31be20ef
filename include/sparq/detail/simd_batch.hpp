// SPDX-License-Identifier: MIT
// f32<Arch>, the vector that kernels are written in, loaded and stored.
//
// With an xsimd architecture it is xsimd::batch<float, Arch>, what xsimd 8.1 lacks comes from
// native.hpp; with arch::plain it is an array of four floats. Partial loads fill up with
// zeros, so a tail runs through the same instructions as a whole vector and its lanes have
// the same bits.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../config.hpp"
#include "../scalar_types.hpp"
#include "arch.hpp"
#include "native.hpp"
#include "plain_batch.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail::simd {

template <class T>
concept two_byte = std::same_as<T, half> || std::same_as<T, bfloat16>;

template <class Arch>
struct batch_of {
    using type = xsimd::batch<float, Arch>;
};
template <>
struct batch_of<arch::plain> {
    using type = plain_batch;
};

template <class Arch>
using f32 = typename batch_of<Arch>::type;

template <class Arch>
inline constexpr std::size_t lanes = f32<Arch>::size;

template <class Arch>
inline constexpr bool is_plain = std::same_as<Arch, arch::plain>;

/// Vector registers, which bound the tiles of a kernel.
template <class Arch>
inline constexpr std::size_t registers = is_plain<Arch> ? 16 : native::registers<lanes<Arch> >;

/// n rounded up to whole vectors.
template <class Arch>
constexpr std::size_t padded(std::size_t n) noexcept {
    return (n + lanes<Arch> - 1) / lanes<Arch> * lanes<Arch>;
}

template <class Arch>
SPARQ_ALWAYS_INLINE f32<Arch> splat(float x) noexcept {
    if constexpr (is_plain<Arch>)
        return {{x, x, x, x}};
    else
        return f32<Arch>(x);
}

template <class Arch>
SPARQ_ALWAYS_INLINE f32<Arch> load(const float* p) noexcept {
    if constexpr (is_plain<Arch>)
        return {{p[0], p[1], p[2], p[3]}};
    else
        return f32<Arch>::load_unaligned(p);
}

/// Into a register: g++ would repeat the load in every instruction that uses the value.
template <class Arch>
SPARQ_ALWAYS_INLINE f32<Arch> in_register(const f32<Arch>& x) noexcept {
#if defined(SPARQ_HAS_X86) && defined(__GNUC__)
    if constexpr (!is_plain<Arch>) {
        auto loaded = static_cast<typename f32<Arch>::register_type>(x);
        asm("" : "+v"(loaded));
        return f32<Arch>(loaded);
    }
#endif
    return x;
}

/// Lanes of a two-byte type, widened (exact), or of integers.
template <class Arch, class T>
    requires(two_byte<T> || std::same_as<T, std::uint8_t> || std::same_as<T, std::uint16_t> ||
             std::same_as<T, std::int32_t>)
SPARQ_ALWAYS_INLINE f32<Arch> load(const T* p) noexcept {
    if constexpr (is_plain<Arch>)
        return {{float(p[0]), float(p[1]), float(p[2]), float(p[3])}};
    else
        return f32<Arch>(native::widen(p, typename f32<Arch>::register_type{}));
}

/// The first n < lanes elements, zeros behind them; reads nothing else.
template <class Arch, class T>
SPARQ_ALWAYS_INLINE f32<Arch> load_partial(const T* p, std::size_t n) noexcept {
    T copy[lanes<Arch>];
    std::memset(static_cast<void*>(copy), 0, sizeof(copy));
    std::memcpy(static_cast<void*>(copy), p, n * sizeof(T));
    return load<Arch>(static_cast<const T*>(copy));
}

template <class Arch>
SPARQ_ALWAYS_INLINE void store(float* p, const f32<Arch>& x) noexcept {
    if constexpr (is_plain<Arch>)
        std::memcpy(p, x.lane.data(), sizeof(x.lane));
    else
        x.store_unaligned(p);
}

/// Rounds to nearest even into a two-byte type.
template <class Arch, two_byte T>
SPARQ_ALWAYS_INLINE void store(T* p, const f32<Arch>& x) noexcept {
    if constexpr (!is_plain<Arch>) {
        using reg = typename f32<Arch>::register_type;
        if constexpr (requires(reg r) { native::narrow(p, r); }) {
            native::narrow(p, static_cast<reg>(x));
            return;
        }
    }
    float wide[lanes<Arch>];
    simd::store<Arch>(static_cast<float*>(wide), x);
    for (std::size_t i = 0; i < lanes<Arch>; ++i) p[i] = T(wide[i]);
}

template <class Arch, class T>
SPARQ_ALWAYS_INLINE void store_partial(T* p, const f32<Arch>& x, std::size_t n) noexcept {
    T copy[lanes<Arch>];
    simd::store<Arch>(static_cast<T*>(copy), x);
    std::memcpy(static_cast<void*>(p), copy, n * sizeof(T));
}

}  // namespace detail::simd
SPARQ_NAMESPACE_END
