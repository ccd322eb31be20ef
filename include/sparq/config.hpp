// SPDX-License-Identifier: MIT
// Every macro of the library but the version's, and the constants that a port may tune.
#pragma once

#include <cstddef>

#include "version.hpp"

#if defined(__GNUC__) || defined(__clang__)
#define SPARQ_RESTRICT __restrict__
#define SPARQ_ALWAYS_INLINE [[gnu::always_inline]] inline
/// Unrolls the loop behind it, also under -O2, so that arrays become registers.
#define SPARQ_UNROLL _Pragma("GCC unroll 8")
#else
#define SPARQ_UNROLL
#define SPARQ_RESTRICT
#define SPARQ_ALWAYS_INLINE inline
#endif

// The instruction set that a translation unit is compiled for, as part of the names of
// inline functions that are no templates on Arch: units with different flags then share
// none of them, and a linker cannot hand code for the wider set to the other unit. Types
// are not tagged: a cache passes from unit to unit.
#if defined(__AVX512BW__)
#define SPARQ_ISA_TAG "avx512bw"
#elif defined(__AVX512F__)
#define SPARQ_ISA_TAG "avx512f"
#elif defined(__AVX2__) && defined(__FMA__)
#define SPARQ_ISA_TAG "fma3avx2"
#elif defined(__AVX2__)
#define SPARQ_ISA_TAG "avx2"
#elif defined(__AVX__)
#define SPARQ_ISA_TAG "avx"
#else
#define SPARQ_ISA_TAG "baseline"
#endif
#if defined(__GNUC__) || defined(__clang__)
#define SPARQ_PER_ISA [[gnu::abi_tag(SPARQ_ISA_TAG)]]
#else
#define SPARQ_PER_ISA
#endif

SPARQ_NAMESPACE_BEGIN

/// Cache line assumed for alignment and prefetch, in bytes.
inline constexpr std::size_t cache_line_bytes = 64;

/// Tokens of a strip: the unit in which keys are copied into the d_h-major layout.
/// 32 two-byte tokens of one channel are one whole cache line, so a strip never
/// writes part of a line, and a strip of 128 channels (8 KB) is transposed in L1.
inline constexpr std::size_t strip_tokens = 32;

/// Tokens of a cache's first segment, and of its largest. Segments double between
/// the two. A scan reads one channel of a segment as one run: 4096 two-byte tokens
/// are 8 KB, and runs under 4 KB lose up to a third of the streaming rate.
inline constexpr std::size_t first_segment_tokens = 256;
inline constexpr std::size_t largest_segment_tokens = 4096;

/// Tokens between two stored prefix sums of the values: what a truncate may have to
/// add up again.
inline constexpr std::size_t checkpoint_tokens = 256;

/// Tokens whose approximate scores are computed while they stay in L1, and how many
/// channels are read side by side meanwhile: 8 x 1024 two-byte elements are 16 KB.
inline constexpr std::size_t scan_block_tokens = 1024;
inline constexpr std::size_t channels_at_once = 8;

/// Rows of K and V attended at a time, and query heads that share one pass over them.
inline constexpr std::size_t attend_block_tokens = 64;
inline constexpr std::size_t attend_block_heads = 8;

/// Tokens attended as one task when a head is split among workers, and after which a
/// partial result is merged in any case, so that the merge order does not depend on
/// who computed what.
inline constexpr std::size_t chunk_tokens = 4096;

SPARQ_NAMESPACE_END
