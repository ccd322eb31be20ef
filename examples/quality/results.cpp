// SPDX-License-Identifier: MIT
#include "results.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <tuple>

#include "statistics.hpp"

namespace quality {
namespace {

constexpr const char* header =
    "text,task,context,depth,example,method,score,accuracy,bytes,prompt_tokens,steps,characters,"
    "seconds";

std::string identity(const std::string& text, const task_key& key, const std::string& method) {
    std::ostringstream out;
    out << text << ',' << name_of(key.kind) << ',' << key.context << ',' << key.depth << ','
        << key.example << ",\"" << method << '"';  // a method's options have commas between them
    return out.str();
}

/// The fields of a line, of which one may stand in quotes.
std::vector<std::string> split(std::string_view line) {
    std::vector<std::string> fields(1);
    bool quoted = false;
    for (const char c : line) {
        if (c == '"')
            quoted = !quoted;
        else if (c == ',' && !quoted)
            fields.emplace_back();
        else
            fields.back() += c;
    }
    return fields;
}

/// The file to itself, among those who ask for the same: another process may be at it.
class locked_file {
   public:
    explicit locked_file(const std::string& path)
        : path_(path), file_(open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) {
        if (file_ < 0 || flock(file_, LOCK_EX) != 0) fail();
    }
    ~locked_file() {
        if (file_ >= 0) close(file_);
    }
    locked_file(const locked_file&) = delete;
    locked_file& operator=(const locked_file&) = delete;

    [[nodiscard]] bool is_empty() const { return lseek(file_, 0, SEEK_END) == 0; }
    void add_line(const std::string& text) {
        const std::string line = text + "\n";
        if (write(file_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) fail();
    }

   private:
    [[noreturn]] void fail() const { throw std::runtime_error(path_ + ": cannot be written"); }
    std::string path_;
    int file_;
};

nlohmann::json number(double value) {
    return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(nullptr);
}

nlohmann::json to_json(const std::vector<double>& values) {
    const estimate e = estimate_of(values);
    return {{"examples", e.count},
            {"mean", number(e.mean)},
            {"standard_error", number(e.standard_error)}};
}

using group_key = std::tuple<std::string, std::string, std::size_t, double, std::string>;
using example_key = std::pair<double, std::size_t>;
using group = std::map<example_key, outcome>;

nlohmann::json group_json(const group_key& key, const group& members, const group* dense) {
    std::vector<double> scores, accuracies, bytes, differences;
    for (const auto& [example, result] : members) {
        scores.push_back(result.score);
        accuracies.push_back(result.accuracy);
        bytes.push_back(result.bytes);
        if (dense == nullptr) continue;
        if (const auto other = dense->find(example); other != dense->end())
            differences.push_back(result.score - other->second.score);
    }
    const auto& [text, task, context, depth, method] = key;
    return {{"text", text},
            {"task", task},
            {"context", context},
            {"depth", depth},
            {"method", method},
            {"bytes", number(estimate_of(bytes).mean)},
            {"score", to_json(scores)},
            {"accuracy", to_json(accuracies)},
            {"difference", to_json(differences)}};
}

}  // namespace

std::string to_csv(const result_row& row) {
    std::ostringstream out;
    out.precision(8);
    const outcome& r = row.result;
    out << identity(row.text, row.key, row.method) << ',' << r.score << ',' << r.accuracy << ','
        << r.bytes << ',' << r.prompt_tokens << ',' << r.steps << ',' << r.characters << ','
        << r.seconds;
    return out.str();
}

result_row from_csv(std::string_view line) {
    const std::vector<std::string> f = split(line);
    if (f.size() != 13) throw std::invalid_argument("not a line of results: " + std::string(line));
    try {
        return {f[0],
                {task_of(f[1]), std::stoul(f[2]), std::stoul(f[4]), std::stod(f[3])},
                f[5],
                {std::stod(f[6]), std::stod(f[7]), std::stod(f[8]), std::stoul(f[9]),
                 std::stoul(f[10]), std::stoul(f[11]), std::stod(f[12])}};
    } catch (const std::exception&) {
        throw std::invalid_argument("not a line of results: " + std::string(line));
    }
}

results_file::results_file(std::string path) : path_(std::move(path)) {
    {
        locked_file file(path_);
        if (file.is_empty()) file.add_line(header);
    }
    refresh();
}

void results_file::refresh() {
    const locked_file nobody_writes(path_);
    std::ifstream file(path_);
    std::string line;
    if (!std::getline(file, line) || line != header)
        throw std::runtime_error(path_ + ": no file of results");
    rows_.clear();
    known_.clear();
    while (std::getline(file, line)) {
        result_row row = from_csv(line);
        if (known_.emplace(identity(row.text, row.key, row.method), rows_.size()).second)
            rows_.push_back(std::move(row));
    }
}

bool results_file::contains(const std::string& text, const task_key& key,
                            const std::string& method) const {
    return known_.contains(identity(text, key, method));
}

void results_file::append(const result_row& row) {
    locked_file(path_).add_line(to_csv(row));
    known_.emplace(identity(row.text, row.key, row.method), rows_.size());
    rows_.push_back(row);
}

nlohmann::json summarise(const std::vector<result_row>& rows) {
    std::map<group_key, group> groups;
    for (const result_row& row : rows) {
        const auto add = [&](double depth) {
            groups[{row.text, name_of(row.key.kind), row.key.context, depth, row.method}].emplace(
                example_key{row.key.depth, row.key.example}, row.result);
        };
        add(row.key.depth);
        if (row.key.kind == task_kind::needle) add(-1.0);
    }
    nlohmann::json all = nlohmann::json::array();
    for (const auto& [key, members] : groups) {
        const auto& [text, task, context, depth, method] = key;
        const auto dense = groups.find({text, task, context, depth, "dense"});
        all.push_back(group_json(key, members, dense == groups.end() ? nullptr : &dense->second));
    }
    return all;
}

}  // namespace quality
