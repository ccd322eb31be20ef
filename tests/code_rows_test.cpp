// SPDX-License-Identifier: MIT
// Rows of 4-bit codes: what is written, how far decoded values may be off, and sums with
// them against integers and doubles.
#include <catch2/catch.hpp>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include <sparq/kernels/code_row_sums.hpp>

#include "calls.hpp"
#include "numbers.hpp"

namespace {

namespace kernels = sparq::kernels;
using sparq::bfloat16;
using sparq::half;
using std::size_t;
using test::arch;

constexpr double u = 0x1p-24;  // rounding of one float operation
constexpr std::uint8_t guard = 0xa5;

std::vector<size_t> all_widths() {
    std::vector<size_t> widths;
    for (size_t w = 1; w <= 130; ++w) widths.push_back(w);
    widths.push_back(200);
    widths.push_back(256);
    return widths;
}

/// `bytes` bytes at an odd address, of a heap block that ends with them: the address
/// sanitizer sees a byte behind, the guard one before.
class odd_bytes {
   public:
    explicit odd_bytes(size_t bytes) : memory_(new std::uint8_t[bytes + 1]) {
        std::memset(memory_.get(), guard, bytes + 1);
    }
    std::uint8_t* data() { return memory_.get() + 1; }
    [[nodiscard]] const std::uint8_t* data() const { return memory_.get() + 1; }
    [[nodiscard]] bool untouched_before() const { return memory_[0] == guard; }

   private:
    std::unique_ptr<std::uint8_t[]> memory_;
};

size_t row_bytes(size_t width) { return (width + 31) / 32 * 16; }

int code_at(const std::uint8_t* row, size_t i) {
    const std::uint8_t byte = row[i / 32 * 16 + i % 16];
    return i % 32 < 16 ? byte & 15 : byte >> 4;
}

/// Random codes, zeros behind the width.
odd_bytes random_row(size_t width, test::random_source& source) {
    odd_bytes row(row_bytes(width));
    std::memset(row.data(), 0, row_bytes(width));
    for (size_t i = 0; i < width; ++i) {
        const auto code = static_cast<unsigned>(source.below(16));
        std::uint8_t& byte = row.data()[i / 32 * 16 + i % 16];
        byte = static_cast<std::uint8_t>(byte | (i % 32 < 16 ? code : code << 4));
    }
    return row;
}

/// n random rows and pointers to them.
struct row_set {
    row_set(size_t n, size_t width, std::uint64_t seed) {
        test::random_source source(seed);
        for (size_t j = 0; j < n; ++j) rows.push_back(random_row(width, source));
        for (const odd_bytes& row : rows) pointers.push_back(row.data());
    }
    std::vector<odd_bytes> rows;
    std::vector<const std::uint8_t*> pointers;
};

/// Elements of any type at an address that suits the type and nothing wider, in a block that
/// ends with them.
template <class T>
struct shifted {
    explicit shifted(const std::vector<float>& values) : memory(new T[values.size() + 1]) {
        for (size_t i = 0; i < values.size(); ++i) memory[i + 1] = T(values[i]);
    }
    const T* data() const { return memory.get() + 1; }
    std::unique_ptr<T[]> memory;
};

/// Encodes z = (row - mean) * inverse (or row) and checks range, codes, padding and decoded
/// values against double.
template <class T>
void check_encoding(const std::vector<float>& values, const std::vector<float>* mean,
                    const std::vector<float>* inverse) {
    const size_t width = values.size();
    const shifted<T> row(values);
    std::vector<double> z(width);
    double low = INFINITY, high = -INFINITY, largest = 0;
    for (size_t i = 0; i < width; ++i) {
        z[i] = test::decode(row.data()[i]);
        if (mean != nullptr) z[i] = (z[i] - double((*mean)[i])) * double((*inverse)[i]);
        low = std::min(low, z[i]), high = std::max(high, z[i]);
        largest = std::max(largest, std::abs(z[i]));
    }
    odd_bytes codes(row_bytes(width));
    const kernels::row_range range =
        kernels::encode_row<arch>(row.data(), mean ? mean->data() : nullptr,
                                  inverse ? inverse->data() : nullptr, width, codes.data());
    CHECK(codes.untouched_before());

    // z in float: a difference and a product, and cancellation of values as large as mean.
    const double z_error = mean == nullptr ? 0 : 3 * u * (largest + 16);
    const double minimum = test::decode(range.minimum), step = test::decode(range.step);
    const double minimum_error = 0x1p-11 * std::abs(low) + 0x1p-25 + z_error;
    CHECK(std::abs(minimum - low) <= minimum_error);
    const double wanted_step = std::max(0.0, (high - minimum) / 15);
    const double step_error = 0x1.01p-11 * wanted_step + 0x1p-25 + 2 * z_error / 15;
    CHECK(std::abs(step - wanted_step) <= step_error);

    std::vector<float> decoded(width + 1, -7.0f);
    kernels::decode_row<arch>(codes.data(), range, width, decoded.data());
    CHECK(decoded[width] == -7.0f);
    size_t wrong_codes = 0, wrong_values = 0;
    const double limit = step / 2 + std::max(minimum_error, 15 * step_error) + z_error;
    for (size_t i = 0; i < width; ++i) {
        const int code = code_at(codes.data(), i);
        const double exact = step > 0 ? std::clamp((z[i] - minimum) / step, 0.0, 15.0) : 0.0;
        const double off = step > 0 ? z_error / step + 64 * u + 4 * u * largest / step : 0.0;
        if (std::abs(exact - code) > 0.5 + off) ++wrong_codes;
        if (std::abs(decoded[i] - (minimum + step * code)) > 4 * u * (largest + 16 * step))
            ++wrong_values;
        if (std::abs(double(decoded[i]) - z[i]) > limit + 8 * u * largest) ++wrong_values;
    }
    CHECK(wrong_codes == 0);
    CHECK(wrong_values == 0);
    for (size_t i = width; i < 2 * row_bytes(width); ++i) CHECK(code_at(codes.data(), i) == 0);
}

}  // namespace

