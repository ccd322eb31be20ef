// SPDX-License-Identifier: MIT
// ONNX Runtime's GroupQueryAttention on the CPU through its C API: a model of this one node
// (make_models.py), past and present in the same buffer, so that a step writes one token.
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <stdexcept>

#include "peer.hpp"

namespace bench::peers {
namespace {

const OrtApi& api() {
    static const OrtApi* functions = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (functions == nullptr)
        throw std::runtime_error("onnxruntime is older than the header it was compiled with");
    return *functions;
}

void require(OrtStatus* status) {
    if (status == nullptr) return;
    const std::string message = api().GetErrorMessage(status);
    api().ReleaseStatus(status);
    throw std::runtime_error("onnxruntime: " + message);
}

struct release {
    void operator()(OrtEnv* environment) const noexcept { api().ReleaseEnv(environment); }
    void operator()(OrtSession* session) const noexcept { api().ReleaseSession(session); }
    void operator()(OrtSessionOptions* options) const noexcept {
        api().ReleaseSessionOptions(options);
    }
    void operator()(OrtMemoryInfo* info) const noexcept { api().ReleaseMemoryInfo(info); }
    void operator()(OrtValue* value) const noexcept { api().ReleaseValue(value); }
};
template <class T>
using owner = std::unique_ptr<T, release>;

OrtEnv& environment() {
    static const owner<OrtEnv> one = [] {
        OrtEnv* created = nullptr;
        require(api().CreateEnv(ORT_LOGGING_LEVEL_ERROR, "sparq_peers", &created));
        return owner<OrtEnv>(created);
    }();
    return *one;
}

owner<OrtSession> open_session(const std::string& model, std::size_t threads) {
    OrtSessionOptions* created = nullptr;
    require(api().CreateSessionOptions(&created));
    const owner<OrtSessionOptions> options(created);
    require(api().SetIntraOpNumThreads(created, static_cast<int>(threads)));
    require(api().SetInterOpNumThreads(created, 1));
    // Its threads wait busily for the next part of a call, but not after it.
    require(api().AddSessionConfigEntry(created, "session.force_spinning_stop", "1"));
    OrtSession* session = nullptr;
    require(api().CreateSession(&environment(), model.c_str(), created, &session));
    return owner<OrtSession>(session);
}

template <class T>
inline constexpr ONNXTensorElementDataType type_of = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
template <>
inline constexpr ONNXTensorElementDataType type_of<float> = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
template <>
inline constexpr ONNXTensorElementDataType type_of<std::int8_t> =
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
template <>
inline constexpr ONNXTensorElementDataType type_of<std::int32_t> =
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;

/// A view of memory that outlives it.
template <class T>
owner<OrtValue> tensor(T* data, std::initializer_list<std::size_t> sizes) {
    OrtMemoryInfo* created = nullptr;
    require(api().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &created));
    const owner<OrtMemoryInfo> info(created);
    std::vector<std::int64_t> shape;
    std::size_t bytes = sizeof(T);
    for (const std::size_t size : sizes) {
        shape.push_back(static_cast<std::int64_t>(size));
        bytes *= size;
    }
    OrtValue* value = nullptr;
    require(api().CreateTensorWithDataAsOrtValue(created, data, bytes, shape.data(), shape.size(),
                                                 type_of<T>, &value));
    return owner<OrtValue>(value);
}

template <class T>
class onnxruntime_peer final : public peer {
   public:
    /// @param keys, values  [H_kv, S, d_h], these times the scale; the newest token is
    ///                      written by every step, from `newest`
    onnxruntime_peer(const attention_shape& shape, std::span<const float> q,
                     const float_rows& newest, T* keys, T* values, float scale, std::string model);

    [[nodiscard]] std::string name() const override {
        return std::string("ONNX Runtime GQA, ") + (is_quantised ? "int8" : "float");
    }
    void use_threads(std::size_t threads) override { session_ = open_session(model_, threads); }
    void run() override {
        constexpr std::array outputs = {"output", "present_key", "present_value"};
        require(api().Run(session_.get(), nullptr, names.data(), inputs_.data(), inputs_.size(),
                          outputs.data(), outputs.size(), outputs_.data()));
    }
    [[nodiscard]] std::span<const float> output() const override { return out_; }
    [[nodiscard]] std::vector<byte_span> cache_spans() const override {
        return spans_of_heads(keys_, values_, shape_.heads_kv,
                              shape_.seq_len * shape_.head_dim * sizeof(T));
    }
    // float: sums of S floats. int8: keys and values in steps of a 127th of the largest.
    [[nodiscard]] double tolerance() const override { return is_quantised ? 0.15 : 1e-3; }

   private:
    static constexpr bool is_quantised = !std::is_same_v<T, float>;
    static constexpr std::array names = {"query",
                                         "key",
                                         "value",
                                         "past_key",
                                         "past_value",
                                         "seqlens_k",
                                         "total_sequence_length",
                                         "k_scale",
                                         "v_scale"};
    const OrtValue* keep(owner<OrtValue> value) {
        return held_.emplace_back(std::move(value)).get();
    }

