//! What the sampler keeps on the device: how each slot samples, its lists, and scratch a row.
//!
//! A slot's parameters come in with the packed upload of a step: [`SlotUpdates`] lays them out in
//! words, [`update_slots`] copies them to their places on the device, in the order of the stream.
//! From then on the device keeps a slot's counts of tokens itself. `sample.rs` samples.

use super::context::{Context, DeviceBuffer, Launch};
use super::driver::{Command, DevicePtr, Result};
use super::params::{
    SAMPLE_BLOCK_TOKENS, SAMPLE_MAX_TOP, SampleCount, SampleLogit, SampleRecord, SampleState,
    SlotSampling, UpdateSlotsParams,
};
use super::sample::SampleKind;

/// Entries that a slot's lists of biases and of stop tokens have room for, each.
const MAX_LISTED: usize = 512;
/// Tokens of a row that top-p may cut between before it has to read the row again.
const MAX_CANDIDATES: usize = 8192;
/// A row's list of the likeliest tokens.
const TOP_BYTES: usize = SAMPLE_MAX_TOP as usize * size_of::<SampleLogit>();
/// Vocabularies must be smaller than this for sums of masses not to overflow.
const MAX_VOCAB_SIZE: usize = 1 << 23;

/// Sizes of a [`SamplerState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SamplerLimits {
    /// Rows of the slot tables, those for rows of padding included.
    pub num_slots: usize,
    /// Rows that one launch samples, E, at most.
    pub max_rows: usize,
    /// V.
    pub vocab_size: usize,
    /// Different tokens that a slot can count for its penalties.
    pub max_counts: usize,
}

/// How a row's token is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlotDraw {
    /// The largest logit is taken unless this is above 0.
    pub temperature: f32,
    /// Keep so many of the likeliest; 0 keeps all.
    pub top_k: u32,
    /// Keep the fewest of the likeliest that reach this mass.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the likeliest.
    pub min_p: f32,
    /// Key of the random numbers.
    pub seed: u64,
    /// Which choice of its request the slot is.
    pub choice_index: u32,
}

/// What changes single logits of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlotEdits<'a> {
    /// Subtracted once for each time the token was generated.
    pub frequency: f32,
    /// Subtracted once if the token was generated at all.
    pub presence: f32,
    /// Divides positive and multiplies other logits of tokens that were seen; 1 is off.
    pub repetition: f32,
    /// Tokens seen so far, and how often each was generated. No token twice. Ignored unless one of
    /// the penalties above is on.
    pub counts: &'a [(u32, u32)],
    /// What is added to single logits. No token twice.
    pub biases: &'a [(u32, f32)],
    /// Banned until `min_tokens` were generated.
    pub stops: &'a [u32],
    /// See `stops`.
    pub min_tokens: u32,
}

impl SlotEdits<'_> {
    /// Nothing is changed.
    pub const NONE: Self = Self {
        frequency: 0.0,
        presence: 0.0,
        repetition: 1.0,
        counts: &[],
        biases: &[],
        stops: &[],
        min_tokens: 0,
    };

    /// Whether tokens are counted.
    fn tracks_counts(&self) -> bool {
        let repeats = self.repetition.to_bits() != 1f32.to_bits();
        self.frequency != 0.0 || self.presence != 0.0 || repeats
    }
}

/// How a slot samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlotParams<'a> {
    /// How the token is drawn.
    pub draw: SlotDraw,
    /// What is changed before.
    pub edits: SlotEdits<'a>,
    /// Tokens of the prompt: those before the first that counts as generated.
    pub prompt_len: u32,
    /// `Some(k)`: report the token's log-probability and the `k` likeliest, 20 at most.
    pub num_logprobs: Option<u32>,
}

