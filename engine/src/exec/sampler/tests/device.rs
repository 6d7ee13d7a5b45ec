//! The CUDA sampler, on the emulated device, against this one: the same tokens, the same failures
//! and the same log-probabilities, bit for bit.

use folio_emulator::test_driver;
use folio_kernels::cuda::{
    Context, DeviceBuffer, Sample, SampleFailure, SampleOutcome, SamplerLimits, SamplerState,
    SlotDraw, SlotEdits, SlotParams, SlotUpdates, View, read_result, update_slots,
};

use super::super::blocks::BlockMaxima;
use super::super::cut::Cut;
use super::super::mass;
use super::super::weights::Weights;
use super::*;

/// A row and all that its token depends on.
struct Case {
    row: Vec<f32>,
    params: SamplingParams,
    counts: Vec<(TokenId, u32)>,
    num_generated: u32,
    choice_index: u32,
    position: u32,
}

impl Case {
    /// A row with nothing behind it.
    fn of(row: Vec<f32>, params: SamplingParams) -> Self {
        Self { row, params, counts: Vec::new(), num_generated: 0, choice_index: 0, position: 5 }
    }

    fn context(&self) -> RowContext<'_> {
        RowContext {
            params: &self.params,
            counts: &self.counts,
            num_generated: self.num_generated,
            choice_index: self.choice_index,
            position: self.position,
        }
    }

    fn slot(&self) -> SlotParams<'_> {
        let SamplingParams { sampling, penalties, stop, logprobs, .. } = &self.params;
        SlotParams {
            draw: SlotDraw {
                temperature: sampling.temperature,
                top_k: sampling.top_k,
                top_p: sampling.top_p,
                min_p: sampling.min_p,
                seed: sampling.seed,
                choice_index: self.choice_index,
            },
            edits: SlotEdits {
                frequency: penalties.frequency,
                presence: penalties.presence,
                repetition: penalties.repetition,
                counts: &self.counts,
                biases: &penalties.logit_bias,
                stops: &stop.token_ids,
                min_tokens: stop.min_tokens,
            },
            prompt_len: self.position - self.num_generated,
            num_logprobs: *logprobs,
        }
    }

    /// Logarithm of the sum of the weights of the raw logits.
    fn log_sum(&self) -> f64 {
        let mut maxima = BlockMaxima::default();
        maxima.scan(&self.row).unwrap();
        let mut weights = Weights::default();
        weights.weigh(&self.row, &maxima, 1.0, Cut::NONE);
        mass::to_f64(weights.total()).ln()
    }

    fn on_host(&self) -> Result<SampledToken, Unsampleable> {
        sample(&self.row, &self.context())
    }
}

/// What the device says, in the words of the host.
fn in_host_words(outcome: SampleOutcome) -> Result<SampledToken, Unsampleable> {
    let id = outcome.token.map_err(|failure| match failure {
        SampleFailure::NotANumber { token } => Unsampleable::NotANumber { token },
        SampleFailure::Infinite { token } => Unsampleable::Infinite { token },
        SampleFailure::AllBanned => Unsampleable::AllBanned,
        SampleFailure::CountsFull => panic!("the slot's counts are full"),
    })?;
    let logprobs = outcome
        .logprobs
        .map(|logprobs| Box::new(TokenLogprobs { logprob: logprobs.logprob, top: logprobs.top }));
    Ok(SampledToken { id, logprobs })
}

fn upload_words(context: &Context, words: impl IntoIterator<Item = u32>) -> DeviceBuffer {
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    context.upload(&bytes).unwrap()
}

