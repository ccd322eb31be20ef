// SPDX-License-Identifier: MIT
// cache_registry: from a buffer of ggml that holds a key/value cache to what is kept beside it.
//
// Most writes happen in graphs, where they are seen. The others (a state that is loaded, a
// copy between streams, a clear) and the end of a buffer's life pass through its table of
// functions: a buffer that is adopted gets a table that tells first and then does what the
// former one did.
#pragma once

#include <memory>
#include <mutex>
#include <unordered_map>

#include "engine_cache.hpp"
#include "ggml-backend-impl.h"

namespace sparq_llama {

class cache_registry {
   public:
    /// Lives as long as the process: buffers may be freed after static objects are gone.
    static cache_registry& instance();

    /// The cache kept beside a buffer; made if there is none. Throws std::bad_alloc.
    engine_cache& adopt(ggml_backend_buffer_t buffer);
    /// nullptr if there is none.
    engine_cache* find(ggml_backend_buffer_t buffer);
    void invalidate_all();

    /// The functions that an adopted buffer had; before a write, which is noted.
    ggml_backend_buffer_i about_to_write(ggml_backend_buffer_t buffer);
    /// The same, before its end.
    ggml_backend_buffer_i about_to_free(ggml_backend_buffer_t buffer);

   private:
    struct entry {
        ggml_backend_buffer_i functions;
        std::unique_ptr<engine_cache> cache;
    };
    std::mutex mutex_;
    std::unordered_map<ggml_backend_buffer_t, entry> entries_;
};

}  // namespace sparq_llama
