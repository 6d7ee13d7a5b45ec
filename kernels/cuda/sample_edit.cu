// sample_edit: changes to single logits: penalties, bias, and the ban on stopping too early. And
// sample_update: what slots that begin a new sequence sample by.
//
// sample_edit, grid [E]: touches the listed tokens only, at 4 to 8 bytes of list and a sector read and
// written of the logits each, and keeps what the logits were. Within a list no token occurs twice, so
// only the lists are in order. sample_update, grid [U]: copies, 4 bytes read and written a word.
// nvcc: --fmad=false
// sass sample_*: registers<=64
#include "sample.cuh"

constexpr int NUM_THREADS = 256;

// A finite logit stays below infinity, which would read as a broken model later on.
DEVICE float penalised(float logit, uint32_t count, const SlotSampling& slot) {
    float changed = logit;
    if (count > 0) changed -= static_cast<float>(count) * slot.frequency + slot.presence;
    if (slot.repetition != 1.0f) {
        changed = changed > 0.0f ? changed / slot.repetition : changed * slot.repetition;
    }
    return logit < INFINITY && changed > 3.402823466e38f ? 3.402823466e38f : changed;
}

FOLIO_KERNEL(sample_edit, SampleParams, NUM_THREADS, 4) {
    wait_for_previous_kernel();
    const Row row = find_row(p, blockIdx.x);
    if (row.slot < 0) return;
    const SlotSampling& slot = p.state.slots[row.slot];
    const uint32_t vocab_size = p.state.vocab_size;
    const int64_t first_count = static_cast<int64_t>(row.slot) * p.state.max_counts;
    const int64_t first_listed = static_cast<int64_t>(row.slot) * p.state.max_listed;
    const uint32_t num_counts = slot.tracks_counts > 0 ? slot.num_counts : 0;
    for (uint32_t i = threadIdx.x; i < num_counts; i += NUM_THREADS) {
        const SampleCount entry = p.state.counts[first_count + i];
        if (entry.token >= vocab_size) continue;
        const float logit = row.logits[entry.token];
        p.state.count_originals[first_count + i] = logit;
        row.logits[entry.token] = penalised(logit, entry.count, slot);
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < slot.num_biases; i += NUM_THREADS) {
        const SampleLogit entry = p.state.biases[first_listed + i];
        if (entry.token >= vocab_size) continue;
        const float logit = row.logits[entry.token];
        p.state.bias_originals[first_listed + i] = logit;
        row.logits[entry.token] = logit + entry.logit;
    }
    __syncthreads();
    if (row.position - slot.prompt_len < slot.min_tokens) {
        for (uint32_t i = threadIdx.x; i < slot.num_stops; i += NUM_THREADS) {
            const uint32_t token = p.state.stops[first_listed + i];
            if (token < vocab_size) row.logits[token] = -INFINITY;
        }
    }
    let_next_kernel_begin();
}

// Copies words from an update.
template <class T> DEVICE const uint32_t* take(const uint32_t* from, T* to, uint32_t num) {
    uint32_t* words = reinterpret_cast<uint32_t*>(to);
    const uint32_t num_words = num * static_cast<uint32_t>(sizeof(T) / 4);
    for (uint32_t i = threadIdx.x; i < num_words; i += NUM_THREADS) words[i] = from[i];
    return from + num_words;
}

FOLIO_KERNEL(sample_update, UpdateSlotsParams, NUM_THREADS, 4) {
    wait_for_previous_kernel();
    const uint32_t* from = p.updates + p.updates[blockIdx.x];
    const int64_t slot = from[0];
    const SlotSampling& sampling = *reinterpret_cast<const SlotSampling*>(from + 1);
    from = take(from + 1, p.state.slots + slot, 1);
    from = take(from, p.state.counts + slot * p.state.max_counts, sampling.num_counts);
    from = take(from, p.state.biases + slot * p.state.max_listed, sampling.num_biases);
    take(from, p.state.stops + slot * p.state.max_listed, sampling.num_stops);
    let_next_kernel_begin();
}
