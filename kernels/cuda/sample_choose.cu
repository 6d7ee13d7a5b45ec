// sample_choose, sample_top: from the block maxima and masses of a row to its token, and to its likeliest
// tokens under the model; one block of threads a row.
//
// Grid [E]. Reads 4 to 12 bytes for each 256 logits, and of the logits: one block for the largest or a
// plain draw; two or three times the candidates (top-p) or the blocks that reach the k-th largest maximum
// (top-k) where it cuts. Where there are more candidates than room, or more of top-k than blocks, the
// passes are over the row. Shared memory: 13 KB and 16 bytes a block.
// nvcc: --fmad=false
// sass sample_*: registers<=64 LDG.E.128
#include "sample_select.cuh"

// ---- the random number ----------------------------------------------------------------------------

// The number of this seed, choice and position in (0, 1) times 2^53: two words of Philox4x32-10.
DEVICE u64 random_numerator(const SlotSampling& slot, uint32_t position) {
    uint32_t counter[4] = {position, slot.choice_index, 0, 0};
    uint32_t key[2] = {slot.seed_low, slot.seed_high};
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u64 first = static_cast<u64>(0xD2511F53u) * counter[0];
        const u64 second = static_cast<u64>(0xCD9E8D57u) * counter[2];
        counter[0] = static_cast<uint32_t>(second >> 32) ^ counter[1] ^ key[0];
        counter[1] = static_cast<uint32_t>(second);
        counter[2] = static_cast<uint32_t>(first >> 32) ^ counter[3] ^ key[1];
        counter[3] = static_cast<uint32_t>(first);
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return 2 * (static_cast<u64>(counter[0]) << 20 | counter[1] >> 12) + 1;
}

// ---- the row --------------------------------------------------------------------------------------

struct Maxima {
    uint32_t largest;
    uint32_t smallest;  // of those that are no ban
};

DEVICE Maxima load_maxima(const SampleParams& p, const Row& row, const Shared& s) {
    u64 largest = 0, smallest = 0;
#pragma unroll 1
    for (int block = threadIdx.x; block < p.state.num_blocks; block += NUM_THREADS) {
        const uint32_t key = maxima_of(p, row)[block];
        s.maxima[block] = key;
        largest = max(largest, static_cast<u64>(key));
        if (key > KEY_OF_BAN) smallest = max(smallest, static_cast<u64>(~key));
    }
    largest = block_max(largest, s.work->scratch);
    smallest = block_max(smallest, s.work->scratch);
    return {static_cast<uint32_t>(largest), ~static_cast<uint32_t>(smallest)};
}

// The first token with the key of the row's largest logit, for all threads. Broken logits have the largest
// keys, so this is also how the first of them is found.
DEVICE uint32_t argmax(const SampleParams& p, const Row& row, const Shared& s, uint32_t largest) {
    u64 first = 0;
#pragma unroll 1
    for (int block = threadIdx.x; block < p.state.num_blocks; block += NUM_THREADS) {
        if (s.maxima[block] == largest) first = max(first, static_cast<u64>(~static_cast<uint32_t>(block)));
    }
    const int block = static_cast<int>(~static_cast<uint32_t>(block_max(first, s.work->scratch)));
    float logits[LANE_TOKENS];
    load_block(p, row, block, logits);
    u64 place = 0;
#pragma unroll
    for (int i = 0; i < LANE_TOKENS; i++) {
        place = max(place, place_of(key_of(logits[i]), static_cast<uint32_t>(token_of(block, i))));
    }
    return token_at(warp_max(place));
}

// ---- truncation -----------------------------------------------------------------------------------

DEVICE u64 total_mass(const SampleParams& p, const Row& row, Workspace& work) {
    u64 total = 0;
    const uint64_t* masses = masses_of(p, row);
#pragma unroll 1
    for (int block = threadIdx.x; block < p.state.num_blocks; block += NUM_THREADS) total += masses[block];
    return block_total(total, work.scratch);
}

