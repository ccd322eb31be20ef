// SPDX-License-Identifier: MIT
// The flush and the roof for torch_peer.py, which measures in a process of its own.
#include "../memory.hpp"

extern "C" {

void sparq_probe_flush() {
    static const bench::cache_flusher flush;
    flush();
}

void sparq_probe_streaming_read(const void* memory, std::size_t bytes) {
    const bench::byte_span span(static_cast<const std::byte*>(memory), bytes);
    bench::streaming_read({&span, 1}, nullptr);
}
}
