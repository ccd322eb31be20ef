// SPDX-License-Identifier: MIT
// A long prompt is processed once: by a context with flash attention, kept in a file, and
// given to a context without.
#pragma once

#include <span>
#include <string>

#include "model_run.hpp"

namespace sparq_llama {

/// Fills sequence 0 with the tokens: from the file if that holds them, else by processing
/// them, with progress on stderr, and writing the file.
void fill_from_file(llama_context* context, std::span<const llama_token> tokens,
                    const std::string& file);

/// Fills sequence 0 of a context without flash attention with what that of `from`, with
/// flash attention, holds: the same keys and values, V a channel a row instead of a token.
/// Exits where llama.cpp's form of a saved sequence is another than 0.5's.
void fill_transposed(llama_context* context, llama_context* from);

}  // namespace sparq_llama
