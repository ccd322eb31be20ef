// SPDX-License-Identifier: MIT
// code_row_writer: makes the 4-bit rows of tokens from their rows of K and V.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "../code_labels.hpp"
#include "../config.hpp"
#include "../kernels/code_rows.hpp"
#include "../kernels/int8_rows.hpp"
#include "../kv_view.hpp"
#include "isa_vector.hpp"
#include "row_kernels.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

/// Parts of a code row, see tiered_view.
struct code_row_layout {
    std::size_t key_range, value_codes, value_range, pitch;

    SPARQ_PER_ISA constexpr code_row_layout(std::size_t head_dim, std::size_t value_dim) noexcept
        : key_range(kernels::code_row_bytes(head_dim)),
          value_codes(key_range + sizeof(kernels::row_range)),
          value_range(value_codes + kernels::code_row_bytes(value_dim)),
          pitch(value_range + sizeof(kernels::row_range)) {}
};

class SPARQ_ISA_TYPE code_row_writer {
   public:
    SPARQ_PER_ISA code_row_writer(std::size_t head_dim, std::size_t value_dim)
        : head_dim_(head_dim),
          value_dim_(value_dim),
          layout_(head_dim, value_dim),
          ranges_(2 * head_dim) {}

    [[nodiscard]] const code_row_layout& layout() const noexcept { return layout_; }

    /// Of one normalisation: middles and inverse widths, [2, d_h], and whether a width is 0.
    [[nodiscard]] std::size_t normalisation_floats() const noexcept { return 2 * head_dim_ + 1; }

    /// What makes K's codes relative to these ranges.
    template <class Arch>
    void normalise(const code_range* ranges, float* normalisation) noexcept {
        static_assert(sizeof(code_range) == 2 * sizeof(half));
        row_kernels<Arch>::convert(reinterpret_cast<const half*>(ranges), 2 * head_dim_,
                                   ranges_.data());
        float& is_flat = normalisation[2 * head_dim_];
        is_flat = 0.0f;
        for (std::size_t c = 0; c < head_dim_; ++c) {
            const float width = ranges_[2 * c + 1];
            if (!(width > 0.0f)) is_flat = 1.0f;
            normalisation[c] = ranges_[2 * c] + 2.0f * width;
            normalisation[head_dim_ + c] = width > 0.0f ? 1.0f / width : 0.0f;
        }
    }
    template <class Arch, class T>
    void write_key(const T* row, const float* normalisation,
                   std::uint8_t* code_row) const noexcept {
        kernels::row_range range = row_kernels<Arch>::encode_row(
            row, normalisation, normalisation + head_dim_, head_dim_, code_row, -1.0f);
        if (normalisation[2 * head_dim_] != 0.0f && leaves_flat_channel(row, normalisation))
            range.minimum = half(std::numeric_limits<float>::quiet_NaN());
        put(code_row + layout_.key_range, range);
    }
    template <class Arch>
    void write_key(const int8_row* row, const float* normalisation,
                   std::uint8_t* code_row) noexcept {
        row_kernels<Arch>::convert(row, head_dim_, ranges_.data());
        write_key<Arch>(static_cast<const float*>(ranges_.data()), normalisation, code_row);
    }
    /// @param token  gives the grid its place: where a model writes the same row for every
    ///               occurrence of a word, errors must not add up
    template <class Arch, class T>
    void write_value(const T* row, std::size_t token, std::uint8_t* code_row) const noexcept {
        const float dither = kernels::token_dither(token);
        put(code_row + layout_.value_range,
            row_kernels<Arch>::encode_row(row, nullptr, nullptr, value_dim_,
                                          code_row + layout_.value_codes, dither));
    }

   private:
    /// Whether a channel whose range has no width is not what the range says, but for its
    /// rounding to half: codes are in widths and cannot tell. The open tokens behind 64 equal
    /// keys have such ranges. With a minimum that is NaN whoever reads the row attends densely.
    template <class T>
    [[nodiscard]] SPARQ_PER_ISA bool leaves_flat_channel(
        const T* row, const float* normalisation) const noexcept {
        for (std::size_t c = 0; c < head_dim_; ++c) {
            const float middle = normalisation[c], off = static_cast<float>(row[c]) - middle;
            if (normalisation[head_dim_ + c] == 0.0f &&
                !(std::abs(off) <= 0x1p-10f * std::abs(middle) + 0x1p-24f))
                return true;
        }
        return false;
    }
    SPARQ_PER_ISA static void put(std::uint8_t* place, const kernels::row_range& range) noexcept {
        std::memcpy(place, &range, sizeof(range));
    }

    std::size_t head_dim_, value_dim_;
    code_row_layout layout_;
    isa_vector<float> ranges_;  ///< scratch
};

}  // namespace detail
SPARQ_NAMESPACE_END
