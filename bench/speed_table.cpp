// SPDX-License-Identifier: MIT
// The speed table: how near dense attention comes to the streaming roof, and SparQ to the
// speed-up that its bytes promise. bench/README.md says how it measures and why.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>

#include "table.hpp"

namespace {

using namespace bench;

constexpr const char* usage =
    "sparq_speed_table [--quick] [--rounds=N] [--cache_mib=N] [--huge_pages] [--only=PART]\n"
    "                  [--json=FILE]\n"
    "  --quick        small caches, 3 rounds: a test that it works, not a measurement\n"
    "  --rounds=N     rounds of each measurement; 15\n"
    "  --cache_mib=N  size of each cache where the number of heads is free; 1024\n"
    "  --huge_pages   ask the system for huge pages, for everything alike\n"
    "  --only=PART    many_heads, small_heads, threads, append, short_caches or tiers\n"
    "  --json=FILE    write the figures there as well\n";

struct part {
    std::string_view name;
    void (*run)(speed_table&);
};
constexpr part parts[] = {{"many_heads", run_many_heads},     {"small_heads", run_small_heads},
                          {"threads", run_threads},           {"append", run_append},
                          {"short_caches", run_short_caches}, {"tiers", run_tiers}};

std::size_t positive_number(std::string_view option, const char* text) {
    char* end = nullptr;
    const unsigned long long number = std::strtoull(text, &end, 10);
    if (number == 0 || number > 1u << 20 || *end != '\0')
        throw std::invalid_argument(std::string(option) + " must be a number, 1 .. 1048576");
    return static_cast<std::size_t>(number);
}

/// Fills the settings; `only` stays empty when all parts are to run.
void take_options(int argc, char** argv, table_settings& settings, std::string_view& only) {
    std::size_t rounds = 0, cache_mib = 0;
    for (int i = 1; i < argc; ++i) {
        const std::string_view argument = argv[i];
        const std::size_t split = argument.find('=');
        const std::string_view name = argument.substr(0, split);
        const char* value = split == argument.npos ? "" : argv[i] + split + 1;
        if (argument == "--quick")
            settings.quick = true;
        else if (argument == "--huge_pages")
            request_huge_pages();
        else if (name == "--rounds")
            rounds = positive_number(name, value);
        else if (name == "--cache_mib")
            cache_mib = positive_number(name, value);
        else if (name == "--json")
            settings.json_path = value;
        else if (name == "--only")
            only = value;
        else
            throw std::invalid_argument("unknown option " + std::string(argument));
    }
    settings.rounds = rounds != 0 ? rounds : settings.quick ? 3 : 15;
    if (cache_mib == 0) cache_mib = settings.quick ? 64 : 1024;
    settings.cache_bytes = cache_mib << 20;
}

int run(int argc, char** argv) {
    table_settings settings;
    std::string_view only;
    take_options(argc, argv, settings, only);
    speed_table table{.settings = settings, .flush = {}, .rows = {}, .times = {}, .complaints = {}};
    bool ran = false;
    for (const part& one : parts) {
        if (!only.empty() && only != one.name) continue;
        std::fprintf(stderr, "measuring: %s\n", one.name.data());
        one.run(table);
        ran = true;
    }
    if (!ran) throw std::invalid_argument("there is no part " + std::string(only));
    print_table(table);
    if (!settings.json_path.empty()) write_json(table);
    return table.complaints.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc == 2 && std::string_view(argv[1]) == "--help") {
        std::fputs(usage, stdout);
        return 0;
    }
    try {
        return run(argc, argv);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "sparq_speed_table: %s\n%s", error.what(), usage);
        return 2;
    }
}
