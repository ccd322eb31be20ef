// SPDX-License-Identifier: MIT
// Every macro of the library but the version's, and the constants that a port may tune.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>

#include "version.hpp"

#if defined(__GNUC__) || defined(__clang__)
#define SPARQ_RESTRICT __restrict__
#define SPARQ_ALWAYS_INLINE [[gnu::always_inline]] inline
/// Unrolls the loop behind it, also under -O2, so that arrays become registers.
#define SPARQ_UNROLL _Pragma("GCC unroll 8")
/// Inlines whatever the function calls (clang: one level of it).
#define SPARQ_FLATTEN [[gnu::flatten]]
#define SPARQ_HIDDEN [[gnu::visibility("hidden")]]
#else
#define SPARQ_FLATTEN
#define SPARQ_HIDDEN
#define SPARQ_UNROLL
#define SPARQ_RESTRICT
#define SPARQ_ALWAYS_INLINE inline
#endif

// The instruction set that a translation unit is compiled for, as part of the names of
// inline functions that are no templates on Arch: units with different flags then share
// none of them, and a linker cannot hand code for the wider set to the other unit. Types that
// callers name are not tagged, since a cache passes from unit to unit; of others those are
// whose functions a compiler writes (moves), or that have many small ones (SPARQ_ISA_TYPE).
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
#if (defined(__GNUC__) || defined(__clang__)) && !defined(SPARQ_KERNEL_UNIT)
#define SPARQ_ISA_TYPE [[gnu::abi_tag(SPARQ_ISA_TAG)]]
#else
#define SPARQ_ISA_TYPE
#endif
#if defined(SPARQ_KERNEL_UNIT)
// A unit of cmake/kernels: no such function may be left in it, whatever its name.
#define SPARQ_PER_ISA [[gnu::always_inline]]
#elif defined(__GNUC__) || defined(__clang__)
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

/// Caches leave fewer tokens than that without labels.
inline constexpr std::size_t most_unlabelled_tokens = 128;

/// Tokens of a cache's first segment, and of its largest. Segments double between
/// the two, or begin longer where many tokens come at once. A scan reads one channel of
/// a segment as one run: 8192 two-byte tokens are 16 KB; runs of 8 KB lose a tenth of the
/// streaming rate, runs under 4 KB a third.
inline constexpr std::size_t first_segment_tokens = 256;
inline constexpr std::size_t largest_segment_tokens = 8192;

/// Tokens of the segment that begins at `first_token` when there is to be room for
/// `tokens` in all.
SPARQ_PER_ISA constexpr std::size_t segment_length(
    std::size_t first_token, std::size_t tokens, std::size_t least = first_segment_tokens,
    std::size_t most = largest_segment_tokens) noexcept {
    const std::size_t wanted = tokens > first_token ? std::bit_floor(tokens - first_token) : 0;
    return std::clamp(std::max(first_token, wanted), least, most);
}

/// Tokens between two stored prefix sums of the values: what a truncate may have to
/// add up again.
inline constexpr std::size_t checkpoint_tokens = 256;

/// Tokens whose approximate scores are computed at a time, how many channels are read
/// side by side meanwhile, and how far ahead of itself the scan asks for a channel: further than a
/// score block, whose state is taken while memory works. (Zen 4, half, S = 4096, 16384, 65536,
/// time by that with 512 bytes: 768 0.94, 0.93, 0.95; 1024 0.95, 0.95, 0.94; 1536 0.96, 0.94, 0.93;
/// with AVX2, 8 channels, 768 0.94, 0.96, 0.97; 1024 0.90, 0.91, 0.88; 1536 0.90, 0.92, 0.96.)
/// Share of the streaming rate with 4, 8, 16, 32 channels, cold: Zen 3, AVX2, runs of
/// 16 KB, with prefetch 0.87, 0.95, 0.89, 0.49; Zen 4, AVX-512, runs of 8 KB, without 0.53,
/// 0.67, 0.76, 0.44, with it 0.84 for 16, 0.95 and more with runs of 16 KB. Prefetch into
/// L1 makes all of them slower. So it is 16 for vectors of 512 bits and 8 for others
/// (kernels::channels_at_once).
inline constexpr std::size_t scan_block_tokens = 8192;
inline constexpr std::size_t most_channels_at_once = 16;
SPARQ_PER_ISA constexpr std::size_t channel_prefetch_bytes(std::size_t channels_at_once) noexcept {
    return channels_at_once > 8 ? 768 : 1024;
}

