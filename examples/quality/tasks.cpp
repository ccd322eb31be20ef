// SPDX-License-Identifier: MIT
#include "tasks.hpp"

#include <algorithm>
#include <random>
#include <stdexcept>

namespace quality {
namespace {

constexpr std::size_t bits_reference = 600, copied_prompt = 128, copied_reference = 256;
/// Tokens left for what follows the chunk: the repeated prompt and its reference, or the
/// needle, the question and the answer. Four characters a token, and some room.
constexpr std::size_t copy_room = 128, needle_room = 64;

/// std::mt19937_64 gives the same numbers everywhere; the standard's distributions do not.
std::mt19937_64 generator(std::uint64_t seed, std::size_t example) {
    return std::mt19937_64(seed * 1000003u + example);
}

std::size_t chunk_tokens(const task_key& key, std::size_t room) {
    if (key.context < 2 * room)
        throw std::invalid_argument("context = " + std::to_string(key.context) +
                                    "; allowed: at least " + std::to_string(2 * room));
    return key.context - room;
}

task bits(const task_key& key, std::string_view text, const token_measure& measure) {
    const std::string_view all = chunk(text, key.example, key.context, measure);
    const std::size_t split =
        all.size() > bits_reference ? previous_space(all, all.size() - bits_reference) : 0;
    if (split == 0)
        throw std::invalid_argument("context = " + std::to_string(key.context) +
                                    ": no text before the reference");
    return {std::string(all.substr(0, split)), {}, std::string(all.substr(split))};
}

task copied(const task_key& key, std::string_view text, std::uint64_t seed,
            const token_measure& measure) {
    const std::string_view all = chunk(text, key.example, chunk_tokens(key, copy_room), measure);
    constexpr std::size_t longest_word = 32;
    constexpr std::size_t needed = copied_prompt + copied_reference + 3 * longest_word;
    if (all.size() < needed) throw std::invalid_argument("a chunk too short to copy from");
    auto random = generator(seed, key.example);
    const std::size_t begin = next_space(all, random() % (all.size() - needed)) + 1;
    const std::size_t middle = next_space(all, begin + copied_prompt);
    const std::size_t end = next_space(all, middle + copied_reference);
    const std::string prompt(all.substr(begin, middle - begin));
    return {std::string(all) + "\n" + prompt, {}, std::string(all.substr(middle, end - middle))};
}

task needle(const task_key& key, std::string_view text, std::uint64_t seed,
            const token_measure& measure) {
    // None of them stands in the Bible, and none with a number in Austen.
    static constexpr std::array cities = {"Lisbon", "Oslo",    "Boston", "Madrid",
                                          "Dublin", "Chicago", "Vienna", "Prague"};
    if (!(key.depth >= 0.0 && key.depth <= 1.0))
        throw std::invalid_argument("depth = " + std::to_string(key.depth) + "; allowed: 0 .. 1");
    const std::string_view all = chunk(text, key.example, chunk_tokens(key, needle_room), measure);
    auto random = generator(seed, key.example);
    const std::string city = cities[random() % cities.size()];
    const std::string number = std::to_string(1000 + random() % 9000);
    const auto at = previous_space(
        all, static_cast<std::size_t>(key.depth * static_cast<double>(all.size() - 1)));
    const std::string fact = " The secret number of " + city + " is " + number + ".";
    return {std::string(all.substr(0, at)) + fact + std::string(all.substr(at)),
            "\nQuestion: What is the secret number of " + city + "? Answer: The secret number of " +
                city + " is",
            " " + number};
}

}  // namespace

task_kind task_of(std::string_view name) {
    const auto found = std::find(task_names.begin(), task_names.end(), name);
    if (found == task_names.end())
        throw std::invalid_argument("task = " + std::string(name) +
                                    "; allowed: bits, copy, repetition, needle");
    return static_cast<task_kind>(found - task_names.begin());
}

task build_task(const task_key& key, std::string_view text, std::uint64_t seed,
                const token_measure& measure) {
    switch (key.kind) {
        case task_kind::bits:
            return bits(key, text, measure);
        case task_kind::needle:
            return needle(key, text, seed, measure);
        default:
            return copied(key, text, seed, measure);
    }
}

}  // namespace quality
