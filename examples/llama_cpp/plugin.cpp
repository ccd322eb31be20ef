// SPDX-License-Identifier: MIT
// libggml-sparq.so: loaded by any program that calls ggml_backend_load_all() when the
// environment variable GGML_BACKEND_PATH names it. Answers decode attention on ggml's own
// threads.
//
// ggml's CPU backend offers every node to its list of "extra buffer types" before it computes
// the node itself; the plugin puts an entry into that list. The list is an internal interface:
// the plugin refuses versions of ggml that nobody has looked at.
#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <sparq/version.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cache_registry.hpp"
#include "engine_cache.hpp"
#include "ggml-backend-impl.h"
#include "ggml_node.hpp"
#include "settings.hpp"
#include "sparq_llama.h"

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

/// Says each thing once.
class log_once {
   public:
    void say(const std::string& what) {
        const std::lock_guard lock(mutex_);
        for (const std::string& said : said_)
            if (said == what) return;
        said_.push_back(what);
        std::fprintf(stderr, "sparq: %s\n", what.c_str());
    }

   private:
    std::mutex mutex_;
    std::vector<std::string> said_;
};

const char* text_of(answer result) {
    switch (result) {
        case answer::scattered:
            return "sequences whose cells alternate";
        case answer::biased:
            return "a mask with values other than 0 and -inf";
        case answer::blind:
            return "a query token that sees nothing";
        case answer::refused:
            return "arguments that sparq refuses (is SPARQ_R above the head size?)";
        default:
            return nullptr;
    }
}

/// What is one in a process: the settings, the counts, the entry in ggml's list.
class plugin final : public extra_buffer_type, public tensor_traits {
   public:
    static plugin& instance() {
        static plugin* self = new plugin;  // nodes may be computed until the process ends
        return *self;
    }

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
            if (params->ith == 0) note_write(t);
            return false;
        }
        const char* why_not = nullptr;
        const std::optional<attention_node> node = read_node(t, &why_not);
        if (!node) {
            if (params->ith == 0 && why_not != nullptr) leave(why_not);
            return false;
        }
        ggml_backend_buffer_t buffer = t->src[1]->view_src->buffer;
        if (params->ith == 0) prepare(*node, buffer);
        const auto barrier = [&] { barrier_(params->threadpool); };
        if (params->nth > 1) barrier();
        const engine_cache* cache = cache_registry::instance().find(buffer);
        return cache != nullptr &&
               cache->run(static_cast<std::size_t>(params->ith),
                          static_cast<std::size_t>(params->nth), barrier) == answer::given;
    }

    /// Throws std::invalid_argument.
    void configure(std::string_view list) {
        const std::lock_guard lock(mutex_);
        settings_.set_all(list);
    }
    bool start(std::vector<ggml_backend_buffer_type_t>& list, ggml_backend_dev_t cpu,
               void (*barrier)(ggml_threadpool*));
    sparq_llama_counts counts() const { return {answered_.load(), left_.load()}; }

   private:
    void prepare(const attention_node& node, ggml_backend_buffer_t buffer) {
        answer result = answer::refused;
        try {
            settings with;
            {
                const std::lock_guard lock(mutex_);
                with = settings_;
            }
            result = cache_registry::instance().adopt(buffer).prepare(node, with);
        } catch (const std::bad_alloc&) {  // no cache: every thread leaves the node
        }
        if (result == answer::given)
            answered_.fetch_add(1, std::memory_order_relaxed);
        else if (const char* what = text_of(result); what != nullptr)
            leave(what);
    }
    void leave(const char* what) {
        left_.fetch_add(1, std::memory_order_relaxed);
        log_.say(std::string("left to ggml: ") + what);
    }
    static void note_write(const ggml_tensor* t) {
        const ggml_tensor* written = written_key_cache(t);
        engine_cache* cache = cache_registry::instance().find(written->buffer);
        if (cache == nullptr) return;
        const ggml_tensor* rows = t->src[1];
        if (t->op == GGML_OP_SET_ROWS && rows->type == GGML_TYPE_I64 && rows->nb[0] == 8 &&
            ggml_nelements(rows) == rows->ne[0])
            cache->wrote(written->data, static_cast<const std::int64_t*>(rows->data),
                         static_cast<std::size_t>(rows->ne[0]));
        else
            cache->changed(written->data);
    }

    log_once log_;
    std::mutex mutex_;
    settings settings_;
    std::atomic<std::uint64_t> answered_{0}, left_{0};
    void (*barrier_)(ggml_threadpool*) = nullptr;
};

