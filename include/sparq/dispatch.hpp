// SPDX-License-Identifier: MIT
// dispatch: one program for all processors. Code compiled for the baseline runs kernels
// compiled for AVX2 or AVX-512 where the processor has it.
//
//   sparq_add_kernels(engine)          # CMake: compiles the kernels into the target;
//                                      # TYPES half: those for K and V of half alone
//
//   cache.append<sparq::arch::dispatched>(keys, values);
//   sparq::sparq_attention<sparq::arch::dispatched>(q, cache, params, out);
//
// arch::dispatched goes where an Arch may be named in sparq_attention, dense_attention,
// plan_sparq, plan_dense, kv_cache and key_labels, for Label = T and for labels of few bits,
// and in attention in tiers: sparq_attention, plan_tiered, tiered_cache and tier_codes, all but
// those of rows of 8 bits (int8_row).
// The result has the bits of the same call compiled for the instruction set that runs (with
// -O2 or -O3: g++ does not fuse multiplications and additions with less).
//
// The choice is made by the first call and is the widest set that the processor and the
// system can run. The environment variable SPARQ_ISA (sse2, avx2, avx512) names the
// widest to take: it lowers the choice and never raises it. Any other value makes the
// first call throw std::invalid_argument, before it has changed anything.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "attention_plan.hpp"
#include "detail/arch.hpp"
#include "detail/dense_tasks.hpp"
#include "detail/kernel_table.hpp"
#include "detail/row_kernels.hpp"
#include "detail/sparq_tasks.hpp"
#include "detail/tiered_tasks.hpp"
#include "int8_row.hpp"

SPARQ_NAMESPACE_BEGIN

namespace arch {

/// Kernels chosen at run time, called from a unit compiled for Caller: part of the type,
/// so that units compiled with different flags share no code here either.
template <class Caller>
struct dispatched_from {};

using dispatched = dispatched_from<native>;

}  // namespace arch

namespace dispatch {

/// "sse2", "avx2" and so on, as SPARQ_ISA has it.
[[nodiscard]] SPARQ_HIDDEN const char* name(isa set) noexcept;

/// Whether the program has these kernels, and the processor and the system can run them.
[[nodiscard]] SPARQ_HIDDEN bool is_available(isa set) noexcept;

/// What runs; chooses if no call has yet.
/// @throws std::invalid_argument for an unknown name in SPARQ_ISA
[[nodiscard]] SPARQ_HIDDEN isa active();

/// Has calls and plans that are made from now on run `set`, whatever SPARQ_ISA says. A
/// plan keeps the kernels that it was made with. Safe beside calls on other threads, but what
/// one of them appends meanwhile may be made by either set.
/// @throws std::invalid_argument when it is not available; nothing is changed then
SPARQ_HIDDEN void use(isa set);

}  // namespace dispatch

