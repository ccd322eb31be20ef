// SPDX-License-Identifier: MIT
#define SPARQ_KERNEL_UNIT kernels_avx512
#include "kernel_unit.hpp"

static_assert(sparq::detail::compiled_for == sparq::dispatch::isa::avx512,
              "compile this file with the flags that sparq_add_kernels gives it");
