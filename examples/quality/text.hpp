// SPDX-License-Identifier: MIT
// Cutting a long text into pieces: they end before white space, so that no word is halved.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace quality {

/// The whole file. Throws std::runtime_error when there is none, or it is empty.
std::string read_text(const std::string& path);

/// The first white space at or after `from`; text.size() where none follows.
std::size_t next_space(std::string_view text, std::size_t from);
/// The last white space at or before `from`; 0 where there is none.
std::size_t previous_space(std::string_view text, std::size_t from);

/// How many characters the first `tokens` tokens of a text take; all where it has fewer.
using token_measure = std::function<std::size_t(std::string_view text, std::size_t tokens)>;

/// The e-th of the consecutive chunks of at most `tokens` tokens, each ending before white
/// space. Throws std::invalid_argument when the text is too short for it.
std::string_view chunk(std::string_view text, std::size_t e, std::size_t tokens,
                       const token_measure& measure);

std::string_view without_leading_space(std::string_view text);
/// Characters up to the first that differs; what the shorter of the two has where none does.
std::size_t common_prefix(std::string_view a, std::string_view b);

}  // namespace quality