    attention_shape shape_;
    std::string model_;
    std::vector<float> q_, key_, value_, out_;
    T *keys_, *values_;
    float scale_;
    std::int32_t total_, last_;
    std::vector<owner<OrtValue>> held_;
    std::vector<const OrtValue*> inputs_;
    std::array<OrtValue*, 3> outputs_{};
    owner<OrtSession> session_;
};

template <class T>
onnxruntime_peer<T>::onnxruntime_peer(const attention_shape& shape, std::span<const float> q,
                                      const float_rows& newest, T* keys, T* values, float scale,
                                      std::string model)
    : shape_(shape),
      model_(std::move(model)),
      q_(q.begin(), q.end()),
      out_(q.size()),
      keys_(keys),
      values_(values),
      scale_(scale),
      total_(static_cast<std::int32_t>(shape.seq_len)),
      last_(total_ - 1) {
    const std::size_t d = shape.head_dim, row = shape.heads_kv * d;
    for (std::size_t g = 0; g < shape.heads_kv; ++g) {
        const std::size_t end = (g + 1) * shape.seq_len * d;
        key_.insert(key_.end(), newest.keys.data() + end - d, newest.keys.data() + end);
        value_.insert(value_.end(), newest.values.data() + end - d, newest.values.data() + end);
    }
    const auto cache = [&](T* rows) { return tensor(rows, {1, shape.heads_kv, shape.seq_len, d}); };
    inputs_ = {keep(tensor(q_.data(), {1, 1, q_.size()})),
               keep(tensor(key_.data(), {1, 1, row})),
               keep(tensor(value_.data(), {1, 1, row})),
               keep(cache(keys)),
               keep(cache(values)),
               keep(tensor(&last_, {1})),
               keep(tensor(&total_, {1}))};
    if (is_quantised)
        for (int i = 0; i < 2; ++i) inputs_.push_back(keep(tensor(&scale_, {1})));
    outputs_ = {held_.emplace_back(tensor(out_.data(), {1, 1, out_.size()})).get(),
                held_.emplace_back(cache(keys)).get(), held_.emplace_back(cache(values)).get()};
}

/// The peer with a cache of its own, rounded to steps of the largest value / 127.
struct int8_rows {
    aligned_buffer<std::int8_t> keys, values;
    float scale;
};

int8_rows quantise(const float_rows& rows) {
    int8_rows result{aligned_buffer<std::int8_t>(rows.keys.size()),
                     aligned_buffer<std::int8_t>(rows.values.size()), 0.0f};
    for (const auto* floats : {&rows.keys, &rows.values})
        for (std::size_t i = 0; i < floats->size(); ++i)
            result.scale = std::max(result.scale, std::fabs(floats->data()[i]) / 127.0f);
    const auto round = [&](const aligned_buffer<float>& from, aligned_buffer<std::int8_t>& to) {
        for (std::size_t i = 0; i < from.size(); ++i)
            to.data()[i] = static_cast<std::int8_t>(std::nearbyint(from.data()[i] / result.scale));
    };
    round(rows.keys, result.keys);
    round(rows.values, result.values);
    return result;
}

class int8_peer final : public peer {
   public:
    int8_peer(const attention_shape& shape, std::span<const float> q, const float_rows& rows,
              std::string model)
        : rows_(quantise(rows)),
          peer_(shape, q, rows, rows_.keys.data(), rows_.values.data(), rows_.scale,
                std::move(model)) {}
    [[nodiscard]] std::string name() const override { return peer_.name(); }
    void use_threads(std::size_t threads) override { peer_.use_threads(threads); }
    void run() override { peer_.run(); }
    [[nodiscard]] std::span<const float> output() const override { return peer_.output(); }
    [[nodiscard]] std::vector<byte_span> cache_spans() const override {
        return peer_.cache_spans();
    }
    [[nodiscard]] double tolerance() const override { return peer_.tolerance(); }

   private:
    int8_rows rows_;
    onnxruntime_peer<std::int8_t> peer_;
};

}  // namespace

void add_onnxruntime(peer_list& peers, const attention_shape& shape, std::span<const float> q,
                     float_rows& rows, const std::string& models) {
    const std::string model = models + "/gqa_" + std::to_string(shape.heads_q) + "_" +
                              std::to_string(shape.heads_kv) + "_" + std::to_string(shape.head_dim);
    peers.push_back(std::make_unique<onnxruntime_peer<float>>(
        shape, q, rows, rows.keys.data(), rows.values.data(), 1.0f, model + "_float.onnx"));
    peers.push_back(std::make_unique<int8_peer>(shape, q, rows, model + "_int8.onnx"));
}

std::string onnxruntime_version_text() {
    return std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString();
}

}  // namespace bench::peers
