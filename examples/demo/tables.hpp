// SPDX-License-Identifier: MIT
// The demo's figures as tables for a terminal.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "accuracy.hpp"
#include "speed.hpp"

/// A row per (r, k), a block of columns per layer. `results` [layers, choices], the
/// choices in pairs: without a tail, with the mean value.
void print_accuracy(const std::vector<recorded_layer>& layers,
                    const std::vector<std::vector<accuracy>>& results);

/// Mass and error of every query head at one (r, k), without a tail.
void print_heads(const std::vector<recorded_layer>& layers,
                 const std::vector<std::vector<accuracy>>& results, std::size_t r, std::size_t k);

void print_speed(const speed_options& options, const speed_result& result);

std::string cpu_name();
std::string instruction_set();