// What of the total top-p must keep.
DEVICE u64 target_of(float top_p, u64 total) {
    const double target = ceil(static_cast<double>(top_p) * static_cast<double>(total));
    if (!(target >= 1.0)) return 1;
    return min(static_cast<u64>(target), total);
}

// The cut that keeps the k likeliest, or 0 where fewer are not banned; the source is then what may be kept.
DEVICE u64 cut_top_k(const SampleParams& p, const Row& row, const Shared& s, const Maxima& maxima,
                     uint32_t k) {
    const int num_blocks = p.state.num_blocks;
    if (k <= static_cast<uint32_t>(num_blocks)) {
        const uint32_t floor = kth_maximum(s, num_blocks, k, maxima.smallest, maxima.largest);
        search_blocks(s, num_blocks, floor, logit_of(floor));
    } else {
        const float low = logit_of(maxima.smallest), high = logit_of(maxima.largest);
        search_blocks(s, num_blocks, KEY_OF_LOWEST, low - (high - low));
    }
    const auto one = [](float) { return static_cast<u64>(1); };
    return find_cut(p, row, s, 0, place_of(maxima.largest, 0), k, one);
}

// The mass of the tokens of the source from the cut up.
DEVICE u64 mass_from(const SampleParams& p, const Row& row, const Shared& s, const Weigher& weigher,
                     u64 cut) {
    u64 total = 0;
    for_each(p, row, s, [&](float logit, uint32_t key, uint32_t token) {
        if (place_of(key, token) >= cut) total += mass_of(weight_of(weigher, logit));
    });
    return block_total(total, s.work->scratch);
}

// Makes the row's candidates the source, or, where they are too many, the blocks they are in.
DEVICE void search_candidates(const SampleParams& p, const Row& row, const Shared& s) {
    const uint32_t num = p.state.num_candidates[row.index], floor = p.state.floors[row.index];
    const int64_t first = static_cast<int64_t>(row.index) * p.state.max_candidates;
    const bool fits = num <= static_cast<uint32_t>(p.state.max_candidates);
    if (fits) search_list(s, p.state.candidates + first, static_cast<int>(num), floor);
    else search_blocks(s, p.state.num_blocks, floor, logit_of(floor));
}

// Tightens the cut of top-k, 0 without one, so that it keeps `top_p` of the mass that it kept.
DEVICE u64 cut_top_p(const SampleParams& p, const Row& row, const Shared& s, const Weigher& weigher,
                     float top_p, u64 cut) {
    const bool has_source = s.work->source.num > 0;
    const u64 total = has_source ? mass_from(p, row, s, weigher, cut) : total_mass(p, row, *s.work);
    if (!has_source) search_candidates(p, row, s);
    const u64 target = target_of(top_p, total), last = place_of(key_of(weigher.max), 0);
    const auto mass = [&](float logit) { return mass_of(weight_of(weigher, logit)); };
    for (bool is_last = has_source;; is_last = true) {
        const u64 tighter = find_cut(p, row, s, cut, last, target, mass);
        if (tighter > 0 || is_last) return max(cut, tighter);
        // The floor was too high.
        search_blocks(s, p.state.num_blocks, KEY_OF_LOWEST, s.work->source.guess);
    }
}

