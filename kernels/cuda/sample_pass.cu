// sample_greedy, sample_scan, sample_weigh: the passes over all logits, many blocks to a row.
//
// Grid [chunks of 4096 tokens, E]; a warp takes blocks of 256 tokens, 8 to a lane. sample_greedy ends with
// the row's last block to arrive, which writes the token. sample_scan leaves the largest key of each
// block, sample_weigh the mass of each, and the tokens that top-p may cut between.
//
// Floors, bytes a row: greedy 4 V. Else scan 4 V (8 V under a mask) and weigh at most 4 V, which the
// cache has left from the scan while E rows fit into it; blocks too light to count are not read. Rows that
// take the largest logit, or have top-k, are not weighed.
// nvcc: --fmad=false
// sass sample_*: registers<=64 LDG.E.128
#include "sample.cuh"

constexpr int CHUNK_BLOCKS = SAMPLE_CHUNK_BLOCKS;
constexpr int NUM_WARPS = 8;
constexpr int NUM_THREADS = NUM_WARPS * 32;

// Logits that stand for probabilities of the model itself, or those that a token is drawn from.
enum class Stage { raw, edited };

// The row's mask over tokens, or null.
DEVICE const uint32_t* find_mask(const SampleParams& p, const Row& row) {
    const int mask = p.masks == nullptr ? -1 : p.row_masks[row.index];
    return mask < 0 ? nullptr : p.masks + static_cast<int64_t>(mask) * p.mask_stride;
}

DEVICE bool is_banned(const SampleParams& p, const uint32_t* mask, int token) {
    return token < p.state.vocab_size && (mask[token / 32] >> token % 32 & 1) == 0;
}

DEVICE void mask_block(const SampleParams& p, const uint32_t* mask, int block, float (&logits)[LANE_TOKENS]) {
#pragma unroll
    for (int i = 0; i < LANE_TOKENS; i++) {
        if (is_banned(p, mask, token_of(block, i))) logits[i] = -INFINITY;
    }
}

DEVICE uint32_t largest_key(const float (&logits)[LANE_TOKENS]) {
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < LANE_TOKENS; i++) largest = max(largest, key_of(logits[i]));
    return largest;
}

// ---- the largest logit ----------------------------------------------------------------------------

// The place of the likeliest token among those that this thread sees of its chunk.
DEVICE u64 best_of_chunk(const SampleParams& p, const Row& row) {
    const int end = min(p.state.num_blocks, static_cast<int>(blockIdx.x + 1) * CHUNK_BLOCKS);
    const uint32_t* mask = find_mask(p, row);
    uint32_t best_key = 0, best_token = 0;
    for (int block = blockIdx.x * CHUNK_BLOCKS + threadIdx.x / 32; block < end; block += NUM_WARPS) {
        float logits[LANE_TOKENS];
        load_block(p, row, block, logits);
        if (mask != nullptr) mask_block(p, mask, block, logits);
#pragma unroll
        for (int i = 0; i < LANE_TOKENS; i++) {
            // Tokens come in the order of their ids: the first of equals stays.
            const uint32_t key = key_of(logits[i]);
            if (key > best_key) {
                best_key = key;
                best_token = token_of(block, i);
            }
        }
    }
    return place_of(best_key, best_token);
}

FOLIO_KERNEL(sample_greedy, SampleParams, NUM_THREADS, 4) {
    DYNAMIC_SHARED(shared);
    wait_for_previous_kernel();
    const Row row = find_row(p, blockIdx.y);
    if (row.slot < 0) return;
    const u64 best = block_max(best_of_chunk(p, row), reinterpret_cast<u64*>(shared));
    let_next_kernel_begin();
    if (threadIdx.x != 0) return;
    u64* row_best = reinterpret_cast<u64*>(p.state.bests + row.index);
    atomicMax(row_best, best);
    __threadfence();
    if (atomicAdd(p.state.num_arrived + row.index, 1u) + 1 < gridDim.x) return;
    __threadfence();
    const u64 place = atomicExch(row_best, static_cast<u64>(0));
    p.state.num_arrived[row.index] = 0;
    write_result(p, row, status_of(key_at(place)), token_at(place));
}

// ---- the largest logit of each block --------------------------------------------------------------

template <Stage stage> DEVICE void scan(const SampleParams& p) {
    wait_for_previous_kernel();
    const Row row = find_row(p, blockIdx.y);
    if (row.slot < 0 || (stage == Stage::raw && p.state.slots[row.slot].num_logprobs < 0)) return;
    const uint32_t* mask = stage == Stage::edited ? find_mask(p, row) : nullptr;
    const int end = min(p.state.num_blocks, static_cast<int>(blockIdx.x + 1) * CHUNK_BLOCKS);
    for (int block = blockIdx.x * CHUNK_BLOCKS + threadIdx.x / 32; block < end; block += NUM_WARPS) {
        float logits[LANE_TOKENS];
        load_block(p, row, block, logits);
        if (mask != nullptr) {
            mask_block(p, mask, block, logits);
#pragma unroll
            for (int i = 0; i < LANE_TOKENS; i++) {
                const int token = token_of(block, i);
                if (is_banned(p, mask, token)) row.logits[token] = -INFINITY;
            }
        }
        const uint32_t largest = __reduce_max_sync(~0u, largest_key(logits));
        if (threadIdx.x % 32 == 0) maxima_of(p, row)[block] = largest;
    }
    let_next_kernel_begin();
}

FOLIO_KERNEL(sample_scan_raw, SampleParams, NUM_THREADS, 4) { scan<Stage::raw>(p); }
FOLIO_KERNEL(sample_scan, SampleParams, NUM_THREADS, 4) { scan<Stage::edited>(p); }

