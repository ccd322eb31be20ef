// SPDX-License-Identifier: MIT
#include "run_plan.hpp"

namespace quality {

std::vector<task_key> examples_of(const run_options& options) {
    std::vector<task_key> all;
    for (const std::string& task : options.tasks) {
        const task_kind kind = task_of(task);
        const bool by_depth = kind == task_kind::needle;
        const std::vector<double> depths = by_depth ? options.depths : std::vector<double>{0.0};
        for (const std::size_t context : options.contexts)
            for (std::size_t e = options.first; e < options.first + options.examples; ++e)
                for (const double depth : depths)
                    if (e % options.parts == options.part) all.push_back({kind, context, e, depth});
    }
    return all;
}

}  // namespace quality
