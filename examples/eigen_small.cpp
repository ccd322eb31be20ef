// SPDX-License-Identifier: MIT
// Small Eigen matrices: six tokens, four channels, one head. Beside the library's call
// stands Algorithm 1 of the paper as Eigen expressions; the two must agree.
#include <Eigen/Core>
#include <algorithm>
#include <iostream>
#include <numeric>
#include <sparq/eigen.hpp>
#include <vector>

namespace {

/// Indices of the `count` largest, ascending; the lower index first where equal.
std::vector<Eigen::Index> largest(const Eigen::RowVectorXf& x, std::size_t count) {
    std::vector<Eigen::Index> order(static_cast<std::size_t>(x.size()));
    std::iota(order.begin(), order.end(), Eigen::Index{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](Eigen::Index a, Eigen::Index b) { return x[a] > x[b]; });
    order.resize(count);
    std::sort(order.begin(), order.end());
    return order;
}

Eigen::RowVectorXf softmax(const Eigen::RowVectorXf& logits) {
    const Eigen::RowVectorXf weights = (logits.array() - logits.maxCoeff()).exp();
    return weights / weights.sum();
}

/// Algorithm 1 for one head: q [1, d_h], keys and values [S, d_h].
Eigen::RowVectorXf algorithm_1(const Eigen::RowVectorXf& q, const Eigen::MatrixXf& keys,
                               const Eigen::MatrixXf& values, const sparq::sparq_params& params) {
    using Eigen::all;
    const float head_dim = static_cast<float>(q.size());
    const auto i1 = largest(q.cwiseAbs(), params.r);
    const Eigen::RowVectorXf part = q(i1);
    const float tau = std::sqrt(head_dim * part.lpNorm<1>() / q.lpNorm<1>());
    const Eigen::RowVectorXf approximate = softmax(part * keys(all, i1).transpose() / tau);

    Eigen::RowVectorXf ranking = approximate;
    ranking.tail(static_cast<Eigen::Index>(params.local)).setConstant(2.0f);  // above any weight
    const auto i2 = largest(ranking, params.k);
    const float covered = approximate(i2).sum();

    const Eigen::RowVectorXf weights = softmax(q * keys(i2, all).transpose() / std::sqrt(head_dim));
    return covered * weights * values(i2, all) + (1 - covered) * values.colwise().mean();
}

}  // namespace

int main() {
    const Eigen::RowVector4f q{0.8f, -0.2f, -1.3f, 0.4f};
    const Eigen::Matrix<float, 6, 4> keys{{1.0f, 0.5f, -1.0f, 0.0f},  {0.5f, -1.0f, 2.0f, 1.0f},
                                          {-1.0f, 2.0f, -2.0f, 0.5f}, {2.0f, 0.0f, 1.0f, -1.0f},
                                          {0.0f, 1.0f, -0.5f, 2.0f},  {-0.5f, -0.5f, 1.5f, 1.0f}};
    const Eigen::Matrix<float, 6, 4> values{{1, 0, 0, 1}, {0, 1, 0, 2}, {0, 0, 1, 3},
                                            {1, 1, 0, 4}, {0, 1, 1, 5}, {2, 0, 1, 6}};
    const sparq::sparq_params params{.r = 2, .k = 3, .local = 1};

    const Eigen::RowVectorXf y = sparq::sparq_attention(q, keys, values, params);
    const Eigen::RowVectorXf expected = algorithm_1(q, keys, values, params);
    std::cout << "SparQ        " << y << "\nAlgorithm 1  " << expected << "\ndense        "
              << sparq::dense_attention(q, keys, values) << '\n';
    return (y - expected).norm() < 1e-5f * expected.norm() ? 0 : 1;
}
