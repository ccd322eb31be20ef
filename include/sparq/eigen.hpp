// SPDX-License-Identifier: MIT
// The two attention calls on Eigen matrices, for small matrices and unit tests.
//
//     Eigen::MatrixXf y = sparq::sparq_attention(q, keys, values, params);
//
// q [heads_q, d_h], keys [S, heads_kv * d_h], values [S, heads_kv * value_dim], a token a
// row; result [heads_q, value_dim]. Any dense expression of any storage order will do:
// matrices, maps with strides, blocks, products, of float or double. The head counts
// follow from the shapes: d_h = q.cols(), heads_kv = keys.cols() / d_h.
//
// Everything is copied into a kv_cache<float> first, so a call costs a prefill. A decode
// loop keeps its own kv_cache. Optional: needs Eigen 3.4 (CMake: Eigen3::Eigen).
#pragma once

#include <Eigen/Core>

#include <cstddef>
#include <span>
#include <string>

#include "dense_attention.hpp"
#include "detail/check.hpp"
#include "kv_cache.hpp"
#include "sparq_attention.hpp"

SPARQ_NAMESPACE_BEGIN

/// What the calls return: a query head a row.
using eigen_output = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

namespace detail {

template <class Derived>
std::span<const float> as_span(const Eigen::PlainObjectBase<Derived>& matrix) noexcept {
    return {matrix.data(), static_cast<std::size_t>(matrix.size())};
}

[[noreturn]] inline void refuse_shape(const char* argument, Eigen::Index rows, Eigen::Index cols,
                                      const std::string& allowed) {
    refuse(argument, detail::text(rows, " x ", cols), allowed);
}

/// The history as a cache, after the shapes have been checked against each other.
template <class Query, class Keys, class Values>
kv_cache<float> cache_of(const Eigen::DenseBase<Query>& q, const Eigen::DenseBase<Keys>& keys,
                         const Eigen::DenseBase<Values>& values) {
    const Eigen::Index head_dim = q.cols();
    if (q.rows() == 0 || head_dim == 0)
        refuse_shape("q", q.rows(), head_dim, "at least 1 x 1 (heads_q x d_h)");
    if (keys.rows() == 0 || keys.cols() == 0 || keys.cols() % head_dim != 0)
        refuse_shape("keys", keys.rows(), keys.cols(),
                     detail::text("S x heads_kv * d_h, at least one token, with d_h = q.cols() = ",
                                  head_dim));
    const Eigen::Index heads_kv = keys.cols() / head_dim;
    if (q.rows() % heads_kv != 0)
        refuse_shape(
            "q", q.rows(), head_dim,
            detail::text("a multiple of heads_kv = keys.cols() / d_h = ", heads_kv, " rows"));
    if (values.rows() != keys.rows() || values.cols() == 0 || values.cols() % heads_kv != 0)
        refuse_shape("values", values.rows(), values.cols(),
                     detail::text(keys.rows(), " x a multiple of heads_kv = ", heads_kv));
    const eigen_output k = keys.derived().template cast<float>();
    const eigen_output v = values.derived().template cast<float>();
    kv_cache<float> cache(static_cast<std::size_t>(heads_kv), static_cast<std::size_t>(head_dim),
                          static_cast<std::size_t>(values.cols() / heads_kv));
    cache.append(as_span(k), as_span(v));
    return cache;
}

/// Runs call(q, cache, out) on contiguous copies and returns the result.
template <class Query, class Keys, class Values, class Call>
eigen_output attend_matrices(const Eigen::DenseBase<Query>& q, const Eigen::DenseBase<Keys>& keys,
                             const Eigen::DenseBase<Values>& values, const Call& call) {
    const kv_cache<float> cache = cache_of(q, keys, values);
    const eigen_output rows = q.derived().template cast<float>();
    eigen_output out(rows.rows(), static_cast<Eigen::Index>(cache.value_dim()));
    call(as_span(rows), cache, std::span<float>(out.data(), static_cast<std::size_t>(out.size())));
    return out;
}

/// Assigns to a matrix, map or block that has the shape of the result already.
template <class Out>
void assign_output(const eigen_output& result, const Eigen::DenseBase<Out>& out) {
    if (out.rows() != result.rows() || out.cols() != result.cols())
        refuse_shape("out", out.rows(), out.cols(),
                     detail::text(result.rows(), " x ", result.cols()));
    // Eigen's idiom for a writable expression that may be a temporary, like a block.
    const_cast<Eigen::DenseBase<Out>&>(out).derived() =
        result.template cast<typename Out::Scalar>();
}

}  // namespace detail

/// SparQ attention on matrices; see sparq_attention.hpp.
/// @throws std::invalid_argument for shapes that do not fit or parameters out of range
template <class Arch = default_arch, class Query, class Keys, class Values>
[[nodiscard]] eigen_output sparq_attention(const Eigen::DenseBase<Query>& q,
                                           const Eigen::DenseBase<Keys>& keys,
                                           const Eigen::DenseBase<Values>& values,
                                           const sparq_params& params) {
    return detail::attend_matrices(q, keys, values, [&](auto rows, const auto& cache, auto out) {
        sparq_attention<Arch>(rows, cache, params, out);
    });
}

/// The same into `out` [heads_q, value_dim], which may be a block or a map, and may be q.
template <class Arch = default_arch, class Query, class Keys, class Values, class Out>
void sparq_attention(const Eigen::DenseBase<Query>& q, const Eigen::DenseBase<Keys>& keys,
                     const Eigen::DenseBase<Values>& values, const sparq_params& params,
                     const Eigen::DenseBase<Out>& out) {
    detail::assign_output(sparq_attention<Arch>(q, keys, values, params), out);
}

/// Dense attention on matrices with weights softmax(scale * q . k); scale 0: 1 / sqrt(d_h).
template <class Arch = default_arch, class Query, class Keys, class Values>
[[nodiscard]] eigen_output dense_attention(const Eigen::DenseBase<Query>& q,
                                           const Eigen::DenseBase<Keys>& keys,
                                           const Eigen::DenseBase<Values>& values,
                                           float scale = 0.0f) {
    return detail::attend_matrices(q, keys, values, [&](auto rows, const auto& cache, auto out) {
        dense_attention<Arch>(rows, cache, scale, out);
    });
}

/// The same into `out` [heads_q, value_dim].
template <class Arch = default_arch, class Query, class Keys, class Values, class Out>
void dense_attention(const Eigen::DenseBase<Query>& q, const Eigen::DenseBase<Keys>& keys,
                     const Eigen::DenseBase<Values>& values, const Eigen::DenseBase<Out>& out,
                     float scale = 0.0f) {
    detail::assign_output(dense_attention<Arch>(q, keys, values, scale), out);
}

SPARQ_NAMESPACE_END