impl SlotParams<'_> {
    /// The launches that a row of this slot needs.
    #[must_use]
    pub fn kind(&self) -> SampleKind {
        let edits = &self.edits;
        let bans = edits.min_tokens > 0 && !edits.stops.is_empty();
        if self.num_logprobs.is_some() {
            SampleKind::Reported
        } else if edits.tracks_counts() || !edits.biases.is_empty() || bans {
            SampleKind::Edited
        } else if self.draw.temperature > 0.0 {
            SampleKind::Drawn
        } else {
            SampleKind::Greedy
        }
    }

    fn sampling(&self) -> SlotSampling {
        let SlotParams { draw, edits, .. } = self;
        let tracks_counts = edits.tracks_counts();
        SlotSampling {
            temperature: draw.temperature,
            top_k: draw.top_k,
            top_p: draw.top_p,
            min_p: draw.min_p,
            seed_low: draw.seed as u32,
            seed_high: (draw.seed >> 32) as u32,
            choice_index: draw.choice_index,
            prompt_len: self.prompt_len,
            min_tokens: edits.min_tokens,
            frequency: edits.frequency,
            presence: edits.presence,
            repetition: edits.repetition,
            num_logprobs: self.num_logprobs.map_or(-1, |num| num as i32),
            tracks_counts: u32::from(tracks_counts),
            num_counts: if tracks_counts { edits.counts.len() as u32 } else { 0 },
            num_biases: edits.biases.len() as u32,
            num_stops: edits.stops.len() as u32,
        }
    }
}

impl SlotSampling {
    /// The struct as it is uploaded.
    fn words(self) -> [u32; size_of::<Self>() / 4] {
        [
            self.temperature.to_bits(),
            self.top_k,
            self.top_p.to_bits(),
            self.min_p.to_bits(),
            self.seed_low,
            self.seed_high,
            self.choice_index,
            self.prompt_len,
            self.min_tokens,
            self.frequency.to_bits(),
            self.presence.to_bits(),
            self.repetition.to_bits(),
            self.num_logprobs as u32,
            self.tracks_counts,
            self.num_counts,
            self.num_biases,
            self.num_stops,
        ]
    }
}

/// The sampler's memory on the device.
#[derive(Debug)]
pub struct SamplerState {
    memory: DeviceBuffer,
    /// Records `[max_rows]`, then lists of the likeliest `[max_rows, 20]`.
    results: DeviceBuffer,
    limits: SamplerLimits,
}

/// Where the parts of a [`SamplerState`] are, as offsets in bytes.
#[derive(Clone, Copy, Debug)]
struct Layout {
    slots: usize,
    counts: usize,
    count_originals: usize,
    biases: usize,
    bias_originals: usize,
    stops: usize,
    rows: RowLayout,
    num_bytes: usize,
}

/// The parts with an entry for each emitting row.
#[derive(Clone, Copy, Debug)]
struct RowLayout {
    maxima: usize,
    masses: usize,
    candidates: usize,
    num_candidates: usize,
    floors: usize,
    bests: usize,
    num_arrived: usize,
}

impl SamplerLimits {
    /// Device memory that a sampler of these limits takes, in bytes.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        self.layout().num_bytes + self.results_bytes()
    }

    fn results_bytes(&self) -> usize {
        self.max_rows * (size_of::<SampleRecord>() + TOP_BYTES)
    }

    /// Blocks of a row.
    pub(super) fn num_blocks(&self) -> usize {
        self.vocab_size.div_ceil(SAMPLE_BLOCK_TOKENS as usize)
    }

    fn layout(&self) -> Layout {
        let mut end = 0usize;
        let mut array = |num: usize, element_bytes: usize| {
            let start = end.next_multiple_of(256);
            end = start + num * element_bytes;
            start
        };
        let (num_slots, num_rows) = (self.num_slots, self.max_rows);
        let num_counts = num_slots * self.max_counts;
        let num_listed = num_slots * MAX_LISTED;
        let num_blocks = num_rows * self.num_blocks();
        let mut layout = Layout {
            slots: array(num_slots, size_of::<SlotSampling>()),
            counts: array(num_counts, size_of::<SampleCount>()),
            count_originals: array(num_counts, 4),
            biases: array(num_listed, size_of::<SampleLogit>()),
            bias_originals: array(num_listed, 4),
            stops: array(num_listed, 4),
            rows: RowLayout {
                maxima: array(num_blocks, 4),
                masses: array(num_blocks, 8),
                candidates: array(num_rows * MAX_CANDIDATES, size_of::<SampleLogit>()),
                num_candidates: array(num_rows, 4),
                floors: array(num_rows, 4),
                bests: array(num_rows, 8),
                num_arrived: array(num_rows, 4),
            },
            num_bytes: 0,
        };
        layout.num_bytes = end;
        layout
    }
}

