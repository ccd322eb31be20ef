// SPDX-License-Identifier: MIT
// A method as text: NAME or NAME:OPTION=VALUE,OPTION=VALUE, for example
// "sparq:r=16,k=128,tail=none,dense_layers=1".
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quality {

class method_spec {
   public:
    /// Throws std::invalid_argument for what is no specification.
    explicit method_spec(std::string_view text);

    [[nodiscard]] const std::string& text() const noexcept { return text_; }
    [[nodiscard]] const std::string& name() const noexcept { return name_; }

    /// The options, each read once by the method that knows it. Throw std::invalid_argument
    /// naming the option, its value and what is allowed.
    std::size_t number(const std::string& option, std::size_t otherwise);
    double fraction(const std::string& option, double otherwise);  ///< in (0, 1]
    /// The index of the value in `allowed`; the first is the default.
    std::size_t one_of(const std::string& option, std::span<const std::string_view> allowed);
    [[nodiscard]] bool has(const std::string& option) const { return left_.contains(option); }

    /// Throws std::invalid_argument when an option was not read: nobody knows it.
    void finish() const;

   private:
    std::string take(const std::string& option);
    [[noreturn]] void refuse(const std::string& option, const std::string& value,
                             const std::string& allowed) const;

    std::string text_, name_;
    std::map<std::string, std::string> left_;
};

/// A list of specifications where "@main", "@small", "@tiers", "@long", "@grid" and "@whole" stand
/// for those of method_sets.cpp; each method once, in the order of their first mention.
std::vector<std::string> expand_methods(std::span<const std::string> list);

}  // namespace quality
