// SPDX-License-Identifier: MIT
// ggml_flash_attn_ext through ggml's public C API, a graph of this one node.
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <stdexcept>

#include "peer.hpp"

namespace bench::peers {
namespace {

template <class Function>
Function* cpu_function(const char* name) {
    ggml_backend_reg_t registry =
        ggml_backend_dev_backend_reg(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU));
    void* address = ggml_backend_reg_get_proc_address(registry, name);
    if (address == nullptr) throw std::runtime_error(std::string("ggml does not offer ") + name);
    return reinterpret_cast<Function*>(address);
}

/// Loads the code that ggml chooses for this processor.
void load_backends() {
    static const bool loaded = [] {
        ggml_backend_load_all_from_path(SPARQ_PEERS_GGML_DIR);
        return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) != nullptr;
    }();
    if (!loaded) throw std::runtime_error("ggml has no CPU backend in " SPARQ_PEERS_GGML_DIR);
}

struct release {
    void operator()(ggml_backend_t backend) const noexcept { ggml_backend_free(backend); }
    void operator()(ggml_context* context) const noexcept { ggml_free(context); }
    void operator()(ggml_backend_buffer_t buffer) const noexcept {
        ggml_backend_buffer_free(buffer);
    }
    void operator()(ggml_threadpool_t pool) const noexcept {
        cpu_function<decltype(ggml_threadpool_free)>("ggml_threadpool_free")(pool);
    }
};
template <class T>
using owner = std::unique_ptr<T, release>;

class ggml_peer final : public peer {
   public:
    ggml_peer(const attention_shape& shape, ggml_type type, std::span<const float> q,
              const float_rows& rows);

    [[nodiscard]] std::string name() const override {
        return std::string("ggml flash attention, ") + ggml_type_name(type_);
    }
    void use_threads(std::size_t threads) override;
    void run() override {
        if (ggml_backend_graph_compute(backend_.get(), graph_) != GGML_STATUS_SUCCESS)
            throw std::runtime_error("ggml could not compute the graph");
    }
    [[nodiscard]] std::span<const float> output() const override {
        return {reinterpret_cast<const float*>(memory_.data() + output_at_),
                shape_.heads_q * shape_.head_dim};
    }
    [[nodiscard]] std::vector<byte_span> cache_spans() const override {
        return spans_of_heads(memory_.data() + keys_at_, memory_.data() + values_at_,
                              shape_.heads_kv, cache_bytes() / shape_.heads_kv);
    }
    // f16: q, the products of weights and values and their sum are halves in ggml.
    // q8_0: keys, values and q in steps of a 127th of the largest of 32.
    [[nodiscard]] double tolerance() const override { return type_ == GGML_TYPE_F16 ? 0.02 : 0.15; }

   private:
    [[nodiscard]] std::size_t cache_bytes() const {
        return ggml_row_size(type_, static_cast<std::int64_t>(shape_.elements()));
    }
    void build();
    void place(ggml_tensor* tensor, std::size_t offset) {
        ggml_backend_tensor_alloc(buffer_.get(), tensor, memory_.data() + offset);
    }

    attention_shape shape_;
    ggml_type type_;
    std::size_t keys_at_ = 0, values_at_, q_at_, output_at_;
    aligned_buffer<std::byte> memory_;  ///< K, V, q and the output, in this order
    owner<ggml_backend> backend_;
    owner<ggml_threadpool> pool_;
    owner<ggml_backend_buffer> buffer_;
    owner<ggml_context> context_;
    ggml_cgraph* graph_ = nullptr;
};

std::size_t round_up(std::size_t bytes) { return (bytes + 127) / 128 * 128; }

ggml_peer::ggml_peer(const attention_shape& shape, ggml_type type, std::span<const float> q,
                     const float_rows& rows)
    : shape_(shape),
      type_(type),
      values_at_(round_up(cache_bytes())),
      q_at_(2 * values_at_),
      output_at_(q_at_ + round_up(q.size_bytes())),
      memory_(output_at_ + round_up(q.size_bytes())),
      backend_(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr)),
      buffer_(ggml_backend_cpu_buffer_from_ptr(memory_.data(), memory_.size())),
      context_(ggml_init({.mem_size = ggml_tensor_overhead() * 8 + ggml_graph_overhead(),
                          .mem_buffer = nullptr,
                          .no_alloc = true})) {
    const auto rows_per_cache = static_cast<std::int64_t>(shape.seq_len * shape.heads_kv);
    const auto head_dim = static_cast<std::int64_t>(shape.head_dim);
    ggml_quantize_chunk(type, rows.keys.data(), memory_.data() + keys_at_, 0, rows_per_cache,
                        head_dim, nullptr);
    ggml_quantize_chunk(type, rows.values.data(), memory_.data() + values_at_, 0, rows_per_cache,
                        head_dim, nullptr);
    std::copy(q.begin(), q.end(), reinterpret_cast<float*>(memory_.data() + q_at_));
    build();
}

void ggml_peer::build() {
    const auto d = static_cast<std::int64_t>(shape_.head_dim);
    const auto tokens = static_cast<std::int64_t>(shape_.seq_len);
    const auto heads_q = static_cast<std::int64_t>(shape_.heads_q);
    const auto heads_kv = static_cast<std::int64_t>(shape_.heads_kv);
    ggml_tensor* q = ggml_new_tensor_3d(context_.get(), GGML_TYPE_F32, d, 1, heads_q);
    ggml_tensor* keys = ggml_new_tensor_3d(context_.get(), type_, d, tokens, heads_kv);
    ggml_tensor* values = ggml_new_tensor_3d(context_.get(), type_, d, tokens, heads_kv);
    const auto scale = static_cast<float>(1 / std::sqrt(double(shape_.head_dim)));
    ggml_tensor* out =
        ggml_flash_attn_ext(context_.get(), q, keys, values, nullptr, scale, 0.0f, 0.0f);
    place(keys, keys_at_);
    place(values, values_at_);
    place(q, q_at_);
    place(out, output_at_);
    graph_ = ggml_new_graph(context_.get());
    ggml_build_forward_expand(graph_, out);
}

void ggml_peer::use_threads(std::size_t threads) {
    const auto count = static_cast<int>(threads);
    // A pool that lasts, as llama.cpp has, but whose idle threads sleep at once: by default
    // they look for work for tenths of a second, while the others are timed.
    ggml_threadpool_params params = ggml_threadpool_params_default(count);
    params.poll = 0;
    owner<ggml_threadpool> pool(
        cpu_function<decltype(ggml_threadpool_new)>("ggml_threadpool_new")(&params));
    cpu_function<decltype(ggml_backend_cpu_set_threadpool)>("ggml_backend_cpu_set_threadpool")(
        backend_.get(), pool.get());
    cpu_function<decltype(ggml_backend_cpu_set_n_threads)>("ggml_backend_set_n_threads")(
        backend_.get(), count);
    pool_ = std::move(pool);
}

}  // namespace

void add_ggml(peer_list& peers, const attention_shape& shape, std::span<const float> q,
              const float_rows& rows) {
    load_backends();
    for (const ggml_type type : {GGML_TYPE_F16, GGML_TYPE_Q8_0})
        peers.push_back(std::make_unique<ggml_peer>(shape, type, q, rows));
}

std::string ggml_version_text() {
    load_backends();
    std::string library = "an unknown backend";
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);)
        if (const auto at = line.find("libggml-cpu-"); at != line.npos) library = line.substr(at);
    return std::string("ggml ") + ggml_version() + ", " + library;
}

}  // namespace bench::peers
