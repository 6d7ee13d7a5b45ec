// Where the ranking of a row is cut, by one thread block, without sorting.
//
// The ranking is by place (sample.cuh), the likeliest first. A cut is the place of the last token of the
// shortest prefix whose measure, 1 a token or its mass, reaches a target; 0 is no cut. A histogram of the
// measure tells the bucket where the target is reached; the tokens in it are ranked against each other
// once they are few, or spread over another histogram. Measures are integers and places differ, so the
// prefix is the one that a sort would find, in whatever order the threads add.
//
// Passes over what may be cut (candidates, or blocks that reach the floor): two, three where many logits
// lie close together, at most nine.
#pragma once
#include "sample.cuh"

constexpr int NUM_THREADS = 512;
constexpr int NUM_WARPS = NUM_THREADS / 32;
constexpr int NUM_BUCKETS = 2 * NUM_THREADS;
constexpr int BUCKET_BITS = 10;
constexpr int MAX_RANKED = 256;

// A 64-bit sum in shared memory, added to in halves.
struct Sum {
    uint32_t low, high;
};
DEVICE u64 value_of(const Sum& sum) { return static_cast<u64>(sum.high) << 32 | sum.low; }
DEVICE void add(Sum& sum, u64 x) {
    const uint32_t low = static_cast<uint32_t>(x);
    const uint32_t old = atomicAdd(&sum.low, low);
    const uint32_t high = static_cast<uint32_t>(x >> 32) + (old + low < old ? 1u : 0u);
    if (high > 0) atomicAdd(&sum.high, high);
}

struct alignas(16) Ranked {
    u64 place;
    u64 measure;
};

// Spreads a range of logits evenly over the buckets; monotone, the ends take what lies outside.
struct Spread {
    float low;
    float scale;
};

// What may hold the cut: places from `low` to `high`; of these, where `bucket` is not negative, the bucket of
// a spread.
struct Interval {
    u64 low, high;
    Spread spread;
    int bucket;
    int shift;      // bits to drop of a place's distance from `low` for a bucket
};

// What is searched: the tokens of a row with a key of at least `floor`, as a list of them, or the blocks
// where they are. Most tokens that may be cut have a logit above `guess`.
struct Source {
    const SampleLogit* list;    // null: blocks
    int num;
    uint32_t floor;
    float guess;
};

// In shared memory what all threads know of a search: it would take up their registers.
struct Workspace {
    Sum histogram[NUM_BUCKETS];
    Ranked ranked[MAX_RANKED];
    u64 scratch[NUM_WARPS];
    Source source;
    Interval interval;
    u64 target;     // what is searched for, and what the steps below find, for all threads
    u64 above;
    u64 cut;
    uint32_t low_key;
    uint32_t high_key;
    uint32_t floor;
    int bucket;
    int num_ranked;
    int found;
    int found_bias;
};

// All of shared memory: the workspace, then arrays as long as the row has blocks.
struct Shared {
    Workspace* work;
    Sum* masses;        // [num_blocks]
    uint32_t* maxima;   // [num_blocks], keys
    int* reaching;      // [num_blocks], blocks that reach the floor
};
static_assert(sizeof(Workspace) <= SAMPLE_WORKSPACE_BYTES, "the host gives this much");
static_assert(sizeof(Sum) + sizeof(uint32_t) + sizeof(int) == SAMPLE_BYTES_PER_BLOCK, "a block's share");
DEVICE Shared shared_of(unsigned char* bytes, int num_blocks) {
    Shared s;
    s.work = reinterpret_cast<Workspace*>(bytes);
    s.masses = reinterpret_cast<Sum*>(bytes + SAMPLE_WORKSPACE_BYTES);
    s.maxima = reinterpret_cast<uint32_t*>(s.masses + num_blocks);
    s.reaching = reinterpret_cast<int*>(s.maxima + num_blocks);
    return s;
}

// The sum of x over the threads up to this one, and its own.
DEVICE u64 inclusive_sum(u64 x, u64* scratch) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int distance = 1; distance < 32; distance *= 2) {
        const u64 before = __shfl_up_sync(~0u, x, distance);
        if (lane >= distance) x += before;
    }
    __syncthreads();
    if (lane == 31) scratch[warp] = x;
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < warp; i++) x += scratch[i];
    return x;
}
DEVICE u64 block_total(u64 x, u64* scratch) {
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    u64 total = 0;
    for (int i = 0; i < NUM_WARPS; i++) total += scratch[i];
    return total;
}

// ---- what is searched -----------------------------------------------------------------------------

