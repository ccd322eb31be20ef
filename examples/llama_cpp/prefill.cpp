// SPDX-License-Identifier: MIT
#include "prefill.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace sparq_llama {
namespace {

constexpr int only[]{0};

using bytes = std::vector<std::uint8_t>;

template <class T>
T take(const bytes& from, std::size_t& at) {
    T value{};
    if (from.size() - at < sizeof value) return value;
    std::memcpy(&value, from.data() + at, sizeof value);
    at += sizeof value;
    return value;
}
template <class T>
void put(bytes& to, T value) {
    const auto* first = reinterpret_cast<const std::uint8_t*>(&value);
    to.insert(to.end(), first, first + sizeof value);
}

[[noreturn]] void unknown_form() {
    std::fprintf(stderr, "llama.cpp saves sequences in another form than version 0.5\n");
    std::exit(2);
}

/// A saved sequence ends with: u32 "V is transposed", u32 layers, and a layer each K, then a
/// layer each V: i32 type, u64 bytes of a row, the rows. Transposed, V of a layer is: i32
/// type, u32 bytes of an element, u32 channels, the channels.
bytes transpose_values(const bytes& saved, std::size_t tokens, std::uint32_t layers,
                       std::uint32_t row) {
    constexpr std::size_t element = 2, head = sizeof(std::int32_t) + sizeof(std::uint64_t);
    const std::size_t layer = head + tokens * row * element;
    const std::size_t tail = 2 * sizeof(std::uint32_t) + 2 * layers * layer;
    if (saved.size() < tail) unknown_form();
    std::size_t at = saved.size() - tail;
    bytes result(saved.begin(), saved.begin() + static_cast<std::ptrdiff_t>(at));
    result.reserve(saved.size());
    if (take<std::uint32_t>(saved, at) != 0 || take<std::uint32_t>(saved, at) != layers)
        unknown_form();
    put(result, std::uint32_t{1});
    put(result, layers);
    const auto keys = saved.begin() + static_cast<std::ptrdiff_t>(at);
    result.insert(result.end(), keys, keys + static_cast<std::ptrdiff_t>(layers * layer));
    at += layers * layer;
    for (std::uint32_t l = 0; l < layers; ++l) {
        const auto type = take<std::int32_t>(saved, at);
        if (type != GGML_TYPE_F16 || take<std::uint64_t>(saved, at) != row * element)
            unknown_form();
        put(result, type);
        put(result, static_cast<std::uint32_t>(element));
        put(result, row);
        const std::uint8_t* values = saved.data() + at;
        for (std::size_t c = 0; c < row; ++c)
            for (std::size_t t = 0; t < tokens; ++t)
                for (std::size_t b = 0; b < element; ++b)
                    result.push_back(values[(t * row + c) * element + b]);
        at += tokens * row * element;
    }
    return result;
}

}  // namespace

void fill_from_file(llama_context* context, std::span<const llama_token> tokens,
                    const std::string& file) {
    std::vector<llama_token> saved(tokens.size());
    std::size_t count = 0;
    if (std::FILE* there = std::fopen(file.c_str(), "rb"); there != nullptr) {
        std::fclose(there);
        if (llama_state_seq_load_file(context, file.c_str(), 0, saved.data(), saved.size(),
                                      &count) != 0 &&
            count == tokens.size() && std::equal(tokens.begin(), tokens.end(), saved.begin()))
            return;
        llama_memory_clear(llama_get_memory(context), true);
    }
    constexpr std::size_t at_once = 512;
    for (std::size_t done = 0; done < tokens.size(); done += at_once) {
        std::fprintf(stderr, "\rprompt: %zu of %zu tokens ", done, tokens.size());
        append(context, only, tokens.subspan(done, std::min(at_once, tokens.size() - done)));
    }
    std::fprintf(stderr, "\n");
    llama_state_seq_save_file(context, file.c_str(), 0, tokens.data(), tokens.size());
}

void fill_transposed(llama_context* context, llama_context* from) {
    const llama_model* model = llama_get_model(from);
    const auto tokens =
        static_cast<std::size_t>(llama_memory_seq_pos_max(llama_get_memory(from), 0) + 1);
    const auto heads = llama_model_n_head_kv(model);
    const auto row =
        static_cast<std::uint32_t>(heads * llama_model_n_embd(model) / llama_model_n_head(model));
    bytes saved(llama_state_seq_get_size(from, 0));
    llama_state_seq_get_data(from, saved.data(), saved.size(), 0);
    saved = transpose_values(saved, tokens, static_cast<std::uint32_t>(llama_model_n_layer(model)),
                             row);
    if (llama_state_seq_set_data(context, saved.data(), saved.size(), 0) == 0) unknown_form();
}

}  // namespace sparq_llama
