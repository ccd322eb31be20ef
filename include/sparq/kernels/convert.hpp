// SPDX-License-Identifier: MIT
// Rows from one element type into another, and their sums.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstring>

#include "../detail/simd.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

/// to[i] = from[i], rounded to nearest even where the target is shorter.
template <class Arch, class From, class To>
void convert_row(const From* from, std::size_t n, To* to) noexcept {
    namespace simd = sparq::detail::simd;
    if constexpr (std::same_as<From, To>) {
        std::memcpy(static_cast<void*>(to), from, n * sizeof(To));
    } else {
        std::size_t i = 0;
        for (; i + simd::lanes<Arch> <= n; i += simd::lanes<Arch>)
            simd::store<Arch>(to + i, simd::load<Arch>(from + i));
        if (i < n)
            simd::store_partial<Arch>(to + i, simd::load_partial<Arch>(from + i, n - i), n - i);
    }
}

/// sums[c] += row[c] in double: a million terms lose nothing that a float could show.
template <class Arch, class T>
void add_row(const T* row, std::size_t n, double* sums) noexcept {
    namespace simd = sparq::detail::simd;
    std::size_t i = 0;
    for (; i + simd::lanes<Arch> <= n; i += simd::lanes<Arch>)
        simd::add_to_doubles<Arch>(sums + i, simd::load<Arch>(row + i));
    for (; i < n; ++i) sums[i] += static_cast<double>(static_cast<float>(row[i]));
}

}  // namespace kernels
SPARQ_NAMESPACE_END
