// SPDX-License-Identifier: MIT
// A run of strips that scan_codes.hpp reads channel by channel.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "../code_labels.hpp"
#include "code_weights.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

/// Most strips of a run, and room for its tables: about the half of an L1.
inline constexpr std::size_t most_run_strips = 64;
inline constexpr std::size_t run_table_bytes = 32768;

/// How many strips may go together.
template <unsigned Bits>
SPARQ_PER_ISA constexpr std::size_t run_strips(std::size_t heads, std::size_t channels) noexcept {
    const std::size_t terms = code_terms<Bits>(std::min(channels, most_code_channels));
    const std::size_t bytes =
        std::min(heads, most_code_heads) * terms * (Bits == 8 ? sizeof(std::int16_t) : 16);
    return std::clamp<std::size_t>(run_table_bytes / bytes, 1, most_run_strips);
}

/// Consecutive strips of one slab: places [begin, end) of them are scanned.
template <class Label>
struct code_run {
    const code_strip<Label>* strips;
    std::size_t count, begin, end;
};

namespace detail {

/// Logits of N tokens from their sums.
template <class Arch, std::size_t N, class Sum>
SPARQ_ALWAYS_INLINE void logits_of(const Sum* sums, float step, float bias,
                                   float* logits) noexcept {
    namespace simd = sparq::detail::simd;
    const auto offset = simd::splat<Arch>(bias), factor = simd::splat<Arch>(step);
    for (std::size_t t = 0; t < N; t += simd::lanes<Arch>)
        simd::store<Arch>(logits + t,
                          simd::multiply_add<Arch>(factor, simd::load<Arch>(sums + t), offset));
}

}  // namespace detail
}  // namespace kernels
SPARQ_NAMESPACE_END
