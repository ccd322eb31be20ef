// SPDX-License-Identifier: MIT
// workspace: scratch memory of calls, sized before the work and reused.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <utility>

#include "config.hpp"
#include "memory_policy.hpp"

SPARQ_NAMESPACE_BEGIN

namespace detail {

/// Uninitialised memory aligned to a page, so that untouched parts cost nothing.
inline constexpr std::size_t page_bytes = 4096;

struct aligned_delete {
    std::size_t alignment = page_bytes;
    void operator()(std::byte* memory) const noexcept {
        ::operator delete(memory, std::align_val_t{alignment});
    }
};
using aligned_bytes = std::unique_ptr<std::byte[], aligned_delete>;

/// Aligned to a page; to a huge page where those are asked for and fit.
SPARQ_PER_ISA inline aligned_bytes allocate_aligned(std::size_t bytes,
                                                    memory_policy policy = memory_policy::system) {
    const bool huge = policy == memory_policy::huge_pages && bytes >= huge_page_bytes;
    const std::size_t alignment = huge ? huge_page_bytes : page_bytes;
    aligned_bytes memory(
        static_cast<std::byte*>(::operator new(bytes, std::align_val_t{alignment})),
        aligned_delete{alignment});
    if (huge) ask_for_huge_pages(memory.get(), bytes);
    return memory;
}

}  // namespace detail

/// Scratch memory for calls, grown when a shape needs more and never shrunk. Not
/// shared between calls that run at the same time. Holds no result.
class workspace {
   public:
    workspace() = default;
    SPARQ_PER_ISA workspace(workspace&& other) noexcept
        : memory_(std::move(other.memory_)), bytes_(std::exchange(other.bytes_, 0)) {}
    SPARQ_PER_ISA workspace& operator=(workspace&& other) noexcept {
        memory_ = std::move(other.memory_);
        bytes_ = std::exchange(other.bytes_, 0);
        return *this;
    }

    /// Bytes held now.
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

    /// At least `bytes` of memory aligned to a page; earlier contents are lost.
    /// std::bad_alloc leaves the workspace as it was.
    SPARQ_PER_ISA std::byte* prepare(std::size_t bytes) {
        if (bytes > bytes_) {
            memory_ = detail::allocate_aligned(bytes);
            bytes_ = bytes;
        }
        return memory_.get();
    }

   private:
    detail::aligned_bytes memory_;
    std::size_t bytes_ = 0;
};

SPARQ_NAMESPACE_END
