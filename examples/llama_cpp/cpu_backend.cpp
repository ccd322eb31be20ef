// SPDX-License-Identifier: MIT
#include "cpu_backend.hpp"

#include <dlfcn.h>

#include <stdexcept>

namespace sparq_llama {

cpu_backend cpu_backend::find() {
    cpu_backend found;
    found.device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (found.device == nullptr) throw std::runtime_error("no CPU backend is loaded");
    void* function = ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(found.device),
                                                       "ggml_backend_set_n_threads");
    Dl_info place;
    if (function == nullptr || dladdr(function, &place) == 0)
        throw std::runtime_error("the CPU backend's library was not found");
    found.set_n_threads = reinterpret_cast<decltype(found.set_n_threads)>(function);
    void* library = dlopen(place.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    if (library == nullptr) library = RTLD_DEFAULT;  // linked into the program
    found.extra_buffer_types = reinterpret_cast<decltype(found.extra_buffer_types)>(
        dlsym(library, "_Z39ggml_backend_cpu_get_extra_buffer_typesv"));
    found.barrier = reinterpret_cast<decltype(found.barrier)>(dlsym(library, "ggml_barrier"));
    return found;
}

}  // namespace sparq_llama
