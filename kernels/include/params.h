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

typedef struct PrepareStepParams {
    const StepRow* rows;        // [S]
    const int32_t* upload;      // what token_offset and block_offset of a row count from
    const int32_t* last_tokens; // [slots]
    int32_t* block_tables;      // [slots, max_blocks]; null where nothing is cached
    int32_t* token_ids;         // [T]
    int32_t* positions;         // [T]
    int32_t* slot_mapping;      // [T], block * P + offset; left alone without block tables
    int32_t* cu_seqlens;        // [S + 1]
    int32_t* seq_lens;          // [S]
    int32_t* row_slots;         // [S]
    int32_t max_blocks;
    int32_t block_shift;        // P = 1 << block_shift
} PrepareStepParams;

// ---- embed.cu ------------------------------------------------------------------------------------

// A table of 16-bit rows, and what chooses a token's row: indices[token] + offset.
typedef struct EmbedTable {
    const void* entries;    // [num_entries, H]; null: no table
    const int32_t* indices; // [T]
    int64_t stride;
    int32_t num_entries;
    int32_t offset;
} EmbedTable;

typedef struct EmbedParams {
    EmbedTable tables[2];
    void* out;              // [T, H]
    int64_t out_stride;
    int32_t cols;
    int32_t width;          // elements of one access: 8 where all is aligned to 16 bytes, or 1
} EmbedParams;

typedef struct GatherRowsParams {
    const void* input;      // [any, cols]
    const int32_t* rows;    // [E]
    void* out;              // [E, cols]
    int64_t input_stride;
    int64_t out_stride;
    int32_t cols;
    int32_t width;          // as in EmbedParams
} GatherRowsParams;

// ---- norm.cu -------------------------------------------------------------------------------------

// Row r of the result is the norm of x = input[i], or of x = round16(input[i] + delta[i]), where
// i = rows[r], or r without such a list.
typedef struct NormParams {
    const void* input;      // [any, H]
    const void* delta;      // [any, H]; null: nothing is added
    void* sum;              // [any, H], takes x at row i; null: it is not kept
    void* out;              // [R, H]
    const int32_t* rows;    // [R] or null
    const float* weight;    // [H]
    const float* bias;      // [H], layer norm only; null: none
    int64_t input_stride;
    int64_t delta_stride;
    int64_t sum_stride;
    int64_t out_stride;
    int32_t num_rows;       // R
    int32_t cols;           // H
    float epsilon;
    float inverse_cols;     // 1 / H
} NormParams;

// ---- heads.cu: norms of query and key heads, RoPE, KV write ---------------------------------------

// Heads first_head .. first_head + num_heads of the N + 2 K in a row of qkv are worked on.
typedef struct StoreHeadsParams {
    void* qkv;                   // [T, (N + 2 K) D]
    const float* query_norm;     // [D]; null: heads are not normalised
    const float* key_norm;       // [D]
    const float* cosines;        // [num_positions, D / 2]; null: heads are not rotated
    const float* sines;          // [num_positions, D / 2]
    const int32_t* positions;    // [T]
    void* keys;                  // of block 0; null: keys go back into qkv
    void* values;                // of block 0
    const int32_t* slot_mapping; // [T]
    int64_t qkv_stride;
    int64_t block_stride;
    int32_t num_positions;
    int32_t num_query_heads;     // N
    int32_t num_kv_heads;        // K
    int32_t head_size;           // D
    int32_t first_head;
    int32_t num_heads;
    int32_t num_units;           // T * num_heads
    int32_t lanes_shift;         // 1 << lanes_shift lanes share a head
    int32_t block_shift;         // P = 1 << block_shift
    float epsilon;
    float inverse_head_size;     // 1 / D
    int32_t padding;
} StoreHeadsParams;

// ---- activation.cu -------------------------------------------------------------------------------

// out = function(input), or function(input) * factor.
typedef struct ActivateParams {
    const void* input;      // [T, I]
    const void* factor;     // [T, I] or null
    void* out;              // [T, I]
    int64_t input_stride;
    int64_t factor_stride;
    int64_t out_stride;
    int32_t cols;           // I
    int32_t width;          // as in EmbedParams
    int32_t function;       // 0 SiLU, 1 GELU, 2 GELU by its tanh approximation, 3 ReLU
    int32_t padding;
} ActivateParams;

