//! The plan of attention itself: that it leaves nothing out and shares evenly.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
#![allow(unsafe_code, reason = "the kernel is launched with parameters of the test's own")]

mod cuda_common;

use std::collections::BTreeMap;

use cuda_common::{Random, context, download_i32, upload_i32};
use folio_kernels::cuda::params::AttentionPlanParams;
use folio_kernels::cuda::{Context, DeviceBuffer, DevicePtr, Launch};

const MAX_TILES: usize = 2048;

/// A step to plan, and for what.
#[derive(Clone, Debug)]
struct Step {
    /// Query tokens and keys of each row.
    rows: Vec<(i32, i32)>,
    window: i32,
    num_shares: usize,
    num_head_tiles: i32,
    group: i32,
}

/// What came out, as words.
struct Planned {
    counts: Vec<i32>,
    rows: Vec<[i32; 4]>,
    shares: Vec<[i32; 8]>,
    tiles: Vec<[i32; 8]>,
}

fn records<const N: usize>(context: &Context, buffer: &DeviceBuffer) -> Vec<[i32; N]> {
    let words = download_i32(context, buffer);
    words.chunks_exact(N).map(|chunk| chunk.try_into().unwrap()).collect()
}

fn plan(step: &Step) -> Planned {
    let context = context();
    let mut cu_seqlens = vec![0];
    for (num_tokens, _) in &step.rows {
        cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + num_tokens);
    }
    let seq_lens: Vec<i32> = step.rows.iter().map(|row| row.1).collect();
    let slots: Vec<i32> = (100..100 + step.rows.len() as i32).collect();
    let inputs = [&cu_seqlens, &seq_lens, &slots].map(|array| upload_i32(&context, array));
    let num_words = [2, step.rows.len() * 4, step.num_shares * 8, MAX_TILES * 8];
    let outputs = num_words.map(|num| upload_i32(&context, &vec![-1; num]));
    let params = AttentionPlanParams {
        cu_seqlens: inputs[0].ptr().as_ptr(),
        seq_lens: inputs[1].ptr().as_ptr(),
        row_slots: inputs[2].ptr().as_ptr(),
        counts: outputs[0].ptr().as_mut_ptr(),
        rows: outputs[1].ptr().as_mut_ptr(),
        shares: outputs[2].ptr().as_mut_ptr(),
        tiles: outputs[3].ptr().as_mut_ptr(),
        windows: [step.window, 0, 0, 0],
        num_windows: 1,
        num_rows: step.rows.len() as i32,
        num_shares: step.num_shares as i32,
        num_head_tiles: step.num_head_tiles,
        group: step.group,
        query_rows: 64,
        decode_tokens: 1,
    };
    let num_counters = 300 + 3 * (step.rows.len() + 1) + step.num_shares;
    let launch = Launch { grid: [2, 1, 1], num_threads: 512, shared_bytes: 4 * num_counters };
    let kernel = context.kernel("attention_plan").unwrap();
    // SAFETY: the arrays are as long as the parameters say, the tiles by far.
    unsafe { context.launch(kernel, launch, &params).unwrap() };
    Planned {
        counts: download_i32(&context, &outputs[0]),
        rows: records(&context, &outputs[1]),
        shares: records(&context, &outputs[2]),
        tiles: records(&context, &outputs[3]),
    }
}

/// Tiles of 64 keys that a decode row sees: the first and the end.
fn seen_tiles(step: &Step, seq_len: i32) -> (i32, i32) {
    let hidden = if step.window > 0 { (seq_len - step.window).max(0) } else { 0 };
    (hidden / 64, (seq_len + 63) / 64)
}

