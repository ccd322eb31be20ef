// SPDX-License-Identifier: MIT
// std::vector whose functions carry the instruction set in their names.
//
// A plain std::vector<kv_segment> has the same functions in every translation unit, and
// the linker keeps one of each: that of a unit compiled for AVX-512, say, which a caller
// compiled for less then runs too. The layout is the same in all units.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "../config.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

template <class T>
struct SPARQ_ISA_TYPE isa_allocator {
    using value_type = T;

    isa_allocator() = default;
    template <class U>
    SPARQ_PER_ISA explicit(false) isa_allocator(const isa_allocator<U>&) noexcept {}

    [[nodiscard]] SPARQ_PER_ISA T* allocate(std::size_t n) {
        return std::allocator<T>{}.allocate(n);
    }
    SPARQ_PER_ISA void deallocate(T* memory, std::size_t n) noexcept {
        std::allocator<T>{}.deallocate(memory, n);
    }
    friend bool operator==(const isa_allocator&, const isa_allocator&) = default;
};

template <class T>
using isa_vector = std::vector<T, isa_allocator<T>>;

}  // namespace detail
SPARQ_NAMESPACE_END
