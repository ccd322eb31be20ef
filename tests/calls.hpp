// SPDX-License-Identifier: MIT
// The entry points on the instruction set that this executable tests, compiled once per
// element type (calls.cpp) so that every test file need not do it again.
#pragma once

#include <cstddef>
#include <span>

#include <sparq/sparq.hpp>

namespace test {

#ifdef SPARQ_TEST_PLAIN
using arch = sparq::arch::plain;
#else
using arch = sparq::default_arch;
#endif

template <class T, class Label = T>
struct calls {
    static void sparq(std::span<const float> q, const ::sparq::kv_view<T, Label>& view,
                      const ::sparq::sparq_params& params, std::span<float> out,
                      const ::sparq::call_options& options = {});
    static void append(::sparq::kv_cache<T, Label>& cache, std::span<const float> keys,
                       std::span<const float> values);
    static void truncate(::sparq::kv_cache<T, Label>& cache, std::size_t n);
    static void dense(std::span<const float> q, const ::sparq::kv_view<T, Label>& view, float scale,
                      std::span<float> out, const ::sparq::call_options& options = {});
};

#ifdef SPARQ_TEST_FEW_TYPES
inline constexpr std::size_t type_pairs = 3;
#define SPARQ_TEST_TYPES(EACH)         \
    EACH(float, float)                 \
    EACH(::sparq::half, ::sparq::half) \
    EACH(::sparq::bfloat16, ::sparq::half)
#else
inline constexpr std::size_t type_pairs = 9;
#define SPARQ_TEST_TYPES(EACH)                 \
    EACH(float, float)                         \
    EACH(float, ::sparq::half)                 \
    EACH(float, ::sparq::bfloat16)             \
    EACH(::sparq::half, ::sparq::half)         \
    EACH(::sparq::half, ::sparq::bfloat16)     \
    EACH(::sparq::half, float)                 \
    EACH(::sparq::bfloat16, ::sparq::bfloat16) \
    EACH(::sparq::bfloat16, ::sparq::half)     \
    EACH(::sparq::bfloat16, float)
#endif

#ifndef SPARQ_TEST_FEW_TYPES
#define SPARQ_TEST_DECLARE(T, Label)                 \
    extern template struct calls<T, Label>;          \
    }                                                \
    extern template class sparq::kv_cache<T, Label>; \
    namespace test {
SPARQ_TEST_TYPES(SPARQ_TEST_DECLARE)
#undef SPARQ_TEST_DECLARE
#endif

/// Calls body<T, Label>() for the n-th pair of types, counted round.
template <class Body>
void with_types(std::size_t n, const Body& body) {
    std::size_t i = 0;
#define SPARQ_TEST_VISIT(T, Label) \
    if (n % type_pairs == i++) body.template operator()<T, Label>();
    SPARQ_TEST_TYPES(SPARQ_TEST_VISIT)
#undef SPARQ_TEST_VISIT
}

/// As with_types, of the three pairs that bring the most: for tests costly to compile.
template <class Body>
void with_few_types(std::size_t n, const Body& body) {
    if (n % 3 == 0) body.template operator()<float, float>();
    if (n % 3 == 1) body.template operator()<::sparq::half, ::sparq::half>();
    if (n % 3 == 2) body.template operator()<::sparq::bfloat16, ::sparq::half>();
}

}  // namespace test
