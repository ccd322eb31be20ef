// SPDX-License-Identifier: MIT
// call_options: what else a call may be given; every member has a default.
#pragma once

#include <cstddef>

#include "attention_report.hpp"
#include "version.hpp"
#include "workspace.hpp"

SPARQ_NAMESPACE_BEGIN

struct call_options {
    /// Scratch memory to reuse. With one that has seen the shape, a call allocates
    /// nothing; without, each call allocates its own. One call at a time may use it.
    workspace* work = nullptr;
    /// Where to say what the call did.
    attention_report* report = nullptr;
    /// Elements from one query head to the next in q and in out; 0 stands for d_h and
    /// value_dim (contiguous). At least d_h, value_dim otherwise.
    std::size_t q_stride = 0;
    std::size_t out_stride = 0;
};

SPARQ_NAMESPACE_END
