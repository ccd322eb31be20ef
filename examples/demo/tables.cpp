// SPDX-License-Identifier: MIT
#include "tables.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sparq/detail/arch.hpp>

void print_accuracy(const std::vector<recorded_layer>& layers,
                    const std::vector<std::vector<accuracy>>& results) {
    std::printf("Real queries, keys and values, %zu tokens; the last %zu decoded one by one\n",
                layers[0].seq_len(), layers[0].rows());
    std::printf("  bytes  read, of what dense attention reads\n");
    std::printf("  mass   dense weight of the attended tokens\n");
    std::printf(
        "  error  |y - dense| / |dense|, mean; worst: of the worst head;"
        " +mean: with the mean value as tail\n\n");
    std::printf("%16s", "");
    for (const recorded_layer& layer : layers) {
        const std::string title = layer.name + ", " + std::to_string(layer.heads_q()) + " heads";
        std::printf(" | %-27s", title.c_str());
    }
    std::printf("\n   r    k  bytes");
    for (std::size_t i = 0; i < layers.size(); ++i) std::printf(" |   mass  error  worst  +mean");
    for (std::size_t choice = 0; choice < results[0].size(); choice += 2) {
        const accuracy& first = results[0][choice];
        std::printf("\n%4zu %4zu %5.1f%%", first.params.r, first.params.k, 100 * first.bytes_share);
        for (const auto& layer : results)
            std::printf(" | %6.3f %6.3f %6.3f %6.3f", layer[choice].mean_mass(),
                        layer[choice].mean_error(), layer[choice].worst_error(),
                        layer[choice + 1].mean_error());
    }
    std::printf("\n\n");
}

void print_heads(const std::vector<recorded_layer>& layers,
                 const std::vector<std::vector<accuracy>>& results, std::size_t r, std::size_t k) {
    std::size_t most_heads = 0;
    for (const recorded_layer& layer : layers) most_heads = std::max(most_heads, layer.heads_q());
    std::printf("Head by head at r = %zu, k = %zu\n%20s", r, k, "");
    for (std::size_t h = 0; h < most_heads; ++h) std::printf("   h%-3zu", h);
    for (std::size_t i = 0; i < layers.size(); ++i) {
        const auto is_wanted = [&](const accuracy& result) {
            return result.params.r == r && result.params.k == k;
        };
        const auto found = std::find_if(results[i].begin(), results[i].end(), is_wanted);
        if (found == results[i].end()) continue;
        std::printf("\n%-14s mass ", layers[i].name.c_str());
        for (const head_accuracy& head : found->heads) std::printf(" %6.3f", head.mass);
        std::printf("\n%-14s error", "");
        for (const head_accuracy& head : found->heads) std::printf(" %6.3f", head.error);
    }
    std::printf("\n\n");
}

void print_speed(const speed_options& options, const speed_result& result) {
    std::printf(
        "\nA step over a long cache: %zu heads of %zu, half, S = %zu (%.0f MB),"
        " SparQ r = %zu, k = %zu\n",
        options.heads, options.head_dim, options.seq_len, result.cache_bytes / 1e6,
        options.params.r, options.params.k);
    std::printf("%s (%s), one thread, caches flushed, median of %zu rounds\n\n", cpu_name().c_str(),
                instruction_set().c_str(), options.rounds);
    std::printf("%22s %9s %9s %9s %9s\n", "", "ms", "MB read", "GB/s", "of roof");
    const auto print = [&](const char* name, const step_cost& cost) {
        std::printf("%22s %9.2f %9.1f %9.1f %8.0f%%\n", name, cost.milliseconds, cost.bytes / 1e6,
                    cost.gigabytes_per_second(),
                    100 * cost.gigabytes_per_second() / result.roof.gigabytes_per_second());
    };
    print("streaming read of K, V", result.roof);
    print("dense", result.dense);
    print("SparQ", result.sparq);
    std::printf(
        "\nSparQ is %.1f times as fast (%.1f to %.1f) for %.1f times fewer bytes:"
        " efficiency %.2f\n",
        result.speedup, result.speedup_low, result.speedup_high, result.bytes_ratio(),
        result.efficiency());
    std::printf("Both outputs are within %.0e of double precision over the tokens they attend.\n",
                result.deviation);
}

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
