// SPDX-License-Identifier: MIT
// Refusals: one sentence with the argument, its value and what is allowed.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>

#include "../config.hpp"

SPARQ_NAMESPACE_BEGIN

namespace detail {

SPARQ_PER_ISA inline void append_text(std::string& to, std::string_view part) { to += part; }
template <std::integral Number>
SPARQ_PER_ISA void append_text(std::string& to, Number part) {
    to += std::to_string(part);
}

/// The parts one behind the other, numbers in decimal. (g++ 12 gives false warnings about
/// "a" + std::to_string(b).)
template <class... Parts>
SPARQ_PER_ISA std::string text(const Parts&... parts) {
    std::string result;
    (append_text(result, parts), ...);
    return result;
}

[[noreturn]] SPARQ_PER_ISA inline void refuse(const std::string& argument, const std::string& value,
                                              const std::string& allowed) {
    throw std::invalid_argument("sparq: " + argument + " is " + value + ", allowed is " + allowed);
}

[[noreturn]] SPARQ_PER_ISA inline void refuse(const std::string& argument, std::size_t value,
                                              const std::string& allowed) {
    refuse(argument, std::to_string(value), allowed);
}

SPARQ_PER_ISA inline void require_at_least_one(const char* argument, std::size_t value) {
    if (value == 0) refuse(argument, value, "1 or more");
}

SPARQ_PER_ISA inline void require_size(const char* argument, std::size_t size, std::size_t wanted,
                                       const char* meaning) {
    if (size != wanted)
        refuse(argument, detail::text("of size ", size), detail::text(wanted, " (", meaning, ")"));
}

/// What checked_product refuses, thrown by cmake/kernels/dispatch.cpp for the kernel units.
[[noreturn]] SPARQ_HIDDEN void refuse_product(const char* argument, std::size_t a, std::size_t b);

/// a * b, or a refusal naming `argument` when it leaves the range of objects.
SPARQ_PER_ISA inline std::size_t checked_product(const char* argument, std::size_t a,
                                                 std::size_t b) {
    constexpr auto limit = static_cast<std::size_t>(std::numeric_limits<std::ptrdiff_t>::max());
    if (a == 0 || b <= limit / a) return a * b;
#if defined(SPARQ_KERNEL_UNIT)
    refuse_product(argument, a, b);
#else
    refuse(argument, detail::text(a, " * ", b), detail::text("a product of at most ", limit));
#endif
}

/// How many tokens are appended to the `held` ones: whole ones, the same number in both.
SPARQ_PER_ISA inline std::size_t check_append(std::size_t keys, std::size_t key_width,
                                              std::size_t values, std::size_t value_width,
                                              std::size_t held) {
    const std::size_t n = keys / key_width;
    if (n == 0 || keys % key_width != 0)
        refuse("keys", detail::text("of size ", keys),
               detail::text("a multiple of heads_kv * head_dim = ", key_width, ", not 0"));
    if (values % value_width != 0 || values / value_width != n)
        refuse("values", detail::text("of size ", values),
               detail::text(n, " tokens (as keys) of heads_kv * value_dim = ", value_width));
    if (n > std::numeric_limits<std::uint32_t>::max() - held)
        refuse("number of tokens", "2^32 or more", "less than 2^32");
    return n;
}

SPARQ_PER_ISA inline bool overlaps(const void* a, std::size_t a_bytes, const void* b,
                                   std::size_t b_bytes) noexcept {
    const auto first = reinterpret_cast<std::uintptr_t>(a);
    const auto second = reinterpret_cast<std::uintptr_t>(b);
    return a_bytes != 0 && b_bytes != 0 && first < second + b_bytes && second < first + a_bytes;
}

}  // namespace detail

SPARQ_NAMESPACE_END