TEST_CASE("code rows: sizes", "[code_rows]") {
    for (size_t width : all_widths()) {
        CHECK(kernels::code_row_bytes(width) == row_bytes(width));
        CHECK(kernels::padded_code_width(width) == 2 * row_bytes(width));
        CHECK(kernels::code_row_weight_count(width) >= kernels::padded_code_width(width));
    }
}

TEST_CASE("code rows: encoding and decoding", "[code_rows]") {
    for (size_t width : all_widths()) {
        INFO("width " << width);
        const std::vector<float> values = test::normals(width, 3000 + width, 2.0f);
        const std::vector<float> mean = test::normals(width, 4000 + width);
        std::vector<float> inverse = test::normals(width, 5000 + width);
        for (float& x : inverse) x = 0.5f + std::abs(x);
        check_encoding<float>(values, nullptr, nullptr);
        check_encoding<half>(values, nullptr, nullptr);
        check_encoding<bfloat16>(values, nullptr, nullptr);
        check_encoding<float>(values, &mean, &inverse);
        check_encoding<half>(values, &mean, &inverse);
        check_encoding<bfloat16>(values, &mean, &inverse);
    }
}

TEST_CASE("code rows: all codes at their places", "[code_rows]") {
    for (size_t width : test::sizes{16, 40, 64, 128, 139}) {
        std::vector<float> values(width);
        for (size_t i = 0; i < width; ++i) values[i] = static_cast<float>((7 * i) % 16) - 3.0f;
        odd_bytes codes(row_bytes(width));
        const auto range =
            kernels::encode_row<arch>(values.data(), nullptr, nullptr, width, codes.data());
        CHECK(static_cast<float>(range.minimum) == -3.0f);
        CHECK(static_cast<float>(range.step) == 1.0f);
        size_t wrong = 0;
        for (size_t i = 0; i < width; ++i)
            if (code_at(codes.data(), i) != static_cast<int>((7 * i) % 16)) ++wrong;
        CHECK(wrong == 0);
    }
}

