// SPDX-License-Identifier: MIT
#include "accel_adapter.hpp"

#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>

#include "ggml-backend-impl.h"
#include "node_server.hpp"
#include "thread_team.hpp"

namespace sparq_llama {
namespace {

cpu_backend cpu;

/// Computes single nodes as ggml does: claimed ones that sparq only had to see, or leaves.
class ggml_itself {
   public:
    /// Throws std::runtime_error.
    ggml_itself()
        : backend_(ggml_backend_dev_init(cpu.device, nullptr)),
          context_(ggml_init(
              {ggml_tensor_overhead() + ggml_graph_overhead_custom(1, false), nullptr, true})) {
        if (!backend_ || !context_) throw std::runtime_error("no CPU backend of its own");
        graph_ = ggml_new_graph_custom(context_.get(), 1, false);
    }
    ggml_status compute(ggml_tensor* node, int threads) {
        cpu.set_n_threads(backend_.get(), threads);
        ggml_graph_clear(graph_);
        ggml_graph_add_node(graph_, node);
        return ggml_backend_graph_compute(backend_.get(), graph_);
    }

   private:
    struct free_it {
        void operator()(ggml_backend_t backend) const { ggml_backend_free(backend); }
        void operator()(ggml_context* context) const { ggml_free(context); }
    };
    std::unique_ptr<ggml_backend, free_it> backend_;
    std::unique_ptr<ggml_context, free_it> context_;
    ggml_cgraph* graph_ = nullptr;
};

/// What a context of llama.cpp has of the device.
class accel_backend {
   public:
    void set_threads(int threads) { threads_ = threads < 1 ? 1 : threads; }

    ggml_status compute(ggml_tensor* node) {
        if (node->op == GGML_OP_FLASH_ATTN_EXT)
            return attend(node) ? GGML_STATUS_SUCCESS : ggml_.compute(node, threads_);
        if (written_key_cache(node) != nullptr) node_server::note_write(node);
        return ggml_.compute(node, 1);  // rows of one batch: not worth starting threads
    }

   private:
    bool attend(const ggml_tensor* t) {
        const std::optional<attention_node> node = read_node(t);
        if (!node) return false;
        ggml_backend_buffer_t buffer = t->src[1]->view_src->buffer;
        node_server::instance().prepare(*node, buffer);
        const engine_cache* cache = node_server::cache_of(buffer);
        if (cache == nullptr || cache->last_answer() != answer::given) return false;
        team_.run(static_cast<std::size_t>(threads_), [&](std::size_t ith, std::size_t nth) {
            cache->run(ith, nth, [&] { team_.barrier(); });
        });
        return true;
    }

    ggml_itself ggml_;
    thread_team team_;
    int threads_ = 1;
};

bool is_view(const ggml_tensor* t) {
    switch (t->op) {
        case GGML_OP_NONE:
        case GGML_OP_RESHAPE:
        case GGML_OP_VIEW:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE:
            return true;
        default:
            return false;
    }
}

/// What depends on the settings is decided when the node is computed: a graph serves many
/// steps, the settings may change between them.
bool claims(ggml_backend_dev_t, const ggml_tensor* t) {
    if (is_view(t)) return true;
    if (t->op == GGML_OP_FLASH_ATTN_EXT) {
        const char* why_not = nullptr;
        if (can_read(t, &why_not)) return true;
        if (why_not != nullptr)
            node_server::instance().say(std::string("left to ggml: ") + why_not);
        return false;
    }
    const ggml_tensor* written = written_key_cache(t);
    return written != nullptr && written->type == GGML_TYPE_F16;
}

ggml_status compute_graph(ggml_backend_t backend, ggml_cgraph* graph) {
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        ggml_tensor* node = ggml_graph_node(graph, i);
        if ((node->flags & GGML_TENSOR_FLAG_COMPUTE) == 0 || is_view(node) || ggml_is_empty(node))
            continue;
        const ggml_status status = static_cast<accel_backend*>(backend->context)->compute(node);
        if (status != GGML_STATUS_SUCCESS) return status;
    }
    return GGML_STATUS_SUCCESS;
}

ggml_backend_t make_backend(ggml_backend_dev_t device, const char*) {
    static ggml_guid guid{'s', 'p', 'a', 'r', 'q', '-', 'a', 'c', 'c', 'e', 'l'};
    auto backend = std::make_unique<ggml_backend>();
    backend->guid = &guid;
    backend->device = device;
    backend->iface.get_name = [](ggml_backend_t) { return "sparq"; };
    backend->iface.free = [](ggml_backend_t self) {
        delete static_cast<accel_backend*>(self->context);
        delete self;
    };
    backend->iface.graph_compute = compute_graph;
    try {
        backend->context = new accel_backend;
    } catch (const std::exception&) {
        return nullptr;
    }
    return backend.release();
}

void describe(ggml_backend_dev_t, ggml_backend_dev_props* props) {
    *props = {};
    props->name = "sparq";
    props->description = "attention by sparq";
    props->type = GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

}  // namespace

ggml_backend_dev_t accel_device(const cpu_backend& with, ggml_backend_reg_t registry) {
    static ggml_backend_device device{};
    cpu = with;
    device.reg = registry;
    device.iface.get_name = [](ggml_backend_dev_t) { return "sparq"; };
    device.iface.get_description = [](ggml_backend_dev_t) { return "attention by sparq"; };
    device.iface.get_memory = [](ggml_backend_dev_t, std::size_t* free, std::size_t* total) {
        *free = *total = 0;
    };
    device.iface.get_type = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_ACCEL; };
    device.iface.get_props = describe;
    device.iface.init_backend = make_backend;
    device.iface.get_buffer_type = [](ggml_backend_dev_t) {
        return ggml_backend_dev_buffer_type(cpu.device);
    };
    device.iface.supports_op = claims;
    device.iface.supports_buft = [](ggml_backend_dev_t, ggml_backend_buffer_type_t type) {
        return ggml_backend_buft_is_host(type);
    };
    return &device;
}

void set_accel_threads(ggml_backend_t backend, int threads) {
    static_cast<accel_backend*>(backend->context)->set_threads(threads);
}

}  // namespace sparq_llama