/// Walks through the shares as the kernel does and checks every piece; returns the longest share.
fn check_shares(step: &Step, planned: &Planned) -> i32 {
    let decode: Vec<i32> = step.rows.iter().filter(|row| row.0 == 1).map(|row| row.1).collect();
    // Pieces of each (row, head tile): the block, and the tiles that it takes.
    let mut pieces = BTreeMap::<(i32, i32), Vec<(i32, i32, i32)>>::new();
    let mut claims = Vec::new();
    for (block, &share) in planned.shares.iter().enumerate() {
        let [mut row, mut head, mut tile, mut left, first_owner, first_pieces, last_pieces, _] =
            share;
        let mut is_first = true;
        while left > 0 {
            let (first, end) = seen_tiles(step, decode[row as usize]);
            let taken = left.min(end - tile);
            pieces.entry((row, head)).or_default().push((block as i32, tile, tile + taken));
            let claim = match (tile == first, tile + taken == end) {
                (true, true) => (block as i32, 1),
                (true, false) => (block as i32, last_pieces),
                (false, _) => (first_owner, first_pieces),
            };
            assert!(tile == first || is_first, "block {block} has a second piece from inside");
            claims.push(((row, head), claim));
            is_first = false;
            left -= taken;
            head += 1;
            if head == step.num_head_tiles {
                head = 0;
                row += 1;
            }
            tile = decode.get(row as usize).map_or(0, |&seq_len| seen_tiles(step, seq_len).0);
        }
    }
    assert_eq!(pieces.len(), decode.len() * step.num_head_tiles as usize, "{step:?}");
    for ((row, head), of_row) in &pieces {
        let (mut next, end) = seen_tiles(step, decode[*row as usize]);
        let owner = of_row[0].0;
        for (index, &(block, first, last)) in of_row.iter().enumerate() {
            assert_eq!(
                (block, first),
                (owner + index as i32, next),
                "row {row}, head {head}: {step:?}"
            );
            next = last;
        }
        assert_eq!(next, end, "row {row}, head {head} ends early: {step:?}");
        for (of, claim) in &claims {
            if of == &(*row, *head) {
                assert_eq!(
                    *claim,
                    (owner, of_row.len() as i32),
                    "row {row}, head {head}: {step:?}"
                );
            }
        }
    }
    planned.shares.iter().map(|share| share[3]).max().unwrap()
}

#[test]
fn shares_cover_every_tile_once_and_are_even() {
    let mut random = Random(1);
    for seed in 0..60 {
        let num_rows = 1 + random.below([3, 40, 700][seed % 3]);
        let longest = [70, 1000, 20_000][random.below(3)];
        let most_shares = [4, 40, 264][random.below(3)];
        let step = Step {
            rows: (0..num_rows)
                .map(|_| match random.below(6) {
                    0 => (2 + random.below(30) as i32, 40),
                    _ => (1, 1 + random.below(longest) as i32),
                })
                .collect(),
            window: [0, 0, 1, 100, 4096][random.below(5)],
            num_shares: 1 + random.below(most_shares),
            num_head_tiles: 1 + random.below(9) as i32,
            group: 1 + random.below(8) as i32,
        };
        let planned = plan(&step);
        let num_decode = step.rows.iter().filter(|row| row.0 == 1).count();
        assert_eq!(planned.counts[0], num_decode as i32);
        let mut token = 0;
        let mut listed = planned.rows.iter();
        for (index, &(num_tokens, seq_len)) in step.rows.iter().enumerate() {
            if num_tokens == 1 {
                assert_eq!(listed.next().unwrap()[..3], [token, 100 + index as i32, seq_len]);
            }
            token += num_tokens;
        }
        if num_decode == 0 {
            assert!(planned.shares.iter().all(|share| share[3] == 0));
            continue;
        }
        let longest = check_shares(&step, &planned);
        let total: i32 = step
            .rows
            .iter()
            .filter(|row| row.0 == 1)
            .map(|row| seen_tiles(&step, row.1))
            .map(|(first, end)| (end - first) * step.num_head_tiles)
            .sum();
        let even = (total + step.num_shares as i32 - 1) / step.num_shares as i32;
        // Two tiles at either end are what it may move to spare a piece; five are not worth a cut.
        assert!(longest <= (even + 4).max(5), "{longest} tiles where {even} are even: {step:?}");
    }
}

