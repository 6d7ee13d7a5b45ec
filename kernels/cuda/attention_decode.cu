// Attention of rows with one query token over the paged cache.
//
// Grid: as many blocks as fit the device, each with a share of all (row, head tile, tile of 64 keys)
// that attention_plan cut evenly. A head tile is up to 16 query heads of one group, the M of the
// tensor cores' tile. Of each 64 keys a warp has 16, its own ring of half tiles (16 keys or 16 values)
// and its own softmax, so that the main loop has no barrier; half tiles are sent for across the ends
// of rows. Pieces of a row that several blocks have go to `partials`, and the block that arrives last
// adds them up in the order of positions.
// Floor: 4 * D bytes of keys and values per token and key/value head, read once: with D = 128, 512
// bytes, 0.17 ns at 3.0 TB/s, and 32 KiB a tile, 2500 clocks of one of an H100's multiprocessors. A tile
// is 365 instructions of each warp (sm_90a), 15 % of the slots in that time, and 160 KiB are under way.
// sass attention_decode_*: registers<=255 HMMA LDSM LDGSTS.E.BYPASS.128
// sass attention_decode_*_d64: registers<=128
// sass attention_decode_*_d128: registers<=192
#include "attention.cuh"

constexpr int WARPS = 4;
constexpr int WARP_TOKENS = TILE_TOKENS / WARPS;
constexpr int HEADS = 16;

// Half tiles of a warp's ring: about 96 KiB a block, so that an H100 holds two.
template <int D> constexpr int RING_LENGTH = D <= 96 ? 8 : D <= 128 ? 6 : 3;

// Head tile i: query heads of one group, and so of one key/value head.
struct HeadTile {
    int kv_head, first, count;

    DEVICE HeadTile(const AttentionDecodeParams& p, int i) {
        const int per_group = ceil_div(p.group, HEADS), first_of_group = i % per_group * HEADS;
        kv_head = i / per_group;
        first = kv_head * p.group + first_of_group;
        count = min(HEADS, p.group - first_of_group);
    }
};

// A place in a block's share.
struct Walk {
    int row, head_tile, tile, tiles_left;
    int token, slot;                    // of the row
    int begin, end;                     // positions that its query sees

    DEVICE Walk(const AttentionDecodeParams& p, const AttentionShare& share)
        : row(share.row), head_tile(share.head_tile), tile(share.tile), tiles_left(share.num_tiles) {
        enter(p);
    }

    DEVICE void enter(const AttentionDecodeParams& p) {
        const int4 r = *reinterpret_cast<const int4*>(p.rows + row);
        token = r.x;
        slot = r.y;
        end = r.z;
        begin = p.window > 0 && end > p.window ? end - p.window : 0;
    }

    DEVICE int first_tile() const { return static_cast<unsigned>(begin) / TILE_TOKENS; }
    DEVICE int end_tile() const { return static_cast<unsigned>(end + TILE_TOKENS - 1) / TILE_TOKENS; }

    DEVICE void advance(const AttentionDecodeParams& p, int num_tiles) {
        tiles_left -= num_tiles;
        tile += num_tiles;
        if (tiles_left == 0 || tile < end_tile()) return;
        if (++head_tile == p.num_kv_heads * ceil_div(p.group, HEADS)) {
            head_tile = 0;
            ++row;
            enter(p);
        }
        tile = first_tile();
    }
};

enum class Half { keys, values };