// ---- attention_plan.cu, attention_decode.cu, attention_prefill.cu ---------------------------------

// A row with one query token, as attention_plan leaves it for attention_decode.
typedef struct AttentionRow {
    int32_t token;             // its query, an index among the T of the step
    int32_t slot;              // its row in the block tables
    int32_t seq_len;           // keys it may see
    int32_t reserved;
} AttentionRow;

// What one thread block of attention_decode does: tiles of 64 keys that follow one another in the
// order rows, head tiles, tiles. The blocks' shares cut all tiles of a step into even parts.
typedef struct AttentionShare {
    int32_t row;               // where it begins: index among the AttentionRows,
    int32_t head_tile;         // head tile,
    int32_t tile;              // and tile, counted from position 0
    int32_t num_tiles;         // 0: nothing to do
    int32_t first_owner;       // if it begins inside a (row, head tile): the block that has its start
    int32_t first_pieces;      // and into how many pieces it is cut
    int32_t last_pieces;       // the same of a (row, head tile) that begins here and ends elsewhere
    int32_t reserved;
} AttentionShare;

// What one thread block of attention_prefill does: some query rows of one sequence. Query row m is
// token m / (N / K) of the sequence's share of the step, head m % (N / K) of the group.
typedef struct AttentionTile {
    int32_t first_token;       // of the sequence, an index among the T of the step
    int32_t num_tokens;        // that the sequence computes
    int32_t seq_len;           // keys that its last token sees
    int32_t slot;              // its row in the block tables
    int32_t first_query_row;
    int32_t cost;              // tiles of keys that it may see, at most
    int32_t reserved[2];
} AttentionTile;

typedef struct AttentionPlanParams {
    const int32_t* cu_seqlens; // [S + 1]
    const int32_t* seq_lens;   // [S]; null: the number of query tokens
    const int32_t* row_slots;  // [S]; null: no block tables
    int32_t* counts;           // [2]: rows for attention_decode, tiles for attention_prefill
    AttentionRow* rows;        // [max rows]
    AttentionShare* shares;    // [windows, blocks of attention_decode]
    AttentionTile* tiles;      // [max tiles]
    int32_t windows[4];        // keys that a query sees, its own included; 0: all
    int32_t num_windows;       // how many of these there are
    int32_t num_rows;          // S
    int32_t num_shares;        // blocks of attention_decode
    int32_t num_head_tiles;    // key/value heads times tiles of 16 query heads of a group
    int32_t group;             // N / K
    int32_t query_rows;        // of a tile of attention_prefill
    int32_t decode_tokens;     // 1: rows of one token go to attention_decode; 0: none do
} AttentionPlanParams;

typedef struct AttentionDecodeParams {
    const void* queries;       // [T, N * D]
    void* output;              // [T, N * D]
    const void* keys;          // of the layer, in block 0
    const void* values;
    const int32_t* block_tables; // [slots, max_blocks]
    const float* sinks;        // [N]: a logit per head that takes part in every softmax; null: none
    const AttentionRow* rows;
    const AttentionShare* shares; // [blocks], those of the layer's window
    float* partials;           // [2 * blocks, 16, D]: sums of pieces
    float* partial_states;     // [2 * blocks, 16, 2]: their offsets and weights
    int32_t* counters;         // [blocks]: pieces that have arrived; zero between launches
    int64_t query_stride;
    int64_t output_stride;
    int64_t block_stride;      // elements from one block of the cache to the next
    int32_t max_blocks;
    int32_t num_kv_heads;      // K
    int32_t group;             // N / K
    int32_t block_shift;       // P = 1 << block_shift
    int32_t window;            // 0: none
    float exponent_scale;      // scale * log2(e), positive: from products to exponents of 2
    float product_cap;         // c / scale, where scores become c * tanh(score / c); 0: they do not
} AttentionDecodeParams;