impl SamplerState {
    /// A sampler whose slots all take the largest logit. Waits for the device.
    ///
    /// # Panics
    /// If V is 0 or not below 2²³, or a limit is 0.
    pub fn new(context: &Context, limits: SamplerLimits) -> Result<Self> {
        let SamplerLimits { num_slots, max_rows, vocab_size, max_counts } = limits;
        assert!(
            (1..MAX_VOCAB_SIZE).contains(&vocab_size),
            "a sampler for a vocabulary of {vocab_size}"
        );
        assert!(
            num_slots > 0 && max_rows > 0 && max_counts > 0,
            "a sampler of {num_slots} slots, {max_rows} rows and {max_counts} counts"
        );
        let memory = context.allocate(limits.layout().num_bytes)?;
        let zero = Command::Zero { to: memory.ptr(), num_bytes: memory.num_bytes() };
        // SAFETY: the buffer is as long as this.
        unsafe { context.driver().enqueue(context.stream(), zero)? };
        let results = context.allocate(limits.results_bytes())?;
        let state = Self { memory, results, limits };
        state.clear_slots(context)?;
        Ok(state)
    }

    /// Its limits.
    #[must_use]
    pub fn limits(&self) -> SamplerLimits {
        self.limits
    }

    /// Whether a slot can hold these parameters while up to `max_new_tokens` more are generated.
    /// If not, the caller samples the sequence on the host.
    #[must_use]
    pub fn fits(&self, params: &SlotParams<'_>, max_new_tokens: usize) -> bool {
        let edits = &params.edits;
        let num_counts = edits.counts.len().saturating_add(max_new_tokens);
        edits.biases.len() <= MAX_LISTED
            && edits.stops.len() <= MAX_LISTED
            && (!edits.tracks_counts()
                || num_counts.min(self.limits.vocab_size) <= self.limits.max_counts)
            && params.num_logprobs.unwrap_or(0) <= SAMPLE_MAX_TOP as u32
    }

    /// The results of the latest sampling, for `read_result`. The first
    /// [`results_bytes`](Self::results_bytes) are enough.
    #[must_use]
    pub fn results(&self) -> &DeviceBuffer {
        &self.results
    }

    /// Bytes of results to copy after sampling `num_rows` as `kind`.
    #[must_use]
    pub fn results_bytes(&self, num_rows: usize, kind: SampleKind) -> usize {
        let record = size_of::<SampleRecord>();
        match kind {
            SampleKind::Reported => self.limits.max_rows * record + num_rows * TOP_BYTES,
            SampleKind::Greedy | SampleKind::Drawn | SampleKind::Edited => num_rows * record,
        }
    }

    /// Gives every slot the parameters of a greedy one.
    fn clear_slots(&self, context: &Context) -> Result<()> {
        let mut updates = SlotUpdates::default();
        let draw = SlotDraw {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
            choice_index: 0,
        };
        let params = SlotParams { draw, edits: SlotEdits::NONE, prompt_len: 0, num_logprobs: None };
        for slot in 0..self.limits.num_slots {
            updates.push(self, slot, &params);
        }
        let bytes: Vec<u8> = updates.words().flat_map(u32::to_le_bytes).collect();
        let upload = context.upload(&bytes)?;
        update_slots(context, self, upload.ptr(), updates.num_updates())?;
        context.synchronize()
    }