/// Samples all cases, which have the same vocabulary, in one launch: case `e` in slot `e + 1`, as
/// the rows of a step in reverse.
fn on_device(context: &Context, cases: &[Case]) -> Vec<SampleOutcome> {
    let (num_rows, vocab_size) = (cases.len(), cases[0].row.len());
    let limits =
        SamplerLimits { num_slots: num_rows + 1, max_rows: num_rows, vocab_size, max_counts: 300 };
    let state = SamplerState::new(context, limits).unwrap();
    let mut updates = SlotUpdates::default();
    for (index, case) in cases.iter().enumerate() {
        assert!(state.fits(&case.slot(), 1));
        updates.push(&state, index + 1, &case.slot());
    }
    let upload = upload_words(context, updates.words());
    update_slots(context, &state, upload.ptr(), updates.num_updates()).unwrap();
    let bits = |case: &Case| case.row.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>();
    let logits = upload_words(context, cases.iter().flat_map(bits));
    let reversed = || (0..num_rows as u32).rev();
    let rows = upload_words(context, reversed());
    let row_slots = upload_words(context, reversed().map(|index| index + 1));
    let seq_lens = upload_words(context, cases.iter().rev().map(|case| case.position));
    let last_tokens = context.allocate(4 * limits.num_slots).unwrap();
    let kind = cases.iter().map(|case| case.slot().kind()).max().unwrap();
    let args = Sample {
        logits: View { ptr: logits.ptr(), rows: num_rows, cols: vocab_size, stride: vocab_size },
        rows: rows.ptr(),
        row_slots: row_slots.ptr(),
        seq_lens: seq_lens.ptr(),
        masks: None,
        last_tokens: last_tokens.ptr(),
        kind,
    };
    folio_kernels::cuda::sample(context, &state, args).unwrap();
    let results = context.download(state.results()).unwrap();
    (0..num_rows).map(|row| read_result(&results, num_rows, row)).collect()
}

/// Fails unless both samplers agree about every case.
fn check(context: &Context, cases: &[Case]) {
    let device = on_device(context, cases);
    for (index, (case, device)) in cases.iter().zip(device).enumerate() {
        if let Some(logprobs) = &device.logprobs {
            // All weights of the row are in it, to 2^-40.
            assert_eq!(logprobs.log_sum.to_bits(), case.log_sum().to_bits(), "case {index}");
        }
        assert_eq!(
            in_host_words(device),
            case.on_host(),
            "case {index} of {}: {:?}, position {}",
            case.row.len(),
            case.params,
            case.position
        );
    }
}

/// Random numbers for cases.
struct Dice {
    stream: RandomStream,
    num_thrown: u32,
}

impl Dice {
    fn new(seed: u64) -> Self {
        Self { stream: RandomStream::new(seed, 0), num_thrown: 0 }
    }

