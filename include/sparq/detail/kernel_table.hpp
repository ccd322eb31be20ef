// SPDX-License-Identifier: MIT
// kernel_table: what cmake/kernels/kernel_unit.hpp, compiled once for each instruction set, offers
// to units that are compiled for less. Pointers only: no code is shared between the two.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../code_labels.hpp"
#include "../config.hpp"
#include "../kernels/code_rows.hpp"
#include "../params.hpp"
#include "../scalar_types.hpp"
#include "../tiered_params.hpp"
#include "../tiered_view.hpp"
#include "attention_request.hpp"

SPARQ_NAMESPACE_BEGIN

namespace dispatch {

/// Instruction sets, each wider than those before it. A program has the kernels of the
/// first that its processor's family knows (neon on aarch64, plain where there is no
/// vector code) and on x86-64 of all from sse2 on.
enum class isa {
    plain,
    neon,
    sse2,
    avx2,    ///< with FMA and F16C
    avx512,  ///< F, BW, DQ, VL and CD: x86-64-v4
};

}  // namespace dispatch

namespace detail {

/// What of tasks depends on the width of the vectors.
struct task_shape {
    std::size_t scratch_bytes, chunks;
    bool heads_take_turns;
};

/// The phases of task_phases.hpp on tasks that a kernel unit has made in `state`.
struct task_calls {
    void (*prepare)(const std::byte* state, std::size_t g, std::byte* scratch) noexcept;
    void (*chunk)(const std::byte* state, std::size_t g, std::byte* scratch,
                  std::size_t c) noexcept;
    void (*rank)(const std::byte* state, std::size_t g, std::byte* scratch,
                 std::size_t part) noexcept;
    void (*all_chunks)(const std::byte* state, std::size_t g, std::byte* scratch) noexcept;
    void (*finish)(const std::byte* state, std::size_t g, std::byte* scratch) noexcept;
};

template <class T, class Label>
struct step_calls {
    /// Make tasks in `state`, as large as the tasks of any instruction set.
    task_shape (*make_dense)(const attention_request<T, Label>& request, std::byte* state);
    task_shape (*make_sparq)(const attention_request<T, Label>& request, const sparq_params& params,
                             std::byte* state);
    task_calls dense, sparq;
};

/// With labels of few bits.
template <class T, class Label>
struct code_calls {
    step_calls<T, Label> steps;
    void (*encode)(const T* rows, std::size_t row_stride, std::size_t tokens, std::size_t width,
                   std::size_t skipped, Label* codes, std::size_t channel_stride,
                   code_range* ranges) noexcept;
};

/// In tiers: as make_sparq, and what row_kernels does with rows.
template <class T>
struct tier_calls {
    task_shape (*make)(const attention_request<T, int2_label>& request, const tiered_view<T>& view,
                       const tiered_params& params, std::byte* state);
    task_calls tasks;
    kernels::row_range (*encode_row)(const T* row, const float* mean, const float* inverse_spread,
                                     std::size_t width, std::uint8_t* codes, float dither) noexcept;
    float (*widen_and_square)(const T* row, std::size_t n, float* wide) noexcept;
    void (*measure)(const T* rows, std::size_t row_stride, std::size_t tokens, std::size_t skipped,
                    std::size_t width, float* mean, float* variance) noexcept;
};

template <class T>
struct kernel_calls {
    step_calls<T, T> steps;
    void (*convert)(const float* from, std::size_t n, T* to) noexcept;
    void (*widen)(const T* from, std::size_t n, float* to) noexcept;
    void (*add)(const T* row, std::size_t n, double* sums) noexcept;
    void (*transpose)(const T* rows, std::size_t row_stride, std::size_t tokens, std::size_t width,
                      T* out, std::size_t out_stride) noexcept;
    code_calls<T, int8_label> int8;
    code_calls<T, int4_label> int4;
    code_calls<T, int2_label> int2;
    tier_calls<T> tiers;
};

// A table without some types is another one, of another name: units that see different tables
// do not link.
#if defined(SPARQ_KERNEL_TYPES)
#define SPARQ_KERNELS_BEGIN inline namespace SPARQ_KERNEL_TYPES {
#define SPARQ_KERNELS_END }
#else
#define SPARQ_KERNELS_BEGIN
#define SPARQ_KERNELS_END
#endif
SPARQ_KERNELS_BEGIN

/// In place of the calls for a type that sparq_add_kernels was told to leave out.
struct no_calls {};

template <class T>
struct offered {
    using calls = kernel_calls<T>;
};
#if defined(SPARQ_NO_KERNELS_FLOAT)
template <>
struct offered<float> {
    using calls = no_calls;
};
#endif
#if defined(SPARQ_NO_KERNELS_HALF)
template <>
struct offered<half> {
    using calls = no_calls;
};
#endif
#if defined(SPARQ_NO_KERNELS_BFLOAT16)
template <>
struct offered<bfloat16> {
    using calls = no_calls;
};
#endif

struct kernel_table {
    dispatch::isa isa;  ///< as the unit's own macros say
    // Of ranges and decoded rows, whatever the element type.
    void (*widen_halves)(const half* from, std::size_t n, float* to) noexcept;
    kernels::row_range (*encode_floats)(const float* row, const float* mean,
                                        const float* inverse_spread, std::size_t width,
                                        std::uint8_t* codes, float dither) noexcept;
    offered<float>::calls of_float;
    offered<half>::calls of_half;
    offered<bfloat16>::calls of_bfloat16;
};

// Each program or shared library has kernels of its own.
SPARQ_HIDDEN extern const kernel_table kernels_baseline;
SPARQ_HIDDEN extern const kernel_table kernels_avx2;
SPARQ_HIDDEN extern const kernel_table kernels_avx512;

SPARQ_KERNELS_END
}  // namespace detail
SPARQ_NAMESPACE_END
