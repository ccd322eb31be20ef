// SPDX-License-Identifier: MIT
// The comparisons of problem.hpp, compiled once for all instruction sets.
#include "problem.hpp"

namespace test {

std::string check_sparq_head(const reference::head& h, const reference::settings& s, size_t g,
                             const answer& a) {
    reference::result res = reference::scan(h, s);
    bounds::limits lim;
    bounds::scan(h, s, res, {}, lim);
    const size_t n = std::min(s.k, h.seq_len);
    if (a.report.tokens_per_head != n) return "tokens_per_head is not min(k, S)";
    const auto first = a.report.tokens.begin() + static_cast<std::ptrdiff_t>(g * n);
    const reference::indices tokens(first, first + static_cast<std::ptrdiff_t>(n));
    if (!bounds::is_valid_choice(tokens, res.ranking, lim.ranking, s.k, s.local))
        return "not the best k tokens with the newest inside";
    reference::finish(h, s, tokens, res);
    lim = bounds::sparq(h, s, res);
    for (size_t j = 0; j < h.group; ++j) {
        const sparq::head_report& head = a.report.heads.at(g * h.group + j);
        if (!a.report.dense && !(std::abs(head.covered - res.covered[j]) <= lim.covered[j]))
            return "covered of query head " + std::to_string(j) + ": " +
                   std::to_string(head.covered) + ", reference " + std::to_string(res.covered[j]);
        if (!(std::abs(head.log_sum_exp - res.log_sum_exp[j]) <= lim.log_sum_exp[j]))
            return "log_sum_exp of query head " + std::to_string(j);
    }
    return outside(&a.out[g * h.group * h.value_dim], res.out.data(), lim.out.data(),
                   res.out.size());
}

std::string check_dense_head(const reference::head& h, double scale, size_t g, const answer& a) {
    const reference::result res = reference::dense(h, scale);
    const bounds::limits lim = bounds::dense(h, res, scale);
    for (size_t j = 0; j < h.group; ++j) {
        const sparq::head_report& head = a.report.heads.at(g * h.group + j);
        if (!(std::abs(head.log_sum_exp - res.log_sum_exp[j]) <= lim.log_sum_exp[j]))
            return "log_sum_exp of query head " + std::to_string(j);
        if (head.covered != 1.0f) return "covered of a dense call is not 1";
    }
    return outside(&a.out[g * h.group * h.value_dim], res.out.data(), lim.out.data(),
                   res.out.size());
}

}  // namespace test