// Calls visit(logit, key, token) for each token of the source, in no order. No collective in it: lanes
// diverge. Short loops over threads are not unrolled, here and below: two thread blocks of 512 have to
// share the registers of a multiprocessor.
template <class Visit>
DEVICE void for_each(const SampleParams& p, const Row& row, const Shared& s, Visit visit) {
    const SampleLogit* list = s.work->source.list;
    const int num = s.work->source.num;
    if (list != nullptr) {
#pragma unroll 1
        for (int i = threadIdx.x; i < num; i += NUM_THREADS) {
            const SampleLogit entry = list[i];
            visit(entry.logit, key_of(entry.logit), entry.token);
        }
        return;
    }
    const uint32_t floor = s.work->source.floor;
#pragma unroll 1
    for (int i = threadIdx.x / 32; i < num; i += NUM_WARPS) {
        const int block = s.reaching[i];
        float logits[LANE_TOKENS];
        load_block(p, row, block, logits);
        uint32_t wanted = 0;
#pragma unroll
        for (int j = 0; j < LANE_TOKENS; j++) wanted |= (key_of(logits[j]) >= floor ? 1u : 0u) << j;
        // Few are wanted; and `visit` is long, so it is here once.
        for (; wanted != 0; wanted &= wanted - 1) {
            const int j = __ffs(static_cast<int>(wanted)) - 1;
            float logit = logits[0];
#pragma unroll
            for (int other = 1; other < LANE_TOKENS; other++) logit = j == other ? logits[other] : logit;
            visit(logit, key_of(logit), static_cast<uint32_t>(token_of(block, j)));
        }
    }
}

// Makes a list the source.
DEVICE void search_list(const Shared& s, const SampleLogit* list, int num, uint32_t floor) {
    __syncthreads();
    if (threadIdx.x == 0) s.work->source = {list, num, floor, logit_of(floor)};
    __syncthreads();
}

// Makes the blocks that reach `floor`, which is above a ban, the source.
DEVICE void search_blocks(const Shared& s, int num_blocks, uint32_t floor, float guess) {
    __syncthreads();
    if (threadIdx.x == 0) s.work->source = {nullptr, 0, floor, guess};
    __syncthreads();
#pragma unroll 1
    for (int block = threadIdx.x; block < num_blocks; block += NUM_THREADS) {
        if (s.maxima[block] >= floor) s.reaching[atomicAdd(&s.work->source.num, 1)] = block;
    }
    __syncthreads();
}

// ---- histograms -----------------------------------------------------------------------------------

DEVICE Spread spread_over(float low, float high) {
    const float width = fmaxf(high - low, 0.0f);
    return {low, fminf((NUM_BUCKETS - 1) / width, 3.402823466e38f)};
}
DEVICE int bucket_of(const Spread& spread, float logit) {
    const float place = (logit - spread.low) * spread.scale;
    return static_cast<int>(fminf(fmaxf(place, 0.0f), static_cast<float>(NUM_BUCKETS - 1)));
}

DEVICE void clear(Workspace& work) {
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < NUM_BUCKETS; i += NUM_THREADS) work.histogram[i] = {0, 0};
    if (threadIdx.x == 0) work.bucket = -1;
    __syncthreads();
}

// What find_crossing looks for next.
DEVICE void set_target(Workspace& work, u64 target) {
    __syncthreads();
    if (threadIdx.x != 0) return;
    work.target = target;
    work.above = 0;
}

// The bucket, from the highest down, with which the sum, started at `above`, reaches the target, and the
// sum before it: `bucket` and `above` of the workspace. Whether there is one.
DEVICE bool find_crossing(Workspace& work) {
    __syncthreads();
    const int high = NUM_BUCKETS - 1 - 2 * threadIdx.x;
    const u64 above = work.above, target = work.target;
    const u64 first = value_of(work.histogram[high]), second = value_of(work.histogram[high - 1]);
    const u64 before = above + inclusive_sum(first + second, work.scratch) - first - second;
    if (before < target && before + first + second >= target) {
        const bool is_first = before + first >= target;
        work.bucket = is_first ? high : high - 1;
        work.above = is_first ? before : before + first;
    }
    __syncthreads();
    return work.bucket >= 0;
}

// A key that at least k of the block maxima reach; `high` is the largest, `low` the smallest that is no ban.
DEVICE uint32_t kth_maximum(const Shared& s, int num_blocks, uint32_t k, uint32_t low, uint32_t high) {
    Workspace& work = *s.work;
    const Spread spread = spread_over(logit_of(low), logit_of(high));
    set_target(work, k);
    clear(work);
    if (threadIdx.x == 0) work.floor = high;
#pragma unroll 1
    for (int block = threadIdx.x; block < num_blocks; block += NUM_THREADS) {
        const uint32_t key = s.maxima[block];
        if (key > KEY_OF_BAN) add(work.histogram[bucket_of(spread, logit_of(key))], 1);
    }
    if (!find_crossing(work)) return KEY_OF_LOWEST;
#pragma unroll 1
    for (int block = threadIdx.x; block < num_blocks; block += NUM_THREADS) {
        const uint32_t key = s.maxima[block];
        if (key > KEY_OF_BAN && bucket_of(spread, logit_of(key)) >= work.bucket) atomicMin(&work.floor, key);
    }
    __syncthreads();
    return work.floor;
}

