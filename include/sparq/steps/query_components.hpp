// SPDX-License-Identifier: MIT
// Step 1 of SparQ (Algorithm 1, lines 2 and 3): the query components that are read.
//
//   i1  = the r components with the largest sum over the group of |q|
//   tau = sqrt(d_h * |q[i1]|_1 / |q|_1), for each query head
//
// Traffic: reads q, nothing of the cache. Ties go to the lower component.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include "../config.hpp"
#include "../detail/arch.hpp"
#include "../detail/check.hpp"
#include "../kernels/top_k.hpp"
#include "../workspace.hpp"

SPARQ_NAMESPACE_BEGIN

namespace steps {

/// The query heads of one group, wherever they lie.
struct query_group {
    const float* data;
    std::size_t heads, head_dim, stride;

    [[nodiscard]] const float* head(std::size_t h) const noexcept { return data + h * stride; }
};

/// Bytes of scratch for choose_components: magnitudes, then what top_k wants.
SPARQ_PER_ISA constexpr std::size_t component_scratch_floats(std::size_t head_dim) noexcept {
    return head_dim + kernels::top_k_scratch_floats(head_dim);
}

/// A component that is NaN or infinite in one head counts as 0 for the group: that head
/// becomes NaN in any case, and the others choose as they would without.
/// @param indices  [d_h]: the r components first, ascending
/// @param spread  [d_h], what a component's magnitude is multiplied by, or null; it may be
///                the scratch's first d_h, which hold it no longer then
template <class Arch>
void choose_components(const query_group& q, std::size_t r, float* scratch, std::uint32_t* indices,
                       const float* spread = nullptr) noexcept {
    float* magnitude = scratch;
    for (std::size_t c = 0; c < q.head_dim; ++c) {
        float sum = 0.0f;
        for (std::size_t h = 0; h < q.heads; ++h) {
            const float x = std::fabs(q.head(h)[c]);
            if (x <= std::numeric_limits<float>::max()) sum += x;
        }
        magnitude[c] = spread == nullptr ? sum : sum * spread[c];
    }
    kernels::top_k<Arch>(magnitude, q.head_dim, r, nullptr, scratch + q.head_dim, indices);
}

/// 1 / tau of one query head, given the factor that stands for 1 / sqrt(d_h). A head
/// without magnitude on the components has tau = 1 / scale: its weights are uniform.
template <class Arch>
float inverse_temperature(const float* q, std::size_t head_dim, const std::uint32_t* components,
                          std::size_t r, float scale) noexcept {
    double chosen = 0.0, all = 0.0;
    for (std::size_t i = 0; i < r; ++i) chosen += std::fabs(static_cast<double>(q[components[i]]));
    for (std::size_t c = 0; c < head_dim; ++c) all += std::fabs(static_cast<double>(q[c]));
    if (chosen == 0.0) return scale;
    return static_cast<float>(static_cast<double>(scale) * std::sqrt(all / chosen));
}

/// What a scale of 0 stands for.
SPARQ_PER_ISA inline float resolve_scale(float scale, std::size_t head_dim) noexcept {
    return scale != 0.0f ? scale : 1.0f / std::sqrt(static_cast<float>(head_dim));
}

}  // namespace steps

namespace detail {

SPARQ_PER_ISA inline void check_scale(float scale) {
    if (!std::isfinite(scale)) refuse("scale", std::to_string(scale), "finite, 0 for 1/sqrt(d_h)");
}

/// The head dimension of a group, or a refusal.
SPARQ_PER_ISA inline std::size_t check_group(std::span<const float> q, std::size_t group) {
    require_at_least_one("group", group);
    if (q.empty() || q.size() % group != 0)
        refuse("q", detail::text("of size ", q.size()),
               detail::text("a multiple of the group's ", group, " heads, not 0"));
    return q.size() / group;
}

SPARQ_PER_ISA inline void check_components(std::span<const std::uint32_t> components,
                                           std::size_t head_dim) {
    if (components.empty() || components.size() > head_dim)
        refuse("r", components.size(), detail::text("1 .. d_h = ", head_dim));
    for (const std::uint32_t c : components)
        if (c >= head_dim) refuse("component", c, detail::text("less than d_h = ", head_dim));
}

}  // namespace detail

/// Chooses the components of a group's query heads.
///
/// @param q           [G, d_h]
/// @param group       G, query heads that share a KV head
/// @param components  [r], overwritten, ascending; 1 <= r <= d_h
/// @throws std::invalid_argument for sizes outside these; std::bad_alloc for scratch
template <class Arch = default_arch>
void choose_components(std::span<const float> q, std::size_t group,
                       std::span<std::uint32_t> components) {
    const std::size_t head_dim = detail::check_group(q, group);
    if (components.empty() || components.size() > head_dim)
        detail::refuse("r", components.size(), detail::text("1 .. d_h = ", head_dim));
    const std::size_t floats = steps::component_scratch_floats(head_dim);
    workspace scratch;
    auto* memory = reinterpret_cast<float*>(scratch.prepare((floats + head_dim) * sizeof(float)));
    auto* indices = reinterpret_cast<std::uint32_t*>(memory + floats);
    steps::choose_components<Arch>({q.data(), group, head_dim, head_dim}, components.size(), memory,
                                   indices);
    for (std::size_t i = 0; i < components.size(); ++i) components[i] = indices[i];
}

/// 1 / tau of one query head: what its approximate logits are multiplied with.
///
/// @param q_head      [d_h]
/// @param components  [r], each < d_h
/// @param scale       factor of the exact logits, 0 for 1 / sqrt(d_h)
/// @throws std::invalid_argument for sizes or a scale that is not finite
template <class Arch = default_arch>
float inverse_temperature(std::span<const float> q_head, std::span<const std::uint32_t> components,
                          float scale = 0.0f) {
    detail::check_group(q_head, 1);
    detail::check_components(components, q_head.size());
    detail::check_scale(scale);
    return steps::inverse_temperature<Arch>(q_head.data(), q_head.size(), components.data(),
                                            components.size(),
                                            steps::resolve_scale(scale, q_head.size()));
}

SPARQ_NAMESPACE_END
