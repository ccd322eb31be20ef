// SPDX-License-Identifier: MIT
#include "code_rows_bench.hpp"

#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <sparq/kernels/code_row_sums.hpp>
#include <string>
#include <vector>

#include "memory.hpp"
#include "statistics.hpp"
#include "synthetic.hpp"

namespace bench {
namespace {

namespace kernels = sparq::kernels;
using arch = sparq::default_arch;

constexpr std::size_t row_count = 1024, block_rows = 16, repetitions = 64;

/// Coded rows, in an order that no prefetcher guesses, and all that the kernels take.
struct coded_rows {
    std::size_t width, group, row_bytes = kernels::code_row_bytes(width);
    std::vector<float> values = normal_numbers(1, row_count* width);
    std::vector<float> coefficients = normal_numbers(2, group* width);
    std::vector<float> mean = normal_numbers(3, width), inverse_spread = mean;
    std::vector<sparq::half> halves;
    std::vector<std::uint8_t> codes;
    std::vector<const std::uint8_t*> rows;
    std::vector<std::int16_t> memory;
    std::vector<kernels::code_row_weights> weights;
    std::vector<float> out, sums;

    coded_rows(std::size_t row_width, std::size_t heads)
        : width(row_width),
          group(heads),
          codes(row_count * row_bytes),
          memory(heads * kernels::code_row_weight_count(row_width)),
          weights(heads),
          out(heads * row_count),
          sums(heads * kernels::padded_code_width(row_width)) {
        for (const float x : values) halves.emplace_back(x);
        for (float& x : inverse_spread) x = 1.0f + std::abs(x);
        encode();
        prepare();
        for (std::size_t j = 0; j < row_count; ++j)
            rows.push_back(codes.data() + j * 389 % row_count * row_bytes);
    }

    void encode() {
        for (std::size_t j = 0; j < row_count; ++j)
            kernels::encode_row<arch>(halves.data() + j * width, mean.data(), inverse_spread.data(),
                                      width, codes.data() + j * row_bytes);
    }
    void prepare() {
        for (std::size_t h = 0; h < group; ++h)
            weights[h] = kernels::prepare_code_row_weights<arch>(
                coefficients.data() + h * width, width,
                memory.data() + h * kernels::code_row_weight_count(width));
    }
    void dot() {
        kernels::dot_code_rows<arch>(weights.data(), group, rows.data(), row_count, width,
                                     out.data(), row_count);
    }
    /// In blocks, as attention has its weights.
    void accumulate() {
        for (std::size_t j = 0; j < row_count; j += block_rows)
            kernels::accumulate_code_rows<arch>(values.data() + j, group, row_count,
                                                rows.data() + j, block_rows, width, sums.data(),
                                                kernels::padded_code_width(width));
    }
    /// Whether the dot products are those of the coefficients and the decoded codes.
    [[nodiscard]] bool is_right() const {
        std::vector<float> code(width);
        const kernels::row_range unit{sparq::half(0.0f), sparq::half(1.0f)};
        for (std::size_t j = 0; j < row_count; ++j) {
            kernels::decode_row<arch>(rows[j], unit, width, code.data());
            for (std::size_t h = 0; h < group; ++h) {
                double sum = 0, size = 0;
                for (std::size_t c = 0; c < width; ++c) {
                    sum += double(coefficients[h * width + c]) * double(code[c]);
                    size += double(code[c]);
                }
                if (std::abs(sum - double(out[h * row_count + j])) >
                    double(weights[h].scale) * 0.51 * size + 1e-6 * (std::abs(sum) + 1))
                    return false;
            }
        }
        return true;
    }
};

struct kernel {
    const char* name;
    void (coded_rows::*call)();
    bool every_group;
    std::size_t count;  // of what the time is given for
};
constexpr kernel kernels_timed[] = {
    {"dot", &coded_rows::dot, true, row_count},
    {"accumulate", &coded_rows::accumulate, true, row_count},
    {"encode", &coded_rows::encode, false, row_count},
    {"prepare", &coded_rows::prepare, false, 1},
};

void run_kernel(benchmark::State& state, const kernel& timed, std::size_t width,
                std::size_t group) {
    coded_rows data(width, group);
    data.dot();
    if (!data.is_right()) {
        state.SkipWithError("wrong dot products");
        return;
    }
    seconds times;
    for ([[maybe_unused]] auto round : state) {
        const double start = processor_seconds();
        for (std::size_t i = 0; i < repetitions; ++i) (data.*timed.call)();
        times.push_back((processor_seconds() - start) / double(repetitions));
        benchmark::DoNotOptimize(data.out.data());
        state.SetIterationTime(times.back());
    }
    const spread all = spread_of(times);
    state.counters["ns"] = 1e9 * all.median / double(timed.count);
    state.counters["ns_least"] = 1e9 * all.low / double(timed.count);
    if (timed.count > 1) state.counters["bytes"] = double(data.row_bytes);
}

}  // namespace

void register_code_row_rows(std::size_t rounds) {
    for (const std::size_t width : {128u, 64u})
        for (const kernel& timed : kernels_timed)
            for (const std::size_t group : {1u, 3u, 4u, 8u}) {
                if (group > 1 && !timed.every_group) continue;
                std::string name = "code_rows/d:" + std::to_string(width) + "/";
                if (timed.every_group) name += "G:" + std::to_string(group) + "/";
                benchmark::RegisterBenchmark((name + timed.name).c_str(),
                                             [&timed, width, group](benchmark::State& state) {
                                                 run_kernel(state, timed, width, group);
                                             })
                    ->Iterations(static_cast<benchmark::IterationCount>(rounds))
                    ->UseManualTime()
                    ->Unit(benchmark::kMicrosecond);
            }
}

}  // namespace bench
