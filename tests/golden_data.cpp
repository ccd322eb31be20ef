// SPDX-License-Identifier: MIT
#include "golden_data.hpp"

#include <fstream>

#include <nlohmann/json.hpp>

namespace test {

std::vector<golden_case> read_golden_cases(const std::string& path) {
    std::ifstream file(path);
    std::vector<golden_case> cases;
    const nlohmann::json all = nlohmann::json::parse(file);
    for (const auto& c : all.at("cases")) {
        golden_case g;
        c.at("name").get_to(g.name);
        g.released = c.at("rule").get<std::string>() == "released";
        c.at("reallocate").get_to(g.reallocate);
        c.at("r").get_to(g.r);
        c.at("k").get_to(g.k);
        c.at("local").get_to(g.local);
        c.at("q").get_to(g.q);
        c.at("K").get_to(g.keys);
        c.at("V").get_to(g.values);
        c.at("valid").get_to(g.valid);
        c.at("out").get_to(g.out);
        c.at("dense").get_to(g.dense);
        c.at("i1").get_to(g.components);
        c.at("i2").get_to(g.tokens);
        c.at("tau").get_to(g.tau);
        c.at("alpha").get_to(g.covered);
        c.at("s_hat").get_to(g.weights);
        c.at("v_mean").get_to(g.mean);
        cases.push_back(std::move(g));
    }
    return cases;
}

}  // namespace test