#[test]
fn tiles_of_prompts_cover_every_query_row_longest_first() {
    let mut random = Random(2);
    for _ in 0..20 {
        let step = Step {
            rows: (0..=random.below(50))
                .map(|_| {
                    let num_tokens = 1 + random.below(100) as i32;
                    (num_tokens, num_tokens + random.below(500) as i32)
                })
                .collect(),
            window: 0,
            num_shares: 3,
            num_head_tiles: 1,
            group: 1 + random.below(8) as i32,
        };
        let planned = plan(&step);
        let num_tiles = planned.counts[1] as usize;
        let mut tiles: Vec<[i32; 8]> = planned.tiles[..num_tiles].to_vec();
        // As exact as 256 classes of cost are.
        assert!(tiles.windows(2).all(|pair| pair[0][5] >= pair[1][5]), "{step:?}");
        tiles.sort_by_key(|tile| (tile[0], tile[4]));
        let mut expected = Vec::new();
        let mut token = 0;
        for (index, &(num_tokens, seq_len)) in step.rows.iter().enumerate() {
            for first in (0..num_tokens * step.group).step_by(64).filter(|_| num_tokens > 1) {
                expected.push([token, num_tokens, seq_len, 100 + index as i32, first]);
            }
            token += num_tokens;
        }
        let actual: Vec<[i32; 5]> =
            tiles.iter().map(|tile| tile[..5].try_into().unwrap()).collect();
        assert_eq!(actual, expected, "{step:?}");
    }
}

#[test]
fn a_plan_is_of_what_it_finds_at_every_replay() {
    // Lengths change between replays of a captured step; the launch does not.
    let context = context();
    let seq_lens = upload_i32(&context, &[1, 1]);
    let cu_seqlens = upload_i32(&context, &[0, 1, 2]);
    let outputs = [2usize, 8, 2 * 8, 16].map(|num| upload_i32(&context, &vec![-1; num]));
    let params = AttentionPlanParams {
        cu_seqlens: cu_seqlens.ptr().as_ptr(),
        seq_lens: seq_lens.ptr().as_ptr(),
        row_slots: DevicePtr::NULL.as_ptr(),
        counts: outputs[0].ptr().as_mut_ptr(),
        rows: outputs[1].ptr().as_mut_ptr(),
        shares: outputs[2].ptr().as_mut_ptr(),
        tiles: outputs[3].ptr().as_mut_ptr(),
        num_windows: 1,
        num_rows: 2,
        num_shares: 2,
        num_head_tiles: 1,
        group: 1,
        query_rows: 64,
        decode_tokens: 1,
        ..AttentionPlanParams::default()
    };
    let launch = Launch { grid: [2, 1, 1], num_threads: 512, shared_bytes: 4 * 400 };
    let kernel = context.kernel("attention_plan").unwrap();
    context.driver().begin_capture(context.stream()).unwrap();
    // SAFETY: the arrays are as long as the parameters say.
    unsafe { context.launch(kernel, launch, &params).unwrap() };
    let graph = context.driver().end_capture(context.stream()).unwrap();
    for lengths in [[1, 1], [640, 1], [3, 1280]] {
        let new = upload_i32(&context, &lengths);
        let copy = folio_kernels::cuda::Command::Copy {
            to: seq_lens.ptr(),
            from: new.ptr(),
            num_bytes: 8,
        };
        // SAFETY: both buffers have two words and outlive the download below.
        unsafe {
            context.driver().enqueue(context.stream(), copy).unwrap();
            let replay = folio_kernels::cuda::Command::Replay(graph);
            context.driver().enqueue(context.stream(), replay).unwrap();
        }
        let shares: Vec<[i32; 8]> = records(&context, &outputs[2]);
        let planned: i32 = shares.iter().map(|share| share[3]).sum();
        assert_eq!(planned, lengths.iter().map(|length| (length + 63) / 64).sum::<i32>());
    }
}
