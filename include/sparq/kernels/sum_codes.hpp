// SPDX-License-Identifier: MIT
// Sums of entries of codes, the inner loop of scan_codes.hpp: exact, and the same integers
// from every instruction set.
//
//   sums[t] = sum over the terms of entry(code of token t), entries as in code_weights.hpp
//
// With byte shuffles entries of 2- and 4-bit codes are looked up 16 tokens and more at once
// in a table of 16 for each term (two channels' 2-bit codes are one index). Entries are at
// most 127, so two terms are added as bytes; these go into 16-bit sums of even and odd
// bytes, the even ones with 256 times the odd ones still in them until the end.
// Traffic: bits / 8 bytes a channel and token, once for all query heads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../config.hpp"
#include "../detail/native_bytes.hpp"
#include "code_weights.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

/// What a token's codes add up to.
template <unsigned Bits>
using code_sum = std::conditional_t<Bits == 8, std::int32_t, std::uint16_t>;

/// Channels that are read side by side: what memory likes best (config.hpp, the same for
/// labels that are elements), and by how much a pass over the sums of a run costs less.
inline constexpr std::size_t code_channels_at_once = 16;

/// Terms that are read side by side.
template <unsigned Bits>
inline constexpr std::size_t code_terms_at_once = code_terms<Bits>(code_channels_at_once);

/// Where some terms read: term i from first[i], for 2 bits second[i] too; and what is
/// wanted of them next.
struct code_channels {
    const std::uint8_t* first[code_channels_at_once + entries_at_once];
    const std::uint8_t* second[code_channels_at_once + entries_at_once];
};

namespace detail {

/// Widest registers for codes; 0: plain code.
template <class Arch>
inline constexpr std::size_t code_register_bytes =
    sparq::detail::simd::is_plain<Arch> ? 0 : sparq::detail::native::look_up_bytes;

/// Tokens that go together in registers of so many bytes.
SPARQ_PER_ISA constexpr std::size_t tile_tokens(std::size_t register_bytes) noexcept {
    return std::max<std::size_t>(16, register_bytes) / 16 * code_block_tokens;
}

/// The table of each term of a head: [terms][16].
template <class Arch, unsigned Bits>
void fill_tables(const code_weights<Bits>& weights, std::size_t terms,
                 std::uint8_t* tables) noexcept {
    namespace native = sparq::detail::native;
    using reg = typename native::byte_ops<code_register_bytes<Arch>>::reg;
    static constexpr std::uint16_t two_bits[16] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
    static constexpr std::uint16_t upper_bits[16] = {0, 0, 0, 0, 1, 1, 1, 1,
                                                     2, 2, 2, 2, 3, 3, 3, 3};
    static constexpr std::uint16_t four_bits[16] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                    8, 9, 10, 11, 12, 13, 14, 15};
    constexpr const auto& codes = Bits == 2 ? two_bits : four_bits;
    const float* of_b = Bits == 2 ? weights.b : nullptr;
    if constexpr (requires(reg r) {
                      native::store_tables(of_b, of_b, of_b, terms, codes, upper_bits, tables, r);
                  }) {
        native::store_tables(weights.a, of_b, weights.c, terms, codes, upper_bits, tables, reg{});
        return;
    }
    const auto a_index = native::load_words(codes);
    const auto b_index = native::load_words(upper_bits);
    for (std::size_t i = 0; i < terms; ++i) {
        const std::int16_t a = lower_word<Arch>(weights.a[i]);
        const std::int16_t b = Bits == 2 ? lower_word<Arch>(weights.b[i]) : std::int16_t(0);
        const int c = lower_word<Arch>(weights.c[i]) + 128, further = Bits == 2 ? 2 * b : 8 * a;
        auto low = native::multiply_add_words(a, a_index, native::splat_words(c));
        if constexpr (Bits == 2) low = native::multiply_add_words(b, b_index, low);
        const auto high = native::add_words(low, native::splat_words(further));
        native::store_upper_bytes(tables + i * 16, low, high);
    }
}

/// A term without a table: what its slot of 16 bytes holds instead.
struct computed_term {
    std::int16_t a, b, c;
};

/// What the terms of a head are looked up in or computed from: [terms] slots of 16 bytes, of
/// one weight for 8 bits.
template <class Arch, unsigned Bits, bool Tables>
void fill_slots(const code_weights<Bits>& weights, std::size_t terms,
                std::uint8_t* slots) noexcept {
    if constexpr (Bits != 8 && Tables) {
        fill_tables<Arch, Bits>(weights, terms, slots);
        return;
    }
    for (std::size_t i = 0; i < terms; ++i) {
        const computed_term term{lower_word<Arch>(weights.a[i]),
                                 Bits == 2 ? lower_word<Arch>(weights.b[i]) : std::int16_t(0),
                                 lower_word<Arch>(weights.c[i])};
        constexpr std::size_t bytes = Bits == 8 ? sizeof(term.a) : sizeof(term);
        std::memcpy(slots + i * (Bits == 8 ? bytes : 16), &term, bytes);
    }
}

