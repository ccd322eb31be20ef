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

golden_baselines read_golden_baselines(const std::string& path) {
    std::ifstream file(path);
    const nlohmann::json all = nlohmann::json::parse(file);
    golden_baselines g;
    all.at("q").get_to(g.q);
    all.at("K").get_to(g.keys);
    all.at("V").get_to(g.values);
    all.at("valid").get_to(g.valid);
    all.at("dense").get_to(g.dense);
    all.at("flexgen_k5").get_to(g.flexgen);
    all.at("flexgen_k5_renormalised").get_to(g.flexgen_renormalised);
    all.at("flexgen_k5_to_mean").get_to(g.flexgen_spread);
    all.at("lm_infinite_k6_initial2").get_to(g.lm_infinite);
    const nlohmann::json& h2o = all.at("h2o");
    h2o.at("Q").get_to(g.prompt_and_steps);
    h2o.at("prefill").get_to(g.prompt);
    h2o.at("k").get_to(g.k);
    h2o.at("local").get_to(g.local);
    for (const auto& step : h2o.at("steps")) {
        g.out.push_back(step.at("out").get<matrix>());
        g.kept.push_back(step.at("kept").get<std::vector<std::vector<bool>>>());
    }
    return g;
}

}  // namespace test
