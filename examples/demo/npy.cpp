// SPDX-License-Identifier: MIT
// The format: "\x93NUMPY", version, length of the header (2 bytes), and the header, a
// Python dictionary such as {'descr': '<f2', 'fortran_order': False, 'shape': (2048, 3, 64), }
#include "npy.hpp"

#include <array>
#include <bit>
#include <fstream>
#include <regex>
#include <stdexcept>
#include <string>

static_assert(std::endian::native == std::endian::little, "the files are little endian");

namespace {

std::string read_header(std::istream& in) {
    std::array<unsigned char, 10> start{};
    in.read(reinterpret_cast<char*>(start.data()), start.size());
    const std::string magic(start.begin(), start.begin() + 8);
    if (!in || magic != std::string("\x93NUMPY\x01\x00", 8)) return {};
    std::string header(start[8] + 256u * start[9], ' ');
    in.read(header.data(), std::streamsize(header.size()));
    return header;
}

std::vector<std::size_t> read_shape(const std::string& header) {
    std::smatch shape;
    if (!std::regex_search(header, shape, std::regex(R"('shape': \(([\d, ]*)\))"))) return {};
    const std::string list = shape[1];
    const std::regex number(R"(\d+)");
    std::vector<std::size_t> extents;
    for (std::sregex_iterator it(list.begin(), list.end(), number), end; it != end; ++it)
        extents.push_back(std::stoul(it->str()));
    return extents;
}

}  // namespace

npy_array read_npy(const std::filesystem::path& file) {
    std::ifstream in(file, std::ios::binary);
    if (!in) throw std::runtime_error("cannot open " + file.string());
    const std::string header = read_header(in);
    const bool is_half = header.find("'descr': '<f2'") != std::string::npos;
    const bool is_row_major = header.find("'fortran_order': False") != std::string::npos;
    npy_array array{read_shape(header), {}};
    if (!is_half || !is_row_major || array.shape.empty())
        throw std::runtime_error(file.string() + " is not a float16 .npy 1.0 file in C order");

    std::size_t count = 1;
    for (const std::size_t extent : array.shape) count *= extent;
    array.values.resize(count);
    in.read(reinterpret_cast<char*>(array.values.data()),
            std::streamsize(count * sizeof(sparq::half)));
    if (!in) throw std::runtime_error(file.string() + " is shorter than its shape says");
    return array;
}
