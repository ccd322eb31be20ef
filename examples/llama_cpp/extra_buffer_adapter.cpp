// SPDX-License-Identifier: MIT
#include "extra_buffer_adapter.hpp"

#include <cstddef>
#include <optional>

#include "ggml-backend-impl.h"
#include "node_server.hpp"

namespace sparq_llama {
namespace {

/// The layout of ggml_compute_params, ggml::cpu::tensor_traits and
/// ggml::cpu::extra_buffer_type in ggml 0.25 (ggml/src/ggml-cpu/ggml-cpu-impl.h, traits.h).
/// Their own headers would tie the plugin to symbols of one variant of the CPU backend.
struct compute_params {
    int ith, nth;
    std::size_t wsize;
    void* wdata;
    ggml_threadpool* threadpool;
    bool use_ref;
};
struct tensor_traits {
    virtual ~tensor_traits() = default;
    virtual bool work_size(int threads, const ggml_tensor* node, std::size_t& size) = 0;
    virtual bool compute_forward(compute_params* params, ggml_tensor* node) = 0;
};
struct extra_buffer_type {
    virtual ~extra_buffer_type() = default;
    virtual bool supports_op(ggml_backend_dev_t device, const ggml_tensor* node) = 0;
    virtual tensor_traits* get_tensor_traits(const ggml_tensor* node) = 0;
};

class list_entry final : public extra_buffer_type, public tensor_traits {
   public:
    explicit list_entry(void (*barrier)(ggml_threadpool*)) : barrier_(barrier) {}

    bool supports_op(ggml_backend_dev_t, const ggml_tensor*) override { return false; }

    /// On every thread, for every node.
    tensor_traits* get_tensor_traits(const ggml_tensor* node) override {
        const bool ours = node->op == GGML_OP_FLASH_ATTN_EXT || written_key_cache(node) != nullptr;
        return ours ? this : nullptr;
    }

    bool work_size(int, const ggml_tensor*, std::size_t&) override { return false; }

    /// On every thread; ggml's barrier follows. False: ggml computes the node.
    bool compute_forward(compute_params* params, ggml_tensor* t) override {
        if (t->op != GGML_OP_FLASH_ATTN_EXT) {
            if (params->ith == 0) node_server::note_write(t);
            return false;
        }
        const char* why_not = nullptr;
        const std::optional<attention_node> node = read_node(t, &why_not);
        if (!node) {
            if (params->ith == 0 && why_not != nullptr) server_.leave(why_not);
            return false;
        }
        ggml_backend_buffer_t buffer = t->src[1]->view_src->buffer;
        if (params->ith == 0) server_.prepare(*node, buffer);
        const auto barrier = [&] { barrier_(params->threadpool); };
        if (params->nth > 1) barrier();
        const engine_cache* cache = node_server::cache_of(buffer);
        return cache != nullptr &&
               cache->run(static_cast<std::size_t>(params->ith),
                          static_cast<std::size_t>(params->nth), barrier) == answer::given;
    }

   private:
    node_server& server_ = node_server::instance();
    void (*barrier_)(ggml_threadpool*);
};

}  // namespace

bool start_extra_buffer_adapter(const cpu_backend& cpu) {
    // llama.cpp's copy of the list, which it asks where weights may lie, is made by this
    // call and before the entry is added: so the entry is never tried as a home for weights.
    const auto get_extra =
        reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(cpu.device), "ggml_backend_dev_get_extra_bufts"));
    if (cpu.extra_buffer_types == nullptr || cpu.barrier == nullptr || get_extra == nullptr)
        return false;
    get_extra(cpu.device);
    static ggml_backend_buffer_type entry{};
    entry.iface.get_name = [](ggml_backend_buffer_type_t) { return "sparq"; };
    entry.device = cpu.device;
    // Never freed: nodes may be computed until the process ends.
    entry.context = static_cast<extra_buffer_type*>(new list_entry(cpu.barrier));
    auto& list = cpu.extra_buffer_types();
    list.insert(list.begin(), &entry);
    return true;
}

}  // namespace sparq_llama
