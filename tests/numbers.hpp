// SPDX-License-Identifier: MIT
// Independent decoders and encoders of the element types, and fixed pseudo-random data.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <type_traits>
#include <vector>

#include <sparq/scalar_types.hpp>

namespace test {

using sizes = std::initializer_list<std::size_t>;

/// Thinner sweeps: under an emulator, and where a build is many times slower.
#ifdef SPARQ_TEST_QUICK
inline constexpr bool quick = true;
#else
inline constexpr bool quick = false;
#endif

/// sign, exponent and fraction fields of a two-byte float, by arithmetic alone.
inline double decode(std::uint16_t bits, int exponent_bits, int fraction_bits) {
    const double sign = (bits >> 15) != 0 ? -1.0 : 1.0;
    const int exponent = (bits >> fraction_bits) & ((1 << exponent_bits) - 1);
    const int fraction = bits & ((1 << fraction_bits) - 1);
    const int bias = (1 << (exponent_bits - 1)) - 1;
    if (exponent == (1 << exponent_bits) - 1)
        return fraction != 0 ? std::numeric_limits<double>::quiet_NaN()
                             : sign * std::numeric_limits<double>::infinity();
    const double one = std::ldexp(1.0, fraction_bits);
    if (exponent == 0) return sign * std::ldexp(fraction / one, 1 - bias);
    return sign * std::ldexp(1.0 + fraction / one, exponent - bias);
}

inline double decode(sparq::half x) { return decode(x.bits, 5, 10); }
inline double decode(sparq::bfloat16 x) { return decode(x.bits, 8, 7); }
inline double decode(float x) { return x; }

/// Rounds to the nearest value with `precision` significant bits and a smallest exponent,
/// ties to even (the rounding mode of nearbyint); large values become infinite.
inline double round_to(double x, int precision, int min_exponent, double overflow) {
    if (x == 0 || !std::isfinite(x)) return x;
    int exponent = 0;
    std::frexp(x, &exponent);  // |x| in [2^(e-1), 2^e)
    const int quantum = std::max(exponent, min_exponent + 1) - precision;
    const double rounded = std::ldexp(std::nearbyint(std::ldexp(x, -quantum)), quantum);
    return std::abs(rounded) >= overflow ? std::copysign(INFINITY, x) : rounded;
}

template <class T>
double nearest(double x) {
    if constexpr (std::is_same_v<T, sparq::half>) return round_to(x, 11, -14, 65536.0);
    if constexpr (std::is_same_v<T, sparq::bfloat16>)
        return round_to(x, 8, -126, std::ldexp(1.0, 128));
    return x;
}

/// splitmix64: the same numbers on every platform.
class random_source {
   public:
    explicit random_source(std::uint64_t seed) : state_(seed) {}

    std::uint64_t bits() {
        std::uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        return z ^ (z >> 31);
    }
    std::size_t below(std::size_t n) { return static_cast<std::size_t>(bits() % n); }
    /// In [-1, 1).
    double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-52 - 1.0; }
    /// Roughly a normal of variance 1: a sum of three uniforms.
    float normal() { return static_cast<float>(uniform() + uniform() + uniform()); }

   private:
    std::uint64_t state_;
};

inline std::vector<float> normals(std::size_t n, std::uint64_t seed, float size = 1.0f) {
    random_source source(seed);
    std::vector<float> values(n);
    for (float& x : values) x = size * source.normal();
    return values;
}

/// Multiples of 1/1024: sums of a few of them are exact in float, so that i1 has one answer.
inline std::vector<float> grid_normals(std::size_t n, std::uint64_t seed, float size = 1.0f) {
    std::vector<float> values = normals(n, seed, size);
    for (float& x : values) x = std::nearbyint(x * 1024.0f) / 1024.0f;
    return values;
}

}  // namespace test
