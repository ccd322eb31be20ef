// SPDX-License-Identifier: MIT
#include "scoring.hpp"

#include <chrono>
#include <cmath>
#include <numbers>

#include "statistics.hpp"

namespace quality {
namespace {

using std::size_t;

/// The paper's code generates at most this many tokens.
constexpr size_t most_generated = 128;

/// Bits of the reference, and how many of its tokens were the most likely ones.
void force(engine& runner, const tokenised_task& what, outcome& result) {
    std::span<const float> logits = runner.prompt_logits();
    double nats = 0.0;
    size_t right = 0;
    for (size_t i = 0; i < what.reference.size(); ++i) {
        const auto token = static_cast<size_t>(what.reference[i]);
        nats -= log_probability(logits, token);
        if (most_likely(logits) == token) ++right;
        if (i + 1 == what.reference.size()) break;  // nothing comes after the last
        logits = runner.step(what.reference[i]);
        ++result.steps;
    }
    const auto tokens = static_cast<double>(what.reference.size());
    result.score = nats * std::numbers::log2e / static_cast<double>(what.reference_text.size());
    result.accuracy = static_cast<double>(right) / tokens;
}

std::string generate(engine& runner, const loaded_model& model, const tokenised_task& what,
                     outcome& result) {
    std::span<const float> logits = runner.prompt_logits();
    for (const llama_token token : what.forced) {
        logits = runner.step(token);
        ++result.steps;
    }
    std::vector<llama_token> generated;
    for (;;) {
        generated.push_back(static_cast<llama_token>(most_likely(logits)));
        if (generated.size() == std::min(most_generated, what.reference.size())) break;
        logits = runner.step(generated.back());
        ++result.steps;
    }
    return model.text_of(generated);
}

double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

}  // namespace

size_t tokenised_task::most_steps() const { return forced.size() + reference.size(); }

tokenised_task tokenise(const task& what, task_kind kind, const loaded_model& model) {
    return {kind, what.reference, model.tokens_of(what.prompt), model.tokens_of(what.forced),
            model.tokens_of(what.reference)};
}

outcome score(engine& runner, const loaded_model& model, const tokenised_task& what,
              method* chosen) {
    outcome result;
    result.prompt_tokens = what.prompt.size();
    result.characters = what.reference_text.size();
    const double start = seconds_now();
    runner.begin(chosen);
    if (generates(what.kind)) {
        const std::string text = generate(runner, model, what, result);
        const std::string_view wanted = without_leading_space(what.reference_text);
        const size_t equal = common_prefix(without_leading_space(text), wanted);
        result.score = what.kind == task_kind::repetition ? static_cast<double>(equal)
                       : equal == wanted.size()           ? 1.0
                                                          : 0.0;
    } else {
        force(runner, what, result);
    }
    result.seconds = seconds_now() - start;
    if (chosen != nullptr) result.bytes = runner.attention().bytes_share();
    return result;
}

std::vector<std::vector<float>> forced_logits(engine& runner, std::span<const llama_token> tokens,
                                              method* chosen) {
    runner.begin(chosen);
    std::vector<std::vector<float>> all;
    for (const llama_token token : tokens) {
        const auto logits = runner.step(token);
        all.emplace_back(logits.begin(), logits.end());
    }
    return all;
}

}  // namespace quality
