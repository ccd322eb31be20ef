// SPDX-License-Identifier: MIT
// sparq: SparQ attention for CPUs. Everything but the optional eigen.hpp, openmp.hpp and
// onetbb.hpp.
#pragma once

#include "attention_plan.hpp"
#include "attention_report.hpp"
#include "call_options.hpp"
#include "config.hpp"
#include "dense_attention.hpp"
#include "executor.hpp"
#include "key_labels.hpp"
#include "kv_cache.hpp"
#include "kv_view.hpp"
#include "memory_policy.hpp"
#include "params.hpp"
#include "scalar_types.hpp"
#include "sparq_attention.hpp"
#include "steps/approximate_scores.hpp"
#include "steps/attend_selected.hpp"
#include "steps/query_components.hpp"
#include "steps/select_tokens.hpp"
#include "steps/tail_estimate.hpp"
#include "strided_kv.hpp"
#include "version.hpp"
#include "workspace.hpp"
