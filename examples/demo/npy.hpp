// SPDX-License-Identifier: MIT
// Reads the one kind of .npy file the demo needs: version 1.0, float16, C order.
#pragma once

#include <cstddef>
#include <filesystem>
#include <sparq/scalar_types.hpp>
#include <vector>

struct npy_array {
    std::vector<std::size_t> shape;
    std::vector<sparq::half> values;
};

/// Throws std::runtime_error naming the file and what is wrong with it.
npy_array read_npy(const std::filesystem::path& file);
