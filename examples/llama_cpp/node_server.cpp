// SPDX-License-Identifier: MIT
#include "node_server.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <new>

namespace sparq_llama {
namespace {

const char* text_of(answer result) {
    switch (result) {
        case answer::scattered:
            return "sequences whose cells alternate";
        case answer::biased:
            return "a mask with values other than 0 and -inf";
        case answer::blind:
            return "a query token that sees nothing";
        case answer::refused:
            return "arguments that sparq refuses (is SPARQ_R above the head size?)";
        default:
            return nullptr;
    }
}

}  // namespace

node_server& node_server::instance() {
    static node_server* self = new node_server;
    return *self;
}

void node_server::start(const settings& with) {
    const std::lock_guard lock(mutex_);
    settings_ = with;
}

void node_server::configure(std::string_view list) {
    const std::lock_guard lock(mutex_);
    settings_.set_all(list);
}

std::string node_server::settings_text() {
    const std::lock_guard lock(mutex_);
    return settings_.text();
}

void node_server::prepare(const attention_node& node, ggml_backend_buffer_t buffer) {
    answer result = answer::refused;
    try {
        settings with;
        {
            const std::lock_guard lock(mutex_);
            with = settings_;
        }
        result = cache_registry::instance().adopt(buffer).prepare(node, with);
    } catch (const std::bad_alloc&) {  // no cache: every thread leaves the node
    }
    if (result == answer::given)
        answered_.fetch_add(1, std::memory_order_relaxed);
    else if (const char* what = text_of(result); what != nullptr)
        leave(what);
}

void node_server::leave(const char* why) {
    left_.fetch_add(1, std::memory_order_relaxed);
    say(std::string("left to ggml: ") + why);
}

void node_server::say(const std::string& what) {
    const std::lock_guard lock(mutex_);
    if (std::find(said_.begin(), said_.end(), what) != said_.end()) return;
    said_.push_back(what);
    std::fprintf(stderr, "sparq: %s\n", what.c_str());
}

void node_server::note_write(const ggml_tensor* node) {
    const ggml_tensor* written = written_key_cache(node);
    engine_cache* cache = cache_registry::instance().find(written->buffer);
    if (cache == nullptr) return;
    const ggml_tensor* rows = node->src[1];
    if (node->op == GGML_OP_SET_ROWS && rows->type == GGML_TYPE_I64 && rows->nb[0] == 8 &&
        ggml_nelements(rows) == rows->ne[0])
        cache->wrote(written->data, static_cast<const std::int64_t*>(rows->data),
                     static_cast<std::size_t>(rows->ne[0]));
    else
        cache->changed(written->data);
}

}  // namespace sparq_llama