/// Puts the entry into ggml's list. llama.cpp's copy of that list, which it asks where weights
/// may lie, is made first: so the entry is never tried as a home for weights.
bool plugin::start(std::vector<ggml_backend_buffer_type_t>& list, ggml_backend_dev_t cpu,
                   void (*barrier)(ggml_threadpool*)) {
    settings_ = settings::from_environment();
    barrier_ = barrier;
    const auto get_extra =
        reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts"));
    if (get_extra == nullptr) return false;
    get_extra(cpu);
    static ggml_backend_buffer_type entry{};
    entry.iface.get_name = [](ggml_backend_buffer_type_t) { return "sparq"; };
    entry.device = cpu;
    entry.context = static_cast<extra_buffer_type*>(this);
    list.insert(list.begin(), &entry);
    std::fprintf(stderr, "sparq %s: %s\n", SPARQ_VERSION_STRING, settings_.text().c_str());
    return true;
}

void* symbol(const char* name) {
    static const std::pair<const char*, void*> functions[]{
        {"sparq_llama_configure", reinterpret_cast<void*>(sparq_llama_configure)},
        {"sparq_llama_invalidate", reinterpret_cast<void*>(sparq_llama_invalidate)},
        {"sparq_llama_count", reinterpret_cast<void*>(sparq_llama_count)}};
    for (const auto& [known, function] : functions)
        if (std::strcmp(name, known) == 0) return function;
    return nullptr;
}

/// Finds the internal functions in whichever variant of the CPU backend is loaded; throws
/// std::runtime_error saying what is in the way.
void hook_into_cpu_backend() {
    const std::string version = ggml_version();
    if (version.rfind("0.25.", 0) != 0)
        throw std::runtime_error("ggml " + version + " is not known (known: 0.25.x)");
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (cpu == nullptr) throw std::runtime_error("no CPU backend is loaded");
    void* function = ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu),
                                                       "ggml_backend_set_n_threads");
    Dl_info place;
    if (function == nullptr || dladdr(function, &place) == 0)
        throw std::runtime_error("the CPU backend's library was not found");
    void* library = dlopen(place.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    if (library == nullptr) library = RTLD_DEFAULT;  // linked into the program
    const auto get_list = reinterpret_cast<std::vector<ggml_backend_buffer_type_t>& (*)()>(
        dlsym(library, "_Z39ggml_backend_cpu_get_extra_buffer_typesv"));
    const auto barrier =
        reinterpret_cast<void (*)(ggml_threadpool*)>(dlsym(library, "ggml_barrier"));
    if (get_list == nullptr || barrier == nullptr)
        throw std::runtime_error("the CPU backend hides ggml_backend_cpu_get_extra_buffer_types");
    if (!plugin::instance().start(get_list(), cpu, barrier))
        throw std::runtime_error("the CPU backend has no list of extra buffer types");
}

}  // namespace
}  // namespace sparq_llama

extern "C" {

__attribute__((visibility("default"))) const char* sparq_llama_configure(const char* list) {
    static thread_local std::string error;
    try {
        sparq_llama::plugin::instance().configure(list);
        return nullptr;
    } catch (const std::exception& e) {
        error = e.what();
        return error.c_str();
    }
}

__attribute__((visibility("default"))) void sparq_llama_invalidate(void) {
    sparq_llama::cache_registry::instance().invalidate_all();
}

__attribute__((visibility("default"))) struct sparq_llama_counts sparq_llama_count(void) {
    return sparq_llama::plugin::instance().counts();
}

/// What ggml looks for in a backend that it loads. A program may load it twice.
__attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init(void) {
    static ggml_backend_reg registration{};
    if (registration.api_version != 0) return &registration;
    try {
        sparq_llama::hook_into_cpu_backend();
    } catch (const std::exception& e) {
        std::fprintf(stderr, "sparq: not active: %s\n", e.what());
        return nullptr;
    }
    std::atexit([] {
        const struct sparq_llama_counts counts = sparq_llama_count();
        std::fprintf(stderr, "sparq: %llu attention nodes answered, %llu of decode left to ggml\n",
                     static_cast<unsigned long long>(counts.answered),
                     static_cast<unsigned long long>(counts.left));
    });
    registration.api_version = GGML_BACKEND_API_VERSION;
    registration.iface.get_name = [](ggml_backend_reg_t) { return "sparq"; };
    registration.iface.get_device_count = [](ggml_backend_reg_t) -> std::size_t { return 0; };
    registration.iface.get_device = [](ggml_backend_reg_t, std::size_t) -> ggml_backend_dev_t {
        return nullptr;
    };
    registration.iface.get_proc_address = [](ggml_backend_reg_t, const char* name) {
        return sparq_llama::symbol(name);
    };
    return &registration;
}
}
