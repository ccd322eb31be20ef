// SPDX-License-Identifier: MIT
#include <algorithm>
#include <stdexcept>

#include "method_spec.hpp"

namespace quality {
namespace {

/// What the tables and the pictures compare, at about 1/4 and 1/8 of the bytes.
const std::vector<std::string> main_set = {
    "dense",
    "ggml",
    "q8_0",
    "q4_0",
    "sparq:r=16,k=128,tail=none",
    "sparq:r=16,k=128,tail=mean",
    "sparq:r=16,k=128,tail=none,dense_layers=1",
    "sparq:r=16,k=128,tail=mean,dense_layers=1",
    "sparq:r=8,k=128,tail=none",
    "sparq:r=32,k=256,tail=none",
    "sparq:share=0.25",
    "sparq:share=0.125",
    "h2o:share=0.25",
    "h2o:share=0.125",
    "lm_infinite:share=0.25",
    "lm_infinite:share=0.125",
    "quest:share=0.25",
    "quest:share=0.125",
    "quest:share=0.25,newest=on",
    "quest:share=0.125,newest=on",
    "flexgen:k=128",
    "flexgen:k=128,dropped=renormalise",
};

const std::vector<std::string> small_set = {
    "dense",
    "sparq:r=16,k=128,tail=none",
    "sparq:r=16,k=128,tail=mean,dense_layers=1",
    "sparq_codes:bits=4,r=16,k=128",
    "tiers:tolerance=0.05",
    "tiers:tolerance=0.1",
    "h2o:share=0.25",
    "lm_infinite:share=0.25",
    "quest:share=0.25",
};

/// Long contexts: what reads a tenth to a thirtieth of the bytes, and SparQ beside it.
const std::vector<std::string> long_set = {
    "dense",
    "tiers:tolerance=0.05",
    "tiers:tolerance=0.1",
    "tiers:tolerance=0.15",
    "sparq_codes:bits=4,r=16,k=128",
    "sparq:r=16,k=128,tail=none",
    "lm_infinite:share=0.0625",
    "lm_infinite:share=0.05",
};

/// What keeps codes of few bits.
const std::vector<std::string> tiers_set = {
    "dense",
    "tiers:tolerance=0.01",
    "tiers:tolerance=0.02",
    "tiers:tolerance=0.05",
    "tiers:tolerance=0.1",
    "tiers:tolerance=0.15",
    "tiers:tolerance=0.2",
    "tiers:refined=128,exact=32",
    "tiers:refined=256,exact=64",
    "sparq_codes:bits=8,r=16,k=128",
    "sparq_codes:bits=4,r=16,k=128",
    "sparq_codes:bits=4,r=16,k=128,components=spread,temperature=none",
    "sparq_codes:bits=2,r=16,k=128",
    "sparq_codes:bits=2,r=32,k=128",
    "sparq:r=16,k=128,tail=none",
};

std::string sparq_spec(std::size_t r, std::size_t k, const std::string& more) {
    return "sparq:r=" + std::to_string(r) + ",k=" + std::to_string(k) + more;
}

/// r x k; then, around r = 16, k = 128, the tail, the ranking and the dense layers.
std::vector<std::string> grid_set() {
    std::vector<std::string> set = {"dense"};
    for (const std::size_t r : {8u, 16u, 32u, 64u})
        for (const std::size_t k : {32u, 64u, 128u, 256u, 512u})
            set.push_back(sparq_spec(r, k, ",tail=none"));
    for (const char* tail : {"none", "mean"})
        for (const char* more : {"", ",ranking=logit", ",dense_layers=1", ",dense_layers=2"})
            set.push_back(sparq_spec(16, 128, std::string(",tail=") + tail + more));
    return set;
}

/// Everything: the whole grid with both tails, both rankings, 0 to 2 dense layers.
std::vector<std::string> whole_set() {
    std::vector<std::string> set = {"dense"};
    for (const char* layers : {"", ",dense_layers=1", ",dense_layers=2"})
        for (const char* ranking : {"", ",ranking=logit"})
            for (const char* tail : {"none", "mean"})
                for (const std::size_t r : {8u, 16u, 32u, 64u})
                    for (const std::size_t k : {32u, 64u, 128u, 256u, 512u})
                        set.push_back(
                            sparq_spec(r, k, std::string(",tail=") + tail + ranking + layers));
    return set;
}

std::vector<std::string> set_of(const std::string& name) {
    if (name == "@main") return main_set;
    if (name == "@small") return small_set;
    if (name == "@tiers") return tiers_set;
    if (name == "@long") return long_set;
    if (name == "@grid") return grid_set();
    if (name == "@whole") return whole_set();
    throw std::invalid_argument("methods = " + name +
                                "; allowed: @main, @small, @tiers, @long, @grid, @whole, or a "
                                "method");
}

}  // namespace

std::vector<std::string> expand_methods(std::span<const std::string> list) {
    std::vector<std::string> all;
    for (const std::string& item : list)
        for (const std::string& method :
             item.starts_with('@') ? set_of(item) : std::vector<std::string>{item})
            if (std::find(all.begin(), all.end(), method) == all.end()) all.push_back(method);
    return all;
}

}  // namespace quality
