// SPDX-License-Identifier: MIT
#include "ggml_node.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace sparq_llama {
namespace {

/// Query tokens of a node that no setting lets through: such a node is a prompt.
constexpr std::int64_t most_rows_of_all = 64;

std::size_t dim(const ggml_tensor* t, int i) { return static_cast<std::size_t>(t->ne[i]); }
std::size_t stride(const ggml_tensor* t, int i, std::size_t element) { return t->nb[i] / element; }

bool is_key_cache(const ggml_tensor* t) { return std::strncmp(t->name, "cache_k_l", 9) == 0; }

float float_parameter(const ggml_tensor* t, std::size_t i) {
    float value;
    std::memcpy(&value, t->op_params + i, sizeof value);
    return value;
}

/// What the node has that sparq cannot do; nullptr for a node that it can.
const char* obstacle(const ggml_tensor* t) {
    const ggml_tensor *q = t->src[0], *k = t->src[1], *v = t->src[2], *mask = t->src[3];
    if (k->type != GGML_TYPE_F16 || v->type != GGML_TYPE_F16)
        return "a cache that is not f16 (quantised, for example)";
    if (t->src[4] != nullptr) return "attention sinks";
    if (float_parameter(t, 1) != 0.0f) return "ALiBi";
    if (float_parameter(t, 2) != 0.0f) return "a soft-cap of the logits";
    if (t->op_params[4] != 0) return "sparse masks (n_kv_max)";
    if (mask == nullptr || mask->type != GGML_TYPE_F16 || mask->ne[2] != 1 ||
        (mask->ne[3] != 1 && mask->ne[3] != q->ne[3]))
        return "attention without a mask, or with one a head";
    if (q->type != GGML_TYPE_F32 || t->type != GGML_TYPE_F32) return "queries that are not f32";
    if (k->ne[0] % 16 != 0 || k->ne[0] > 256 || v->ne[0] != k->ne[0])
        return "a head size that is no multiple of 16 up to 256, the same for K and V";
    if (k->ne[2] == 0 || q->ne[2] % k->ne[2] != 0 || k->ne[3] != q->ne[3] || v->ne[3] != k->ne[3])
        return "heads or streams of other numbers in K than in q";
    if (q->nb[0] != 4 || k->nb[0] != 2 || v->nb[0] != 2 || mask->nb[0] != 2)
        return "rows with gaps";
    if (k->view_src == nullptr || !is_key_cache(k->view_src) || k->view_src->ne[3] != 1)
        return "keys outside a cache of llama.cpp";
    return nullptr;
}

key_cache cache_of(const ggml_tensor* cache, std::size_t cells, std::size_t streams) {
    return {.keys = cache->data,
            .cells = cells,
            .streams = streams,
            .row = dim(cache, 0),
            .layer = static_cast<std::size_t>(std::strtoul(cache->name + 9, nullptr, 10))};
}

}  // namespace

bool can_read(const ggml_tensor* t, const char** why_not) {
    *why_not = nullptr;
    if (t->src[0]->ne[1] * t->src[0]->ne[3] > most_rows_of_all) return false;
    *why_not = obstacle(t);
    return *why_not == nullptr;
}

std::optional<attention_node> read_node(const ggml_tensor* t, const char** why_not) {
    const char* what = nullptr;
    const bool can = can_read(t, &what);
    if (why_not != nullptr) *why_not = what;
    if (!can) return {};
    const ggml_tensor *q = t->src[0], *k = t->src[1], *v = t->src[2], *mask = t->src[3];
    const ggml_tensor* cache = k->view_src;
    attention_node node;
    node.cache = cache_of(cache, dim(cache, 1), dim(cache, 2));
    const auto offset = static_cast<std::size_t>(static_cast<const char*>(k->data) -
                                                 static_cast<const char*>(cache->data));
    node.first_stream = offset / cache->nb[2];
    node.streams = dim(q, 3);
    node.rows = dim(q, 1);
    node.cells = dim(k, 1);
    node.heads_q = dim(q, 2);
    node.heads_kv = dim(k, 2);
    node.head_dim = dim(k, 0);
    node.value_dim = dim(v, 0);
    node.scale = float_parameter(t, 0);

    node.q = static_cast<const float*>(q->data);
    node.q_row_stride = stride(q, 1, sizeof(float));
    node.q_head_stride = stride(q, 2, sizeof(float));
    node.q_stream_stride = stride(q, 3, sizeof(float));
    node.out = static_cast<float*>(t->data);  // [d_v, heads, rows, streams]
    node.out_head_stride = stride(t, 1, sizeof(float));
    node.out_row_stride = stride(t, 2, sizeof(float));
    node.out_stream_stride = stride(t, 3, sizeof(float));
    node.keys = static_cast<const sparq::half*>(k->data);
    node.key_token_stride = stride(k, 1, sizeof(sparq::half));
    node.key_head_stride = stride(k, 2, sizeof(sparq::half));
    node.key_stream_stride = stride(k, 3, sizeof(sparq::half));
    node.values = static_cast<const sparq::half*>(v->data);
    node.value_token_stride = stride(v, 1, sizeof(sparq::half));
    node.value_head_stride = stride(v, 2, sizeof(sparq::half));
    node.value_stream_stride = stride(v, 3, sizeof(sparq::half));
    node.mask = static_cast<const std::uint16_t*>(mask->data);
    node.mask_row_stride = stride(mask, 1, sizeof(std::uint16_t));
    node.mask_stream_stride = mask->ne[3] == 1 ? 0 : stride(mask, 3, sizeof(std::uint16_t));
    return node;
}

const ggml_tensor* written_key_cache(const ggml_tensor* node) {
    if (node->view_src == nullptr) return nullptr;
    switch (node->op) {
        case GGML_OP_NONE:
        case GGML_OP_VIEW:
        case GGML_OP_RESHAPE:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE:
            return nullptr;
        default:
            return is_key_cache(node->view_src) ? node->view_src : nullptr;
    }
}

}  // namespace sparq_llama
