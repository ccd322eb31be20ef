// SPDX-License-Identifier: MIT
// One implementation of the decode step over its own copy of the same keys and values.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <sparq/kv_cache.hpp>
#include <string>
#include <vector>

#include "../decode_case.hpp"
#include "../memory.hpp"

namespace bench::peers {

struct attention_shape {
    std::size_t seq_len, heads_q, heads_kv, head_dim;

    [[nodiscard]] std::size_t group() const noexcept { return heads_q / heads_kv; }
    /// Elements of K, and of V.
    [[nodiscard]] std::size_t elements() const noexcept { return seq_len * heads_kv * head_dim; }
    friend bool operator==(const attention_shape&, const attention_shape&) = default;
};

class peer {
   public:
    peer() = default;
    peer(const peer&) = delete;
    peer& operator=(const peer&) = delete;
    virtual ~peer() = default;

    [[nodiscard]] virtual std::string name() const = 0;
    /// How many threads the next calls of run() use. Outside of run() none of them may be
    /// busy: the others are timed then.
    virtual void use_threads(std::size_t threads) = 0;
    virtual void run() = 0;
    /// Of the latest run(), [heads_q, d_h].
    [[nodiscard]] virtual std::span<const float> output() const = 0;
    /// K and V in the peer's own format, a piece for each head.
    [[nodiscard]] virtual std::vector<byte_span> cache_spans() const = 0;
    /// What a step has to read of them.
    [[nodiscard]] virtual std::size_t bytes_read() const {
        std::size_t bytes = 0;
        for (const byte_span span : cache_spans()) bytes += span.size();
        return bytes;
    }
    /// |output - exact| / |exact| allowed in any head; README.md says where it comes from.
    [[nodiscard]] virtual double tolerance() const = 0;
};

using peer_list = std::vector<std::unique_ptr<peer>>;

/// Elements that come from the program's own aligned operator new, as sparq's caches do, so
/// that everybody has the same kind of pages. Zeros.
template <class T>
class aligned_buffer {
   public:
    explicit aligned_buffer(std::size_t size) : elements_(allocate(size)), size_(size) {
        std::uninitialized_fill_n(elements_.get(), size, T{});
    }
    [[nodiscard]] T* data() noexcept { return elements_.get(); }
    [[nodiscard]] const T* data() const noexcept { return elements_.get(); }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }

   private:
    static constexpr std::align_val_t alignment{128};
    struct release {
        void operator()(T* elements) const noexcept { ::operator delete(elements, alignment); }
    };
    static T* allocate(std::size_t size) {
        return static_cast<T*>(::operator new(size * sizeof(T), alignment));
    }
    std::unique_ptr<T[], release> elements_;
    std::size_t size_;
};

/// Pieces of `bytes` bytes, one for each of `heads` heads, of K and then of V.
inline std::vector<byte_span> spans_of_heads(const void* keys, const void* values,
                                             std::size_t heads, std::size_t bytes) {
    std::vector<byte_span> spans;
    for (const void* rows : {keys, values})
        for (std::size_t g = 0; g < heads; ++g)
            spans.emplace_back(static_cast<const std::byte*>(rows) + g * bytes, bytes);
    return spans;
}

/// The values of a cache of halves as floats, [H_kv, S, d_h] each.
struct float_rows {
    aligned_buffer<float> keys, values;
};

// What there is to compare. The cache and the rows outlive the peers; q is [H_q, d_h].
void add_sparq(peer_list& peers, const sparq::kv_cache<sparq::half>& cache,
               const std::shared_ptr<decode_case<sparq::half>>& step);
void add_ggml(peer_list& peers, const attention_shape& shape, std::span<const float> q,
              const float_rows& rows);
void add_onnxruntime(peer_list& peers, const attention_shape& shape, std::span<const float> q,
                     float_rows& rows, const std::string& models);
void add_openblas(peer_list& peers, const attention_shape& shape, std::span<const float> q,
                  const float_rows& rows);

// What they call themselves, with the code that was chosen for this processor.
std::string ggml_version_text();
std::string onnxruntime_version_text();
std::string openblas_version_text();

}  // namespace bench::peers
