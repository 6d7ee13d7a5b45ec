//! Causal attention of a batch of query ranges over their sequences' blocks.

use std::ops::Range;

use super::softmax::{Head, KeySource, KeyTile, Row, Scratch, attend};
use super::{MAX_ROWS, RUN, TILE, check_cu_seqlens, check_heads};
use crate::cpu::kv_cache::KvCacheRef;
use crate::cpu::output::Output;
use crate::cpu::pool::Pool;
use crate::cpu::simd::{Kernel, Simd, dispatch};

/// The operands of [`paged_attention`].
///
/// Sequence s has the queries `cu_seqlens[s]..cu_seqlens[s + 1]` of the step, at positions
/// `num_computed[s]` and on; the key of position p lies in block `block_tables[s][p / P]`.
#[derive(Clone, Copy, Debug)]
pub struct PagedAttention<'a> {
    /// Queries `[T, N, D]`.
    pub q: &'a [f32],
    /// Number of query heads N, a multiple of the cache's K.
    pub num_heads: usize,
    /// What scores are multiplied by, commonly `1 / sqrt(D)`.
    pub scale: f32,
    /// Sliding window W: a query at p sees keys above p - W. `None` sees all.
    pub window: Option<usize>,
    /// Keys and values of the layer, those of this step already stored.
    pub cache: KvCacheRef<'a>,
    /// Where each sequence's queries begin, `[S + 1]`, from 0 to T.
    pub cu_seqlens: &'a [u32],
    /// Position of each sequence's first query, `[S]`.
    pub num_computed: &'a [u32],
    /// Blocks of each sequence, `[S, max_num_blocks]`; entries past its last position are not read.
    pub block_tables: &'a [u32],
    /// Row length of `block_tables`.
    pub max_num_blocks: usize,
}

/// Causal attention over the paged cache: query at position p sees keys `0..=p`, or the last W of
/// them.
///
/// `out` is `[T, N, D]`. N heads share K in groups of N / K neighbours. Scores and sums are f32.
/// Bits of a query's result do not depend on chunking, batch, block size or threads. Panics if
/// sizes do not agree or a block lies outside the cache.
pub fn paged_attention(pool: &Pool, args: &PagedAttention<'_>, out: &mut [f32]) {
    let num_tokens = check(args, out.len());
    if num_tokens == 0 {
        return;
    }
    let layout = args.cache.layout;
    let group = args.num_heads / layout.num_kv_heads;
    let heads_per_task = group.min(MAX_ROWS);
    let tasks = Tasks {
        queries_per_task: (MAX_ROWS / heads_per_task).max(1),
        heads_per_task,
        head_groups: group.div_ceil(heads_per_task),
    };
    let mut chunks =
        Vec::with_capacity(num_tokens / tasks.queries_per_task + args.num_computed.len());
    for (sequence, range) in args.cu_seqlens.windows(2).enumerate() {
        let (first, last) = (range[0] as usize, range[1] as usize);
        for query in (first..last).step_by(tasks.queries_per_task) {
            chunks.push((sequence, query));
        }
    }
    // The last chunks of a prompt see the most keys; starting with them evens out the threads.
    chunks.reverse();
    let output = Output::new(out);
    let tasks_per_chunk = layout.num_kv_heads * tasks.head_groups;
    let isa = pool.isa();
    pool.run(chunks.len() * tasks_per_chunk, &|index| {
        let (sequence, query) = chunks[index / tasks_per_chunk];
        let part = index % tasks_per_chunk;
        let kernel = Chunk {
            args,
            tasks: &tasks,
            output,
            sequence,
            query,
            kv_head: part / tasks.head_groups,
            head_group: part % tasks.head_groups,
        };
        // SAFETY: sizes and blocks were checked; chunks, heads and head groups are disjoint parts
        // of the output; the pool's instruction set is available.
        unsafe { dispatch(isa, kernel) };
    });
}

/// Checks everything that pointers are later built on and returns T.
fn check(args: &PagedAttention<'_>, out_len: usize) -> usize {
    const NAME: &str = "paged_attention";
    let layout = args.cache.layout;
    check_heads(NAME, args.num_heads, layout.num_kv_heads, layout.head_size);
    let row = args.num_heads * layout.head_size;
    let num_tokens = args.q.len() / row;
    assert!(
        args.q.len() == num_tokens * row && out_len == args.q.len(),
        "{NAME}: q has {} and out {out_len} elements, expected a multiple of N x D = {} x {}",
        args.q.len(),
        args.num_heads,
        layout.head_size
    );
    let num_sequences = check_cu_seqlens(NAME, args.cu_seqlens, num_tokens);
    assert!(
        args.num_computed.len() == num_sequences
            && args.block_tables.len() == num_sequences * args.max_num_blocks,
        "{NAME}: {} positions and {} block table entries for {num_sequences} sequences of {} \
         blocks",
        args.num_computed.len(),
        args.block_tables.len(),
        args.max_num_blocks
    );
    assert!(args.window != Some(0), "{NAME}: a window of 0 hides every key");
    for sequence in 0..num_sequences {
        let num_queries = args.cu_seqlens[sequence + 1] - args.cu_seqlens[sequence];
        if num_queries == 0 {
            continue;
        }
        let end = args.num_computed[sequence] as usize + num_queries as usize;
        let num_blocks = end.div_ceil(layout.block_size);
        assert!(
            num_blocks <= args.max_num_blocks,
            "{NAME}: sequence {sequence} has {end} positions, its block table {} blocks of {}",
            args.max_num_blocks,
            layout.block_size
        );
        let table = &args.block_tables[sequence * args.max_num_blocks..][..num_blocks];
        // Blocks that the window has left behind may be gone.
        let first =
            args.window.map_or(0, |w| (args.num_computed[sequence] as usize + 1).saturating_sub(w));
        for &block in &table[first / layout.block_size..] {
            assert!(
                (block as usize) < layout.num_blocks,
                "{NAME}: sequence {sequence} has block {block}, the cache has {}",
                layout.num_blocks
            );
        }
    }
    num_tokens
}

