// Who does what in the attention of a step: once a step, for all its layers.
//
// Grid: one block per window for attention_decode, and one more for attention_prefill. Everything
// is read from and written to device memory, so that a captured graph plans anew at every replay.
// Decode: all (row, head tile, tile of 64 keys) in this order are cut into one even part per block of
// attention_decode. If there are too few of them for that, or pieces of equal length suffice, a row's
// pieces begin at even distances and no block has more than one. No piece is shorter than MIN_TILES
// without need, and cuts close to the end of a row move there.
// Prefill: the tiles of query rows, those that see most keys first.
#include "attention.cuh"

constexpr int PLAN_THREADS = 512;
constexpr int MIN_TILES = 5;
constexpr int COST_CLASSES = 256;

// Sum of `value` over the threads before this one; `total` gets the sum over all.
DEVICE int exclusive_scan(int value, int* scratch, int& total) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int inclusive = value;
    for (int distance = 1; distance < 32; distance *= 2) {
        const int other = __shfl_up_sync(~0u, inclusive, distance);
        if (lane >= distance) inclusive += other;
    }
    __syncthreads();                    // scratch may still be read from the call before
    if (lane == 31) scratch[warp] = inclusive;
    __syncthreads();
    int before = 0;
    total = 0;
    for (int w = 0; w < PLAN_THREADS / 32; ++w) {
        if (w < warp) before += scratch[w];
        total += scratch[w];
    }
    return before + inclusive - value;
}