namespace detail {

/// The kernels of dispatch::active(), which may throw; and the same once it has not.
SPARQ_KERNELS_BEGIN
[[nodiscard]] SPARQ_HIDDEN const kernel_table& choose_kernels();
[[nodiscard]] SPARQ_HIDDEN const kernel_table& chosen_kernels() noexcept;
SPARQ_KERNELS_END

template <class T>
SPARQ_PER_ISA const kernel_calls<T>& calls_for(const kernel_table& kernels) noexcept {
    static_assert(!std::same_as<T, int8_row>, "arch::dispatched has no kernels for rows of 8 bits");
    static_assert(!std::same_as<typename offered<T>::calls, no_calls>,
                  "the TYPES that sparq_add_kernels was given leave this element type out");
    if constexpr (std::same_as<T, float>)
        return kernels.of_float;
    else if constexpr (std::same_as<T, half>)
        return kernels.of_half;
    else
        return kernels.of_bfloat16;
}

/// The calls for labels of few bits.
template <class T, class Label>
SPARQ_PER_ISA const code_calls<T, Label>& codes_for(const kernel_table& kernels) noexcept {
    if constexpr (std::same_as<Label, int8_label>)
        return calls_for<T>(kernels).int8;
    else if constexpr (std::same_as<Label, int4_label>)
        return calls_for<T>(kernels).int4;
    else
        return calls_for<T>(kernels).int2;
}

template <class T, class Label>
SPARQ_PER_ISA const step_calls<T, Label>& steps_for(const kernel_table& kernels) noexcept {
    static_assert(std::same_as<T, Label> || coded_label<Label>,
                  "arch::dispatched needs Label = T, or labels of few bits");
    if constexpr (coded_label<Label>)
        return codes_for<T, Label>(kernels).steps;
    else
        return calls_for<T>(kernels).steps;
}

/// Tasks whose phases run in a kernel unit. The caller's own, `outline`, check the sizes
/// and fill in the report; their scratch is not used.
template <class Outline>
class dispatched_tasks {
   public:
    [[nodiscard]] std::size_t heads() const noexcept { return outline_.heads(); }
    [[nodiscard]] bool heads_take_turns() const noexcept { return shape_.heads_take_turns; }
    [[nodiscard]] std::size_t seq_len() const noexcept { return outline_.seq_len(); }
    [[nodiscard]] std::size_t chunks() const noexcept { return shape_.chunks; }
    [[nodiscard]] std::size_t scratch_bytes() const noexcept { return shape_.scratch_bytes; }
    void begin_report() const { outline_.begin_report(); }

    void prepare(std::size_t g, std::byte* scratch) const noexcept {
        calls_->prepare(state_, g, scratch);
    }
    void chunk(std::size_t g, std::byte* scratch, std::size_t c) const noexcept {
        calls_->chunk(state_, g, scratch, c);
    }
    [[nodiscard]] std::size_t rank_parts() const noexcept { return detail::rank_parts(outline_); }
    void rank(std::size_t g, std::byte* scratch, std::size_t part) const noexcept {
        calls_->rank(state_, g, scratch, part);
    }
    void all_chunks(std::size_t g, std::byte* scratch) const noexcept {
        calls_->all_chunks(state_, g, scratch);
    }
    void finish(std::size_t g, std::byte* scratch) const noexcept {
        calls_->finish(state_, g, scratch);
    }

   protected:
    /// @param make  makes the tasks in the state it is given, returns their shape
    template <class Make>
    dispatched_tasks(const Outline& outline, const task_calls& calls, const Make& make)
        : outline_(outline), calls_(&calls) {
        shape_ = make(static_cast<std::byte*>(state_));
    }

   private:
    Outline outline_;
    const task_calls* calls_;
    alignas(Outline) mutable std::byte state_[sizeof(Outline)];  // byte sums of a run
    task_shape shape_{};
};

template <class Caller, class T, class Label>
class dense_tasks<arch::dispatched_from<Caller>, T, Label>
    : public dispatched_tasks<dense_tasks<Caller, T, Label>> {
    using outline = dense_tasks<Caller, T, Label>;
    static_assert(sizeof(outline) == sizeof(dense_tasks<arch::plain, T, Label>));

   public:
    explicit dense_tasks(const attention_request<T, Label>& request)
        : dense_tasks(request, steps_for<T, Label>(choose_kernels())) {}

   private:
    dense_tasks(const attention_request<T, Label>& request, const step_calls<T, Label>& calls)
        : dispatched_tasks<outline>(outline(request), calls.dense, [&](std::byte* state) {
              return calls.make_dense(request, state);
          }) {}
};

template <class Caller, class T, class Label>
class sparq_tasks<arch::dispatched_from<Caller>, T, Label>
    : public dispatched_tasks<sparq_tasks<Caller, T, Label>> {
    using outline = sparq_tasks<Caller, T, Label>;
    static_assert(sizeof(outline) == sizeof(sparq_tasks<arch::plain, T, Label>));

   public:
    sparq_tasks(const attention_request<T, Label>& request, const sparq_params& params)
        : sparq_tasks(request, params, steps_for<T, Label>(choose_kernels())) {}

   private:
    sparq_tasks(const attention_request<T, Label>& request, const sparq_params& params,
                const step_calls<T, Label>& calls)
        : dispatched_tasks<outline>(outline(request, params), calls.sparq, [&](std::byte* state) {
              return calls.make_sparq(request, params, state);
          }) {}
};

template <class Caller, class T>
class tiered_tasks<arch::dispatched_from<Caller>, T>
    : public dispatched_tasks<tiered_tasks<Caller, T>> {
    using outline = tiered_tasks<Caller, T>;
    using request = attention_request<T, int2_label>;
    static_assert(sizeof(outline) == sizeof(tiered_tasks<arch::plain, T>));

   public:
    tiered_tasks(const request& call, const tiered_view<T>& view, const tiered_params& params)
        : tiered_tasks(call, view, params, calls_for<T>(choose_kernels()).tiers) {}

   private:
    tiered_tasks(const request& call, const tiered_view<T>& view, const tiered_params& params,
                 const tier_calls<T>& calls)
        : dispatched_tasks<outline>(
              outline(call, view, params), calls.tasks,
              [&](std::byte* state) { return calls.make(call, view, params, state); }) {}
};

template <class Caller>
struct row_kernels<arch::dispatched_from<Caller>> {
    static void choose() { static_cast<void>(choose_kernels()); }

