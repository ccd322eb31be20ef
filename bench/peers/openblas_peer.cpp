// SPDX-License-Identifier: MIT
// Attention as a BLAS user writes it: sgemv over K, softmax, sgemv over V, for each query
// head. Threads take whole heads, which loses less than threads inside of sgemv.
#include <cblas.h>

#include <algorithm>
#include <cmath>

#include "../thread_pool.hpp"
#include "peer.hpp"

namespace bench::peers {
namespace {

/// In place. This file is compiled with -ffast-math, which lets g++ call glibc's vector exp.
/// @return  the sum of the weights, which are left as they are
float exponentials(std::span<float> logits) {
    const float largest = *std::max_element(logits.begin(), logits.end());
    float sum = 0;
    for (float& logit : logits) sum += logit = std::exp(logit - largest);
    return sum;
}

class openblas_peer final : public peer {
   public:
    openblas_peer(const attention_shape& shape, std::span<const float> q, const float_rows& rows)
        : shape_(shape), q_(q.begin(), q.end()), out_(q.size()), rows_(rows) {}

    [[nodiscard]] std::string name() const override { return "OpenBLAS sgemv, float"; }
    void use_threads(std::size_t threads) override {
        openblas_set_num_threads(1);
        pool_ = std::make_unique<thread_pool>(threads);
        weights_.assign(shape_.heads_q * shape_.seq_len, 0.0f);
    }
    void run() override {
        (*pool_)(shape_.heads_q, [this](std::size_t h) { attend(h); });
    }
    [[nodiscard]] std::span<const float> output() const override { return out_; }
    [[nodiscard]] std::vector<byte_span> cache_spans() const override {
        return spans_of_heads(rows_.keys.data(), rows_.values.data(), shape_.heads_kv,
                              shape_.seq_len * shape_.head_dim * sizeof(float));
    }
    // Sums of S floats, in the order that suits the machine.
    [[nodiscard]] double tolerance() const override { return 1e-3; }

   private:
    void attend(std::size_t h) {
        const auto tokens = static_cast<blasint>(shape_.seq_len);
        const auto d = static_cast<blasint>(shape_.head_dim);
        const std::size_t head = h / shape_.group() * shape_.seq_len * shape_.head_dim;
        const auto scale = static_cast<float>(1 / std::sqrt(double(shape_.head_dim)));
        float* weights = weights_.data() + h * shape_.seq_len;
        cblas_sgemv(CblasRowMajor, CblasNoTrans, tokens, d, scale, rows_.keys.data() + head, d,
                    q_.data() + h * shape_.head_dim, 1, 0.0f, weights, 1);
        const float sum = exponentials({weights, shape_.seq_len});
        cblas_sgemv(CblasRowMajor, CblasTrans, tokens, d, 1 / sum, rows_.values.data() + head, d,
                    weights, 1, 0.0f, out_.data() + h * shape_.head_dim, 1);
    }

    attention_shape shape_;
    std::vector<float> q_, out_, weights_;  ///< [H_q, d_h], [H_q, d_h], [H_q, S]
    const float_rows& rows_;
    std::unique_ptr<thread_pool> pool_;
};

}  // namespace

void add_openblas(peer_list& peers, const attention_shape& shape, std::span<const float> q,
                  const float_rows& rows) {
    peers.push_back(std::make_unique<openblas_peer>(shape, q, rows));
}

std::string openblas_version_text() { return openblas_get_config(); }

}  // namespace bench::peers