TEST_CASE("code rows: constant rows, tiny and huge values", "[code_rows]") {
    for (size_t width : test::sizes{1, 31, 64, 80, 128})
        for (float value : {0.0f, 1.0f, -1.0f, 0.1f, -0.1f, 3e-8f, -1e-30f, 1000.1f, 65504.0f}) {
            INFO("width " << width << ", value " << value);
            check_encoding<float>(std::vector<float>(width, value), nullptr, nullptr);
        }
    std::vector<float> tiny = test::normals(70, 6, 1e-7f);
    check_encoding<float>(tiny, nullptr, nullptr);
    for (float size : {1e5f, 1e20f, std::numeric_limits<float>::max()}) {
        std::vector<float> values(70, 1.0f), decoded(70);
        values[3] = -size, values[69] = size;
        odd_bytes codes(row_bytes(70));
        const auto range =
            kernels::encode_row<arch>(values.data(), nullptr, nullptr, 70, codes.data());
        CHECK(static_cast<float>(range.minimum) == -65504.0f);
        CHECK(std::isfinite(static_cast<float>(range.step)));
        CHECK(static_cast<float>(range.step) > 0.0f);
        kernels::decode_row<arch>(codes.data(), range, 70, decoded.data());
        CHECK(decoded[3] == -65504.0f);
        CHECK(decoded[69] > 65000.0f);
    }
}

TEST_CASE("code rows: what is not finite makes the minimum NaN", "[code_rows]") {
    const float inf = INFINITY, nan = NAN;
    for (size_t width : test::sizes{1, 7, 33, 64, 80, 128})
        for (float bad : {inf, -inf, nan})
            for (size_t place : {size_t{0}, width / 2, width - 1}) {
                std::vector<float> values = test::normals(width, 7 + width);
                values[place] = bad;
                odd_bytes codes(row_bytes(width));
                const auto range =
                    kernels::encode_row<arch>(values.data(), nullptr, nullptr, width, codes.data());
                INFO("width " << width << ", place " << place << ", value " << bad);
                CHECK(std::isnan(test::decode(range.minimum)));
                CHECK(codes.untouched_before());
                for (size_t i = width; i < 2 * row_bytes(width); ++i)
                    CHECK(code_at(codes.data(), i) == 0);
            }
}

