// SPDX-License-Identifier: MIT
// From ggml's tensors to attention_node.
#pragma once

#include <optional>

#include "attention_node.hpp"
#include "ggml.h"

namespace sparq_llama {

/// Whether sparq can compute a node, by its operands' shapes and types alone: also before
/// they have memory.
///
/// @param why_not  set otherwise: what it has that sparq does not, or nullptr where nothing
///                 needs saying (a prompt)
bool can_read(const ggml_tensor* flash_attention, const char** why_not);

/// The node as attention_node, where sparq can compute it.
std::optional<attention_node> read_node(const ggml_tensor* flash_attention,
                                        const char** why_not = nullptr);

/// The tensor of the key cache that a node writes to; nullptr for any other node. Cheap.
const ggml_tensor* written_key_cache(const ggml_tensor* node);

}  // namespace sparq_llama
