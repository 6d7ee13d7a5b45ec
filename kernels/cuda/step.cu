// prepare_step: from the rows of a step, as the host packed them, to the flat arrays kernels read.
//
// One block a row. New block ids go into the row's block table, and every token gets its id (from the
// upload, or the one that was sampled last in its slot), its position and its KV slot. A block id that
// is new is taken from the upload, an older one from the table, so that nothing waits for the table.
// Sizes come from the rows alone: a captured launch serves any step with as many rows.
//
// Floor: 32 bytes read and 16 written a row, 16 bytes a token, 8 bytes a new block.
// sass prepare_step: registers<=40
#include "device.cuh"

struct Range {
    int first;
    int num;
};

// The block of the table's entry `index`; the scratch block where there is no such entry.
DEVICE int block_at(int index, const int32_t* table, const int32_t* new_blocks, const Range& added, int max_blocks) {
    if (index < 0 || index >= max_blocks) return 0;
    int place = index - added.first;
    return place >= 0 && place < added.num ? new_blocks[place] : table[index];
}

FOLIO_KERNEL(prepare_step, PrepareStepParams, 128, 8) {
    wait_for_previous_kernel();
    const unsigned row_index = blockIdx.x;
    const StepRow row = p.rows[row_index];
    let_next_kernel_begin();
    if (threadIdx.x == 0) {
        p.cu_seqlens[row_index] = row.first_token;
        if (row_index + 1 == gridDim.x) p.cu_seqlens[row_index + 1] = row.first_token + row.num_tokens;
        p.seq_lens[row_index] = row.start + row.num_tokens;
        p.row_slots[row_index] = row.slot;
    }
    const int32_t* new_blocks = p.upload + row.block_offset;
    const Range added = {row.first_new_block, row.num_new_blocks};
    int32_t* table = p.block_tables ? p.block_tables + int64_t(row.slot) * p.max_blocks : nullptr;
    const int block_mask = (1 << p.block_shift) - 1;
    for (int i = threadIdx.x; i < row.num_tokens; i += blockDim.x) {
        const int token = row.first_token + i;
        const int position = row.start + i;
        p.token_ids[token] = row.token_offset < 0 ? p.last_tokens[row.slot] : p.upload[row.token_offset + i];
        p.positions[token] = position;
        if (!table) continue;
        const int block = block_at(position >> p.block_shift, table, new_blocks, added, p.max_blocks);
        p.slot_mapping[token] = (block << p.block_shift) | (position & block_mask);
    }
    if (!table) return;
    for (int i = threadIdx.x; i < added.num && added.first + i < p.max_blocks; i += blockDim.x) {
        table[added.first + i] = new_blocks[i];
    }
}