// Sends for a warp's half tiles, ahead of the arithmetic: the keys of a tile and then its values.
template <class T, int D> struct Loader {
    Walk walk;
    int kv_head;
    int page;                           // of the walk's tile, fetched when the walk got there
    int64_t offset;                     // of the warp's tokens of the tile in the layer's keys or values

    DEVICE Loader(const AttentionDecodeParams& p, const AttentionShare& share)
        : walk(p, share), kv_head(HeadTile(p, share.head_tile).kv_head), page(0), offset(0) {
        fetch_page(p);
    }

    DEVICE int first_token() const { return walk.tile * TILE_TOKENS + threadIdx.x / 32 * WARP_TOKENS; }

    // Whether the row's query sees some of the warp's tokens of the tile.
    DEVICE bool is_seen() const {
        const int token = first_token();
        return walk.tiles_left > 0 && token < walk.end && token + WARP_TOKENS > walk.begin;
    }

    DEVICE void fetch_page(const AttentionDecodeParams& p) {
        if (!is_seen()) return;
        const int32_t* blocks = p.block_tables + static_cast<int64_t>(walk.slot) * p.max_blocks;
        page = blocks[first_token() >> p.block_shift];
    }

    template <Half HALF> DEVICE void load(const AttentionDecodeParams& p, T* shared) {
        if (is_seen()) {
            const int token = first_token();
            if (HALF == Half::keys) {
                const int in_block = (kv_head << p.block_shift) + (token & ((1 << p.block_shift) - 1));
                offset = page * p.block_stride + static_cast<int64_t>(in_block) * D;
            }
            const T* source = static_cast<const T*>(HALF == Half::keys ? p.keys : p.values) + offset;
            load_rows<T, D, WARP_TOKENS>(shared, source, walk.begin - token, walk.end - token);
        }
        cp_async_commit();
        if (HALF == Half::keys || walk.tiles_left == 0) return;
        const int head_tile = walk.head_tile;
        walk.advance(p, 1);
        if (walk.head_tile != head_tile) kv_head = HeadTile(p, walk.head_tile).kv_head;
        fetch_page(p);
    }
};

// What a half tile makes room for: a ring of odd length has keys where it had values.
template <int D> constexpr Half AFTER_KEYS = RING_LENGTH<D> % 2 == 0 ? Half::keys : Half::values;
template <int D> constexpr Half AFTER_VALUES = RING_LENGTH<D> % 2 == 0 ? Half::values : Half::keys;

template <class T, int D>
DEVICE void fill_ring(Loader<T, D>& loader, const AttentionDecodeParams& p, T* ring) {
    constexpr int length = RING_LENGTH<D>;
#pragma unroll 1
    for (int i = 0; i + 1 < length; i += 2) {
        loader.template load<Half::keys>(p, ring + i * WARP_TOKENS * D);
        loader.template load<Half::values>(p, ring + (i + 1) * WARP_TOKENS * D);
    }
    if (length % 2 == 1) loader.template load<Half::keys>(p, ring + (length - 1) * WARP_TOKENS * D);
}

// What the block has done of one (row, head tile).
struct Piece {
    int token, first_head, num_heads;
    bool begins;                        // with the row's first tile
    int owner, num_pieces;              // the block that has that tile, and how many have some
};

// Queries of a head tile as left operands; rows beyond its heads are zero. Of heads longer than 128,
// for which registers do not suffice, the rest is read anew for every tile.
template <class T, int D> struct Queries {
    static constexpr int num_held = D <= 128 ? D / 16 : 8;
    uint32_t held[num_held][4];
    const T* source;
    int num_heads;

    DEVICE Queries(const AttentionDecodeParams& p, const Walk& walk) {
        const HeadTile heads(p, walk.head_tile);
        num_heads = heads.count;
        source = static_cast<const T*>(p.queries) + walk.token * p.query_stride + heads.first * D;
#pragma unroll
        for (int k = 0; k < num_held; ++k) read(k, held[k]);
    }

    DEVICE void read(int k, uint32_t (&a)[4]) const {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = g + i % 2 * 8;
            const T* pair = source + row * D + k * 16 + i / 2 * 8 + t * 2;
            a[i] = row < num_heads ? *reinterpret_cast<const uint32_t*>(pair) : 0u;
        }
    }

    DEVICE void fragment(int, int k, uint32_t (&a)[4]) const {
        if (k < num_held) {
#pragma unroll
            for (int i = 0; i < 4; ++i) a[i] = held[k][i];
        } else {
            read(k, a);
        }
    }
};

// ---- from four warps to one row ------------------------------------------------------------------------

// Where column c of row r lies in the 16 x D floats that a warp leaves in two half tiles of its ring:
// the left half of the columns in the one, the right half in the other.
template <int D> DEVICE int dump_offset(int row, int column) {
    constexpr int width = D / 2;
    constexpr int spread = width % 32 == 0 ? 4 : width % 16 == 0 ? 2 : 1;
    return row * width + (column ^ ((row / (4 / spread)) % spread * 8));
}

