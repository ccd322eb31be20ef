// SPDX-License-Identifier: MIT
// What tasks are, and those of their phases that may be missing.
//
// Tasks offer, all noexcept:
//   heads(), seq_len(), chunks()  how many KV heads, tokens, and chunks of tokens in a head
//   scratch_bytes()               of one block of scratch
//   prepare(g, scratch)           once a head
//   chunk(g, scratch, c)          each chunk, in any order, after prepare
//   finish(g, scratch)            after all chunks
//   heads_take_turns()            may be missing: whether a chunk of every head comes before
//                                 the next chunk of any
//   rank_parts(), rank(g, scratch, part)  may be missing: in how many parts, 0 for not, each head
//                                 is looked at once more when all chunks are done; about the
//                                 chunks in the same place, which a thread then has at hand
//   all_chunks(g, scratch)        may be missing: all chunks of a head that is not shared, in
//                                 longer runs, and their rank, with the same bits
// What a chunk leaves in the scratch depends on g and c only, and finish merges in
// ascending order: so the result has the same bits whichever way it is run.
#pragma once

#include <cstddef>

#include "../config.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

template <class Tasks>
SPARQ_PER_ISA bool heads_take_turns(const Tasks& tasks) noexcept {
    if constexpr (requires { tasks.heads_take_turns(); })
        return tasks.heads_take_turns() && tasks.chunks() > 1;
    else
        return false;
}

template <class Tasks>
SPARQ_PER_ISA std::size_t rank_parts(const Tasks& tasks) noexcept {
    if constexpr (requires { tasks.rank_parts(); })
        return tasks.rank_parts();
    else
        return 0;
}

template <class Tasks>
SPARQ_PER_ISA void rank_part(const Tasks& tasks, std::size_t g, std::byte* scratch,
                             std::size_t part) noexcept {
    if constexpr (requires { tasks.rank_parts(); }) tasks.rank(g, scratch, part);
}

template <class Tasks>
SPARQ_PER_ISA void run_all_chunks(const Tasks& tasks, std::size_t g, std::byte* scratch) noexcept {
    if constexpr (requires { tasks.all_chunks(g, scratch); })
        tasks.all_chunks(g, scratch);
    else
        for (std::size_t c = 0; c < tasks.chunks(); ++c) tasks.chunk(g, scratch, c);
}

}  // namespace detail
SPARQ_NAMESPACE_END
