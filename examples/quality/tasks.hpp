// SPDX-License-Identifier: MIT
// What the model is asked to do: pieces of a long text, and what is expected after them.
//
// Bits per character, Copy and Repetition are those of the SparQ paper's released code, with
// contexts cut by tokens instead of characters, so that a length can be set.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "text.hpp"

namespace quality {

enum class task_kind { bits, copy, repetition, needle };

inline constexpr std::array task_names = {"bits", "copy", "repetition", "needle"};
inline const char* name_of(task_kind kind) { return task_names[static_cast<std::size_t>(kind)]; }
/// Throws std::invalid_argument that lists the names.
task_kind task_of(std::string_view name);

/// True where the reference is not fed token by token: the model goes on by itself.
inline bool generates(task_kind kind) {
    return kind == task_kind::repetition || kind == task_kind::needle;
}

/// Which example of which task.
struct task_key {
    task_kind kind = task_kind::bits;
    std::size_t context = 0;  ///< tokens of all that the model sees, about
    std::size_t example = 0;
    double depth = 0.0;  ///< of a needle, 0 at the beginning .. 1 at the end

    friend bool operator==(const task_key&, const task_key&) = default;
};

struct task {
    std::string prompt;     ///< processed densely, at once
    std::string forced;     ///< then fed through decode steps; empty but for needles
    std::string reference;  ///< what should follow
};

/// - bits: a chunk; its last 600 characters or more, from white space on, are the reference.
/// - copy, repetition: a chunk, a newline, and 128 characters or more of it; the reference
///   is the 256 or more that follow these in the chunk. Where, the seed and the example say.
/// - needle: a chunk with "The secret number of CITY is NNNN." at the depth, and the
///   question, fed through decode steps: a method has to find the fact by itself, since a
///   dense prompt would have found it before the first step.
///
/// @throws std::invalid_argument when the text or the context is too short
task build_task(const task_key& key, std::string_view text, std::uint64_t seed,
                const token_measure& measure);

}  // namespace quality
