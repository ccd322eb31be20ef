// SPDX-License-Identifier: MIT
// Most of the tests as one translation unit, quick to build: what the mutation run builds
// anew for every fault. Each file stands in a namespace of its own, since they use the
// same names; all their headers are included before.
#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <utility>

#include <sparq/baselines.hpp>

#include "../../examples/demo/npy.cpp"
#include "../baselines_reference.hpp"
#include "../calls_impl.hpp"
#include "../check.cpp"
#include "../engine_memory.hpp"
#include "../golden_data.cpp"
#include "../tier_calls_impl.hpp"
#include "../tier_reference.hpp"

namespace test_of_scalar_types {
#include "../scalar_types_test.cpp"
}
namespace test_of_steps {
#include "../steps_test.cpp"
}
namespace test_of_whole_call {
#include "../whole_call_test.cpp"
}
namespace test_of_properties {
#include "../properties_test.cpp"
}
namespace test_of_worked_example {
#include "../worked_example_test.cpp"
}
namespace test_of_cache {
#include "../cache_test.cpp"
}
namespace test_of_view {
#include "../view_test.cpp"
}
namespace test_of_key_labels {
#include "../key_labels_test.cpp"
}
namespace test_of_executor {
#include "../executor_test.cpp"
}
namespace test_of_not_finite {
#include "../not_finite_test.cpp"
}
namespace test_of_extreme_logits {
#include "../extreme_logits_test.cpp"
}
namespace test_of_refusals {
#include "../refusals_test.cpp"
}
namespace test_of_baselines {
#include "../baselines_test.cpp"
}
namespace test_of_tier_codes {
#include "../tier_codes_test.cpp"
}
namespace test_of_tiers {
#include "../tiers_test.cpp"
}
namespace test_of_int8_rows {
#include "../int8_rows_test.cpp"
}
namespace test_of_tiers_error {
#include "../tiers_error_test.cpp"
}