// ---- the cut --------------------------------------------------------------------------------------

DEVICE bool contains(const Interval& in, u64 place, float logit) {
    return place >= in.low && place <= in.high && (in.bucket < 0 || bucket_of(in.spread, logit) == in.bucket);
}

DEVICE int shift_of(u64 low, u64 high) { return max(64 - __clzll(high - low) - BUCKET_BITS, 0); }

// The smallest key from `low` to `high` whose logit is in `bucket` or above it; `high` + 1 if there is none.
DEVICE uint32_t first_key(const Spread& spread, int bucket, uint32_t low, uint32_t high) {
    uint32_t end = high + 1;
    while (low < end) {
        const uint32_t middle = low + (end - low) / 2;
        if (bucket_of(spread, logit_of(middle)) >= bucket) end = middle;
        else low = middle + 1;
    }
    return low;
}

// Turns the bucket of a spread into the places between its ends.
DEVICE void straighten(Workspace& work) {
    Interval& in = work.interval;
    const uint32_t low = key_at(in.low), high = key_at(in.high);
    if (threadIdx.x == 0) work.low_key = first_key(in.spread, in.bucket, low, high);
    if (threadIdx.x == 32) work.high_key = first_key(in.spread, in.bucket + 1, low, high);
    __syncthreads();
    if (threadIdx.x == 0) {
        in.low = max(in.low, static_cast<u64>(work.low_key) << 32);
        in.high = min(in.high, (static_cast<u64>(work.high_key) << 32) - 1);
        in.bucket = -1;
        in.shift = shift_of(in.low, in.high);
    }
}

// Narrows the interval to the bucket where the target was reached.
DEVICE void narrow(Workspace& work, bool is_spread) {
    if (threadIdx.x == 0) {
        Interval& in = work.interval;
        if (is_spread) {
            in.bucket = work.bucket;
        } else {
            in.low += static_cast<u64>(work.bucket) << in.shift;
            in.high = min(in.high, in.low + ((1ull << in.shift) - 1));
            in.shift = shift_of(in.low, in.high);
        }
        work.num_ranked = 0;
    }
    __syncthreads();
}

// The place in `ranked` with which the sum, started at `above`, reaches the target.
DEVICE u64 rank(Workspace& work) {
    const u64 target = work.target;
    const int num = work.num_ranked;
    if (static_cast<int>(threadIdx.x) < num) {
        const Ranked mine = work.ranked[threadIdx.x];
        u64 sum = work.above;
#pragma unroll 2
        for (int i = 0; i < num; i++) {
            const Ranked other = work.ranked[i];
            if (other.place >= mine.place) sum += other.measure;
        }
        if (sum >= target && sum - mine.measure < target) work.cut = mine.place;
    }
    __syncthreads();
    return work.cut;
}

// Puts the tokens of the interval in `ranked`; whether there is room for all.
template <class Measure>
DEVICE bool collect(const SampleParams& p, const Row& row, const Shared& s, Measure measure) {
    Workspace& work = *s.work;
    for_each(p, row, s, [&](float logit, uint32_t key, uint32_t token) {
        const u64 place = place_of(key, token);
        if (!contains(work.interval, place, logit)) return;
        // Once they are too many, no more come here to wait for each other.
        if (*static_cast<volatile int*>(&work.num_ranked) > MAX_RANKED) return;
        const int at = atomicAdd(&work.num_ranked, 1);
        if (at < MAX_RANKED) work.ranked[at] = {place, measure(logit)};
    });
    __syncthreads();
    return work.num_ranked <= MAX_RANKED;
}

// The cut among the tokens of the source with places from `low` to `high`. 0 where all together measure less
// than the target, which is at least 1.
template <class Measure>
DEVICE u64 find_cut(const SampleParams& p, const Row& row, const Shared& s, u64 low, u64 high, u64 target,
                    Measure measure) {
    Workspace& work = *s.work;
    set_target(work, target);
    if (threadIdx.x == 0) {
        work.interval = {low, high, spread_over(work.source.guess, logit_of(key_at(high))), -1, 0};
    }
    for (bool is_spread = true;; is_spread = false) {
        clear(work);
        for_each(p, row, s, [&](float logit, uint32_t key, uint32_t token) {
            const Interval& in = work.interval;
            const u64 place = place_of(key, token);
            if (!contains(in, place, logit)) return;
            const u64 distance = (place - in.low) >> in.shift;
            const int bucket = is_spread ? bucket_of(in.spread, logit) : static_cast<int>(distance);
            add(work.histogram[bucket], measure(logit));
        });
        if (!find_crossing(work)) return 0;
        narrow(work, is_spread);
        if (collect(p, row, s, measure)) return rank(work);
        if (is_spread) straighten(work);
    }
}
