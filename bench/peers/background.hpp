// SPDX-License-Identifier: MIT
// How many processors other processes kept busy during a measurement. The system's load
// average says it for the last minute only, and counts this process as well.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>

#include "../memory.hpp"

namespace bench::peers {

class background_clock {
   public:
    background_clock() : wall_(wall_seconds()), others_(seconds_of_others()) {}
    /// Processors that others used since the construction, about.
    [[nodiscard]] double busy() const {
        return std::max(0.0, seconds_of_others() - others_) / (wall_seconds() - wall_);
    }

   private:
    static double seconds_of_others() {
        std::ifstream file("/proc/stat");
        std::string name;
        double user = 0, nice = 0, system = 0;
        file >> name >> user >> nice >> system;
        return (user + nice + system) / double(sysconf(_SC_CLK_TCK)) - processor_seconds();
    }
    double wall_, others_;
};

/// Waits for moments when others leave the processors alone, as long as there is patience.
class quiet_waiter {
   public:
    /// @param seconds  how long all calls together may wait for others
    explicit quiet_waiter(double seconds) noexcept : left_(seconds) {}
    void operator()() {
        constexpr std::chrono::milliseconds look{100};
        while (left_ > 0) {
            const background_clock background;
            std::this_thread::sleep_for(look);
            if (background.busy() < 0.15) return;
            left_ -= std::chrono::duration<double>(look).count();
        }
    }

   private:
    double left_;
};

}  // namespace bench::peers