// Leaves the masses of the blocks, of tokens of the source from the cut up only.
DEVICE void weigh_kept(const SampleParams& p, const Row& row, const Shared& s, const Weigher& weigher,
                       u64 cut) {
    __syncthreads();
#pragma unroll 1
    for (int block = threadIdx.x; block < p.state.num_blocks; block += NUM_THREADS) s.masses[block] = {0, 0};
    __syncthreads();
    if (s.work->source.list != nullptr) {
        for_each(p, row, s, [&](float logit, uint32_t key, uint32_t token) {
            if (place_of(key, token) < cut) return;
            add(s.masses[token / BLOCK_TOKENS], mass_of(weight_of(weigher, logit)));
        });
        return;
    }
#pragma unroll 1
    for (int i = threadIdx.x / 32; i < s.work->source.num; i += NUM_WARPS) {
        const int block = s.reaching[i];
        float logits[LANE_TOKENS];
        load_block(p, row, block, logits);
#pragma unroll
        for (int j = 0; j < LANE_TOKENS; j++) {
            const u64 place = place_of(key_of(logits[j]), static_cast<uint32_t>(token_of(block, j)));
            logits[j] = place >= cut ? weight_of(weigher, logits[j]) : 0.0f;
        }
        const u64 mass = mass_of_block(logits);
        if (threadIdx.x % 32 == 0) {
            s.masses[block] = {static_cast<uint32_t>(mass), static_cast<uint32_t>(mass >> 32)};
        }
    }
}

// ---- the draw -------------------------------------------------------------------------------------

// For one warp: the token of the block at which the running sum of masses exceeds `target`.
DEVICE uint32_t draw_in_block(const SampleParams& p, const Row& row, const Weigher& weigher, int block,
                              u64 cut, u64 target) {
    const int lane = threadIdx.x % 32;
    float logits[LANE_TOKENS];
    load_block(p, row, block, logits);
    u64 masses[LANE_TOKENS];
#pragma unroll
    for (int i = 0; i < LANE_TOKENS; i++) {
        const u64 place = place_of(key_of(logits[i]), static_cast<uint32_t>(token_of(block, i)));
        masses[i] = place >= cut ? mass_of(weight_of(weigher, logits[i])) : 0;
    }
    int drawn = -1;
    u64 before = 0;
#pragma unroll
    for (int half = 0; half < LANE_TOKENS; half += 4) {
        const u64 mine = masses[half] + masses[half + 1] + masses[half + 2] + masses[half + 3];
        u64 sum = mine;
        for (int distance = 1; distance < 32; distance *= 2) {
            const u64 other = __shfl_up_sync(~0u, sum, distance);
            if (lane >= distance) sum += other;
        }
        u64 running = before + sum - mine;
#pragma unroll
        for (int i = half; i < half + 4; i++) {
            running += masses[i];
            if (running > target && drawn < 0 && running - masses[i] <= target) drawn = token_of(block, i);
        }
        before += __shfl_sync(~0u, sum, 31);
    }
    // One lane has it.
    return static_cast<uint32_t>(__reduce_max_sync(~0u, drawn));
}

// The token that the random number falls on, for all threads. `s.masses` are those of the blocks.
DEVICE uint32_t draw(const SampleParams& p, const Row& row, const Shared& s, const Weigher& weigher, u64 cut,
                     u64 numerator) {
    Workspace& work = *s.work;
    __syncthreads();
    // Each thread has neighbouring blocks.
    const int num_mine = (p.state.num_blocks + NUM_THREADS - 1) / NUM_THREADS;
    const int start = min(static_cast<int>(threadIdx.x) * num_mine, p.state.num_blocks);
    const int end = min(start + num_mine, p.state.num_blocks);
    u64 mine = 0;
    for (int block = start; block < end; block++) mine += value_of(s.masses[block]);
    const u64 sum = inclusive_sum(mine, work.scratch);
    if (threadIdx.x == NUM_THREADS - 1) {
        // The total times the number, which is in units of 2^-53.
        work.target = __umul64hi(sum, numerator) << 11 | sum * numerator >> 53;
    }
    __syncthreads();
    const u64 target = work.target;
    if (target < sum && target >= sum - mine) {
        u64 rest = target - (sum - mine);
        int block = start;
        while (block + 1 < end && rest >= value_of(s.masses[block])) rest -= value_of(s.masses[block++]);
        work.bucket = block;
        work.above = rest;
    }
    __syncthreads();
    return draw_in_block(p, row, weigher, work.bucket, cut, work.above);
}

