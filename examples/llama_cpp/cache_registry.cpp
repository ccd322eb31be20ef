// SPDX-License-Identifier: MIT
#include "cache_registry.hpp"

namespace sparq_llama {
namespace {

cache_registry& all() { return cache_registry::instance(); }

void free_buffer(ggml_backend_buffer_t buffer) {
    const ggml_backend_buffer_i former = all().about_to_free(buffer);
    if (former.free_buffer != nullptr) former.free_buffer(buffer);
}
void memset_tensor(ggml_backend_buffer_t buffer, ggml_tensor* tensor, std::uint8_t value,
                   std::size_t offset, std::size_t size) {
    all().about_to_write(buffer).memset_tensor(buffer, tensor, value, offset, size);
}
void set_tensor(ggml_backend_buffer_t buffer, ggml_tensor* tensor, const void* data,
                std::size_t offset, std::size_t size) {
    all().about_to_write(buffer).set_tensor(buffer, tensor, data, offset, size);
}
void set_tensor_2d(ggml_backend_buffer_t buffer, ggml_tensor* tensor, const void* data,
                   std::size_t offset, std::size_t size, std::size_t copies,
                   std::size_t tensor_stride, std::size_t data_stride) {
    all().about_to_write(buffer).set_tensor_2d(buffer, tensor, data, offset, size, copies,
                                               tensor_stride, data_stride);
}
bool cpy_tensor(ggml_backend_buffer_t buffer, const ggml_tensor* from, ggml_tensor* to) {
    return all().about_to_write(buffer).cpy_tensor(buffer, from, to);
}
void clear(ggml_backend_buffer_t buffer, std::uint8_t value) {
    all().about_to_write(buffer).clear(buffer, value);
}

/// Puts ours in the place of those that are there: a null one means "not offered".
void take_over(ggml_backend_buffer_i& functions) {
    const auto replace = [](auto& function, auto ours) {
        if (function != nullptr) function = ours;
    };
    functions.free_buffer = free_buffer;
    replace(functions.memset_tensor, memset_tensor);
    replace(functions.set_tensor, set_tensor);
    replace(functions.set_tensor_2d, set_tensor_2d);
    replace(functions.cpy_tensor, cpy_tensor);
    replace(functions.clear, clear);
}

}  // namespace

cache_registry& cache_registry::instance() {
    static cache_registry* registry = new cache_registry;
    return *registry;
}

engine_cache& cache_registry::adopt(ggml_backend_buffer_t buffer) {
    const std::lock_guard lock(mutex_);
    if (const auto found = entries_.find(buffer); found != entries_.end())
        return *found->second.cache;
    entry added{buffer->iface, std::make_unique<engine_cache>()};
    engine_cache& cache = *entries_.emplace(buffer, std::move(added)).first->second.cache;
    take_over(buffer->iface);
    return cache;
}

engine_cache* cache_registry::find(ggml_backend_buffer_t buffer) {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(buffer);
    return found == entries_.end() ? nullptr : found->second.cache.get();
}

void cache_registry::invalidate_all() {
    const std::lock_guard lock(mutex_);
    for (auto& [buffer, adopted] : entries_) adopted.cache->changed_outside();
}

ggml_backend_buffer_i cache_registry::about_to_write(ggml_backend_buffer_t buffer) {
    const std::lock_guard lock(mutex_);
    const entry& found = entries_.at(buffer);
    found.cache->changed_outside();
    return found.functions;
}

ggml_backend_buffer_i cache_registry::about_to_free(ggml_backend_buffer_t buffer) {
    const std::lock_guard lock(mutex_);
    const ggml_backend_buffer_i functions = entries_.at(buffer).functions;
    entries_.erase(buffer);
    return functions;
}

}  // namespace sparq_llama
