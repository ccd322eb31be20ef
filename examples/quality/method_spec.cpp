// SPDX-License-Identifier: MIT
#include "method_spec.hpp"

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace quality {
namespace {

std::string_view cut_before(std::string_view& text, char separator) {
    const std::size_t at = std::min(text.find(separator), text.size());
    const std::string_view part = text.substr(0, at);
    text.remove_prefix(std::min(at + 1, text.size()));
    return part;
}

template <class Number>
bool parse(const std::string& text, Number& value) {
    const char* end = text.data() + text.size();
    const auto result = std::from_chars(text.data(), end, value);
    return result.ec == std::errc() && result.ptr == end;
}

}  // namespace

method_spec::method_spec(std::string_view text) : text_(text) {
    name_ = cut_before(text, ':');
    while (!text.empty()) {
        std::string_view value = cut_before(text, ',');
        const std::string option(cut_before(value, '='));
        if (option.empty() || value.empty() || !left_.emplace(option, value).second)
            throw std::invalid_argument("method = " + text_ +
                                        "; allowed: NAME:OPTION=VALUE,.., each option once");
    }
    if (name_.empty()) throw std::invalid_argument("method = " + text_ + ": no name");
}

std::string method_spec::take(const std::string& option) {
    const auto node = left_.extract(option);
    return node.empty() ? std::string() : node.mapped();
}

void method_spec::refuse(const std::string& option, const std::string& value,
                         const std::string& allowed) const {
    throw std::invalid_argument("method = " + text_ + ": " + option + " = " + value +
                                "; allowed: " + allowed);
}

std::size_t method_spec::number(const std::string& option, std::size_t otherwise) {
    const std::string text = take(option);
    std::size_t value = otherwise;
    if (!text.empty() && !parse(text, value)) refuse(option, text, "a whole number");
    return value;
}

double method_spec::fraction(const std::string& option, double otherwise) {
    const std::string text = take(option);
    double value = otherwise;
    if (!text.empty() && (!parse(text, value) || !(value > 0.0 && value <= 1.0)))
        refuse(option, text, "above 0, at most 1");
    return value;
}

std::size_t method_spec::one_of(const std::string& option,
                                std::span<const std::string_view> allowed) {
    const std::string text = take(option);
    if (text.empty()) return 0;
    const auto found = std::find(allowed.begin(), allowed.end(), text);
    if (found != allowed.end()) return static_cast<std::size_t>(found - allowed.begin());
    std::string list;
    for (const std::string_view name : allowed)
        list += (list.empty() ? "" : ", ") + std::string(name);
    refuse(option, text, list);
}

void method_spec::finish() const {
    if (!left_.empty())
        throw std::invalid_argument("method = " + text_ + ": " + name_ + " has no option " +
                                    left_.begin()->first);
}

}  // namespace quality