DEVICE uint32_t sample(const SampleParams& p, const Row& row, const Shared& s, const SlotSampling& slot,
                       const Maxima& maxima) {
    if (!(slot.temperature > 0.0f)) return argmax(p, row, s, maxima.largest);
    const bool has_top_k = slot.top_k > 0 && slot.top_k < static_cast<uint32_t>(p.state.vocab_size);
    const bool has_top_p = slot.top_p < 1.0f;
    u64 cut = 0;
    if (threadIdx.x == 0) s.work->source.num = 0;
    __syncthreads();
    if (has_top_k) cut = cut_top_k(p, row, s, maxima, slot.top_k);
    if (has_top_p) {
        // What is too light by min-p still counts.
        const Weigher all = weigher_of(maxima.largest, slot.temperature, 0.0f);
        cut = cut_top_p(p, row, s, all, slot.top_p, cut);
    }
    const Weigher weigher = weigher_of(maxima.largest, slot.temperature, slot.min_p);
    if (has_top_k || has_top_p) {
        weigh_kept(p, row, s, weigher, cut);
    } else {
        for (int block = threadIdx.x; block < p.state.num_blocks; block += NUM_THREADS) {
            const u64 mass = masses_of(p, row)[block];
            s.masses[block] = {static_cast<uint32_t>(mass), static_cast<uint32_t>(mass >> 32)};
        }
    }
    return draw(p, row, s, weigher, cut, random_numerator(slot, row.position));
}

// ---- results --------------------------------------------------------------------------------------

// The indexes of a token in the slot's counts and biases, -1 where it is in none: `found` and `found_bias`.
DEVICE void find_in_lists(const SampleParams& p, const Row& row, const SlotSampling& slot, Workspace& work,
                          uint32_t token) {
    __syncthreads();
    if (threadIdx.x == 0) work.found = work.found_bias = -1;
    __syncthreads();
    const SampleCount* counts = p.state.counts + static_cast<int64_t>(row.slot) * p.state.max_counts;
    const uint32_t num_counts = slot.tracks_counts > 0 ? slot.num_counts : 0;
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < num_counts; i += NUM_THREADS) {
        if (counts[i].token == token) work.found = static_cast<int>(i);
    }
    const SampleLogit* biases = p.state.biases + static_cast<int64_t>(row.slot) * p.state.max_listed;
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < slot.num_biases; i += NUM_THREADS) {
        if (biases[i].token == token) work.found_bias = static_cast<int>(i);
    }
    __syncthreads();
}

// For one thread: counts the token, which is entry `found` of the slot's list unless that is -1.
DEVICE void count_token(const SampleParams& p, const Row& row, SlotSampling& slot, int found,
                        uint32_t token) {
    SampleCount* counts = p.state.counts + static_cast<int64_t>(row.slot) * p.state.max_counts;
    if (found >= 0) {
        counts[found].count++;
    } else if (slot.num_counts < static_cast<uint32_t>(p.state.max_counts)) {
        counts[slot.num_counts] = {token, 1};
        slot.num_counts++;
    } else {
        slot.tracks_counts = 2;
    }
}

// For one thread, after find_in_lists: the token's logit before the edits of this step.
DEVICE float raw_logit(const SampleParams& p, const Row& row, const Workspace& work, uint32_t token) {
    const int64_t slot = row.slot;
    if (work.found >= 0) return p.state.count_originals[slot * p.state.max_counts + work.found];
    if (work.found_bias >= 0) return p.state.bias_originals[slot * p.state.max_listed + work.found_bias];
    return row.logits[token];
}

