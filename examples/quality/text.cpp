// SPDX-License-Identifier: MIT
#include "text.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace quality {
namespace {

constexpr std::string_view white_space = " \n\t\r";

/// More characters than this a token does not take, over a whole chunk.
constexpr std::size_t most_characters = 16;

}  // namespace

std::string read_text(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(file), {}};
    if (text.empty()) throw std::runtime_error(path + ": no text");
    return text;
}

std::size_t next_space(std::string_view text, std::size_t from) {
    return std::min(text.find_first_of(white_space, from), text.size());
}

std::size_t previous_space(std::string_view text, std::size_t from) {
    const std::size_t at = text.find_last_of(white_space, from);
    return at == std::string_view::npos ? 0 : at;
}

std::string_view chunk(std::string_view text, std::size_t e, std::size_t tokens,
                       const token_measure& measure) {
    std::string_view rest = text;
    for (std::size_t i = 0;; ++i) {
        const std::string_view window = rest.substr(0, tokens * most_characters);
        const std::size_t most = measure(window, tokens);
        const std::size_t end = most < rest.size() ? previous_space(rest, most) : 0;
        if (end == 0)
            throw std::invalid_argument("the text ends in chunk " + std::to_string(i) + " of " +
                                        std::to_string(tokens) + " tokens; wanted is chunk " +
                                        std::to_string(e));
        if (i == e) return rest.substr(0, end);
        rest.remove_prefix(end);
    }
}

std::string_view without_leading_space(std::string_view text) {
    text.remove_prefix(std::min(text.find_first_not_of(white_space), text.size()));
    return text;
}

std::size_t common_prefix(std::string_view a, std::string_view b) {
    const auto [in_a, in_b] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
    return static_cast<std::size_t>(in_a - a.begin());
}

}  // namespace quality
