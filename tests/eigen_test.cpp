// SPDX-License-Identifier: MIT
// The calls on Eigen matrices: any storage order, maps with strides, blocks, refusals.
#include <stdexcept>

#include <sparq/eigen.hpp>

#include "problem.hpp"

namespace {

using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using column_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;

const sparq::sparq_params params{.r = 6, .k = 20, .local = 3};

struct matrices {
    test::problem p = test::make_problem({2, 2, 16, 12, 90}, 161);
    row_major q = map(p.q, 4, 16), keys = map(p.keys, 90, 32), values = map(p.values, 90, 24);
    test::answer sparq, dense;

    matrices() {
        const auto cache = test::make_cache<float>(p);
        sparq = run(cache, true);
        dense = run(cache, false);
    }
    static row_major map(const std::vector<float>& data, Eigen::Index rows, Eigen::Index cols) {
        return Eigen::Map<const row_major>(data.data(), rows, cols);
    }
    test::answer run(const sparq::kv_cache<float>& cache, bool sparse) const {
        test::answer a;
        a.out.resize(4 * 12);
        if (sparse)
            sparq::sparq_attention(p.q, cache, params, a.out);
        else
            sparq::dense_attention(p.q, cache, a.out);
        return a;
    }
};

template <class Matrix>
bool equals(const Matrix& got, const std::vector<float>& want) {
    const row_major plain = got.template cast<float>();
    return plain.rows() == 4 && plain.cols() == 12 &&
           test::same_bits({plain.data(), static_cast<size_t>(plain.size())}, want);
}

}  // namespace

TEST_CASE("row- and column-major matrices and expressions", "[eigen]") {
    const matrices m;
    CHECK(equals(sparq::sparq_attention(m.q, m.keys, m.values, params), m.sparq.out));
    CHECK(equals(sparq::dense_attention(m.q, m.keys, m.values), m.dense.out));
    const column_major q = m.q, keys = m.keys, values = m.values;
    CHECK(equals(sparq::sparq_attention(q, keys, values, params), m.sparq.out));
    CHECK(equals(sparq::dense_attention(q, m.keys, values), m.dense.out));
    CHECK(equals(sparq::dense_attention(2.0f * q * 0.5f, keys, values), m.dense.out));
    const Eigen::MatrixXd wide = m.q.cast<double>();
    CHECK(equals(sparq::dense_attention(wide, keys.cast<double>(), values, 0.25f), m.dense.out));
    CHECK_FALSE(equals(sparq::dense_attention(q, keys, values, 0.5f), m.dense.out));
}

TEST_CASE("maps with strides and blocks, in and out", "[eigen]") {
    const matrices m;
    row_major board = row_major::Constant(100, 100, 7.0f);
    board.block(3, 2, 90, 32) = m.keys;
    board.block(3, 40, 90, 24) = m.values;
    std::vector<float> spaced(4 * 40, NAN);
    for (size_t h = 0; h < 4; ++h)
        for (size_t i = 0; i < 16; ++i) spaced[h * 40 + 2 * i] = m.p.q[h * 16 + i];
    using strides = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
    const Eigen::Map<const row_major, 0, strides> q(spaced.data(), 4, 16, strides(40, 2));
    const auto keys = board.block(3, 2, 90, 32), values = board.block(3, 40, 90, 24);
    CHECK(equals(sparq::sparq_attention(q, keys, values, params), m.sparq.out));

    column_major out = column_major::Constant(6, 20, 7.0f);
    sparq::sparq_attention(q, keys, values, params, out.block(1, 5, 4, 12));
    CHECK(equals(out.block(1, 5, 4, 12), m.sparq.out));
    CHECK(out.sum() == Approx(7.0f * (120 - 48) + out.block(1, 5, 4, 12).sum()));
    sparq::dense_attention(q, keys, values, out.block(1, 5, 4, 12));
    CHECK(equals(out.block(1, 5, 4, 12), m.dense.out));
    Eigen::MatrixXd wide(4, 12);
    sparq::dense_attention(q, keys, values, wide);
    CHECK(equals(wide, m.dense.out));
}

TEST_CASE("shapes that do not fit are refused by name", "[eigen]") {
    matrices m;
    const auto message = [](const auto& call) -> std::string {
        try {
            call();
        } catch (const std::invalid_argument& refusal) {
            return refusal.what();
        }
        return "no exception";
    };
    const auto run = [&](const row_major& q, const row_major& keys, const row_major& values) {
        return message([&] { (void)sparq::sparq_attention(q, keys, values, params); });
    };
    CHECK_THAT(run(m.q.topRows(0), m.keys, m.values), Catch::Contains("q is 0 x 16"));
    CHECK_THAT(run(m.q.topRows(3), m.keys, m.values), Catch::Contains("q is 3 x 16"));
    CHECK_THAT(run(m.q, m.keys.topRows(0), m.values), Catch::Contains("keys is 0 x 32"));
    CHECK_THAT(run(m.q, m.keys.leftCols(31), m.values), Catch::Contains("keys is 90 x 31"));
    CHECK_THAT(run(m.q, m.keys, m.values.topRows(89)), Catch::Contains("values is 89 x 24"));
    CHECK_THAT(run(m.q, m.keys, m.values.leftCols(23)), Catch::Contains("values is 90 x 23"));
    row_major out = row_major::Constant(4, 11, 7.0f);
    CHECK_THAT(message([&] { sparq::dense_attention(m.q, m.keys, m.values, out); }),
               Catch::Contains("out is 4 x 11"));
    CHECK(out.sum() == 7.0f * 44);
    CHECK_THAT(message([&] { (void)sparq::sparq_attention(m.q, m.keys, m.values, {.r = 0}); }),
               Catch::Contains("r is 0"));
}
