// SPDX-License-Identifier: MIT
// memory_policy: what pages a cache asks the system for.
#pragma once

#include <cstddef>

#include "config.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

SPARQ_NAMESPACE_BEGIN

/// Pages of 2 MiB spare the processor most address translations, of which the rows that
/// SparQ picks need one each. They come zeroed, 2 MiB at a time: memory that stays
/// unused is taken sooner, and an append that is the first in a page waits for it.
enum class memory_policy {
    system,      ///< as the allocator gives it
    huge_pages,  ///< asks for huge pages (Linux: madvise) where a segment is long enough;
                 ///< the system may decline, elsewhere it means nothing
};

namespace detail {

inline constexpr std::size_t huge_page_bytes = std::size_t{2} << 20;

SPARQ_ALWAYS_INLINE void ask_for_huge_pages(void* memory, std::size_t bytes) noexcept {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    static_cast<void>(::madvise(memory, bytes, MADV_HUGEPAGE));  // a wish: an error changes nothing
#else
    static_cast<void>(memory);
    static_cast<void>(bytes);
#endif
}

}  // namespace detail
SPARQ_NAMESPACE_END