/// How far ahead of itself a scan of codes asks for a channel (512 and 256 bytes are alike,
/// 1024 worse with 16 channels), and bytes of codes that it reads as one run, if there are so
/// many: as for channel_prefetch_bytes, but in runs of 2, 4, 8 KB 0.6, 0.7, 0.9 (Zen 3).
inline constexpr std::size_t code_prefetch_bytes = 512;
inline constexpr std::size_t code_run_bytes = 8192;

/// Tokens that get a maximum and a sum of exponentials of their own while the scan goes
/// on, and how many maxima of them selection gets. The scan's next lines come meanwhile: of
/// two-byte tokens channel_prefetch_bytes are half as many again, or twice as many.
inline constexpr std::size_t score_block_tokens = 256;
inline constexpr std::size_t maxima_per_block = 16;

/// Rows of K and V attended at a time, if they are listed, at most, and query heads that share
/// one pass over them. Memory is asked for one block ahead. Zen 4, half, d_h = 128, dense: blocks
/// of 16, 32, 64 rows 0.94, 0.79, 0.76 of the streaming rate: more lines than are asked for at a
/// time do not come.
inline constexpr std::size_t attend_block_tokens = 16;
inline constexpr std::size_t most_block_tokens = 32;
inline constexpr std::size_t attend_block_heads = 8;
static_assert(8 < attend_block_tokens && attend_block_tokens < most_block_tokens &&
              attend_block_tokens % 4 == 0 && most_block_tokens % 4 == 0);

/// Rows of a block of consecutive tokens: about 4 KB of K, 2 KB where little is computed for
/// them, since more is asked for than comes otherwise; and for groups, where computing takes
/// longer than reading, at least 16. Zen 4, AVX-512, S = 16384, huge pages, time by that of 16
/// rows (G = 1; 2; 3; 4):
///   rows of 1024 bytes (float, d_h = 256)  4 rows 0.68; 0.83; 0.87; 1.01
///   512 (float, 128)                       8 rows 0.82; 0.96 to 1.04; 0.96; 1.05, 4 rows 0.78;
///                                          0.92 to 1.04; 1.01; 1.23
///   512 (half, 256)                        8 rows 0.75; 0.90; 0.93; 1.11, 4 rows 0.78; 1.01
///   256 (half, 128; float, 64)             8 rows 1.12, 0.98; -, 1.07; -, 1.01; 1.24, 1.28
///   128 (half, 64)                         32 rows 1.00; 0.98; 0.96; 0.89; G = 8 0.93
/// and 32 rows of 64 bytes (half, 32) 0.81, of 160 (half, 80) 1.17.
template <class T>
SPARQ_PER_ISA constexpr std::size_t streamed_block_tokens(std::size_t row_bytes,
                                                          std::size_t group) noexcept {
    if (row_bytes <= 128) return most_block_tokens;
    if (row_bytes <= 256 || group > 3) return attend_block_tokens;
    return row_bytes <= 512 && (sizeof(T) < 4 || group > 1) ? 8 : 4;
}

/// Tokens attended as one task when a head is split among workers, and after which a
/// partial result is merged in any case, so that the merge order does not depend on
/// who computed what.
inline constexpr std::size_t chunk_tokens = 8192;

/// Tokens that are scanned as a task of their own where threads share a head: even parts of about
/// a quarter of the history, so that a few heads can be shared evenly, but runs that are worth
/// reading, of 1 KB and more.
/// @param run  tokens scanned as one run where a head is not shared
SPARQ_PER_ISA constexpr std::size_t shared_chunk_tokens(std::size_t tokens,
                                                        std::size_t run) noexcept {
    constexpr std::size_t least = 4096, grain = 512;
    static_assert(grain % score_block_tokens == 0 && least <= scan_block_tokens);
    const std::size_t wanted = std::clamp(tokens / 4, std::max(least, run / 4), run);
    const std::size_t parts = std::max<std::size_t>((tokens + wanted / 2) / wanted, 1);
    return ((tokens + parts - 1) / parts + grain - 1) / grain * grain;
}

/// Parts of a head that are ranked on their own; each needs the states of all blocks.
inline constexpr std::size_t most_rank_parts = 16;

SPARQ_NAMESPACE_END
