// SPDX-License-Identifier: MIT
// The definitions behind calls.hpp; each calls_<element>.cpp instantiates its share.
#pragma once

#include "calls.hpp"

namespace test {

template <class T, class Label>
void calls<T, Label>::sparq(std::span<const float> q, const ::sparq::kv_view<T, Label>& view,
                            const ::sparq::sparq_params& params, std::span<float> out,
                            const ::sparq::call_options& options) {
    ::sparq::sparq_attention<arch>(q, view, params, out, options);
}

template <class T, class Label>
void calls<T, Label>::append(::sparq::kv_cache<T, Label>& cache, std::span<const float> keys,
                             std::span<const float> values) {
    cache.template append<arch>(keys, values);
}

template <class T, class Label>
void calls<T, Label>::truncate(::sparq::kv_cache<T, Label>& cache, std::size_t n) {
    cache.template truncate<arch>(n);
}

template <class T, class Label>
void calls<T, Label>::dense(std::span<const float> q, const ::sparq::kv_view<T, Label>& view,
                            float scale, std::span<float> out,
                            const ::sparq::call_options& options) {
    if (scale == 0)
        ::sparq::dense_attention<arch>(q, view, out, options);
    else
        ::sparq::dense_attention<arch>(q, view, scale, out, options);
}

}  // namespace test
