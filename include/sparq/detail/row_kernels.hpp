// SPDX-License-Identifier: MIT
// row_kernels: what a cache does with rows, on an instruction set.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "../config.hpp"
#include "../kernels/code_rows.hpp"
#include "../kernels/convert.hpp"
#include "../kernels/encode_codes.hpp"
#include "../kernels/int8_channels.hpp"
#include "../kernels/int8_rows.hpp"
#include "../kernels/measure_channels.hpp"
#include "../kernels/softmax.hpp"
#include "../kernels/transpose.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

template <class Arch>
struct row_kernels {
    /// Called before the others, which may not throw. Here the compiler has chosen.
    static void choose() noexcept {}

    template <class From, class To>
    static void convert(const From* from, std::size_t n, To* to) noexcept {
        kernels::convert_row<Arch>(from, n, to);
    }
    /// A row of V, which the token has a say in.
    template <class From>
    static void encode_value(const From* from, std::size_t n, std::size_t token,
                             int8_row* to) noexcept {
        kernels::encode_int8_row<Arch>(from, n, to, kernels::token_dither(token));
    }
    template <class T>
    static void add(const T* row, std::size_t n, double* sums) noexcept {
        kernels::add_row<Arch>(row, n, sums);
    }
    template <class T, class Label>
    static void transpose(const T* rows, std::size_t row_stride, std::size_t tokens,
                          std::size_t width, Label* out, std::size_t out_stride) noexcept {
        kernels::transpose_rows<Arch>(rows, row_stride, tokens, width, out, out_stride);
    }
    template <class T, class Label>
    static void encode(const T* rows, std::size_t row_stride, std::size_t tokens, std::size_t width,
                       std::size_t skipped, Label* codes, std::size_t channel_stride,
                       code_range* ranges) noexcept {
        kernels::encode_rows<Arch>(rows, row_stride, tokens, width, skipped, codes, channel_stride,
                                   ranges);
    }

    // Of caches in tiers.

    template <class T>
    static kernels::row_range encode_row(const T* row, const float* mean,
                                         const float* inverse_spread, std::size_t width,
                                         std::uint8_t* codes, float dither) noexcept {
        return kernels::encode_row<Arch>(row, mean, inverse_spread, width, codes, dither);
    }
    /// Widens a row; returns the sum of its squares.
    template <class T>
    static float widen_and_square(const T* row, std::size_t n, float* wide) noexcept {
        kernels::convert_row<Arch>(row, n, wide);
        return kernels::sum_of_products<Arch>(wide, wide, n);
    }
    template <class T>
    static void measure(const T* rows, std::size_t row_stride, std::size_t tokens,
                        std::size_t skipped, std::size_t width, float* mean,
                        float* variance) noexcept {
        kernels::measure_rows<Arch>(rows, row_stride, tokens, skipped, width, mean, variance);
    }
};

/// Stores a row of V of the given token.
template <class Arch, class From, class T>
void store_value(const From* from, std::size_t n, [[maybe_unused]] std::size_t token,
                 T* to) noexcept {
    if constexpr (std::same_as<T, int8_row>)
        row_kernels<Arch>::encode_value(from, n, token, to);
    else
        row_kernels<Arch>::convert(from, n, to);
}

}  // namespace detail
SPARQ_NAMESPACE_END
