/* SPDX-License-Identifier: MIT */
/* What a program can ask of the plugin. A program that has only loaded it finds these by
 * name: ggml_backend_reg_get_proc_address(ggml_backend_reg_by_name("sparq"), name). */
#ifndef SPARQ_LLAMA_H
#define SPARQ_LLAMA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Changes settings from the next node on: "SPARQ_R=16 SPARQ_K=128", or
 * "SPARQ_METHOD=tiers SPARQ_TOLERANCE=0.05". All or none. Returns
 * NULL, or what is wrong (valid until the thread's next call). */
const char* sparq_llama_configure(const char* list);

/* Copies of keys, and codes, are made anew before they are next read. Needed only after writing
 * a cache by other means than graphs and ggml_backend_tensor_set, _copy, _memset and
 * buffer_clear. */
void sparq_llama_invalidate(void);

struct sparq_llama_counts {
    uint64_t answered; /* attention nodes computed by sparq */
    uint64_t left;     /* nodes of few query tokens left to ggml, prompts not counted */
};
struct sparq_llama_counts sparq_llama_count(void);

#ifdef __cplusplus
}
#endif
#endif