    template <class From, class To>
    static void convert(const From* from, std::size_t n, To* to) noexcept {
        if constexpr (std::same_as<From, To>)
            row_kernels<Caller>::convert(from, n, to);
        else if constexpr (std::same_as<From, half> && std::same_as<To, float>)
            chosen_kernels().widen_halves(from, n, to);
        else if constexpr (std::same_as<To, float>)
            calls_for<From>(chosen_kernels()).widen(from, n, to);
        else
            calls_for<To>(chosen_kernels()).convert(from, n, to);
    }
    template <class T>
    static void add(const T* row, std::size_t n, double* sums) noexcept {
        calls_for<T>(chosen_kernels()).add(row, n, sums);
    }
    template <class T, class Label>
    static void transpose(const T* rows, std::size_t row_stride, std::size_t tokens,
                          std::size_t width, Label* out, std::size_t out_stride) noexcept {
        static_assert(std::same_as<T, Label>, "arch::dispatched needs Label = T");
        calls_for<T>(chosen_kernels()).transpose(rows, row_stride, tokens, width, out, out_stride);
    }
    template <class T, class Label>
    static void encode(const T* rows, std::size_t row_stride, std::size_t tokens, std::size_t width,
                       std::size_t skipped, Label* codes, std::size_t channel_stride,
                       code_range* ranges) noexcept {
        codes_for<T, Label>(chosen_kernels())
            .encode(rows, row_stride, tokens, width, skipped, codes, channel_stride, ranges);
    }
    template <class T>
    static kernels::row_range encode_row(const T* row, const float* mean,
                                         const float* inverse_spread, std::size_t width,
                                         std::uint8_t* codes, float dither) noexcept {
        if constexpr (std::same_as<T, float>)
            return chosen_kernels().encode_floats(row, mean, inverse_spread, width, codes, dither);
        else
            return calls_for<T>(chosen_kernels())
                .tiers.encode_row(row, mean, inverse_spread, width, codes, dither);
    }
    template <class T>
    static float widen_and_square(const T* row, std::size_t n, float* wide) noexcept {
        return calls_for<T>(chosen_kernels()).tiers.widen_and_square(row, n, wide);
    }
    template <class T>
    static void measure(const T* rows, std::size_t row_stride, std::size_t tokens,
                        std::size_t skipped, std::size_t width, float* mean,
                        float* variance) noexcept {
        calls_for<T>(chosen_kernels())
            .tiers.measure(rows, row_stride, tokens, skipped, width, mean, variance);
    }
};

}  // namespace detail

SPARQ_NAMESPACE_END
