// Parameters of every CUDA kernel: plain structs, passed by value.
//
// The one header that nvcc, the emulator (g++) and bindgen read, so that host and device cannot
// disagree about a layout. One section a kernel family, in the order of the files in cuda/. Sizes
// are in elements unless a name says bytes; strides are in elements from one row to the next.
// Dimension letters: T tokens of the step, S rows (sequences), E emitting rows, P block size,
// N query heads, K key/value heads, D head size, V vocabulary.
#pragma once
#include <stdint.h>

// ---- step.cu: from the packed upload of a step to flat arrays -----------------------------------

// One sequence's share of a step, as the host uploads it.
typedef struct StepRow {
    int32_t slot;              // its row in the slot tables
    int32_t first_token;       // index of its first token among the T of the step
    int32_t num_tokens;        // tokens it computes, at least 1
    int32_t start;             // position of the first of them
    int32_t token_offset;      // where their ids start in the upload; -1: one token, the slot's last
    int32_t block_offset;      // where its new block ids start in the upload
    int32_t num_new_blocks;    // how many it got since the last step
    int32_t first_new_block;   // index in its block table that the first of them takes
} StepRow;

// ---- embed.cu ------------------------------------------------------------------------------------

// ---- norm.cu -------------------------------------------------------------------------------------

// ---- heads.cu: norms of query and key heads, RoPE, KV write ---------------------------------------

// ---- activation.cu -------------------------------------------------------------------------------

// ---- attention_plan.cu, attention_decode.cu, attention_prefill.cu ---------------------------------

// ---- gemm.cu, gemm_small.cu ------------------------------------------------------------------------

// ---- sample.cu -------------------------------------------------------------------------------------

// ---- pool.cu ---------------------------------------------------------------------------------------

// ---- fill.cu: random weights on the device -----------------------------------------------------------
