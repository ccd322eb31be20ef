// SPDX-License-Identifier: MIT
// What a tiered_view holds, read by code of its own: strips, 2-bit codes, 4-bit rows; and
// what all of that should be, in double, from the rows of K and V.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "tier_problem.hpp"

namespace tier_codes {

using std::size_t;
using numbers = std::vector<double>;

/// Distance of neighbouring halves around x.
inline double half_step(double x) {
    int exponent = 0;
    std::frexp(std::max(std::abs(x), 0x1p-14), &exponent);
    return std::ldexp(1.0, exponent - 11);
}

/// Where a token stands: its segment, and the tokens that share its ranges.
struct place {
    size_t segment = 0, offset = 0;        ///< token `offset` of the segment
    size_t begin = 0, tokens = 0;          ///< its strip or block; the last one for open tokens
    bool labelled = false, coded = false;  ///< has 2-bit codes; has a code row of K
};

/// Every token of KV head g, oldest first. Segments begin with a slab here, as in a cache.
template <class T>
std::vector<place> places(const sparq::tiered_view<T>& view, size_t g) {
    std::vector<place> all;
    size_t first = 0, open_begin = 0, open_tokens = 0;
    for (size_t s = 0; s < view.rows().segments_per_head(); ++s) {
        const auto& part = view.rows().segment(s, g);
        for (size_t t = 0; t < part.tokens; ++t) {
            place p{s, t, 0, 0, t < part.labelled, true};
            if (p.labelled) {
                const size_t length = t < part.closed ? 512 : 64;
                open_begin = p.begin = first + t / length * length;
                open_tokens = p.tokens = length;
            }
            all.push_back(p);
        }
        first += part.tokens;
    }
    for (place& p : all)
        if (!p.labelled) p.begin = open_begin, p.tokens = open_tokens, p.coded = open_tokens != 0;
    return all;
}

inline unsigned nibble(const std::uint8_t* codes, size_t i) {
    const unsigned byte = codes[i / 32 * 16 + i % 16];
    return i % 32 < 16 ? byte & 15u : byte >> 4;
}

inline double half_at(const std::uint8_t* bytes) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes, sizeof(bits));
    return test::decode(bits, 5, 10);
}

/// A code row, decoded: K relative to its strip's ranges, V as it is.
struct code_row {
    numbers key, value;
    double key_minimum = 0, key_step = 0, value_minimum = 0, value_step = 0;
};

inline const sparq::code_range* row_of_ranges(const sparq::code_range* ranges, size_t block,
                                              size_t head_dim) {
    return ranges + block * head_dim;
}

/// Ranges that a token's K is coded with.
template <class T>
const sparq::code_range* ranges_of(const sparq::tiered_view<T>& view, size_t g, const place& p) {
    if (!p.labelled) return view.of_head(g).open_ranges;
    const auto& part = view.rows().segment(p.segment, g);
    const size_t length = p.tokens;
    return row_of_ranges(part.ranges, p.offset / length, view.head_dim());
}

template <class T>
code_row decode_row(const sparq::tiered_view<T>& view, size_t g, const place& p) {
    const size_t d = view.head_dim(), v = view.value_dim();
    const size_t key_bytes = (d + 31) / 32 * 16, value_bytes = (v + 31) / 32 * 16;
    const size_t pitch = key_bytes + 4 + value_bytes + 4;
    const std::uint8_t* row = view.code_rows(p.segment, g) + p.offset * pitch;
    code_row out;
    out.key_minimum = half_at(row + key_bytes);
    out.key_step = half_at(row + key_bytes + 2);
    const std::uint8_t* values = row + key_bytes + 4;
    out.value_minimum = half_at(values + value_bytes);
    out.value_step = half_at(values + value_bytes + 2);
    const sparq::code_range* ranges = p.coded ? ranges_of(view, g, p) : nullptr;
    for (size_t c = 0; ranges != nullptr && c < d; ++c) {
        const double width = test::decode(ranges[c].width);
        const double middle = test::decode(ranges[c].minimum) + 2 * width;
        out.key.push_back(middle + width * (out.key_minimum + out.key_step * nibble(row, c)));
    }
    for (size_t c = 0; c < v; ++c)
        out.value.push_back(out.value_minimum + out.value_step * nibble(values, c));
    return out;
}

/// What a channel's 2-bit code of a labelled token stands for.
template <class T>
double scanned_key(const sparq::tiered_view<T>& view, size_t g, const place& p, size_t c) {
    const auto& part = view.rows().segment(p.segment, g);
    const sparq::code_range range = ranges_of(view, g, p)[c];
    const size_t t = p.offset;  // units of 64 tokens in 16 bytes, from the slab's begin
    const unsigned byte = part.keys_t[c * part.channel_stride + t / 64 * 16 + t % 16].byte;
    const unsigned code = byte >> (t % 64 / 16 * 2) & 3u;
    return test::decode(range.minimum) + (code + 0.5) * test::decode(range.width);
}

/// Each channel over tokens [begin, begin + n), the sinks left out: mean, variance, span of
/// the keys, and what its 2-bit range should be.
struct strip_moments {
    numbers mean, variance, span, middle, width;
};

/// Exact rows of a KV head in double.
struct exact_rows {
    size_t head_dim = 0, value_dim = 0, tokens = 0;
    numbers keys, values;

    [[nodiscard]] const double* key(size_t t) const { return keys.data() + t * head_dim; }
    [[nodiscard]] const double* value(size_t t) const { return values.data() + t * value_dim; }

    [[nodiscard]] strip_moments moments(size_t begin, size_t n) const {
        strip_moments m;
        const size_t first = std::max(begin, size_t{4});
        const double count = static_cast<double>(begin + n - first);
        for (size_t c = 0; c < head_dim; ++c) {
            double mean = 0, variance = 0, least = INFINITY, greatest = -INFINITY;
            for (size_t t = first; t < begin + n; ++t) {
                mean += key(t)[c] / count;
                least = std::min(least, key(t)[c]), greatest = std::max(greatest, key(t)[c]);
            }
            for (size_t t = first; t < begin + n; ++t)
                variance += std::pow(key(t)[c] - mean, 2) / count;
            const double deviation = std::sqrt(variance);
            const bool is_far = (greatest - least) / 4 > 1.7 * deviation;
            m.mean.push_back(mean), m.variance.push_back(variance);
            m.span.push_back(greatest - least);
            m.middle.push_back(is_far ? (least + greatest) / 2 : mean);
            m.width.push_back(is_far ? (greatest - least) / 4 : deviation);
        }
        return m;
    }
};

template <class T>
exact_rows rows_of(const test::problem& p, size_t g, size_t tokens) {
    const test::shape& d = p.dims;
    exact_rows rows{d.head_dim, d.value_dim, tokens, {}, {}};
    for (size_t t = 0; t < tokens; ++t) {
        for (size_t c = 0; c < d.head_dim; ++c)
            rows.keys.push_back(
                test::nearest<T>(double{p.keys[(t * d.heads_kv + g) * d.head_dim + c]}));
        for (size_t c = 0; c < d.value_dim; ++c)
            rows.values.push_back(
                test::nearest<T>(double{p.values[(t * d.heads_kv + g) * d.value_dim + c]}));
    }
    return rows;
}

}  // namespace tier_codes