DEVICE void finish(const SampleParams& p, const Row& row, SlotSampling& slot, Workspace& work, int status,
                   uint32_t token) {
    const bool has_logprobs = slot.num_logprobs >= 0;
    if (status == SAMPLED && (slot.tracks_counts > 0 || has_logprobs)) {
        find_in_lists(p, row, slot, work, token);
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    p.state.num_candidates[row.index] = 0;
    const SampleRecord raw = p.state.records[row.index];
    write_result(p, row, status, token);
    if (status != SAMPLED) return;
    if (has_logprobs) {
        const float logit = raw_logit(p, row, work, token);
        p.state.records[row.index] = {status, token, logit, raw.raw_max, raw.raw_mass, raw.num_top, 0};
    }
    if (slot.tracks_counts > 0) count_token(p, row, slot, work.found, token);
}

FOLIO_KERNEL(sample_choose, SampleParams, NUM_THREADS, 2) {
    DYNAMIC_SHARED(bytes);
    wait_for_previous_kernel();
    const Row row = find_row(p, blockIdx.x);
    if (row.slot < 0) return;
    const Shared s = shared_of(bytes, p.state.num_blocks);
    SlotSampling& slot = p.state.slots[row.slot];
    int status = slot.tracks_counts > 1 ? SAMPLE_COUNTS_FULL : SAMPLED;
    uint32_t token = 0;
    if (status == SAMPLED && slot.num_logprobs >= 0) {
        // What sample_top found wrong with the model's own logits comes first.
        status = p.state.records[row.index].status;
        token = p.state.records[row.index].token;
    }
    if (status == SAMPLED) {
        const Maxima maxima = load_maxima(p, row, s);
        status = status_of(maxima.largest);
        if (status == SAMPLED) token = sample(p, row, s, slot, maxima);
        else token = argmax(p, row, s, maxima.largest);
    }
    let_next_kernel_begin();
    finish(p, row, slot, *s.work, status, token);
}

// ---- the likeliest tokens under the model ---------------------------------------------------------

// Puts the `num` likeliest tokens that the model does not rule out in the row's list, best first; returns
// their number.
DEVICE int list_top(const SampleParams& p, const Row& row, const Shared& s, const Maxima& maxima, int num) {
    if (num == 0) return 0;
    const u64 cut = cut_top_k(p, row, s, maxima, static_cast<uint32_t>(num));
    Workspace& work = *s.work;
    __syncthreads();
    if (threadIdx.x == 0) work.num_ranked = 0;
    __syncthreads();
    for_each(p, row, s, [&](float logit, uint32_t key, uint32_t token) {
        const u64 place = place_of(key, token);
        if (place < cut) return;
        const int at = atomicAdd(&work.num_ranked, 1);
        if (at < MAX_TOP) work.ranked[at] = {place, __float_as_uint(logit)};
    });
    __syncthreads();
    const int num_top = min(work.num_ranked, num);
    if (static_cast<int>(threadIdx.x) < num_top) {
        const Ranked mine = work.ranked[threadIdx.x];
        int rank = 0;
        for (int i = 0; i < num_top; i++) rank += work.ranked[i].place > mine.place;
        const float logit = __uint_as_float(static_cast<uint32_t>(mine.measure));
        p.state.tops[row.index * MAX_TOP + rank] = {token_at(mine.place), logit};
    }
    return num_top;
}

FOLIO_KERNEL(sample_top, SampleParams, NUM_THREADS, 2) {
    DYNAMIC_SHARED(bytes);
    wait_for_previous_kernel();
    const Row row = find_row(p, blockIdx.x);
    if (row.slot < 0) return;
    const int num_logprobs = min(p.state.slots[row.slot].num_logprobs, MAX_TOP);
    if (num_logprobs < 0) return;
    const Shared s = shared_of(bytes, p.state.num_blocks);
    const Maxima maxima = load_maxima(p, row, s);
    SampleRecord record = {status_of(maxima.largest), 0, 0.0f, 0.0f, 0, 0, 0};
    if (record.status == SAMPLED) {
        record.raw_max = logit_of(maxima.largest);
        record.raw_mass = total_mass(p, row, *s.work);
        record.num_top = list_top(p, row, s, maxima, num_logprobs);
    } else {
        record.token = argmax(p, row, s, maxima.largest);
    }
    let_next_kernel_begin();
    if (threadIdx.x == 0) p.state.records[row.index] = record;
}
