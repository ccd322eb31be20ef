// SPDX-License-Identifier: MIT
// Where and when a measurement was made.
#pragma once

#include <string>

namespace bench {

std::string cpu_name();
/// The one that default_arch stands for in these programs.
std::string instruction_set();
std::string compiler();
/// UTC, ISO 8601.
std::string date();
/// Processes that wanted to run during the last minute, without this one; -1 if unknown.
double load();

}  // namespace bench
