// SPDX-License-Identifier: MIT
// What the small examples share: made-up rows and the distance between two outputs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <random>
#include <span>
#include <vector>

/// `count` normally distributed numbers.
inline std::vector<float> normal_numbers(std::mt19937& random, std::size_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> numbers(count);
    for (float& number : numbers) number = normal(random);
    return numbers;
}

/// A query such as models make: a few large components, and logits against normally
/// distributed keys that differ by about 5, so that few tokens get most of the weight.
inline std::vector<float> peaked_query(std::mt19937& random, std::size_t count) {
    std::vector<float> q = normal_numbers(random, count);
    for (float& component : q) component *= 1.3f * component * component;
    return q;
}

inline double norm(std::span<const float> x) {
    double sum = 0;
    for (const float element : x) sum += double(element) * element;
    return std::sqrt(sum);
}

inline double distance(std::span<const float> a, std::span<const float> b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += std::pow(double(a[i]) - b[i], 2);
    return std::sqrt(sum);
}

/// ||y - exact|| / ||exact||
inline double relative_error(std::span<const float> y, std::span<const float> exact) {
    return distance(y, exact) / norm(exact);
}
