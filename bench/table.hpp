// SPDX-License-Identifier: MIT
// What the speed table consists of, and the runs that fill it.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "memory.hpp"
#include "statistics.hpp"

namespace bench {

/// A measured ratio beside the number it should reach.
struct table_row {
    enum class sense { at_least, at_most, information };

    std::string measure, shape;
    spread value;
    sense wanted = sense::information;
    double target = 0;
    std::string note;

    [[nodiscard]] bool reached() const noexcept {
        return wanted == sense::information ||
               (wanted == sense::at_least ? value.median >= target : value.median <= target);
    }
};

/// Where the time of a shape goes, a line for each part; medians.
struct time_line {
    std::string shape, part;
    double us_per_head = 0;
    double bytes_per_head = 0;  ///< of the cache
    double of_roof = 0;         ///< 0 where no bytes are read
};

struct table_settings {
    bool quick = false;
    std::size_t rounds = 15;
    std::size_t cache_bytes = std::size_t{1} << 30;  ///< of each cache, if heads are free
    std::string json_path;
};

struct speed_table {
    table_settings settings;
    cache_flusher flush;
    std::vector<table_row> rows;
    std::vector<time_line> times;
    std::vector<std::string> complaints;  ///< wrong results: there should be none

    void add(table_row row) { rows.push_back(std::move(row)); }
    /// Keeps what is wrong with a shape, if anything is.
    void check(const std::string& shape, const std::string& complaint) {
        if (!complaint.empty()) complaints.push_back(shape + ": " + complaint);
    }
    /// Rounds on one thread, in processor time.
    [[nodiscard]] interleaving one_thread() const {
        return {settings.rounds, [this] { flush(); }, processor_seconds};
    }
};

// Each adds its rows and times.
void run_many_heads(speed_table& table);    ///< three types at three lengths; G = 4
void run_small_heads(speed_table& table);   ///< G = 8, d_h = 64
void run_threads(speed_table& table);       ///< two threads; one long head on two threads
void run_append(speed_table& table);        ///< amortised, and the slowest
void run_short_caches(speed_table& table);  ///< SparQ against dense from S = 256 up
void run_tiers(speed_table& table);         ///< labels of few bits, tiers; S of 1k to 256k

void print_table(const speed_table& table);
void write_json(const speed_table& table);

}  // namespace bench
