//! From logits to tokens on the device, bit for bit those of the sampler on the host.
//!
//! How a row samples is in its slot ([`SamplerState`]); all that changes from step to step is read
//! on the device, so that a captured [`sample`] serves every step of as many emitting rows. The
//! host says only which launches a batch needs: its [`SampleKind`].

use super::context::{Context, Launch, View};
use super::driver::{DevicePtr, Result};
use super::params::{
    SAMPLE_ALL_BANNED, SAMPLE_BYTES_PER_BLOCK, SAMPLE_CHUNK_BLOCKS, SAMPLE_INFINITE,
    SAMPLE_MAX_TOP, SAMPLE_NOT_A_NUMBER, SAMPLE_WORKSPACE_BYTES, SAMPLED, SampleLogit,
    SampleParams, SampleRecord,
};
use super::sample_state::SamplerState;
use super::shapes::is_aligned;

/// What rows need, each kind more than the one before. A batch is of the largest kind of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SampleKind {
    /// The largest logit: one launch.
    Greedy,
    /// Temperature, top-k, top-p, min-p: three launches.
    Drawn,
    /// And penalties, biases or banned stops: four.
    Edited,
    /// And log-probabilities: seven.
    Reported,
}

/// Which tokens a row may get, by a grammar.
#[derive(Clone, Copy, Debug)]
pub struct SampleMasks {
    /// One bit a token, from the lowest bit of a word, 1 for allowed: `u32`,
    /// `[any, at least V / 32]`.
    pub masks: View,
    /// Which of them a row has, `i32`, `[E]`; below 0 for none.
    pub row_masks: DevicePtr,
}

/// What [`sample`] works on.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// f32 `[E, V]`; edited in place.
    pub logits: View,
    /// Which of the S rows of the step each emitting row is, `i32`, `[E]`. Below 0 for a row of
    /// padding, which is left alone.
    pub rows: DevicePtr,
    /// Slot of each row of the step, `i32`, `[S]`.
    pub row_slots: DevicePtr,
    /// Tokens of each row's sequence so far, `i32`, `[S]`: the position that the new one takes.
    pub seq_lens: DevicePtr,
    /// Masks over tokens.
    pub masks: Option<SampleMasks>,
    /// Takes the token of each row that has one, and 0 for one that has not: `i32`, `[slots]`.
    pub last_tokens: DevicePtr,
    /// The largest kind among the rows.
    pub kind: SampleKind,
}

/// Samples a token for each row; no slot may have two. What came of it is at
/// [`SamplerState::results`] until the next sampling.
pub fn sample(context: &Context, state: &SamplerState, args: Sample) -> Result<()> {
    let params = pack(state, &args);
    let num_rows = args.logits.rows;
    let num_blocks = state.limits().num_blocks();
    let pass = Launch {
        grid: [num_blocks.div_ceil(SAMPLE_CHUNK_BLOCKS as usize), num_rows, 1],
        num_threads: 256,
        shared_bytes: 64,
    };
    let shared_bytes =
        SAMPLE_WORKSPACE_BYTES as usize + num_blocks * SAMPLE_BYTES_PER_BLOCK as usize;
    let row = Launch { grid: [num_rows, 1, 1], num_threads: 512, shared_bytes };
    let edit = Launch { grid: [num_rows, 1, 1], num_threads: 256, shared_bytes: 0 };
    let run = |name: &str, launch: Launch| {
        // SAFETY: `pack` checked the sizes; slots and positions are the host's own.
        unsafe { context.launch(context.kernel(name)?, launch, &params) }
    };
    if args.kind == SampleKind::Greedy {
        return run("sample_greedy", pass);
    }
    if args.kind == SampleKind::Reported {
        run("sample_scan_raw", pass)?;
        run("sample_weigh_raw", pass)?;
        run("sample_top", row)?;
    }
    if args.kind >= SampleKind::Edited {
        run("sample_edit", edit)?;
    }
    run("sample_scan", pass)?;
    run("sample_weigh", pass)?;
    run("sample_choose", row)
}