    fn uniform(&mut self) -> f64 {
        self.num_thrown += 1;
        self.stream.uniform(self.num_thrown)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.uniform() * end as f64) as usize
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform() as f32
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Different tokens, about `num`.
    fn tokens(&mut self, vocab_size: usize, num: usize) -> Vec<TokenId> {
        let mut tokens: Vec<TokenId> =
            (0..num).map(|_| self.below(vocab_size + 2) as TokenId).collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    /// Flat, peaked, tied, crowded and partly banned rows, and broken ones.
    fn row(&mut self, vocab_size: usize) -> Vec<f32> {
        let scale = self.one_of(&[0.01f32, 0.5, 2.0, 8.0, 300.0]);
        let step = self.one_of(&[0.0f32, 0.0, 0.25, 1.0]);
        let offset = self.one_of(&[0.0f32, 20.0, -30.0]);
        let banned = self.one_of(&[0.0, 0.0, 0.0, 0.1, 0.95]);
        let mut row: Vec<f32> = (0..vocab_size)
            .map(|_| {
                let normal = (0..4).map(|_| self.uniform() - 0.5).sum::<f64>() as f32 * scale;
                let logit = if step > 0.0 { (normal / step).round() * step } else { normal };
                if self.uniform() < banned { f32::NEG_INFINITY } else { logit + offset }
            })
            .collect();
        for _ in 0..self.one_of(&[0, 0, 1, 3]) {
            row[self.below(vocab_size)] += self.between(0.0, 4.0 * scale);
        }
        if self.below(12) == 0 {
            let broken = self.one_of(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
            for _ in 0..self.one_of(&[1, 2, vocab_size]) {
                row[self.below(vocab_size)] = broken;
            }
        }
        row
    }

    fn sampling(&mut self, vocab_size: usize) -> Sampling {
        let any_k = 1 + self.below(vocab_size) as u32;
        let any_p = self.between(0.0, 1.0);
        Sampling {
            temperature: self.one_of(&[0.0, 1e-3, 0.3, 0.7, 1.0, 1.0, 1.5, 100.0]),
            top_k: self.one_of(&[0, 0, 0, 1, 2, 40, any_k, vocab_size as u32, u32::MAX]),
            top_p: self.one_of(&[1.0, 1.0, 1e-6, 0.5, 0.9, 0.95, 0.999_999, any_p]),
            min_p: self.one_of(&[0.0, 0.0, 0.0, 1e-4, 0.1, 1.0]),
            seed: self.uniform().to_bits(),
        }
    }

    fn penalties(&mut self, vocab_size: usize) -> Penalties {
        let num_biased = self.one_of(&[0, 0, 1, 20, 400]);
        let logit_bias = self
            .tokens(vocab_size, num_biased)
            .into_iter()
            .map(|token| (token, self.one_of(&[-100.0, 100.0, 1.0, -2.5, 0.3])));
        let logit_bias = logit_bias.collect();
        Penalties {
            frequency: self.one_of(&[0.0, 0.0, 0.7, -2.0]),
            presence: self.one_of(&[0.0, 0.0, 1.3, -0.1]),
            repetition: self.one_of(&[1.0, 1.0, 1.2, 0.6]),
            logit_bias,
        }
    }

    fn case(&mut self, vocab_size: usize) -> Case {
        let penalties = self.penalties(vocab_size);
        let num_seen = self.one_of(&[0, 3, 250]);
        let seen = if penalties.use_counts() { self.tokens(vocab_size, num_seen) } else { vec![] };
        let counts = seen.into_iter().map(|token| (token, self.below(4) as u32)).collect();
        let num_stops = self.one_of(&[0, 0, 2, vocab_size.min(300)]);
        let num_generated = self.below(6) as u32;
        Case {
            row: self.row(vocab_size),
            counts,
            num_generated,
            choice_index: self.below(3) as u32,
            position: num_generated + self.below(5000) as u32,
            params: SamplingParams {
                sampling: self.sampling(vocab_size),
                penalties,
                stop: StopConditions {
                    max_tokens: 10,
                    min_tokens: self.below(8) as u32,
                    token_ids: self.tokens(vocab_size, num_stops),
                },
                logprobs: self.one_of(&[None, None, Some(0), Some(1), Some(5), Some(20)]),
                prompt_logprobs: None,
            },
        }
    }
}

/// Vocabularies below a block, of some blocks, and beyond the room for candidates.
#[test]
fn random_rows() {
    let context = Context::new(test_driver()).unwrap();
    for (seed, (vocab_size, num_cases)) in [
        (3, 200),
        (17, 200),
        (200, 200),
        (256, 60),
        (257, 100),
        (1_000, 200),
        (1_024, 60),
        (4_999, 100),
        (12_345, 30),
        (50_001, 6),
    ]
    .into_iter()
    .enumerate()
    {
        let mut dice = Dice::new(seed as u64);
        let cases: Vec<Case> = (0..num_cases).map(|_| dice.case(vocab_size)).collect();
        check(&context, &cases);
    }
}

/// Temperatures and distances that leave the range of what a search for a cut guesses from.
#[test]
fn extreme_rows() {
    let context = Context::new(test_driver()).unwrap();
    let tiny = f32::from_bits(1);
    let crowded: Vec<f32> = (0..3_000u16).map(|i| f32::from(i % 1_500) * tiny).collect();
    let wide: Vec<f32> = (0..3_000).map(|i| 2f32.powi(i % 250 - 125)).collect();
    let mut spread = vec![0.0; 3_000];
    spread[2_990] = f32::MAX;
    spread[5] = f32::MIN;
    let zeros: Vec<f32> = (0..3_000).map(|i| if i % 2 == 0 { 0.0 } else { -0.0 }).collect();
    let equal = vec![f32::MIN; 3_000];
    for row in [crowded, wide, spread, zeros, equal] {
        let mut cases = Vec::new();
        for temperature in [tiny, f32::MIN_POSITIVE, 1.0, f32::MAX, f32::INFINITY] {
            for (top_k, top_p) in [(0, 1.0), (1_100, 1.0), (5, 0.5), (0, 0.3), (0, 0.999_999_9)] {
                let sampling = Sampling { temperature, top_k, top_p, ..Sampling::default() };
                let params = SamplingParams { logprobs: Some(7), ..super::sampling(sampling) };
                cases.push(Case::of(row.clone(), params));
            }
        }
        check(&context, &cases);
    }
}
