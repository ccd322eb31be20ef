// SPDX-License-Identifier: MIT
// Methods that keep codes of few bits beside the keys and values: they follow the history
// into caches of their own.
#pragma once

#include <memory>

#include "method.hpp"

namespace quality {

/// Attention to a tolerance, or in fixed tiers.
std::unique_ptr<method> make_tiers(method_spec& spec);
/// SparQ over labels of few bits.
std::unique_ptr<method> make_sparq_codes(method_spec& spec);

}  // namespace quality
