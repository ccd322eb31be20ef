// SPDX-License-Identifier: MIT
// plain_batch: what arch::plain has for a vector.
#pragma once

#include <array>
#include <cstddef>

#include "../config.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail::simd {

/// Four floats without vector instructions of ours.
struct plain_batch {
    static constexpr std::size_t size = 4;
    std::array<float, size> lane;

    friend plain_batch operator+(plain_batch a, const plain_batch& b) noexcept {
        for (std::size_t i = 0; i < size; ++i) a.lane[i] += b.lane[i];
        return a;
    }
    friend plain_batch operator-(plain_batch a, const plain_batch& b) noexcept {
        for (std::size_t i = 0; i < size; ++i) a.lane[i] -= b.lane[i];
        return a;
    }
    friend plain_batch operator*(plain_batch a, const plain_batch& b) noexcept {
        for (std::size_t i = 0; i < size; ++i) a.lane[i] *= b.lane[i];
        return a;
    }
    friend plain_batch operator/(plain_batch a, const plain_batch& b) noexcept {
        for (std::size_t i = 0; i < size; ++i) a.lane[i] /= b.lane[i];
        return a;
    }
};

}  // namespace detail::simd
SPARQ_NAMESPACE_END
