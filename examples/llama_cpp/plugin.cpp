// SPDX-License-Identifier: MIT
// libggml-sparq.so: loaded by any program that calls ggml_backend_load_all() when the
// environment variable GGML_BACKEND_PATH names it. Answers decode attention through one of
// two adapters, and refuses versions of ggml that nobody has looked at: the adapters use
// internal interfaces.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <sparq/version.hpp>
#include <stdexcept>
#include <string>
#include <utility>

#include "accel_adapter.hpp"
#include "cache_registry.hpp"
#include "cpu_backend.hpp"
#include "extra_buffer_adapter.hpp"
#include "ggml-backend-impl.h"
#include "node_server.hpp"
#include "settings.hpp"
#include "sparq_llama.h"

namespace sparq_llama {
namespace {

ggml_backend_dev_t device = nullptr;  // of the adapter that needs one

void* symbol(ggml_backend_reg_t, const char* name) {
    static const std::pair<const char*, void*> functions[]{
        {"sparq_llama_configure", reinterpret_cast<void*>(sparq_llama_configure)},
        {"sparq_llama_invalidate", reinterpret_cast<void*>(sparq_llama_invalidate)},
        {"sparq_llama_count", reinterpret_cast<void*>(sparq_llama_count)}};
    for (const auto& [known, function] : functions)
        if (std::strcmp(name, known) == 0) return function;
    if (device != nullptr && std::strcmp(name, "ggml_backend_set_n_threads") == 0)
        return reinterpret_cast<void*>(set_accel_threads);
    return nullptr;
}

void check_version() {
    const std::string version = ggml_version();
    if (version.rfind("0.25.", 0) != 0)
        throw std::runtime_error("ggml " + version + " is not known (known: 0.25.x)");
}

/// Starts the adapter and fills in the registry's entry; throws std::exception saying what
/// is in the way.
void start(ggml_backend_reg& registration) {
    const settings with = settings::from_environment();
    const adapter wanted = adapter_from_environment();
    check_version();
    const cpu_backend cpu = cpu_backend::find();
    node_server::instance().start(with);
    const char* by = "an extra buffer type";
    if (wanted == adapter::accel || !start_extra_buffer_adapter(cpu)) {
        if (wanted == adapter::extra_buffer)
            throw std::runtime_error("the CPU backend hides its extra buffer types");
        device = accel_device(cpu, &registration);
        by = "an ACCEL device (flash attention must be asked for)";
    }
    std::fprintf(stderr, "sparq %s: by %s; %s\n", SPARQ_VERSION_STRING, by, with.text().c_str());
    registration.iface.get_name = [](ggml_backend_reg_t) { return "sparq"; };
    registration.iface.get_device_count = [](ggml_backend_reg_t) -> std::size_t {
        return device == nullptr ? 0 : 1;
    };
    registration.iface.get_device = [](ggml_backend_reg_t, std::size_t) { return device; };
    registration.iface.get_proc_address = symbol;
    registration.api_version = GGML_BACKEND_API_VERSION;
}

}  // namespace
}  // namespace sparq_llama

extern "C" {

__attribute__((visibility("default"))) const char* sparq_llama_configure(const char* list) {
    static thread_local std::string error;
    try {
        sparq_llama::node_server::instance().configure(list);
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
    return sparq_llama::node_server::instance().counts();
}

/// What ggml looks for in a backend that it loads. A program may load it twice.
__attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init(void) {
    static ggml_backend_reg registration{};
    if (registration.api_version != 0) return &registration;
    try {
        sparq_llama::start(registration);
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
    return &registration;
}
}