template <class T, int D>
DEVICE void dump(float* left, float* right, const float (&sums)[D / 8][4], int num_rows) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
        float* half = n < D / 16 ? left : right;
        const int column = n % (D / 16) * 8 + t * 2;
        if (g < num_rows) {
            *reinterpret_cast<float2*>(half + dump_offset<D>(g, column)) =
                make_float2(sums[n][0], sums[n][1]);
        }
        if (g + 8 < num_rows) {
            *reinterpret_cast<float2*>(half + dump_offset<D>(g + 8, column)) =
                make_float2(sums[n][2], sums[n][3]);
        }
    }
}

// What is added up for a row: weights relative to 2^offset.
struct State {
    float offset, sum;
};

DEVICE void leave_states(State* states, const SoftmaxRows& rows) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float sum = quad_sum(rows.sum[half]);
        if (lane % 4 == 0) states[lane / 4 + half * 8] = {rows.offset[half], sum};
    }
}

DEVICE void add_scaled(float4& total, const float4& part, float factor) {
    total.x = fmaf(part.x, factor, total.x);
    total.y = fmaf(part.y, factor, total.y);
    total.z = fmaf(part.z, factor, total.z);
    total.w = fmaf(part.w, factor, total.w);
}

// Four columns of an output row, the sink's weight included in what they are divided by.
template <class T, int D>
DEVICE void store_output(const AttentionDecodeParams& p, const Piece& piece, int row, int column,
                         const float4& total, State state) {
    const int head = piece.first_head + row;
    if (p.sinks != nullptr) state.sum += exp2_fast(p.sinks[head] * LOG2_E - state.offset);
    T* target = static_cast<T*>(p.output) + piece.token * p.output_stride + head * D + column;
    *reinterpret_cast<uint2*>(target) = make_uint2(pack2<T>(total.x / state.sum, total.y / state.sum),
                                                   pack2<T>(total.z / state.sum, total.w / state.sum));
}

// Adds up what the warps have left: into the output if this is all of the row, else into a partial.
template <class T, int D>
DEVICE void combine_warps(const AttentionDecodeParams& p, const Piece& piece, const float* left,
                          const float* right, const State (*states)[HEADS]) {
    constexpr int warp_stride = RING_LENGTH<D> * WARP_TOKENS * D / 2;
    const int slot = 2 * static_cast<int>(blockIdx.x) + (piece.begins ? 1 : 0);
    for (int unit = threadIdx.x; unit < piece.num_heads * (D / 4); unit += WARPS * 32) {
        const int row = unit / (D / 4), column = unit % (D / 4) * 4;
        State total = {NOTHING_SEEN, 0.0f};
        for (int w = 0; w < WARPS; ++w) total.offset = fmaxf(total.offset, states[w][row].offset);
        float4 sums = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        const float* part = (column < D / 2 ? left : right) + dump_offset<D>(row, column % (D / 2));
        for (int w = 0; w < WARPS; ++w) {
            const float factor = exp2_fast(states[w][row].offset - total.offset);
            total.sum = fmaf(states[w][row].sum, factor, total.sum);
            add_scaled(sums, *reinterpret_cast<const float4*>(part + w * warp_stride), factor);
        }
        if (piece.num_pieces == 1) {
            store_output<T, D>(p, piece, row, column, sums, total);
            continue;
        }
        float* partial = p.partials + (static_cast<int64_t>(slot) * HEADS + row) * D + column;
        *reinterpret_cast<float4*>(partial) = sums;
        if (column == 0) {
            reinterpret_cast<float2*>(p.partial_states)[slot * HEADS + row] =
                make_float2(total.offset, total.sum);
        }
    }
}

// Piece i of a row is the last of its owner's share, and then the first of the blocks that follow.
DEVICE int partial_slot(const Piece& piece, int i) { return 2 * (piece.owner + i) + (i == 0 ? 1 : 0); }

