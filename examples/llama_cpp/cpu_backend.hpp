// SPDX-License-Identifier: MIT
// cpu_backend: functions of ggml's CPU backend that it exports beside its registry, found in
// whichever variant of it the program has loaded.
#pragma once

#include <vector>

#include "ggml-backend.h"
#include "ggml.h"

namespace sparq_llama {

struct cpu_backend {
    ggml_backend_dev_t device = nullptr;
    void (*set_n_threads)(ggml_backend_t, int) = nullptr;

    /// Null where the backend hides them.
    void (*barrier)(ggml_threadpool*) = nullptr;
    std::vector<ggml_backend_buffer_type_t>& (*extra_buffer_types)() = nullptr;

    /// Throws std::runtime_error saying what is in the way.
    static cpu_backend find();
};

}  // namespace sparq_llama
