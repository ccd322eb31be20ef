// SPDX-License-Identifier: MIT
#include "machine.hpp"

#include <cstdlib>
#include <ctime>
#include <fstream>
#include <sparq/detail/arch.hpp>

namespace bench {

std::string cpu_name() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);)
        if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
    return "unknown CPU";
}

std::string instruction_set() {
    if constexpr (requires { sparq::default_arch::name(); })
        return sparq::default_arch::name();
    else
        return "plain";
}

std::string compiler() {
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "g++ " __VERSION__;
#else
    return "unknown compiler";
#endif
}

std::string date() {
    const std::time_t now = std::time(nullptr);
    char text[32] = "";
    if (const std::tm* utc = std::gmtime(&now))
        std::strftime(text, sizeof text, "%Y-%m-%dT%H:%MZ", utc);
    return text;
}

double load() {
    double average = 0;
    return getloadavg(&average, 1) == 1 ? average : -1;
}

}  // namespace bench