typedef struct AttentionPrefillParams {
    const void* queries;       // [T, N * D]
    void* output;              // [T, N * D]
    const void* keys;          // of the layer, in block 0; without block tables [T, K * D]
    const void* values;
    const int32_t* block_tables; // [slots, max_blocks]; null: none
    const float* sinks;        // as in AttentionDecodeParams
    const int32_t* counts;     // the plan's
    const AttentionTile* tiles;
    int64_t query_stride;
    int64_t output_stride;
    int64_t key_stride;        // from one block of the cache to the next; without blocks, one token;
                               // values have the same
    int32_t max_blocks;
    int32_t num_kv_heads;      // K
    int32_t group;             // N / K
    int32_t block_shift;       // P = 1 << block_shift
    int32_t window;            // 0: none
    float exponent_scale;      // scale * log2(e), positive: from products to exponents of 2
    float product_cap;         // c / scale, where scores become c * tanh(score / c); 0: they do not
} AttentionPrefillParams;

// ---- gemm.cu, gemm_small.cu ------------------------------------------------------------------------

// What is done to a sum before it is stored.
static const int32_t GEMM_NONE = 0;
static const int32_t GEMM_BIAS = 1;
static const int32_t GEMM_BIAS_GELU = 2;
static const int32_t GEMM_BIAS_GELU_TANH = 3;

// output[M, N] = epilogue(input[M, K] * transpose(weight[N, K]) + bias[N])
typedef struct GemmOperands {
    const void* input;         // 16-bit; address and stride are multiples of 16 bytes
    const void* weight;        // 16-bit; the same; never written by a kernel
    const void* bias;          // 16-bit, or null with GEMM_NONE
    void* output;              // 16-bit, or f32 if output_is_f32
    int64_t input_stride;
    int64_t weight_stride;
    int64_t output_stride;
    int32_t num_rows;          // M
    int32_t num_cols;          // N
    int32_t inner;             // K, a multiple of 8
    int32_t epilogue;          // one of the above
    int32_t output_is_f32;
} GemmOperands;

typedef struct GemmParams {
    GemmOperands product;
    int32_t num_row_tiles;     // M over the tile's rows, rounded up
    int32_t num_col_tiles;     // N over the tile's columns, rounded up
    int32_t outputs_are_aligned; // output rows begin at multiples of 16 bytes
} GemmParams;

typedef struct GemmSmallParams {
    GemmOperands product;
    float* partials;           // two tiles a block
    int32_t* counters;         // one a block, 0 between launches
    int32_t units_per_block;   // units of the list that a block works through
    int32_t num_units;         // of the whole list
    int32_t units_per_tile;    // K over the unit's width, rounded up
    int32_t outputs_are_paired; // output rows begin at multiples of 4 bytes, and N is even
} GemmSmallParams;

// ---- sample_*.cu: from logits to tokens -----------------------------------------------------------

static const int32_t SAMPLE_BLOCK_TOKENS = 256;     // logits that share a maximum and a mass
static const int32_t SAMPLE_CHUNK_BLOCKS = 16;      // of these, what a thread block passes over
static const int32_t SAMPLE_MAX_TOP = 20;           // likeliest tokens that a row can report
static const int32_t SAMPLE_WORKSPACE_BYTES = 12544; // shared memory of sample_choose and sample_top ...
static const int32_t SAMPLE_BYTES_PER_BLOCK = 16;   // ... and what each block of the row adds to it

// How a slot samples. What it does is what the sampler on the host does.
typedef struct SlotSampling {
    float temperature;          // not above 0: the largest logit
    uint32_t top_k;             // 0: all
    float top_p;
    float min_p;
    uint32_t seed_low;
    uint32_t seed_high;
    uint32_t choice_index;
    uint32_t prompt_len;        // tokens that were not generated
    uint32_t min_tokens;        // the stops are banned until this many were generated
    float frequency;
    float presence;
    float repetition;
    int32_t num_logprobs;       // likeliest tokens to report; -1: no log-probabilities at all
    uint32_t tracks_counts;     // 1: penalties are on, and sampled tokens are counted; 2: no room for one
    uint32_t num_counts;        // entries of its lists
    uint32_t num_biases;
    uint32_t num_stops;
} SlotSampling;

// A token that was seen, with how often it was generated.
typedef struct SampleCount {
    uint32_t token;
    uint32_t count;
} SampleCount;

