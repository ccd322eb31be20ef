// SPDX-License-Identifier: MIT
// half and bfloat16: every value to float; every halfway case and its neighbours back.
#include <catch2/catch.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "numbers.hpp"

namespace {

template <class T>
struct format;
template <>
struct format<sparq::half> {
    static constexpr int fraction_bits = 10;
    static constexpr std::uint16_t infinity = 0x7c00;
};
template <>
struct format<sparq::bfloat16> {
    static constexpr int fraction_bits = 7;
    static constexpr std::uint16_t infinity = 0x7f80;
};

bool same(float a, double b) {
    if (std::isnan(b)) return std::isnan(a);
    return static_cast<double>(a) == b && std::signbit(a) == std::signbit(b);
}

}  // namespace

TEMPLATE_TEST_CASE("every two-byte value converts to float exactly", "[scalar_types]", sparq::half,
                   sparq::bfloat16) {
    long wrong = 0;
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
        const auto x = TestType::from_bits(static_cast<std::uint16_t>(bits));
        if (!same(static_cast<float>(x), test::decode(x))) ++wrong;
    }
    CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("every two-byte value survives the way to float and back", "[scalar_types]",
                   sparq::half, sparq::bfloat16) {
    long wrong = 0;
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
        const auto x = TestType::from_bits(static_cast<std::uint16_t>(bits));
        const TestType back(static_cast<float>(x));
        const std::uint32_t quiet = 1u << (format<TestType>::fraction_bits - 1);
        const bool is_nan = (bits & 0x7fffu) > format<TestType>::infinity;
        if (back.bits != (is_nan ? bits | quiet : bits)) ++wrong;
    }
    CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("halfway cases round to even and their neighbours to the nearest",
                   "[scalar_types]", sparq::half, sparq::bfloat16) {
    long wrong = 0;
    for (std::uint16_t bits = 0; bits < format<TestType>::infinity; ++bits) {
        const auto upper_bits = static_cast<std::uint16_t>(bits + 1);
        const double low = test::decode(TestType::from_bits(bits));
        // The value after the largest finite one, were there another exponent.
        const double high =
            upper_bits == format<TestType>::infinity
                ? 2 * low - test::decode(TestType::from_bits(static_cast<std::uint16_t>(bits - 1)))
                : test::decode(TestType::from_bits(upper_bits));
        const auto middle = static_cast<float>((low + high) / 2);
        const std::uint16_t even = (bits & 1u) == 0 ? bits : upper_bits;
        const float below = std::nextafterf(middle, 0.0f);
        const float above = std::nextafterf(middle, INFINITY);
        if (TestType(middle).bits != even) ++wrong;
        if (TestType(-middle).bits != (even | 0x8000u)) ++wrong;
        if (TestType(below).bits != bits || TestType(-below).bits != (bits | 0x8000u)) ++wrong;
        if (TestType(above).bits != upper_bits || TestType(-above).bits != (upper_bits | 0x8000u))
            ++wrong;
    }
    CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("random floats of every size round to the nearest", "[scalar_types]",
                   sparq::half, sparq::bfloat16) {
    const std::uint64_t seed = 11;
    INFO("seed " << seed);
    test::random_source source(seed);
    long wrong = 0;
    for (int i = 0; i < 200000; ++i) {
        const auto bits = static_cast<std::uint32_t>(source.bits());
        const auto x = std::bit_cast<float>(bits);
        if (std::isnan(x)) continue;
        if (test::decode(TestType(x)) != test::nearest<TestType>(static_cast<double>(x))) ++wrong;
    }
    CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("NaN keeps its sign and upper payload and becomes quiet", "[scalar_types]",
                   sparq::half, sparq::bfloat16) {
    constexpr int shift = 23 - format<TestType>::fraction_bits;
    constexpr std::uint32_t quiet = 1u << (format<TestType>::fraction_bits - 1);
    for (const std::uint32_t sign : {0u, 0x80000000u})
        for (std::uint32_t payload = 1; payload < 0x800000u; payload += 0x1235u) {
            const auto x = std::bit_cast<float>(sign | 0x7f800000u | payload);
            const std::uint32_t want =
                (sign >> 16) | format<TestType>::infinity | (payload >> shift) | quiet;
            if (TestType(x).bits != want) FAIL("payload " << payload);
        }
    // Payload bits that are all shifted out must not make an infinity of a NaN.
    CHECK(std::isnan(static_cast<float>(TestType(std::bit_cast<float>(0x7f800001u)))));
    CHECK(TestType(std::numeric_limits<float>::infinity()).bits == format<TestType>::infinity);
    CHECK(TestType(-std::numeric_limits<float>::infinity()).bits ==
          (format<TestType>::infinity | 0x8000u));
    CHECK(TestType(-0.0f).bits == 0x8000u);
}

TEST_CASE("conversions are constant expressions", "[scalar_types]") {
    static_assert(sparq::half(1.0f).bits == 0x3c00);
    static_assert(sparq::bfloat16(1.0f).bits == 0x3f80);
    static_assert(static_cast<float>(sparq::half::from_bits(1)) == 0x1p-24f);
    SUCCEED();
}
