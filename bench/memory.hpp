// SPDX-License-Identifier: MIT
// What a measurement needs of the machine's memory: the streaming roof over somebody's own
// memory, an L3 that holds nothing of it, processor time, and the choice of large pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <sparq/kv_view.hpp>
#include <vector>

#include "thread_pool.hpp"

namespace bench {

using byte_span = std::span<const std::byte>;

/// A way to read memory that does nothing else.
struct read_pattern {
    const char* name;  ///< streams read side by side, and where to they are asked for 1 KB ahead
    std::uint64_t (*read)(byte_span) noexcept;  ///< returns a digest
};

/// The fastest of a few patterns here, which is what everything is measured against: one that
/// is slower makes all look better. Which it is differs between processors, and between pages:
/// the first call times all of them, a second, with the pages chosen by then.
const read_pattern& fastest_read();

/// Reads all of `spans` by the fastest pattern; with a pool each is a task.
std::uint64_t streaming_read(std::span<const byte_span> spans, thread_pool* pool);

/// Where the keys and values of a view lie, head after head; neighbours joined.
template <class T>
std::vector<byte_span> key_and_value_spans(const sparq::kv_view<T>& view) {
    std::vector<byte_span> spans;
    const auto add = [&](const T* rows, std::size_t elements) {
        const byte_span bytes = std::as_bytes(std::span(rows, elements));
        if (!spans.empty() && spans.back().data() + spans.back().size() == bytes.data())
            spans.back() = {spans.back().data(), spans.back().size() + bytes.size()};
        else
            spans.push_back(bytes);
    };
    for (std::size_t g = 0; g < view.heads_kv(); ++g)
        for (std::size_t s = 0; s < view.segments_per_head(); ++s) {
            const auto& part = view.segment(s, g);
            add(part.keys, part.tokens * part.key_stride);
            add(part.values, part.tokens * part.value_stride);
        }
    return spans;
}

/// Bytes of the largest cache, 0 if the system does not say.
std::size_t last_level_cache_bytes();

/// Empties the caches of what a measurement is about to read, by reading something else:
/// twice the last-level cache, at least 256 MiB, at most 1 GiB (which is also taken where
/// the size is not known).
class cache_flusher {
   public:
    cache_flusher();
    void operator()(thread_pool* pool = nullptr) const;
    [[nodiscard]] std::size_t bytes() const noexcept { return buffer_.size(); }

   private:
    std::vector<std::byte> buffer_;
    std::vector<byte_span> pieces_;
};

/// Seconds of processor time that this process has used, all threads together.
double processor_seconds() noexcept;
/// What reading that clock adds to what is timed with it.
double processor_clock_cost() noexcept;
/// Seconds on the wall.
double wall_seconds() noexcept;

/// Memory as the library's caches get it: aligned blocks, untouched.
struct untouched_delete {
    void operator()(std::byte* memory) const noexcept {
        ::operator delete(memory, std::align_val_t{4096});
    }
};
using untouched_bytes = std::unique_ptr<std::byte[], untouched_delete>;

inline untouched_bytes allocate_untouched(std::size_t bytes) {
    return untouched_bytes(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{4096})));
}

/// From here on, aligned blocks of 4 MiB and more (the caches of the library) are put on
/// 2 MiB boundaries and the system is asked for huge pages. Off unless called.
void request_huge_pages() noexcept;
[[nodiscard]] bool huge_pages_requested() noexcept;

}  // namespace bench
