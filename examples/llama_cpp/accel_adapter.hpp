// SPDX-License-Identifier: MIT
// The fallback adapter: a device of type ACCEL on host memory that claims attention of few
// query tokens, and every write to a key cache, so that it sees them. llama.cpp gives each
// context one of them; the scheduler cuts the graph around what it claims. It needs nothing
// that the CPU backend does not export to everybody, and pays for it: flash attention must
// be asked for, and threads of its own compute.
#pragma once

#include "cpu_backend.hpp"

namespace sparq_llama {

/// The device, for the plugin's registry; made once.
ggml_backend_dev_t accel_device(const cpu_backend& cpu, ggml_backend_reg_t registry);

/// ggml_backend_set_n_threads of its backends.
void set_accel_threads(ggml_backend_t backend, int threads);

}  // namespace sparq_llama
