// SPDX-License-Identifier: MIT
// The cases of data/golden.json as plain data.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace test {

using row = std::vector<double>;
using matrix = std::vector<row>;
using cube = std::vector<matrix>;

struct golden_case {
    std::string name;
    bool released = false;    // the rule: k and local count the current token on top,
                              // and groups rank by the sum of logits
    bool reallocate = false;  // the mean value stands for the rest
    std::size_t r = 0, k = 0, local = 0;
    matrix q;                                                  // [heads_q, d_h]
    cube keys, values;                                         // [heads_kv, cells, d]
    std::vector<bool> valid;                                   // [cells]; the others are padding
    matrix out, dense;                                         // [heads_q, d_v]
    std::vector<std::vector<std::size_t>> components, tokens;  // [heads_kv, r], [heads_kv, k]
    matrix tau, covered;                                       // [heads_kv, G]
    cube weights;                                              // [heads_kv, G, cells], approximate
    matrix mean;                                               // [heads_kv, d_v]
};

/// The one case of data/baselines.json.
struct golden_baselines {
    matrix q;                                                     // [heads_q, d_h]
    cube keys, values;                                            // [heads_kv, cells, d]
    std::vector<bool> valid;                                      // [cells]
    matrix dense, flexgen, flexgen_renormalised, flexgen_spread;  // k = 5
    matrix lm_infinite;                                           // k = 6, initial = 2

    cube prompt_and_steps;  // [heads_q, cells, d_h]: a query for each cell
    std::size_t prompt = 0, k = 0, local = 0;
    std::vector<matrix> out;                           // [steps]
    std::vector<std::vector<std::vector<bool>>> kept;  // [steps, heads_kv, cells so far]
};

/// @throws when the file is not there or not as expected
golden_baselines read_golden_baselines(const std::string& path);
std::vector<golden_case> read_golden_cases(const std::string& path);

}  // namespace test