// A token with a logit, or with what is added to its logit.
typedef struct SampleLogit {
    uint32_t token;
    float logit;
} SampleLogit;

// What became of a row.
typedef struct SampleRecord {
    int32_t status;             // SAMPLED or a failure, below
    uint32_t token;             // the token, or the first with a broken logit
    float raw_logit;            // the token's, before edits; with log-probabilities only, as the rest
    float raw_max;              // the largest
    uint64_t raw_mass;          // sum of e^(logit - largest) over the row, in units of 2^-40
    int32_t num_top;            // entries in the row's list of the likeliest; -1: no log-probabilities
    int32_t reserved;
} SampleRecord;

static const int32_t SAMPLED = 0;
static const int32_t SAMPLE_NOT_A_NUMBER = 1;
static const int32_t SAMPLE_INFINITE = 2;
static const int32_t SAMPLE_ALL_BANNED = 3;
static const int32_t SAMPLE_COUNTS_FULL = 4; // an earlier token found no room in the list of counts

// All that the sampler keeps on the device.
typedef struct SampleState {
    SlotSampling* slots;            // [num_slots]
    SampleCount* counts;            // [num_slots, max_counts]
    float* count_originals;         // [num_slots, max_counts], logits before the step's edits
    SampleLogit* biases;            // [num_slots, max_listed]
    float* bias_originals;          // [num_slots, max_listed]
    uint32_t* stops;                // [num_slots, max_listed]
    uint32_t* maxima;               // [max_rows, num_blocks], keys of the largest logits
    uint64_t* masses;               // [max_rows, num_blocks]
    SampleLogit* candidates;        // [max_rows, max_candidates], in no order
    uint32_t* num_candidates;       // [max_rows], 0 between steps; may exceed max_candidates
    uint32_t* floors;               // [max_rows], key of the smallest candidate
    uint64_t* bests;                // [max_rows], 0 between steps
    uint32_t* num_arrived;          // [max_rows], 0 between steps
    SampleRecord* records;          // [max_rows]
    SampleLogit* tops;              // [max_rows, SAMPLE_MAX_TOP], the likeliest, best first
    int32_t max_counts;
    int32_t max_listed;
    int32_t max_candidates;
    int32_t vocab_size;
    int32_t num_blocks;             // of a row
} SampleState;

typedef struct SampleParams {
    SampleState state;
    float* logits;              // [E, V], edited in place
    int64_t stride;
    const int32_t* rows;        // [E], which of the S rows emits; below 0: none, a row of padding
    const int32_t* row_slots;   // [S]
    const int32_t* seq_lens;    // [S], the position that the new token takes
    const uint32_t* masks;      // [masks, mask_stride], one bit a token, 1: allowed; null: none
    const int32_t* row_masks;   // [E], which mask; below 0: none
    int32_t* last_tokens;       // [num_slots], takes the token; 0 where there is none
    int32_t mask_stride;        // words
    int32_t width;              // logits of an access: 4 where rows are aligned to 16 bytes, or 1
} SampleParams;

typedef struct UpdateSlotsParams {
    SampleState state;
    const uint32_t* updates;    // [U] offsets in words, then as many updates: slot, SlotSampling, lists
} UpdateSlotsParams;

// ---- pool.cu ---------------------------------------------------------------------------------------

typedef struct PoolParams {
    const void* hidden;         // [T, H]
    const int32_t* cu_seqlens;  // [S + 1]
    float* out;                 // [S, H]
    int64_t hidden_stride;
    int64_t out_stride;
    int32_t cols;               // H
    int32_t width;              // as in EmbedParams
    int32_t pooling;            // 0 first token, 1 mean, 2 last token
    int32_t normalizes;         // 1: results are divided by their length
} PoolParams;

// ---- fill.cu: random weights on the device -----------------------------------------------------------

// Element i of out becomes a number in -scale..scale that depends on i and the seed alone.
typedef struct FillRandomParams {
    void* out;              // [num_elements], 16-bit, aligned to 16 bytes
    int64_t num_elements;
    uint64_t seed;
    float scale;
    int32_t padding;
} FillRandomParams;

typedef struct FillFloatsParams {
    float* out;             // [num_elements]
    int64_t num_elements;
    float value;
    int32_t padding;
} FillFloatsParams;