template <class T, int D> DEVICE void combine_pieces(const AttentionDecodeParams& p, const Piece& piece) {
    const float2* states = reinterpret_cast<const float2*>(p.partial_states);
    for (int unit = threadIdx.x; unit < piece.num_heads * (D / 4); unit += WARPS * 32) {
        const int row = unit / (D / 4), column = unit % (D / 4) * 4;
        State total = {NOTHING_SEEN, 0.0f};
#pragma unroll 4
        for (int i = 0; i < piece.num_pieces; ++i) {
            total.offset = fmaxf(total.offset, states[partial_slot(piece, i) * HEADS + row].x);
        }
        float4 sums = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
        for (int i = 0; i < piece.num_pieces; ++i) {
            const int64_t part = static_cast<int64_t>(partial_slot(piece, i)) * HEADS + row;
            const float2 state = states[part];
            const float factor = exp2_fast(state.x - total.offset);
            total.sum = fmaf(state.y, factor, total.sum);
            add_scaled(sums, *reinterpret_cast<const float4*>(p.partials + part * D + column), factor);
        }
        store_output<T, D>(p, piece, row, column, sums, total);
    }
}

// ---- the kernel -----------------------------------------------------------------------------------------

DEVICE Piece piece_at(const AttentionDecodeParams& p, const AttentionShare& share, const Walk& walk) {
    Piece piece;
    const HeadTile heads(p, walk.head_tile);
    piece.token = walk.token;
    piece.first_head = heads.first;
    piece.num_heads = heads.count;
    piece.begins = walk.tile == walk.first_tile();
    const bool ends = walk.end_tile() - walk.tile <= walk.tiles_left;
    piece.owner = piece.begins ? static_cast<int>(blockIdx.x) : share.first_owner;
    piece.num_pieces = piece.begins ? (ends ? 1 : share.last_pieces) : share.first_pieces;
    return piece;
}

// Scores outside [begin, end), counted from the warp's first token, become -inf.
DEVICE void mask_scores(float (&scores)[2][4], int begin, int end) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int token = n * 8 + t * 2 + i % 2;
            if (token < begin || token >= end) scores[n][i] = MINUS_INFINITY;
        }
    }
}

// A warp's half tiles, in the order in which they were sent for.
template <class T, int D> struct Ring {
    T* first;
    int next;

    DEVICE T* take() {
        T* half = first + next * WARP_TOKENS * D;
        next = next + 1 == RING_LENGTH<D> ? 0 : next + 1;
        return half;
    }
};

// Counts a piece whose sums are in the partials; whoever counts the last one adds all of them up.
template <class T, int D>
DEVICE void finish_row(const AttentionDecodeParams& p, const Piece& piece, int* arrived) {
    if (threadIdx.x == 0) *arrived = atomicAdd(p.counters + piece.owner, 1);
    __syncthreads();
    if (*arrived != piece.num_pieces - 1) return;
    __threadfence();
    combine_pieces<T, D>(p, piece);
    if (threadIdx.x == 0) p.counters[piece.owner] = 0;
}

