// SPDX-License-Identifier: MIT
// multiply_add: a product in a sum of scalars, rounded alike wherever it is compiled.
//
// A compiler that is free to fuse a * b + c does so in one loop and not in the next: g++ 12 with
// -O2 fuses a sum of products, with -O3 it multiplies in vectors and then adds. Kernels chosen
// at run time have the bits of code compiled with other options, so the choice is made here.
#pragma once

#include <concepts>

#include "../config.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

/// a * b + c: one rounding where the target has a fused instruction, two elsewhere.
template <std::floating_point Real>
SPARQ_ALWAYS_INLINE Real multiply_add(Real a, Real b, Real c) noexcept {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    if constexpr (std::same_as<Real, float>)
        return __builtin_fmaf(a, b, c);
    else
        return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}

}  // namespace detail
SPARQ_NAMESPACE_END
