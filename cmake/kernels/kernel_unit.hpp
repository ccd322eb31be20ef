// SPDX-License-Identifier: MIT
// The kernels of one instruction set behind a kernel_table. Included by kernels_*.cpp, of
// which each is compiled with the flags of its instruction set.
//
// A linker keeps one copy of a function that several units define, and must not hand the
// one in here to units for a lesser processor (or one for a greater processor to here).
// So none is defined that another unit could define too: Arch is a type of this unit
// alone, which makes every template on it the unit's own, and what is no such template
// is always inlined (SPARQ_PER_ISA). tests/dispatch looks at the objects.
#pragma once

#if !defined(SPARQ_KERNEL_UNIT)
#error "define SPARQ_KERNEL_UNIT as the name of the unit"
#endif

#include <concepts>
#include <cstddef>
#include <new>
#include <type_traits>

#include <sparq/detail/arch.hpp>
#include <sparq/detail/dense_tasks.hpp>
#include <sparq/detail/kernel_table.hpp>
#include <sparq/detail/row_kernels.hpp>
#include <sparq/detail/simd.hpp>
#include <sparq/detail/sparq_tasks.hpp>
#include <sparq/detail/task_phases.hpp>
#include <sparq/detail/tiered_tasks.hpp>
#include <sparq/kernels/convert.hpp>
#include <sparq/kernels/encode_codes.hpp>
#include <sparq/kernels/transpose.hpp>

SPARQ_NAMESPACE_BEGIN

namespace {
struct unit_arch {};
}  // namespace

namespace detail {

namespace simd {
template <>
struct batch_of<unit_arch> {
    using type = typename batch_of<default_arch>::type;
};
template <>
inline constexpr bool is_plain<unit_arch> = is_plain<default_arch>;
}  // namespace simd

namespace {

constexpr dispatch::isa compiled_for =
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && \
    defined(__AVX512VL__) && defined(__AVX512CD__)
    dispatch::isa::avx512;
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
    dispatch::isa::avx2;
#elif defined(SPARQ_HAS_X86)
    dispatch::isa::sse2;
#elif defined(SPARQ_HAS_NEON)
    dispatch::isa::neon;
#else
    dispatch::isa::plain;
#endif

/// The calls of a class of tasks that lie in `state`.
template <class Tasks>
struct tasks_in_state {
    static_assert(std::is_trivially_copyable_v<Tasks> && std::is_trivially_destructible_v<Tasks>,
                  "plans are copied with their state");

    static const Tasks& in(const std::byte* state) noexcept {
        return *std::launder(reinterpret_cast<const Tasks*>(state));
    }
    static void prepare(const std::byte* state, std::size_t g, std::byte* scratch) noexcept {
        in(state).prepare(g, scratch);
    }
    static void chunk(const std::byte* state, std::size_t g, std::byte* scratch,
                      std::size_t c) noexcept {
        in(state).chunk(g, scratch, c);
    }
    static void rank(const std::byte* state, std::size_t g, std::byte* scratch,
                     std::size_t part) noexcept {
        rank_part(in(state), g, scratch, part);
    }
    static void all_chunks(const std::byte* state, std::size_t g, std::byte* scratch) noexcept {
        run_all_chunks(in(state), g, scratch);
    }
    static void finish(const std::byte* state, std::size_t g, std::byte* scratch) noexcept {
        in(state).finish(g, scratch);
    }
    static constexpr task_calls calls{prepare, chunk, rank, all_chunks, finish};
};

template <class Tasks>
task_shape shape_of(const Tasks& tasks) noexcept {
    return {tasks.scratch_bytes(), tasks.chunks(), heads_take_turns(tasks)};
}

template <class T, class Label>
task_shape make_dense(const attention_request<T, Label>& request, std::byte* state) {
    using tasks = dense_tasks<unit_arch, T, Label>;
    static_assert(sizeof(tasks) == sizeof(dense_tasks<arch::plain, T, Label>));
    return shape_of(*new (state) tasks(request));
}

template <class T, class Label>
task_shape make_sparq(const attention_request<T, Label>& request, const sparq_params& params,
                      std::byte* state) {
    using tasks = sparq_tasks<unit_arch, T, Label>;
    static_assert(sizeof(tasks) == sizeof(sparq_tasks<arch::plain, T, Label>));
    return shape_of(*new (state) tasks(request, params));
}

template <class T>
task_shape make_tiered(const attention_request<T, int2_label>& request, const tiered_view<T>& view,
                       const tiered_params& params, std::byte* state) {
    using tasks = tiered_tasks<unit_arch, T>;
    static_assert(sizeof(tasks) == sizeof(tiered_tasks<arch::plain, T>));
    return shape_of(*new (state) tasks(request, view, params));
}

template <class T, class Label>
constexpr step_calls<T, Label> steps_of{make_dense<T, Label>, make_sparq<T, Label>,
                                        tasks_in_state<dense_tasks<unit_arch, T, Label>>::calls,
                                        tasks_in_state<sparq_tasks<unit_arch, T, Label>>::calls};

template <class T, class Label>
constexpr code_calls<T, Label> codes_of{steps_of<T, Label>,
                                        kernels::encode_rows<unit_arch, T, Label>};

template <class T>
constexpr tier_calls<T> tiers_of{make_tiered<T>, tasks_in_state<tiered_tasks<unit_arch, T>>::calls,
                                 row_kernels<unit_arch>::encode_row<T>,
                                 row_kernels<unit_arch>::widen_and_square<T>,
                                 row_kernels<unit_arch>::measure<T>};

template <class T>
constexpr kernel_calls<T> calls_of{steps_of<T, T>,
                                   kernels::convert_row<unit_arch, float, T>,
                                   kernels::convert_row<unit_arch, T, float>,
                                   kernels::add_row<unit_arch, T>,
                                   kernels::transpose_rows<unit_arch, T, T>,
                                   codes_of<T, int8_label>,
                                   codes_of<T, int4_label>,
                                   codes_of<T, int2_label>,
                                   tiers_of<T>};

template <class T>
consteval typename offered<T>::calls calls_offered() {
    if constexpr (std::same_as<typename offered<T>::calls, no_calls>)
        return {};
    else
        return calls_of<T>;
}

}  // namespace

SPARQ_KERNELS_BEGIN
constinit const kernel_table SPARQ_KERNEL_UNIT{compiled_for,
                                               kernels::convert_row<unit_arch, half, float>,
                                               row_kernels<unit_arch>::encode_row<float>,
                                               calls_offered<float>(),
                                               calls_offered<half>(),
                                               calls_offered<bfloat16>()};
SPARQ_KERNELS_END

}  // namespace detail

SPARQ_NAMESPACE_END