// The largest i in [0, n) with starts[i] <= x.
DEVICE int last_at_most(const int* starts, int n, int x) {
    int low = 0, high = n;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (starts[middle] <= x) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

DEVICE int num_query_tokens(const AttentionPlanParams& p, int row) {
    return p.cu_seqlens[row + 1] - p.cu_seqlens[row];
}
DEVICE int sequence_length(const AttentionPlanParams& p, int row) {
    return p.seq_lens == nullptr ? num_query_tokens(p, row) : p.seq_lens[row];
}
DEVICE int row_slot(const AttentionPlanParams& p, int row) {
    return p.row_slots == nullptr ? 0 : p.row_slots[row];
}

// ---- decode ------------------------------------------------------------------------------------------

// Tiles of the decode rows, in the order in which they are worked on: row, head tile, tile.
struct Order {
    const int* starts;                  // [num_rows + 1]: tiles of the rows before, of one head tile
    int num_rows, num_head_tiles;

    DEVICE int total() const { return starts[num_rows] * num_head_tiles; }

    // Where tile `index` is: its row and head tile, and the range of tiles of both.
    DEVICE void locate(int index, int& row, int& head_tile, int& begin, int& end) const {
        row = last_at_most(starts, num_rows, index / num_head_tiles);
        const int num_tiles = starts[row + 1] - starts[row], row_start = starts[row] * num_head_tiles;
        head_tile = (index - row_start) / num_tiles;
        begin = row_start + head_tile * num_tiles;
        end = begin + num_tiles;
    }
};

// Lists the rows of one token: `starts` gets their tiles, `skipped` how many the window hides before
// the first. Returns how many rows there are.
DEVICE int list_rows(const AttentionPlanParams& p, int* starts, int* skipped, int* scratch) {
    const int window = p.windows[blockIdx.x];
    int num_rows = 0, num_tiles = 0;
    for (int base = 0; base < p.num_rows; base += PLAN_THREADS) {
        const int row = base + threadIdx.x;
        const bool listed = row < p.num_rows && num_query_tokens(p, row) == 1;
        const int seq_len = listed ? sequence_length(p, row) : 0;
        const int begin = window > 0 && seq_len > window ? seq_len - window : 0;
        const int hidden = begin / TILE_TOKENS, tiles = ceil_div(seq_len, TILE_TOKENS) - hidden;
        int more_rows, more_tiles;
        const int index = num_rows + exclusive_scan(listed ? 1 : 0, scratch, more_rows);
        const int start = num_tiles + exclusive_scan(tiles, scratch, more_tiles);
        if (listed) {
            starts[index] = start;
            skipped[index] = hidden;
            if (blockIdx.x == 0) p.rows[index] = {p.cu_seqlens[row], row_slot(p, row), seq_len, 0};
        }
        num_rows += more_rows;
        num_tiles += more_tiles;
    }
    if (threadIdx.x == 0) starts[num_rows] = num_tiles;
    __syncthreads();
    return num_rows;
}

// pieces[i]: into how many pieces of at most `size` tiles the rows before i fall. Returns the sum.
DEVICE int count_pieces(const int* starts, int num_rows, int size, int* pieces, int* scratch) {
    int sum = 0;
    for (int base = 0; base < num_rows; base += PLAN_THREADS) {
        const int row = base + threadIdx.x;
        int more;
        const int before = exclusive_scan(
            row < num_rows ? ceil_div(starts[row + 1] - starts[row], size) : 0, scratch, more);
        if (row < num_rows) pieces[row] = sum + before;
        sum += more;
    }
    if (threadIdx.x == 0) pieces[num_rows] = sum;
    __syncthreads();
    return sum;
}

// Where the share of block `block` begins if every block has one piece.
DEVICE int even_cut(const Order& order, const int* pieces, int block) {
    if (block >= pieces[order.num_rows] * order.num_head_tiles) return order.total();
    const int row = last_at_most(pieces, order.num_rows, block / order.num_head_tiles);
    const int num_pieces = pieces[row + 1] - pieces[row];
    const int num_tiles = order.starts[row + 1] - order.starts[row];
    const int piece = block - pieces[row] * order.num_head_tiles;
    const int in_head = static_cast<int>(static_cast<int64_t>(piece % num_pieces) * num_tiles / num_pieces);
    return order.starts[row] * order.num_head_tiles + piece / num_pieces * num_tiles + in_head;
}

// Where it begins if all blocks have `size` tiles, or a few more or less to spare a short piece.
DEVICE int exact_cut(const Order& order, int size, int block) {
    const int64_t index = static_cast<int64_t>(block) * size;
    if (index >= order.total()) return order.total();
    int row, head_tile, begin, end;
    order.locate(static_cast<int>(index), row, head_tile, begin, end);
    const int spare = min(2, size / 4), after = static_cast<int>(index) - begin, before = end - begin - after;
    if (after <= spare && after <= before) return begin;
    return before <= spare ? end : static_cast<int>(index);
}

DEVICE AttentionShare make_share(const Order& order, const int* cuts, int num_shares, int block) {
    AttentionShare share = {0, 0, 0, cuts[block + 1] - cuts[block], 0, 1, 1, 0};
    if (share.num_tiles == 0) return share;
    int begin, end;
    order.locate(cuts[block], share.row, share.head_tile, begin, end);
    share.tile = cuts[block] - begin;
    share.first_owner = last_at_most(cuts, num_shares, begin);
    share.first_pieces = last_at_most(cuts, num_shares, end - 1) - share.first_owner + 1;
    int last_row, last_head_tile;
    order.locate(cuts[block + 1] - 1, last_row, last_head_tile, begin, end);
    share.last_pieces = last_at_most(cuts, num_shares, end - 1) - block + 1;
    return share;
}

DEVICE void plan_decode(const AttentionPlanParams& p, int* shared) {
    int* scratch = shared;
    int* starts = shared + PLAN_THREADS / 32;
    int* skipped = starts + p.num_rows + 1;
    int* pieces = skipped + p.num_rows + 1;
    int* cuts = pieces + p.num_rows + 1;
    const int num_rows = p.decode_tokens == 0 ? 0 : list_rows(p, starts, skipped, scratch);
    if (blockIdx.x == 0 && threadIdx.x == 0) p.counts[0] = num_rows;
    AttentionShare* shares = p.shares + static_cast<int64_t>(blockIdx.x) * p.num_shares;
    if (num_rows == 0) {
        for (int i = threadIdx.x; i < p.num_shares; i += PLAN_THREADS) shares[i] = {0, 0, 0, 0, 0, 1, 1, 0};
        return;
    }
    const Order order = {starts, num_rows, p.num_head_tiles};
    const int even_size = ceil_div(order.total(), p.num_shares);
    const int num_pieces = count_pieces(starts, num_rows, max(even_size, MIN_TILES), pieces, scratch);
    const bool one_each = num_pieces * p.num_head_tiles <= p.num_shares;
    for (int i = threadIdx.x; i <= p.num_shares; i += PLAN_THREADS) {
        cuts[i] = one_each ? even_cut(order, pieces, i) : exact_cut(order, even_size, i);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < p.num_shares; i += PLAN_THREADS) {
        AttentionShare share = make_share(order, cuts, p.num_shares, i);
        if (share.num_tiles > 0) share.tile += skipped[share.row];
        shares[i] = share;
    }
}

// ---- prefill -----------------------------------------------------------------------------------------

// starts[row]: tiles of query rows of the rows before. Returns the sum; `max_cost` gets the most tiles
// of keys that one of them sees.
DEVICE int count_tiles(const AttentionPlanParams& p, int* starts, int* scratch, int* max_cost) {
    int sum = 0;
    for (int base = 0; base < p.num_rows; base += PLAN_THREADS) {
        const int row = base + threadIdx.x;
        const int num_tokens = row < p.num_rows ? num_query_tokens(p, row) : 0;
        const bool listed = num_tokens > p.decode_tokens;
        int more;
        const int before =
            exclusive_scan(listed ? ceil_div(num_tokens * p.group, p.query_rows) : 0, scratch, more);
        if (row < p.num_rows) starts[row] = sum + before;
        if (listed) atomicMax(max_cost, ceil_div(sequence_length(p, row), TILE_TOKENS));
        sum += more;
    }
    if (threadIdx.x == 0) starts[p.num_rows] = sum;
    __syncthreads();
    return sum;
}

DEVICE AttentionTile make_tile(const AttentionPlanParams& p, const int* starts, int index) {
    const int row = last_at_most(starts, p.num_rows, index);
    const int num_tokens = num_query_tokens(p, row), seq_len = sequence_length(p, row);
    const int first_row = (index - starts[row]) * p.query_rows;
    const int last_row = min(first_row + p.query_rows, num_tokens * p.group) - 1;
    const int num_seen = p.seq_lens == nullptr ? seq_len : seq_len - num_tokens + last_row / p.group + 1;
    return {p.cu_seqlens[row], num_tokens, seq_len, row_slot(p, row), first_row,
            ceil_div(num_seen, TILE_TOKENS), {0, 0}};
}

DEVICE void plan_prefill(const AttentionPlanParams& p, int* shared) {
    int* scratch = shared;
    int* max_cost = shared + PLAN_THREADS / 32;
    int* classes = max_cost + 1;
    int* starts = classes + COST_CLASSES;
    for (int i = threadIdx.x; i < COST_CLASSES; i += PLAN_THREADS) classes[i] = 0;
    if (threadIdx.x == 0) *max_cost = 1;
    __syncthreads();
    const int num_tiles = count_tiles(p, starts, scratch, max_cost);
    if (threadIdx.x == 0) p.counts[1] = num_tiles;
    // A counting sort by cost, the highest first; how equals are ordered makes no difference.
    const int most = *max_cost;
    for (int i = threadIdx.x; i < num_tiles; i += PLAN_THREADS) {
        atomicAdd(classes + (most - make_tile(p, starts, i).cost) * (COST_CLASSES - 1) / most, 1);
    }
    __syncthreads();
    int total;
    const int before = exclusive_scan(threadIdx.x < COST_CLASSES ? classes[threadIdx.x] : 0, scratch, total);
    if (threadIdx.x < COST_CLASSES) classes[threadIdx.x] = before;
    __syncthreads();
    for (int i = threadIdx.x; i < num_tiles; i += PLAN_THREADS) {
        const AttentionTile tile = make_tile(p, starts, i);
        p.tiles[atomicAdd(classes + (most - tile.cost) * (COST_CLASSES - 1) / most, 1)] = tile;
    }
}

FOLIO_KERNEL(attention_plan, AttentionPlanParams, 512, 1) {
    DYNAMIC_SHARED(shared);
    wait_for_previous_kernel();
    if (static_cast<int>(blockIdx.x) < p.num_windows) {
        plan_decode(p, reinterpret_cast<int*>(shared));
    } else {
        plan_prefill(p, reinterpret_cast<int*>(shared));
    }
    let_next_kernel_begin();
}