/// The indices of a term: four registers, whose lanes are 16 tokens each.
template <class Ops, unsigned Bits>
SPARQ_ALWAYS_INLINE void load_indices(const code_channels& channels, std::size_t i,
                                      std::size_t byte, typename Ops::reg (&index)[4]) noexcept {
    using reg = typename Ops::reg;
    const reg nibble = Ops::splat(0x0f);
    reg x, y;
    if constexpr (Bits == 2) {
        const reg a = Ops::load(channels.first[i] + byte);
        const reg b = Ops::load(channels.second[i] + byte);
        const reg low = Ops::splat(0x33), high = Ops::splat(0xcc);
        x = Ops::either(Ops::both(a, low), Ops::template left<2>(Ops::both(b, low)));
        y = Ops::either(Ops::both(Ops::template right<2>(a), low), Ops::both(b, high));
        index[1] = Ops::both(y, nibble);
        index[2] = Ops::both(Ops::template right<4>(x), nibble);
    } else {
        x = Ops::load(channels.first[i] + byte);
        y = Ops::load(channels.first[i] + byte + sizeof(reg));
        index[1] = Ops::both(Ops::template right<4>(x), nibble);
        index[2] = Ops::both(y, nibble);
    }
    index[0] = Ops::both(x, nibble);
    index[3] = Ops::both(Ops::template right<4>(y), nibble);
}

/// 16-bit sums in two halves, of even and of odd bytes.
template <class Ops>
struct split_sums {
    using reg = typename Ops::reg;
    reg even[4], odd[4];

    SPARQ_ALWAYS_INLINE void clear() noexcept {
        SPARQ_UNROLL
        for (std::size_t s = 0; s < 4; ++s) even[s] = odd[s] = Ops::zero();
    }
    SPARQ_ALWAYS_INLINE void load(const std::byte* raw) noexcept {
        SPARQ_UNROLL
        for (std::size_t s = 0; s < 4; ++s) {
            even[s] = Ops::load(raw + 2 * s * sizeof(reg));
            odd[s] = Ops::load(raw + (2 * s + 1) * sizeof(reg));
        }
    }
    SPARQ_ALWAYS_INLINE void store(std::byte* raw) const noexcept {
        SPARQ_UNROLL
        for (std::size_t s = 0; s < 4; ++s) {
            Ops::store(raw + 2 * s * sizeof(reg), even[s]);
            Ops::store(raw + (2 * s + 1) * sizeof(reg), odd[s]);
        }
    }
    SPARQ_ALWAYS_INLINE void add(std::size_t s, reg bytes) noexcept {
        even[s] = Ops::add_words(even[s], bytes);
        odd[s] = Ops::add_words(odd[s], Ops::template right<8>(bytes));
    }

    /// In the order of the tokens.
    template <unsigned Bits>
    SPARQ_ALWAYS_INLINE void sort(std::uint16_t* sums) const noexcept {
        constexpr std::size_t lanes = sizeof(reg) / 16;
        SPARQ_UNROLL
        for (std::size_t s = 0; s < 4; ++s) {
            const reg exact = Ops::subtract_words(even[s], Ops::template left<8>(odd[s]));
            std::uint16_t low[8 * lanes], high[8 * lanes];
            Ops::store(low, Ops::zip_words_lower(exact, odd[s]));
            Ops::store(high, Ops::zip_words_upper(exact, odd[s]));
            for (std::size_t lane = 0; lane < lanes; ++lane) {
                const std::size_t at =
                    Bits == 2 ? lane * 64 + s * 16 : (s / 2 * lanes + lane) * 32 + s % 2 * 16;
                std::copy_n(low + lane * 8, 8, sums + at);
                std::copy_n(high + lane * 8, 8, sums + at + 8);
            }
        }
    }
};

/// Adds the entries of `terms` terms of one head; indices stay in registers.
template <class Ops, unsigned Bits, class Ahead>
SPARQ_ALWAYS_INLINE void look_up_one(const code_channels& channels, std::size_t byte,
                                     std::size_t terms, const std::uint8_t* tables,
                                     split_sums<Ops>& total, const Ahead& ahead) noexcept {
    using reg = typename Ops::reg;
    for (std::size_t i = 0; i < terms; i += entries_at_once) {
        ahead(i);
        reg sum[4];
        SPARQ_UNROLL
        for (std::size_t j = 0; j < entries_at_once; ++j) {
            reg index[4];
            load_indices<Ops, Bits>(channels, i + j, byte, index);
            const reg table = Ops::load_lane(tables + (i + j) * 16);
            SPARQ_UNROLL
            for (std::size_t s = 0; s < 4; ++s) {
                const reg entry = Ops::look_up(table, index[s]);
                sum[s] = j == 0 ? entry : Ops::add_bytes(sum[s], entry);
            }
        }
        SPARQ_UNROLL
        for (std::size_t s = 0; s < 4; ++s) total.add(s, sum[s]);
    }
}

