// SPDX-License-Identifier: MIT
// node_server: what is one in a process, whichever adapter brings the nodes: the settings,
// the counts, the log, and the way from ggml's nodes to the caches they belong to.
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "cache_registry.hpp"
#include "engine_cache.hpp"
#include "ggml_node.hpp"
#include "settings.hpp"
#include "sparq_llama.h"

namespace sparq_llama {

class node_server {
   public:
    /// Lives as long as the process: nodes may be computed until it ends.
    static node_server& instance();

    void start(const settings& with);
    /// Throws std::invalid_argument; nothing is changed then.
    void configure(std::string_view list);
    [[nodiscard]] std::string settings_text();
    [[nodiscard]] sparq_llama_counts counts() const { return {answered_.load(), left_.load()}; }

    /// Thread 0 of those that compute a node, before they meet at a barrier. After it each
    /// calls run() on cache_of().
    void prepare(const attention_node& node, ggml_backend_buffer_t buffer);
    /// nullptr where prepare() found no memory: the node is ggml's.
    static const engine_cache* cache_of(ggml_backend_buffer_t buffer) {
        return cache_registry::instance().find(buffer);
    }
    /// A node of decode stays ggml's; says why, once for each reason.
    void leave(const char* why);
    /// Says it, once.
    void say(const std::string& what);

    /// A node for which written_key_cache() is not null is about to run, or runs.
    static void note_write(const ggml_tensor* node);

   private:
    std::mutex mutex_;
    settings settings_;
    std::vector<std::string> said_;
    std::atomic<std::uint64_t> answered_{0}, left_{0};
};

}  // namespace sparq_llama
