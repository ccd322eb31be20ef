// SPDX-License-Identifier: MIT
// The speed table on a terminal and as JSON.
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <thread>

#include "machine.hpp"
#include "table.hpp"

namespace bench {
namespace {

using json = nlohmann::ordered_json;
using sense = table_row::sense;

const char* sign_of(const table_row& row) { return row.wanted == sense::at_least ? ">=" : "<="; }

std::string target_text(const table_row& row) {
    if (row.wanted == sense::information) return "-";
    char text[32];
    std::snprintf(text, sizeof text, "%s %.2f", sign_of(row), row.target);
    return text;
}

void print_machine(const speed_table& table) {
    std::printf("%s, %u processors, L3 %zu MiB; %s, %s\n", cpu_name().c_str(),
                std::thread::hardware_concurrency(), last_level_cache_bytes() >> 20,
                instruction_set().c_str(), compiler().c_str());
    std::printf("%s; %zu rounds; %zu MiB read before every call; caches of %zu MiB; %s pages\n",
                date().c_str(), table.settings.rounds, table.flush.bytes() >> 20,
                table.settings.cache_bytes >> 20, huge_pages_requested() ? "huge" : "default");
    std::printf("roof: %s\n", fastest_read().name);
    std::printf("load %.2f at the end%s\n\n", load(),
                load() > 1.3 ? ": OTHERS WERE RUNNING, the rows on two threads mean little" : "");
}

void print_rows(const speed_table& table) {
    std::size_t measure = 0, shape = 0;
    for (const table_row& row : table.rows) {
        measure = std::max(measure, row.measure.size());
        shape = std::max(shape, row.shape.size());
    }
    std::printf("%-*s  %-*s  %6s  %-14s  %-8s\n", int(measure), "measure", int(shape), "shape",
                "median", "range", "reach");
    for (const table_row& row : table.rows) {
        std::printf("%-*s  %-*s  %6.2f  %5.2f .. %-5.2f  %-8s %s", int(measure),
                    row.measure.c_str(), int(shape), row.shape.c_str(), row.value.median,
                    row.value.low, row.value.high, target_text(row).c_str(),
                    row.wanted == sense::information ? ""
                    : row.reached()                  ? "yes"
                                                     : "NO");
        std::printf(row.note.empty() ? "\n" : "  (%s)\n", row.note.c_str());
    }
}

void print_times(const speed_table& table) {
    std::printf(
        "\nTime by part, a KV head. The steps are the public ones, called one by one: what\n"
        "they add up to beyond SparQ's time is what the whole call overlaps or saves.\n");
    std::string shape;
    for (const time_line& line : table.times) {
        if (line.shape != shape)
            std::printf("\n%-46s %9s %9s %7s %8s\n", line.shape.c_str(), "us", "KB", "GB/s",
                        "of roof");
        shape = line.shape;
        std::printf("  %-44s %9.2f", line.part.c_str(), line.us_per_head);
        if (line.bytes_per_head > 0)
            std::printf(" %9.1f %7.1f", 1e-3 * line.bytes_per_head,
                        1e-3 * line.bytes_per_head / line.us_per_head);
        if (line.of_roof > 0) std::printf(" %8.2f", line.of_roof);
        std::printf("\n");
    }
}

json json_of(const table_row& row) {
    json result = {{"measure", row.measure},
                   {"shape", row.shape},
                   {"median", row.value.median},
                   {"low", row.value.low},
                   {"high", row.value.high}};
    if (row.wanted != sense::information) {
        result["wanted"] = sign_of(row);
        result["target"] = row.target;
        result["reached"] = row.reached();
    }
    if (!row.note.empty()) result["note"] = row.note;
    return result;
}

}  // namespace

void print_table(const speed_table& table) {
    print_machine(table);
    print_rows(table);
    print_times(table);
    for (const std::string& complaint : table.complaints)
        std::printf("\nWRONG RESULT: %s\n", complaint.c_str());
    if (table.complaints.empty()) std::printf("\nAll outputs agree with double precision.\n");
}

void write_json(const speed_table& table) {
    json root;
    root["machine"] = {{"cpu", cpu_name()},
                       {"processors", std::thread::hardware_concurrency()},
                       {"l3_bytes", last_level_cache_bytes()},
                       {"instruction_set", instruction_set()},
                       {"compiler", compiler()},
                       {"date", date()},
                       {"load", load()},
                       {"pages", huge_pages_requested() ? "huge" : "default"}};
    root["method"] = {{"quick", table.settings.quick},
                      {"rounds", table.settings.rounds},
                      {"cache_bytes", table.settings.cache_bytes},
                      {"flush_bytes", table.flush.bytes()},
                      {"roof", fastest_read().name}};
    root["rows"] = json::array();
    for (const table_row& row : table.rows) root["rows"].push_back(json_of(row));
    root["times"] = json::array();
    for (const time_line& line : table.times)
        root["times"].push_back({{"shape", line.shape},
                                 {"part", line.part},
                                 {"us_per_head", line.us_per_head},
                                 {"bytes_per_head", line.bytes_per_head},
                                 {"of_roof", line.of_roof}});
    root["wrong_results"] = table.complaints;
    std::ofstream file(table.settings.json_path);
    file << root.dump(2) << '\n';
    if (!file.flush()) throw std::runtime_error("cannot write " + table.settings.json_path);
}

}  // namespace bench
