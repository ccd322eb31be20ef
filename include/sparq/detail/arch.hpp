// SPDX-License-Identifier: MIT
// Instruction sets as tags. Everything with vector code is a template on one of them,
// so that translation units compiled with different flags share no kernel.
#pragma once

#include <xsimd/xsimd.hpp>

#include "../version.hpp"

SPARQ_NAMESPACE_BEGIN

namespace arch {

/// No vector code at all: runs on any target.
struct plain {};

namespace detail {
template <class Arch>
inline constexpr bool has_float_batch = false;
template <class Arch>
    requires(Arch::supported())
inline constexpr bool has_float_batch<Arch> = true;

template <bool Supported>
struct best {
    using type = plain;
};
template <>
struct best<true> {
    using type = xsimd::default_arch;
};
}  // namespace detail

/// The best that the translation unit is compiled for.
#if defined(SPARQ_FORCE_PLAIN)
using native = plain;
#else
using native = detail::best<detail::has_float_batch<xsimd::default_arch> >::type;
#endif

}  // namespace arch

/// The default of every Arch parameter. SPARQ_FORCE_PLAIN makes it arch::plain.
using default_arch = arch::native;

SPARQ_NAMESPACE_END