// ---- the mass of each block -----------------------------------------------------------------------

DEVICE float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    const int lane = threadIdx.x % 32;
    return warp_sum(lane < NUM_WARPS ? scratch[lane] : 0.0f);
}

// A key such that the lighter tokens together surely weigh less than what top-p drops. Only speed depends
// on it: where it is too high after all, the row is searched again without it.
DEVICE uint32_t floor_of(const SampleParams& p, const Row& row, const Weigher& weigher, float top_p,
                         float* scratch) {
    float total = 0.0f;
    for (int block = threadIdx.x; block < p.state.num_blocks; block += NUM_THREADS) {
        total += weight_of(weigher, logit_of(maxima_of(p, row)[block]));
    }
    total = block_sum(total, scratch);
    const float lightest = 0.25f * (1.0f - top_p) * total / static_cast<float>(p.state.vocab_size);
    const float floor = weigher.max + fminf(log2f(lightest), 0.0f) / weigher.scale;
    return max(key_of(floor > -INFINITY ? floor : -INFINITY), KEY_OF_LOWEST);
}

// Appends this warp's tokens of at least the floor to the row's candidates, as far as there is room.
DEVICE void append(const SampleParams& p, const Row& row, int block, uint32_t floor,
                   const float (&logits)[LANE_TOKENS]) {
    int num_mine = 0;
#pragma unroll
    for (int i = 0; i < LANE_TOKENS; i++) num_mine += key_of(logits[i]) >= floor;
    const int lane = threadIdx.x % 32;
    int end = num_mine;
    for (int distance = 1; distance < 32; distance *= 2) {
        const int before = __shfl_up_sync(~0u, end, distance);
        if (lane >= distance) end += before;
    }
    uint32_t start = 0;
    if (lane == 31 && end > 0) start = atomicAdd(p.state.num_candidates + row.index, end);
    start = __shfl_sync(~0u, start, 31) + end - num_mine;
    SampleLogit* candidates = p.state.candidates + static_cast<int64_t>(row.index) * p.state.max_candidates;
#pragma unroll
    for (int i = 0; i < LANE_TOKENS; i++) {
        if (key_of(logits[i]) < floor) continue;
        if (start < static_cast<uint32_t>(p.state.max_candidates)) {
            candidates[start] = {static_cast<uint32_t>(token_of(block, i)), logits[i]};
        }
        start++;
    }
}

// Weighs the chunk. Tokens of at least the key `floor` become candidates.
DEVICE void weigh_chunk(const SampleParams& p, const Row& row, const Weigher& weigher, uint32_t floor) {
    const int end = min(p.state.num_blocks, static_cast<int>(blockIdx.x + 1) * CHUNK_BLOCKS);
    for (int block = blockIdx.x * CHUNK_BLOCKS + threadIdx.x / 32; block < end; block += NUM_WARPS) {
        const uint32_t largest = maxima_of(p, row)[block];
        u64 mass = 0;
        // From here down a weight rounds to a mass of 0.
        if (!(exponent_of(weigher, logit_of(largest)) < -42.0f)) {
            float logits[LANE_TOKENS], weights[LANE_TOKENS];
            load_block(p, row, block, logits);
#pragma unroll
            for (int i = 0; i < LANE_TOKENS; i++) weights[i] = weight_of(weigher, logits[i]);
            mass = mass_of_block(weights);
            if (largest >= floor) append(p, row, block, floor, logits);
        }
        if (threadIdx.x % 32 == 0) masses_of(p, row)[block] = mass;
    }
}

template <Stage stage> DEVICE void weigh(const SampleParams& p, unsigned char* shared) {
    wait_for_previous_kernel();
    const Row row = find_row(p, blockIdx.y);
    if (row.slot < 0) return;
    const SlotSampling& slot = p.state.slots[row.slot];
    const bool has_top_k = slot.top_k > 0 && slot.top_k < static_cast<uint32_t>(p.state.vocab_size);
    const bool has_top_p = slot.top_p < 1.0f;
    if (stage == Stage::raw ? slot.num_logprobs < 0 : !(slot.temperature > 0.0f) || has_top_k) return;
    uint32_t max_key = 0;
    for (int block = threadIdx.x; block < p.state.num_blocks; block += NUM_THREADS) {
        max_key = max(max_key, maxima_of(p, row)[block]);
    }
    max_key = key_at(block_max(place_of(max_key, 0), reinterpret_cast<u64*>(shared)));
    if (status_of(max_key) != SAMPLED) return;
    const bool selects = stage == Stage::edited && has_top_p;
    const float temperature = stage == Stage::raw ? 1.0f : slot.temperature;
    // Where top-p comes first, what is too light by min-p still counts.
    const float min_p = stage == Stage::raw || selects ? 0.0f : slot.min_p;
    const Weigher weigher = weigher_of(max_key, temperature, min_p);
    uint32_t floor = ~0u;
    if (selects) {
        floor = floor_of(p, row, weigher, slot.top_p, reinterpret_cast<float*>(shared));
        if (blockIdx.x == 0 && threadIdx.x == 0) p.state.floors[row.index] = floor;
    }
    weigh_chunk(p, row, weigher, floor);
    let_next_kernel_begin();
}

FOLIO_KERNEL(sample_weigh_raw, SampleParams, NUM_THREADS, 4) {
    DYNAMIC_SHARED(shared);
    weigh<Stage::raw>(p, shared);
}
FOLIO_KERNEL(sample_weigh, SampleParams, NUM_THREADS, 4) {
    DYNAMIC_SHARED(shared);
    weigh<Stage::edited>(p, shared);
}
