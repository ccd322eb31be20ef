// SPDX-License-Identifier: MIT
// Interleaved rounds and medians of per-round ratios.
//
// A machine shared with others drifts: two figures taken a minute apart differ by more
// than the change one looks for. So all candidates are timed in every round, one after the
// other, and what is reported is the median over the rounds of a ratio within a round.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace bench {

using seconds = std::vector<double>;  ///< one figure a round

struct spread {
    double median = 0, low = 0, high = 0;
};

inline spread spread_of(std::vector<double> figures) {
    std::sort(figures.begin(), figures.end());
    return {figures[figures.size() / 2], figures.front(), figures.back()};
}

/// factor * a / b, round by round.
inline std::vector<double> ratios(const seconds& a, const seconds& b, double factor = 1.0) {
    std::vector<double> result(a.size());
    for (std::size_t i = 0; i < a.size(); ++i) result[i] = factor * a[i] / b[i];
    return result;
}

struct candidate {
    std::string name;
    std::function<void()> call;
};

struct interleaving {
    std::size_t rounds = 9;
    std::function<void()> before_each;  ///< not timed: flushes the caches
    std::function<double()> clock;
};

/// Times of all candidates by name. Each is called once before the first round, for the
/// memory that it allocates.
inline std::map<std::string, seconds> time_interleaved(const interleaving& how,
                                                       const std::vector<candidate>& candidates) {
    std::map<std::string, seconds> times;
    for (const candidate& one : candidates) one.call();
    for (std::size_t round = 0; round < how.rounds; ++round)
        for (const candidate& one : candidates) {
            if (how.before_each) how.before_each();
            const double start = how.clock();
            one.call();
            times[one.name].push_back(how.clock() - start);
        }
    return times;
}

}  // namespace bench
