// SPDX-License-Identifier: MIT
// Results: a CSV file that grows by a line for each example and method, and its summary.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tasks.hpp"

namespace quality {

/// What one method did on one example.
struct outcome {
    /// bits: bits per character of the reference. copy: the same. repetition: characters up
    /// to the first wrong one. needle: 1 when the answer was generated, else 0.
    double score = 0.0;
    double accuracy = 0.0;  ///< share of the forced tokens that were the most likely ones
    double bytes = 0.0;     ///< read in the steps, of dense attention's
    std::size_t prompt_tokens = 0, steps = 0, characters = 0;
    double seconds = 0.0;
};

struct result_row {
    std::string text;  ///< which one
    task_key key;
    std::string method;
    outcome result;
};

std::string to_csv(const result_row& row);
/// Throws std::invalid_argument for a line that is none.
result_row from_csv(std::string_view line);

/// A file that several processes may append to at the same time.
class results_file {
   public:
    /// Makes the file when there is none. Throws std::runtime_error when it cannot, or when
    /// the file holds something else.
    explicit results_file(std::string path);
    /// Reads what others have added.
    void refresh();
    [[nodiscard]] bool contains(const std::string& text, const task_key& key,
                                const std::string& method) const;
    void append(const result_row& row);
    [[nodiscard]] const std::vector<result_row>& rows() const noexcept { return rows_; }

   private:
    std::string path_;
    std::vector<result_row> rows_;
    std::map<std::string, std::size_t> known_;
};

/// For each text, task, context, depth and method: examples, mean and standard error of score
/// and accuracy, mean bytes, and the paired difference of the score to "dense" over the
/// examples that both have. The depths of needles also together, as depth -1.
nlohmann::json summarise(const std::vector<result_row>& rows);

}  // namespace quality
