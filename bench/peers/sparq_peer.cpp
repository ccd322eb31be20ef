// SPDX-License-Identifier: MIT
#include <cmath>
#include <memory>

#include "../decode_case.hpp"
#include "peer.hpp"

namespace bench::peers {
namespace {

/// Dense attention or SparQ of a decode_case that both share.
class sparq_peer final : public peer {
   public:
    sparq_peer(std::shared_ptr<decode_case<sparq::half>> step,
               const sparq::kv_cache<sparq::half>& cache, bool is_dense)
        : step_(std::move(step)), cache_(cache), is_dense_(is_dense) {}

    [[nodiscard]] std::string name() const override {
        return is_dense_ ? "sparq dense, half" : "SparQ, half";
    }
    void use_threads(std::size_t threads) override {
        pool_ = threads == 1 ? nullptr : std::make_unique<thread_pool>(threads);
    }
    void run() override { is_dense_ ? step_->dense(pool_.get()) : step_->sparq(pool_.get()); }
    [[nodiscard]] std::span<const float> output() const override {
        return is_dense_ ? step_->dense_output() : step_->sparq_output();
    }
    [[nodiscard]] std::vector<byte_span> cache_spans() const override {
        return key_and_value_spans(cache_.view());
    }
    [[nodiscard]] std::size_t bytes_read() const override {
        return is_dense_ ? step_->dense_report().bytes_read : step_->sparq_report().bytes_read;
    }
    // SparQ approximates: run_shape has its arithmetic checked by decode_case instead.
    [[nodiscard]] double tolerance() const override { return is_dense_ ? 1e-3 : HUGE_VAL; }

   private:
    std::shared_ptr<decode_case<sparq::half>> step_;
    const sparq::kv_cache<sparq::half>& cache_;
    bool is_dense_;
    std::unique_ptr<thread_pool> pool_;
};

}  // namespace

void add_sparq(peer_list& peers, const sparq::kv_cache<sparq::half>& cache,
               const std::shared_ptr<decode_case<sparq::half>>& step) {
    for (const bool is_dense : {true, false})
        peers.push_back(std::make_unique<sparq_peer>(step, cache, is_dense));
}

}  // namespace bench::peers
