// SPDX-License-Identifier: MIT
// One example through the model with one method.
#pragma once

#include <vector>

#include "engine.hpp"
#include "results.hpp"
#include "tasks.hpp"

namespace quality {

struct tokenised_task {
    task_kind kind = task_kind::bits;
    std::string reference_text;
    std::vector<llama_token> prompt, forced, reference;
    /// Decode steps that scoring takes, at most.
    [[nodiscard]] std::size_t most_steps() const;
    [[nodiscard]] std::size_t most_tokens() const { return prompt.size() + most_steps(); }
};
tokenised_task tokenise(const task& what, task_kind kind, const loaded_model& model);

/// The engine holds the task's prompt. nullptr: llama.cpp attends. The bytes of the outcome
/// are what the library's reports count; 0 where llama.cpp attends.
outcome score(engine& runner, const loaded_model& model, const tokenised_task& what,
              method* chosen);

/// The logits of n steps with forced tokens, [n][vocabulary]. The engine holds a prompt.
std::vector<std::vector<float>> forced_logits(engine& runner, std::span<const llama_token> tokens,
                                              method* chosen);

}  // namespace quality