    /// The addresses, for kernels.
    pub(super) fn params(&self) -> SampleState {
        let layout = self.limits.layout();
        let at = |offset: usize| self.memory.ptr().offset(offset);
        let rows = layout.rows;
        let tops = self.limits.max_rows * size_of::<SampleRecord>();
        SampleState {
            slots: at(layout.slots).as_mut_ptr(),
            counts: at(layout.counts).as_mut_ptr(),
            count_originals: at(layout.count_originals).as_mut_ptr(),
            biases: at(layout.biases).as_mut_ptr(),
            bias_originals: at(layout.bias_originals).as_mut_ptr(),
            stops: at(layout.stops).as_mut_ptr(),
            maxima: at(rows.maxima).as_mut_ptr(),
            masses: at(rows.masses).as_mut_ptr(),
            candidates: at(rows.candidates).as_mut_ptr(),
            num_candidates: at(rows.num_candidates).as_mut_ptr(),
            floors: at(rows.floors).as_mut_ptr(),
            bests: at(rows.bests).as_mut_ptr(),
            num_arrived: at(rows.num_arrived).as_mut_ptr(),
            records: self.results.ptr().as_mut_ptr(),
            tops: self.results.ptr().offset(tops).as_mut_ptr(),
            max_counts: self.limits.max_counts as i32,
            max_listed: MAX_LISTED as i32,
            max_candidates: MAX_CANDIDATES as i32,
            vocab_size: self.limits.vocab_size as i32,
            num_blocks: self.limits.num_blocks() as i32,
        }
    }
}

/// New parameters of slots, as words of an upload: where each update starts, then the updates.
#[derive(Clone, Debug, Default)]
pub struct SlotUpdates {
    starts: Vec<u32>,
    words: Vec<u32>,
}

impl SlotUpdates {
    /// Forgets all updates; keeps the memory.
    pub fn clear(&mut self) {
        self.starts.clear();
        self.words.clear();
    }

    /// Appends new parameters for `slot`, which must fit the sampler. A slot occurs once.
    pub fn push(&mut self, state: &SamplerState, slot: usize, params: &SlotParams<'_>) {
        let num_slots = state.limits.num_slots;
        assert!(slot < num_slots, "slot {slot} of {num_slots}");
        assert!(state.fits(params, 0), "the lists of slot {slot} do not fit");
        let sampling = params.sampling();
        self.starts.push(self.words.len() as u32);
        self.words.push(slot as u32);
        self.words.extend(sampling.words());
        if sampling.tracks_counts > 0 {
            self.words.extend(params.edits.counts.iter().flat_map(|&(token, n)| [token, n]));
        }
        let biases = params.edits.biases.iter();
        self.words.extend(biases.flat_map(|&(token, bias)| [token, bias.to_bits()]));
        self.words.extend(params.edits.stops);
    }

    /// Slots that are updated, U.
    #[must_use]
    pub fn num_updates(&self) -> usize {
        self.starts.len()
    }

    /// Words that they take.
    #[must_use]
    pub fn num_words(&self) -> usize {
        self.starts.len() + self.words.len()
    }

    /// The words, in the order of the upload.
    pub fn words(&self) -> impl Iterator<Item = u32> + '_ {
        let offset = self.starts.len() as u32;
        self.starts.iter().map(move |start| start + offset).chain(self.words.iter().copied())
    }
}

/// Gives slots new parameters: `updates` is where on the device the words of `num_updates` updates
/// were uploaded to, aligned to 4 bytes. Not to be captured: U is the size of the grid.
pub fn update_slots(
    context: &Context,
    state: &SamplerState,
    updates: DevicePtr,
    num_updates: usize,
) -> Result<()> {
    let params = UpdateSlotsParams { state: state.params(), updates: updates.as_ptr() };
    let launch = Launch { grid: [num_updates, 1, 1], num_threads: 256, shared_bytes: 0 };
    // SAFETY: the updates were made by `SlotUpdates`, which holds them to the sampler's limits.
    unsafe { context.launch(context.kernel("sample_update")?, launch, &params) }
}