namespace {

/// Prepared coefficients, with a guard behind the memory.
struct prepared {
    prepared(const std::vector<float>& coefficients)
        : width(coefficients.size()), memory(kernels::code_row_weight_count(width) + 1, 0x5a5a) {
        weights =
            kernels::prepare_code_row_weights<arch>(coefficients.data(), width, memory.data());
    }
    size_t width;
    std::vector<std::int16_t> memory;
    kernels::code_row_weights weights{};
};

/// The integer weight of each column, found with rows that have one code of 1.
std::vector<std::int64_t> integers_of(const prepared& p) {
    std::vector<std::int64_t> found;
    for (size_t c = 0; c < p.width; ++c) {
        std::vector<std::uint8_t> row(row_bytes(p.width), 0);
        row[c / 32 * 16 + c % 16] = c % 32 < 16 ? 1 : 16;
        const std::uint8_t* pointer = row.data();
        const kernels::code_row_weights unscaled{p.weights.weights, 1.0f};
        float out = 0;
        kernels::dot_code_rows<arch>(&unscaled, 1, &pointer, 1, p.width, &out, 1);
        found.push_back(std::llrint(double(out)));
    }
    return found;
}

/// Compares dot products of `heads` heads with n rows, bit for bit, with exact integers
/// rounded as documented.
void check_dot(size_t width, size_t heads, size_t n, std::uint64_t seed) {
    INFO("width " << width << ", heads " << heads << ", n " << n << ", seed " << seed);
    const row_set rows(n, width, seed);
    std::vector<prepared> heads_prepared;
    std::vector<kernels::code_row_weights> weights;
    std::vector<std::vector<std::int64_t>> integers;
    for (size_t h = 0; h < heads; ++h)
        heads_prepared.emplace_back(test::normals(width, seed + 10 + h, 3.0f));
    for (const prepared& p : heads_prepared) {
        weights.push_back(p.weights);
        integers.push_back(integers_of(p));
    }
    const size_t stride = n + 3;
    std::vector<float> out(heads * stride, -7.0f);
    kernels::dot_code_rows<arch>(weights.data(), heads, rows.pointers.data(), n, width, out.data(),
                                 stride);
    size_t wrong = 0;
    for (size_t h = 0; h < heads; ++h)
        for (size_t j = 0; j < stride; ++j) {
            std::int64_t sum = 0;
            for (size_t c = 0; j < n && c < width; ++c)
                sum += integers[h][c] * code_at(rows.pointers[j], c);
            const float want = j < n ? weights[h].scale * static_cast<float>(sum) : -7.0f;
            if (out[h * stride + j] != want) ++wrong;
        }
    CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("code weights are within half a scale of the coefficients", "[code_rows]") {
    for (size_t width : all_widths())
        for (float size : {1.0f, 1e-6f, 1e30f, 1e-37f}) {
            INFO("width " << width << ", size " << size);
            const std::vector<float> coefficients = test::normals(width, 8000 + width, size);
            const prepared p(coefficients);
            double greatest = 0;
            for (float x : coefficients) greatest = std::max(greatest, std::abs(double(x)));
            const double scale = double(p.weights.scale);
            const double wanted = std::max(greatest / kernels::greatest_code_row_weight(width),
                                           double(std::numeric_limits<float>::min()));
            CHECK(std::abs(scale - wanted) <= 2 * u * wanted);
            const auto integers = integers_of(p);
            size_t wrong = 0;
            for (size_t c = 0; c < width; ++c) {
                const double off = double(coefficients[c]) - scale * double(integers[c]);
                if (std::abs(off) > scale / 2 * (1 + 0x1p-7)) ++wrong;
                if (std::abs(integers[c]) > kernels::greatest_code_row_weight(width)) ++wrong;
            }
            CHECK(wrong == 0);
            CHECK(p.memory.back() == 0x5a5a);
            CHECK(p.weights.weights == p.memory.data());
        }
}

TEST_CASE("code weights: zeros, and what is not finite", "[code_rows]") {
    const row_set rows(5, 70, 9);
    const float inf = INFINITY;
    for (float special : {0.0f, -0.0f, inf, -inf, float{NAN}}) {
        std::vector<float> coefficients(70, special == 0.0f ? 0.0f : 1.0f);
        coefficients[69] = special;
        const prepared p(coefficients);
        float out[5];
        kernels::dot_code_rows<arch>(&p.weights, 1, rows.pointers.data(), 5, 70, out, 5);
        for (float x : out) CHECK((special == 0.0f ? x == 0.0f : std::isnan(x)));
    }
}

TEST_CASE("dot products with code rows are exact integers", "[code_rows]") {
    std::uint64_t seed = 9000;
    for (size_t width : all_widths()) check_dot(width, 1 + width % 5, 1 + width % 7, seed += 20);
    for (size_t heads = 1; heads <= 9; ++heads)
        for (size_t n : test::sizes{0, 1, 2, 3, 4, 5, 8, 17}) {
            check_dot(64, heads, n, seed += 20);
            check_dot(128, heads, n, seed += 20);
        }
}

TEST_CASE("dot products of the largest codes and weights do not overflow", "[code_rows]") {
    for (size_t width : test::sizes{1, 32, 128, 4352, 4369, 4370, 5000, 20000})
        for (float sign : {1.0f, -1.0f}) {
            const prepared p(std::vector<float>(width, sign));
            std::vector<std::uint8_t> row(row_bytes(width), 0);
            for (size_t c = 0; c < width; ++c)
                row[c / 32 * 16 + c % 16] =
                    static_cast<std::uint8_t>(row[c / 32 * 16 + c % 16] | (c % 32 < 16 ? 15 : 240));
            const std::uint8_t* pointer = row.data();
            float out = 0;
            kernels::dot_code_rows<arch>(&p.weights, 1, &pointer, 1, width, &out, 1);
            INFO("width " << width);
            const double want = double(sign) * 15.0 * double(width);
            // Each weight within scale / 2 (that is 1 / (2 greatest)), two roundings of the sum.
            const double error = 0.51 / kernels::greatest_code_row_weight(width) + 4 * u;
            CHECK(std::abs(double(out) - want) <= error * std::abs(want));
        }
}

namespace {

void check_accumulation(size_t width, size_t group, size_t n, std::uint64_t seed) {
    INFO("width " << width << ", G " << group << ", n " << n << ", seed " << seed);
    const row_set rows(n, width, seed);
    const size_t padded = 2 * row_bytes(width), stride = padded + 5, weights_stride = n + 2;
    const std::vector<float> weights = test::normals(group * weights_stride, seed + 1);
    // One behind an address that suits a float: misaligned for vectors; ends with the block.
    const size_t length = (group - 1) * stride + padded;
    std::vector<float> before = test::normals(length, seed + 2, 5.0f);
    const std::unique_ptr<float[]> memory(new float[length + 1]);
    float* sums = memory.get() + 1;
    memory[0] = -7.0f;
    std::copy(before.begin(), before.end(), sums);
    kernels::accumulate_code_rows<arch>(weights.data(), group, weights_stride, rows.pointers.data(),
                                        n, width, sums, stride);
    CHECK(memory[0] == -7.0f);
    size_t wrong = 0;
    for (size_t i = 0; i < length; ++i) {
        const size_t h = i / stride, c = i % stride;
        double sum = double(before[i]), size = std::abs(sum);
        for (size_t j = 0; j < n && c < width; ++j) {
            const double term =
                double(weights[h * weights_stride + j]) * code_at(rows.pointers[j], c);
            sum += term, size += std::abs(term);
        }
        const double limit = c < width ? 2 * u * double(n + 1) * size : 0;
        if (!(std::abs(double(sums[i]) - sum) <= limit)) ++wrong;
    }
    CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("weighted sums of code rows", "[code_rows]") {
    std::uint64_t seed = 20000;
    for (size_t width : all_widths())
        check_accumulation(width, 1 + width % 5, 1 + width % 7, seed += 20);
    for (size_t group = 1; group <= 9; ++group)
        for (size_t n : test::sizes{0, 1, 2, 16, 100}) {
            check_accumulation(64, group, n, seed += 20);
            check_accumulation(128, group, n, seed += 20);
        }
}

TEST_CASE("sums of a head do not depend on the others", "[code_rows]") {
    const size_t n = 23, width = 112;
    const row_set rows(n, width, 31);
    const std::vector<float> weights = test::normals(7 * n, 32);
    std::vector<float> together(7 * 128, 0.5f), alone(7 * 128, 0.5f);
    kernels::accumulate_code_rows<arch>(weights.data(), 7, n, rows.pointers.data(), n, width,
                                        together.data(), 128);
    for (size_t h = 0; h < 7; ++h)
        kernels::accumulate_code_rows<arch>(weights.data() + h * n, 1, n, rows.pointers.data(), n,
                                            width, alone.data() + h * 128, 128);
    CHECK(together == alone);
}