template <class T, int D> DEVICE void attention_decode(const AttentionDecodeParams& p) {
    constexpr int length = RING_LENGTH<D>, ring_elements = length * WARP_TOKENS * D;
    DYNAMIC_SHARED(shared);
    T* rings = reinterpret_cast<T*>(shared);
    State(*states)[HEADS] = reinterpret_cast<State(*)[HEADS]>(rings + WARPS * ring_elements);
    const int warp = threadIdx.x / 32;

    wait_for_previous_kernel();
    const AttentionShare share = p.shares[blockIdx.x];
    if (share.num_tiles == 0) return;
    Walk walk(p, share);
    Loader<T, D> loader(p, share);
    Ring<T, D> ring = {rings + warp * ring_elements, 0};
    fill_ring<T, D>(loader, p, ring.first);

    while (walk.tiles_left > 0) {
        const int num_tiles = min(walk.tiles_left, walk.end_tile() - walk.tile);
        const Queries<T, D> queries(p, walk);
        SoftmaxRows rows;
        reset(rows);
        float sums[1][D / 8][4] = {};
        T* keys = rings;
        T* values = rings;
        for (int i = 0; i < num_tiles; ++i) {
            const bool is_last = i + 1 == num_tiles;
            const int token = (walk.tile + i) * TILE_TOKENS + warp * WARP_TOKENS;
            const int begin = walk.begin - token, end = walk.end - token;
            const bool is_seen = begin < WARP_TOKENS && end > 0;
            uint32_t weights[1][1][4];

            keys = ring.take();
            cp_async_wait<length - 1>();
            __syncwarp();
            if (is_seen) {
                float scores[1][2][4];
                multiply_keys<T, D, WARP_TOKENS>(scores, queries, keys);
                if (p.product_cap > 0.0f) apply_soft_cap(scores[0], p.product_cap);
                if (begin > 0 || end < WARP_TOKENS) mask_scores(scores[0], begin, end);
                weigh<T, D>(rows, sums[0], weights[0], scores[0], p.exponent_scale);
            }
            __syncwarp();
            if (!is_last) loader.template load<AFTER_KEYS<D>>(p, keys);

            values = ring.take();
            if (is_last) {
                cp_async_wait<length - 2>();
            } else {
                cp_async_wait<length - 1>();
            }
            __syncwarp();
            if (is_seen) add_values<T, D, WARP_TOKENS>(sums, weights, values);
            __syncwarp();
            if (!is_last) loader.template load<AFTER_VALUES<D>>(p, values);
        }
        if (walk.tiles_left == num_tiles) let_next_kernel_begin();

        // The last two half tiles are free: they carry the sums from warp to warp.
        const Piece piece = piece_at(p, share, walk);
        float* const left = reinterpret_cast<float*>(keys);
        float* const right = reinterpret_cast<float*>(values);
        dump<T, D>(left, right, sums[0], piece.num_heads);
        leave_states(states[warp], rows);
        __syncthreads();
        const int from_first = warp * ring_elements / 2;
        combine_warps<T, D>(p, piece, left - from_first, right - from_first, states);
        if (piece.num_pieces > 1) __threadfence();
        __syncthreads();
        loader.template load<AFTER_KEYS<D>>(p, keys);
        loader.template load<AFTER_VALUES<D>>(p, values);
        if (piece.num_pieces > 1) finish_row<T, D>(p, piece, reinterpret_cast<int*>(states + WARPS));
        walk.advance(p, num_tiles);
    }
}

FOLIO_KERNEL(attention_decode_bf16_d32, AttentionDecodeParams, 128, 2) { attention_decode<bf16, 32>(p); }
FOLIO_KERNEL(attention_decode_bf16_d64, AttentionDecodeParams, 128, 2) { attention_decode<bf16, 64>(p); }
FOLIO_KERNEL(attention_decode_bf16_d80, AttentionDecodeParams, 128, 2) { attention_decode<bf16, 80>(p); }
FOLIO_KERNEL(attention_decode_bf16_d96, AttentionDecodeParams, 128, 2) { attention_decode<bf16, 96>(p); }
FOLIO_KERNEL(attention_decode_bf16_d128, AttentionDecodeParams, 128, 2) { attention_decode<bf16, 128>(p); }
FOLIO_KERNEL(attention_decode_bf16_d256, AttentionDecodeParams, 128, 2) { attention_decode<bf16, 256>(p); }
FOLIO_KERNEL(attention_decode_f16_d32, AttentionDecodeParams, 128, 2) { attention_decode<f16, 32>(p); }
FOLIO_KERNEL(attention_decode_f16_d64, AttentionDecodeParams, 128, 2) { attention_decode<f16, 64>(p); }
FOLIO_KERNEL(attention_decode_f16_d80, AttentionDecodeParams, 128, 2) { attention_decode<f16, 80>(p); }
FOLIO_KERNEL(attention_decode_f16_d96, AttentionDecodeParams, 128, 2) { attention_decode<f16, 96>(p); }
FOLIO_KERNEL(attention_decode_f16_d128, AttentionDecodeParams, 128, 2) { attention_decode<f16, 128>(p); }
FOLIO_KERNEL(attention_decode_f16_d256, AttentionDecodeParams, 128, 2) { attention_decode<f16, 256>(p); }
