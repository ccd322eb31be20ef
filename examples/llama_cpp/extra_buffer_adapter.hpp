// SPDX-License-Identifier: MIT
// The main adapter: ggml's CPU backend offers every node to its list of "extra buffer types"
// before it computes the node itself, on every thread; an entry of that list answers
// attention on ggml's own threads, with ggml's own barrier. The graph stays in one piece.
#pragma once

#include "cpu_backend.hpp"

namespace sparq_llama {

/// Puts the entry into ggml's list. False where the CPU backend hides what that needs.
bool start_extra_buffer_adapter(const cpu_backend& cpu);

}  // namespace sparq_llama