fn pack(state: &SamplerState, args: &Sample) -> SampleParams {
    let View { ptr, rows, cols, stride } = args.logits;
    let limits = state.limits();
    assert!(
        rows <= limits.max_rows && cols == limits.vocab_size && stride >= cols,
        "sample: logits [{rows}, {cols}] with stride {stride} for at most {} rows of {}",
        limits.max_rows,
        limits.vocab_size
    );
    let is_wide = is_aligned(ptr) && (stride.is_multiple_of(4) || rows <= 1);
    if let Some(SampleMasks { masks, .. }) = args.masks {
        let num_words = cols.div_ceil(32);
        assert!(masks.cols >= num_words, "sample: masks of {} words, not {num_words}", masks.cols);
    }
    let null = View { ptr: DevicePtr::NULL, rows: 0, cols: 0, stride: 0 };
    let masks = args.masks.map_or(null, |masks| masks.masks);
    let row_masks = args.masks.map_or(DevicePtr::NULL, |masks| masks.row_masks);
    SampleParams {
        state: state.params(),
        logits: ptr.as_mut_ptr(),
        stride: stride as i64,
        rows: args.rows.as_ptr(),
        row_slots: args.row_slots.as_ptr(),
        seq_lens: args.seq_lens.as_ptr(),
        masks: masks.ptr.as_ptr(),
        row_masks: row_masks.as_ptr(),
        last_tokens: args.last_tokens.as_mut_ptr(),
        mask_stride: masks.stride as i32,
        width: if is_wide { 4 } else { 1 },
    }
}

/// Why a row has no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleFailure {
    /// A logit is not a number: of this token, and maybe of later ones.
    NotANumber {
        /// The first such token.
        token: u32,
    },
    /// A logit is infinite: of this token, and maybe of later ones.
    Infinite {
        /// The first such token.
        token: u32,
    },
    /// Every logit is −∞.
    AllBanned,
    /// The slot counted more different tokens than it has room for: the caller did not ask
    /// [`SamplerState::fits`].
    CountsFull,
}

/// Log-probabilities under the raw logits.
#[derive(Clone, Debug, PartialEq)]
pub struct RowLogprobs {
    /// Of the token.
    pub logprob: f32,
    /// Of the likeliest tokens, best first, ties by smaller id.
    pub top: Vec<(u32, f32)>,
    /// Logarithm of the sum of e^(logit − largest logit) over the row.
    pub log_sum: f64,
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOutcome {
    /// The token, or why there is none.
    pub token: std::result::Result<u32, SampleFailure>,
    /// Log-probabilities, if the slot asks for them and there is a token.
    pub logprobs: Option<RowLogprobs>,
}

/// Reads the outcome of emitting row `row` from a copy of [`SamplerState::results`], of
/// [`SamplerState::results_bytes`]. `max_rows` is the sampler's.
#[must_use]
pub fn read_result(results: &[u8], max_rows: usize, row: usize) -> SampleOutcome {
    let record = words_at(results, row * size_of::<SampleRecord>());
    let [status, token, raw_logit, raw_max, mass_low, mass_high, num_top] = record;
    let failed = |failure| SampleOutcome { token: Err(failure), logprobs: None };
    match status as i32 {
        SAMPLED => {}
        SAMPLE_NOT_A_NUMBER => return failed(SampleFailure::NotANumber { token }),
        SAMPLE_INFINITE => return failed(SampleFailure::Infinite { token }),
        SAMPLE_ALL_BANNED => return failed(SampleFailure::AllBanned),
        _ => return failed(SampleFailure::CountsFull),
    }
    let Ok(num_top) = usize::try_from(num_top as i32) else {
        return SampleOutcome { token: Ok(token), logprobs: None };
    };
    // In units of 2^-40.
    let mass = (u64::from(mass_high) << 32) | u64::from(mass_low);
    let log_sum = (mass as f64 / (1u64 << 40) as f64).ln();
    let max = f64::from(f32::from_bits(raw_max));
    let logprob = |logit: u32| (f64::from(f32::from_bits(logit)) - max - log_sum) as f32;
    let tops = max_rows * size_of::<SampleRecord>();
    let first = tops + row * SAMPLE_MAX_TOP as usize * size_of::<SampleLogit>();
    let top = (0..num_top).map(|rank| {
        let [token, logit] = words_at(results, first + rank * size_of::<SampleLogit>());
        (token, logprob(logit))
    });
    let logprobs = RowLogprobs { logprob: logprob(raw_logit), top: top.collect(), log_sum };
    SampleOutcome { token: Ok(token), logprobs: Some(logprobs) }
}

/// The `N` words at `offset` bytes.
fn words_at<const N: usize>(bytes: &[u8], offset: usize) -> [u32; N] {
    let (words, _) = bytes[offset..offset + 4 * N].as_chunks::<4>();
    std::array::from_fn(|i| u32::from_le_bytes(words[i]))
}
