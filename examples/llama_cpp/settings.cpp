// SPDX-License-Identifier: MIT
#include "settings.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace sparq_llama {
namespace {

constexpr std::array method_names{"off", "dense", "sparq", "tiers", "zeros"};
constexpr std::array adapter_names{"auto", "extra_buffer", "accel"};
constexpr std::array tail_names{"automatic", "none", "mean_value"};
constexpr std::array label_widths{"16", "8", "4", "2"};
constexpr std::size_t most_layers = 4096;

[[noreturn]] void refuse(std::string_view name, std::string_view value,
                         const std::string& allowed) {
    throw std::invalid_argument(std::string(name) + ": '" + std::string(value) +
                                "'; allowed: " + allowed);
}

std::size_t number(std::string_view name, std::string_view value, std::size_t least,
                   std::size_t most) {
    std::size_t result = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), result);
    if (error != std::errc{} || end != value.data() + value.size() || result < least ||
        result > most)
        refuse(name, value, "a number " + std::to_string(least) + " .. " + std::to_string(most));
    return result;
}

template <std::size_t N>
std::size_t word(std::string_view name, std::string_view value,
                 const std::array<const char*, N>& words) {
    std::string allowed;
    for (std::size_t i = 0; i < N; ++i) {
        if (value == words[i]) return i;
        allowed += (i == 0 ? "" : ", ") + std::string(words[i]);
    }
    refuse(name, value, allowed);
}

/// "0,5-7": these layers. Empty: none.
std::vector<bool> layer_list(std::string_view name, std::string_view value) {
    std::vector<bool> layers;
    for (std::string_view rest = value; !rest.empty();) {
        const std::string_view part = rest.substr(0, rest.find(','));
        rest.remove_prefix(part.size() < rest.size() ? part.size() + 1 : rest.size());
        const std::size_t dash = part.find('-');
        const std::size_t first = number(name, part.substr(0, dash), 0, most_layers);
        const std::size_t last = dash == std::string_view::npos
                                     ? first
                                     : number(name, part.substr(dash + 1), first, most_layers);
        if (layers.size() <= last) layers.resize(last + 1);
        for (std::size_t layer = first; layer <= last; ++layer) layers[layer] = true;
    }
    return layers;
}

/// A decimal above 0, up to 1.
float share(std::string_view name, std::string_view value) {
    float result = 0.0f;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), result);
    if (error != std::errc{} || end != value.data() + value.size() || !(result > 0.0f) ||
        result > 1.0f)
        refuse(name, value, "a number above 0, at most 1");
    return result;
}

constexpr std::array names{
    "SPARQ_METHOD",      "SPARQ_R",         "SPARQ_K",        "SPARQ_LABEL_BITS",
    "SPARQ_TOLERANCE",   "SPARQ_LOCAL",     "SPARQ_TAIL",     "SPARQ_DENSE_LAYERS",
    "SPARQ_DENSE_BELOW", "SPARQ_OFF_BELOW", "SPARQ_MOST_ROWS"};

}  // namespace

adapter adapter_from_environment() {
    constexpr const char* name = "SPARQ_ADAPTER";
    const char* value = std::getenv(name);
    return value == nullptr ? adapter::automatic
                            : static_cast<adapter>(word(name, value, adapter_names));
}

void settings::set(std::string_view name, std::string_view value) {
    constexpr std::size_t most = std::numeric_limits<std::uint32_t>::max();
    if (name == "SPARQ_METHOD")
        use = static_cast<method>(word(name, value, method_names));
    else if (name == "SPARQ_R")
        params.r = number(name, value, 1, 1024);
    else if (name == "SPARQ_K")
        params.k = number(name, value, 1, most);
    else if (name == "SPARQ_LOCAL")
        params.local = number(name, value, 0, most);
    else if (name == "SPARQ_TAIL")
        params.tail = static_cast<sparq::tail_estimate>(word(name, value, tail_names));
    else if (name == "SPARQ_LABEL_BITS")
        label_bits = 16u >> word(name, value, label_widths);
    else if (name == "SPARQ_TOLERANCE")
        tolerance = share(name, value);
    else if (name == "SPARQ_DENSE_LAYERS")
        dense_layers = layer_list(name, value);
    else if (name == "SPARQ_DENSE_BELOW")
        dense_below = number(name, value, 0, most);
    else if (name == "SPARQ_OFF_BELOW")
        off_below = number(name, value, 0, most);
    else if (name == "SPARQ_MOST_ROWS")
        most_rows = number(name, value, 1, 64);
    else if (name == "SPARQ_ADAPTER")
        refuse(name, value, "in the environment of a program that loads the plugin");
    else
        refuse(name, value, "a setting's name, as in README.md");
}

void settings::set_all(std::string_view list) {
    settings changed = *this;
    bool k = false, local = false;
    while (!list.empty()) {
        const std::string_view word = list.substr(0, list.find(' '));
        list.remove_prefix(std::min(list.size(), word.size() + 1));
        if (word.empty()) continue;
        const std::size_t equals = word.find('=');
        if (equals == std::string_view::npos) refuse(word, "", "NAME=value");
        const std::string_view name = word.substr(0, equals);
        k = k || name == "SPARQ_K";
        local = local || name == "SPARQ_LOCAL";
        changed.set(name, word.substr(equals + 1));
    }
    if (k && !local) changed.params.local = changed.params.k / 4;
    if (changed.params.local > changed.params.k)
        refuse("SPARQ_LOCAL", std::to_string(changed.params.local),
               "0 .. SPARQ_K = " + std::to_string(changed.params.k));
    *this = std::move(changed);
}

settings settings::from_environment() {
    std::string list;
    for (const char* name : names)
        if (const char* value = std::getenv(name); value != nullptr)
            list += std::string(name) + "=" + value + " ";
    settings result;
    result.set_all(list);
    return result;
}

std::string settings::text() const {
    std::string layers;
    for (std::size_t layer = 0; layer < dense_layers.size(); ++layer) {
        if (!dense_layers[layer]) continue;
        if (!layers.empty()) layers += ',';
        layers += std::to_string(layer);
    }
    std::ostringstream line;
    line << "method " << method_names[static_cast<std::size_t>(use)] << ", r " << params.r << ", k "
         << params.k << ", local " << params.local << ", labels of " << label_bits << " bits, tail "
         << tail_names[static_cast<std::size_t>(params.tail)] << ", tolerance " << tolerance
         << ", dense layers " << (layers.empty() ? "none" : layers) << ", dense below "
         << dense_below << " tokens, off below " << off_below << ", at most " << most_rows
         << " rows";
    return line.str();
}

}  // namespace sparq_llama