/// How the work is cut.
struct Tasks {
    queries_per_task: usize,
    heads_per_task: usize,
    /// Tasks that share one key/value head and chunk.
    head_groups: usize,
}

/// One task: some queries of one sequence, for heads that share a key/value head.
struct Chunk<'a> {
    args: &'a PagedAttention<'a>,
    tasks: &'a Tasks,
    output: Output<'a>,
    sequence: usize,
    query: usize,
    kv_head: usize,
    head_group: usize,
}

impl Kernel for Chunk<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let args = self.args;
        let layout = args.cache.layout;
        let group = args.num_heads / layout.num_kv_heads;
        let first_head = self.head_group * self.tasks.heads_per_task;
        let last_head = group.min(first_head + self.tasks.heads_per_task);
        let end = args.cu_seqlens[self.sequence + 1] as usize;
        let last_query = end.min(self.query + self.tasks.queries_per_task);
        let offset = args.num_computed[self.sequence] as usize + self.query
            - args.cu_seqlens[self.sequence] as usize;
        let empty = Row { query: std::ptr::null(), out: std::ptr::null_mut(), first: 0, last: 0 };
        let mut rows = [empty; MAX_ROWS];
        let mut num_rows = 0;
        for query in self.query..last_query {
            let last = offset + (query - self.query) + 1;
            let first = args.window.map_or(0, |window| last.saturating_sub(window));
            for head in first_head..last_head {
                let head = self.kv_head * group + head;
                let place = (query * args.num_heads + head) * layout.head_size;
                let query = args.q[place..].as_ptr();
                rows[num_rows] = Row { query, out: self.output.at(place), first, last };
                num_rows += 1;
            }
        }
        let table = &args.block_tables[self.sequence * args.max_num_blocks..];
        let source = PagedKeys { cache: args.cache, table, kv_head: self.kv_head };
        let head = Head { head_size: layout.head_size, scale: args.scale };
        // SAFETY: rows lie in q and out, and their keys in blocks that `check` has seen.
        unsafe { attend::<S, _>(&source, &rows[..num_rows], head) };
    }
}

/// The keys of one sequence and one head.
struct PagedKeys<'a> {
    cache: KvCacheRef<'a>,
    table: &'a [u32],
    kv_head: usize,
}

impl PagedKeys<'_> {
    /// First element of this head in the block of `position`, in either buffer, and the offset
    /// there.
    #[inline(always)]
    fn locate(&self, position: usize) -> (usize, usize) {
        let layout = self.cache.layout;
        let block = self.table[position / layout.block_size] as usize;
        let start = (block * layout.num_kv_heads + self.kv_head) * layout.head_elements();
        (start, position % layout.block_size)
    }

    /// Gathers keys into `scratch` as `[D, TILE]`, for block sizes that no vector divides.
    #[inline(always)]
    fn gather(&self, start: usize, range: Range<usize>, scratch: &mut Scratch) {
        let layout = self.cache.layout;
        let padded = range.start / RUN * RUN..range.end.next_multiple_of(RUN);
        for dim in 0..layout.head_size {
            for place in &mut scratch[dim * TILE..][padded.clone()] {
                place.write(0.0);
            }
        }
        for key in range {
            let (head, offset) = self.locate(start + key);
            for dim in 0..layout.head_size {
                let value = self.cache.keys[head + dim * layout.block_size + offset];
                scratch[dim * TILE + key].write(value);
            }
        }
    }
}

impl KeySource for PagedKeys<'_> {
    #[inline(always)]
    unsafe fn load<S: Simd>(
        &self,
        start: usize,
        range: Range<usize>,
        scratch: &mut Scratch,
        tile: &mut KeyTile,
    ) {
        if self.cache.layout.block_size.is_multiple_of(RUN) {
            self.locate_ahead(start, range, tile);
            return;
        }
        self.gather(start, range.clone(), scratch);
        tile.stride = TILE;
        for run in range.start / RUN..range.end.div_ceil(RUN) {
            tile.keys[run] = scratch[run * RUN..].as_ptr().cast();
        }
        for key in range {
            let (head, offset) = self.locate(start + key);
            let value = head + offset * self.cache.layout.head_size;
            tile.values[key] = self.cache.values[value..].as_ptr();
        }
    }

    #[inline(always)]
    fn locate_ahead(&self, start: usize, range: Range<usize>, tile: &mut KeyTile) {
        let layout = self.cache.layout;
        if !layout.block_size.is_multiple_of(RUN) {
            return;
        }
        tile.stride = layout.block_size;
        for run in range.start / RUN..range.end.div_ceil(RUN) {
            let (head, offset) = self.locate(start + run * RUN);
            let place = head + offset..head + layout.head_elements();
            tile.keys[run] = self.cache.keys[place.clone()].as_ptr();
            let values = &self.cache.values[head + offset * layout.head_size..place.end];
            for (key, value) in tile.values[run * RUN..][..RUN].iter_mut().enumerate() {
                *value = values[key * layout.head_size..].as_ptr();
            }
        }
    }
}