/// The same with indices that have been worked out for several heads.
template <class Ops>
SPARQ_ALWAYS_INLINE void look_up_indices(const typename Ops::reg (*indices)[4], std::size_t terms,
                                         const std::uint8_t* tables,
                                         split_sums<Ops>& total) noexcept {
    using reg = typename Ops::reg;
    for (std::size_t i = 0; i < terms; i += entries_at_once) {
        reg sum[4];
        SPARQ_UNROLL
        for (std::size_t j = 0; j < entries_at_once; ++j) {
            const reg table = Ops::load_lane(tables + (i + j) * 16);
            SPARQ_UNROLL
            for (std::size_t s = 0; s < 4; ++s) {
                const reg entry = Ops::look_up(table, indices[i + j][s]);
                sum[s] = j == 0 ? entry : Ops::add_bytes(sum[s], entry);
            }
        }
        SPARQ_UNROLL
        for (std::size_t s = 0; s < 4; ++s) total.add(s, sum[s]);
    }
}

/// Adds 8-bit codes of one head to sums in the order of the tokens: two channels side by
/// side, multiplied and added in pairs.
template <class Ops, class Ahead>
SPARQ_ALWAYS_INLINE void multiply_codes(const code_channels& channels, std::size_t byte,
                                        std::size_t terms, const std::int16_t* weights,
                                        std::int32_t* sums, const Ahead& ahead) noexcept {
    using reg = typename Ops::reg;
    constexpr std::size_t lanes = sizeof(reg) / 16;
    for (std::size_t part = 0; part < 4; ++part) {
        reg sum[4] = {Ops::zero(), Ops::zero(), Ops::zero(), Ops::zero()};
        for (std::size_t i = 0; i < terms; i += 2) {
            if (part == 0) ahead(i);
            const std::size_t at = byte + part * sizeof(reg);
            const reg a = Ops::load(channels.first[i] + at);
            const reg b = Ops::load(channels.first[i + 1] + at);
            std::int32_t both;
            std::memcpy(&both, weights + i, sizeof(both));
            const reg factor = Ops::splat_long(both), zero = Ops::zero();
            const reg lower = Ops::zip_bytes_lower(a, b), upper = Ops::zip_bytes_upper(a, b);
            const reg pairs[4] = {
                Ops::zip_bytes_lower(lower, zero), Ops::zip_bytes_upper(lower, zero),
                Ops::zip_bytes_lower(upper, zero), Ops::zip_bytes_upper(upper, zero)};
            SPARQ_UNROLL
            for (std::size_t s = 0; s < 4; ++s)
                sum[s] = Ops::add_longs(sum[s], Ops::multiply_add_words(pairs[s], factor));
        }
        SPARQ_UNROLL
        for (std::size_t s = 0; s < 4; ++s) {
            std::int32_t longs[4 * lanes];
            Ops::store(longs, sum[s]);
            for (std::size_t lane = 0; lane < lanes; ++lane)
                for (std::size_t t = 0; t < 4; ++t)
                    sums[(part * lanes + lane) * 16 + s * 4 + t] += longs[lane * 4 + t];
        }
    }
}

/// Without byte shuffles: adds entries that are computed, code_block_tokens tokens of one head.
template <class Arch, unsigned Bits>
void compute_entries(const code_channels& channels, std::size_t byte, std::size_t terms,
                     const std::uint8_t* slots, code_sum<Bits>* sums) noexcept {
    constexpr std::size_t unit = 128 / Bits;
    constexpr unsigned mask = (1u << Bits) - 1;
    for (std::size_t i = 0; i < terms; ++i) {
        computed_term term{};
        if constexpr (Bits == 8)
            std::memcpy(&term.a, slots + i * sizeof(term.a), sizeof(term.a));
        else
            std::memcpy(&term, slots + i * 16, sizeof(term));
        const int a = term.a, b = term.b, c = Bits == 8 ? 0 : term.c + 128;
        for (std::size_t u = 0; u < code_block_tokens / unit; ++u)
            for (unsigned s = 0; s < 8 / Bits; ++s)
                for (std::size_t t = 0; t < 16; ++t) {
                    const unsigned x = channels.first[i][byte + u * 16 + t];
                    const unsigned y = Bits == 2 ? channels.second[i][byte + u * 16 + t] : 0u;
                    const int first = static_cast<int>((x >> (s * Bits)) & mask);
                    const int second = static_cast<int>((y >> (s * Bits)) & mask);
                    const int entry = a * first + b * second + c;
                    code_sum<Bits>& sum = sums[u * unit + std::size_t{16} * s + t];
                    sum = static_cast<code_sum<Bits>>(sum + (Bits == 8 ? entry : entry >> 8));
                }
    }
}

}  // namespace detail
}  // namespace kernels
SPARQ_NAMESPACE_END
