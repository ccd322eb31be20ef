// SPDX-License-Identifier: MIT
// A run: examples times methods, what is already there left out, with the time left.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tasks.hpp"

namespace quality {

struct run_options {
    std::string model, text_file, text_name = "kjv", results;
    std::vector<std::string> tasks = {"bits"};
    std::vector<std::size_t> contexts = {2048};
    std::vector<double> depths = {0.0, 0.25, 0.5, 0.75, 1.0};  ///< needle
    std::vector<std::string> methods = {"@main"};              ///< see expand_methods
    std::size_t examples = 3, first = 0;
    std::size_t part = 0, parts = 1;  ///< this process takes examples i with i % parts = part
    std::uint64_t seed = 1;
    int threads = 1;
};

/// The examples of a run, in the order they are done: all of a context before the next.
std::vector<task_key> examples_of(const run_options& options);

/// Runs what the file of results lacks. Prints a line for each result, and the time left.
/// Throws std::invalid_argument for a wrong option before anything runs, std::runtime_error.
void run(const run_options& options);

}  // namespace quality
