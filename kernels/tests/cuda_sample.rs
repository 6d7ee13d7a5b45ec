//! The sampler's kernels on the emulated device: which rows they touch, what slots remember, masks,
//! and graphs. That tokens are those of the sampler on the host is tested beside that one.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
#![allow(unsafe_code, reason = "copies and replays take raw addresses")]

mod cuda_common;

use cuda_common::{Random, context, download_f32, download_i32, upload_f32, upload_i32};
use folio_kernels::cuda::{
    Command, Context, DeviceBuffer, Sample, SampleFailure, SampleKind, SampleMasks, SampleOutcome,
    SamplerLimits, SamplerState, SlotDraw, SlotEdits, SlotParams, SlotUpdates, View, read_result,
    sample, update_slots,
};

const BANNED: f32 = f32::NEG_INFINITY;

const GREEDY: SlotDraw =
    SlotDraw { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0, choice_index: 0 };

fn params(draw: SlotDraw) -> SlotParams<'static> {
    SlotParams { draw, edits: SlotEdits::NONE, prompt_len: 0, num_logprobs: None }
}

/// A sampler with the step arrays around it: row `r` of the step has slot `r`, and emits.
struct Bench {
    context: Context,
    state: SamplerState,
    last_tokens: DeviceBuffer,
    rows: DeviceBuffer,
    row_slots: DeviceBuffer,
    seq_lens: DeviceBuffer,
    /// Elements from one row of logits to the next.
    stride: usize,
}

impl Bench {
    fn new(num_rows: usize, vocab_size: usize) -> Self {
        let context = context();
        let limits =
            SamplerLimits { num_slots: num_rows, max_rows: num_rows, vocab_size, max_counts: 16 };
        let state = SamplerState::new(&context, limits).unwrap();
        let order: Vec<i32> = (0..num_rows as i32).collect();
        Self {
            last_tokens: upload_i32(&context, &vec![-7; num_rows]),
            rows: upload_i32(&context, &order),
            row_slots: upload_i32(&context, &order),
            seq_lens: upload_i32(&context, &vec![10; num_rows]),
            stride: vocab_size,
            context,
            state,
        }
    }

    fn update(&self, slots: &[(usize, SlotParams<'_>)]) {
        let mut updates = SlotUpdates::default();
        for (slot, params) in slots {
            updates.push(&self.state, *slot, params);
        }
        // Somewhere within an upload.
        let words: Vec<i32> =
            [-1; 3].into_iter().chain(updates.words().map(|word| word as i32)).collect();
        assert_eq!(words.len(), 3 + updates.num_words());
        let upload = upload_i32(&self.context, &words);
        let at = upload.ptr().offset(12);
        update_slots(&self.context, &self.state, at, updates.num_updates()).unwrap();
        self.context.synchronize().unwrap();
    }

    /// Rows as they lie on the device, with NaN in the gaps between them.
    fn upload(&self, rows: &[Vec<f32>]) -> DeviceBuffer {
        let mut values = vec![f32::NAN; rows.len() * self.stride];
        for (to, row) in values.chunks_exact_mut(self.stride).zip(rows) {
            to[..row.len()].copy_from_slice(row);
        }
        upload_f32(&self.context, &values)
    }

    fn args(&self, logits: &DeviceBuffer, kind: SampleKind) -> Sample {
        let rows = logits.num_bytes() / 4 / self.stride;
        let cols = self.state.limits().vocab_size;
        Sample {
            logits: View { ptr: logits.ptr(), rows, cols, stride: self.stride },
            rows: self.rows.ptr(),
            row_slots: self.row_slots.ptr(),
            seq_lens: self.seq_lens.ptr(),
            masks: None,
            last_tokens: self.last_tokens.ptr(),
            kind,
        }
    }

    fn results(&self, num_rows: usize) -> Vec<SampleOutcome> {
        let bytes = self.context.download(self.state.results()).unwrap();
        let max_rows = self.state.limits().max_rows;
        (0..num_rows).map(|row| read_result(&bytes, max_rows, row)).collect()
    }

    /// The outcomes of rows, which must be as many as the bench has.
    fn sample(&self, rows: &[Vec<f32>], kind: SampleKind) -> Vec<SampleOutcome> {
        let logits = self.upload(rows);
        sample(&self.context, &self.state, self.args(&logits, kind)).unwrap();
        self.results(rows.len())
    }

    fn last_tokens(&self) -> Vec<i32> {
        download_i32(&self.context, &self.last_tokens)
    }
}

fn tokens(outcomes: &[SampleOutcome]) -> Vec<u32> {
    outcomes.iter().map(|outcome| outcome.token.unwrap()).collect()
}

/// The first of the largest.
fn argmax(row: &[f32]) -> u32 {
    let largest = row.iter().copied().fold(BANNED, f32::max);
    row.iter().position(|&logit| logit >= largest).unwrap() as u32
}

/// Coarse rows, so that the largest logit is often there more than once.
fn coarse_row(random: &mut Random, vocab_size: usize) -> Vec<f32> {
    (0..vocab_size).map(|_| (random.normal() * 2.0).round()).collect()
}

#[test]
fn every_kind_of_launch_takes_the_first_of_the_largest() {
    let mut random = Random(1);
    for (vocab_size, stride) in
        [(1, 1), (5, 5), (255, 256), (256, 256), (4_097, 4_097), (9_000, 9_004)]
    {
        let bench = Bench { stride, ..Bench::new(6, vocab_size) };
        let rows: Vec<Vec<f32>> = (0..6).map(|_| coarse_row(&mut random, vocab_size)).collect();
        let expected: Vec<u32> = rows.iter().map(|row| argmax(row)).collect();
        for kind in
            [SampleKind::Greedy, SampleKind::Drawn, SampleKind::Edited, SampleKind::Reported]
        {
            // Twice: scratch must be left as it was found.
            for _ in 0..2 {
                let outcomes = bench.sample(&rows, kind);
                assert_eq!(tokens(&outcomes), expected, "{kind:?} of {vocab_size}");
                assert!(outcomes.iter().all(|outcome| outcome.logprobs.is_none()));
                let last_tokens: Vec<i32> = expected.iter().map(|&token| token as i32).collect();
                assert_eq!(bench.last_tokens(), last_tokens);
            }
        }
    }
}

#[test]
fn broken_rows_say_why_and_leave_the_others_alone() {
    let vocab_size = 5_000;
    let bench = Bench::new(5, vocab_size);
    let mut random = Random(2);
    let mut rows: Vec<Vec<f32>> = (0..5).map(|_| coarse_row(&mut random, vocab_size)).collect();
    rows[0][4_990] = f32::NAN;
    rows[0][4_998] = f32::NAN;
    rows[0][3] = f32::INFINITY;
    rows[1][700] = f32::INFINITY;
    rows[1][4_800] = f32::INFINITY;
    rows[2].fill(BANNED);
    let expected = [
        Err(SampleFailure::NotANumber { token: 4_990 }),
        Err(SampleFailure::Infinite { token: 700 }),
        Err(SampleFailure::AllBanned),
        Ok(argmax(&rows[3])),
        Ok(argmax(&rows[4])),
    ];
    for kind in [SampleKind::Greedy, SampleKind::Drawn, SampleKind::Reported] {
        let outcomes = bench.sample(&rows, kind);
        let found: Vec<_> = outcomes.into_iter().map(|outcome| outcome.token).collect();
        assert_eq!(found, expected, "{kind:?}");
        assert_eq!(bench.last_tokens()[..3], [0; 3]);
    }
}

/// Rows of the step that do not emit, emitting rows in another order, and rows of padding.
#[test]
fn rows_find_their_slots() {
    let mut bench = Bench::new(4, 300);
    let mut random = Random(3);
    let rows: Vec<Vec<f32>> = (0..4).map(|_| coarse_row(&mut random, 300)).collect();
    bench.rows = upload_i32(&bench.context, &[2, -1, 0, -1]);
    bench.row_slots = upload_i32(&bench.context, &[3, 0, 1]);
    let logits = bench.upload(&rows);
    for kind in [SampleKind::Greedy, SampleKind::Reported] {
        sample(&bench.context, &bench.state, bench.args(&logits, kind)).unwrap();
        let outcomes = bench.results(4);
        assert_eq!(outcomes[0].token, Ok(argmax(&rows[0])));
        assert_eq!(outcomes[2].token, Ok(argmax(&rows[2])));
        let expected = [-7, argmax(&rows[0]) as i32, -7, argmax(&rows[2]) as i32];
        assert_eq!(bench.last_tokens(), expected, "{kind:?}");
    }
}

#[test]
fn masks_are_per_row() {
    let vocab_size = 700;
    let bench = Bench::new(4, vocab_size);
    let drawn = SlotDraw { temperature: 1.5, top_p: 0.9, seed: 5, ..GREEDY };
    bench.update(&[(2, params(drawn)), (3, params(drawn))]);
    let mut random = Random(4);
    let rows: Vec<Vec<f32>> = (0..4).map(|_| coarse_row(&mut random, vocab_size)).collect();
    // Mask 0 allows nothing, mask 1 multiples of 7, of words enough for 704 tokens and one more.
    let stride = 23;
    let mut words = vec![0; 2 * stride];
    for token in (0..vocab_size).step_by(7) {
        words[stride + token / 32] |= 1 << (token % 32);
    }
    let masks = upload_i32(&bench.context, &words);
    let allowed = |row: &[f32]| -> Vec<f32> {
        let logit = |(token, &logit): (usize, &f32)| if token % 7 == 0 { logit } else { BANNED };
        row.iter().enumerate().map(logit).collect()
    };
    let row_masks = upload_i32(&bench.context, &[1, -1, 0, 1]);
    let masks = SampleMasks {
        masks: View { ptr: masks.ptr(), rows: 2, cols: stride, stride },
        row_masks: row_masks.ptr(),
    };
    for kind in [SampleKind::Greedy, SampleKind::Drawn] {
        let logits = bench.upload(&rows);
        let args = Sample { masks: Some(masks), ..bench.args(&logits, kind) };
        sample(&bench.context, &bench.state, args).unwrap();
        let outcomes = bench.results(4);
        assert_eq!(outcomes[0].token, Ok(argmax(&allowed(&rows[0]))), "{kind:?}");
        assert_eq!(outcomes[1].token, Ok(argmax(&rows[1])));
        assert_eq!(outcomes[2].token, Err(SampleFailure::AllBanned));
        assert_eq!(outcomes[3].token.unwrap() % 7, 0);
    }
}

/// The device counts what it samples: after each step the token loses by the penalty.
#[test]
fn slots_count_their_tokens() {
    let vocab_size = 50;
    let bench = Bench::new(2, vocab_size);
    let edits = SlotEdits { frequency: 1.5, presence: 0.25, ..SlotEdits::NONE };
    let mut counts = vec![0u32; vocab_size];
    counts[4] = 2;
    let params =
        SlotParams { edits: SlotEdits { counts: &[(9, 0), (4, 2)], ..edits }, ..params(GREEDY) };
    assert_eq!(params.kind(), SampleKind::Edited);
    bench.update(&[(1, params)]);
    let mut random = Random(5);
    let row = coarse_row(&mut random, vocab_size);
    for step in 0..40 {
        let outcomes = bench.sample(&[row.clone(), row.clone()], SampleKind::Edited);
        let penalised: Vec<f32> = row
            .iter()
            .zip(&counts)
            .map(|(&logit, &n)| if n > 0 { logit - (n as f32 * 1.5 + 0.25) } else { logit })
            .collect();
        assert_eq!(outcomes[0].token, Ok(argmax(&row)), "step {step}: no penalty in slot 0");
        let token = argmax(&penalised);
        // Sixteen different tokens fit, the two of the update among them.
        let num_counted = counts.iter().filter(|&&n| n > 0).count() + 1;
        if num_counted > 16 || outcomes[1].token.is_err() {
            assert_eq!(outcomes[1].token, Err(SampleFailure::CountsFull), "step {step}");
            assert!(num_counted >= 16, "{num_counted} tokens are not too many");
            return;
        }
        assert_eq!(outcomes[1].token, Ok(token), "step {step}");
        counts[token as usize] += 1;
    }
    panic!("the slot never filled up");
}

#[test]
fn parameters_that_do_not_fit_are_told_apart() {
    let bench = Bench::new(1, 1_000);
    let biases: Vec<(u32, f32)> = (0..513).map(|token| (token, 1.0)).collect();
    let counts: Vec<(u32, u32)> = (0..10).map(|token| (token, 1)).collect();
    let fits = |edits: SlotEdits<'_>, max_new_tokens| {
        bench.state.fits(&SlotParams { edits, ..params(GREEDY) }, max_new_tokens)
    };
    assert!(fits(SlotEdits { biases: &biases[..512], ..SlotEdits::NONE }, 1_000_000));
    assert!(!fits(SlotEdits { biases: &biases, ..SlotEdits::NONE }, 1));
    assert!(fits(SlotEdits { counts: &counts, repetition: 1.1, ..SlotEdits::NONE }, 6));
    assert!(!fits(SlotEdits { counts: &counts, repetition: 1.1, ..SlotEdits::NONE }, 7));
    // Without a penalty nothing is counted.
    assert!(fits(SlotEdits { counts: &counts, ..SlotEdits::NONE }, 7));
    assert!(!bench.state.fits(&SlotParams { num_logprobs: Some(21), ..params(GREEDY) }, 1));
}

/// Log-probabilities are those of the logits before edits, in f64 here.
#[test]
fn log_probabilities_of_the_model() {
    let vocab_size = 3_000;
    let bench = Bench::new(2, vocab_size);
    let biases: Vec<(u32, f32)> = (0..500).map(|token| (token * 6, -20.0)).collect();
    let draw = SlotDraw { temperature: 0.8, seed: 3, ..GREEDY };
    let biased = SlotEdits { biases: &biases, ..SlotEdits::NONE };
    bench.update(&[
        (0, SlotParams { num_logprobs: Some(20), edits: biased, ..params(draw) }),
        (1, SlotParams { num_logprobs: Some(0), ..params(draw) }),
    ]);
    let mut random = Random(6);
    let rows: Vec<Vec<f32>> = (0..2).map(|_| random.normals(vocab_size)).collect();
    let outcomes = bench.sample(&rows, SampleKind::Reported);
    for (row, outcome) in rows.iter().zip(&outcomes) {
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        let logprob = |token: u32| f64::from(row[token as usize]) - sum.ln();
        let found = outcome.logprobs.as_ref().unwrap();
        let error = f64::from(found.logprob) - logprob(outcome.token.unwrap());
        assert!(error.abs() < 1e-5, "{error}");
        for &(token, found) in &found.top {
            assert!((f64::from(found) - logprob(token)).abs() < 1e-5, "{token}");
        }
    }
    let mut ranking: Vec<u32> = (0..vocab_size as u32).collect();
    ranking.sort_by(|&a, &b| rows[0][b as usize].total_cmp(&rows[0][a as usize]));
    let top = &outcomes[0].logprobs.as_ref().unwrap().top;
    assert!(top.iter().map(|&(token, _)| token).eq(ranking[..20].iter().copied()));
    assert!(outcomes[1].logprobs.as_ref().unwrap().top.is_empty());
}

/// A captured launch reads logits, positions and slots anew at each replay.
#[test]
fn a_graph_samples_every_step() {
    let vocab_size = 600;
    let bench = Bench::new(3, vocab_size);
    let draw = SlotDraw { temperature: 1.0, top_k: 50, top_p: 0.95, seed: 8, ..GREEDY };
    let edits = SlotEdits { presence: 0.5, ..SlotEdits::NONE };
    let slot = SlotParams { edits, ..params(draw) };
    let mut random = Random(7);
    let rows: Vec<Vec<f32>> = (0..3).map(|_| random.normals(vocab_size)).collect();
    let (driver, stream) = (bench.context.driver(), bench.context.stream());
    let logits = bench.upload(&rows);
    driver.begin_capture(stream).unwrap();
    sample(&bench.context, &bench.state, bench.args(&logits, SampleKind::Edited)).unwrap();
    let graph = driver.end_capture(stream).unwrap();
    let run = |is_replay: bool| -> Vec<Vec<u32>> {
        bench.update(&[(0, slot), (1, slot), (2, params(draw))]);
        let steps = (0..5).map(|step| {
            let fresh = bench.upload(&rows);
            let seq_lens = upload_i32(&bench.context, &[step, step + 1, step]);
            let copies = [(&logits, &fresh), (&bench.seq_lens, &seq_lens)];
            for (to, from) in copies {
                let command =
                    Command::Copy { to: to.ptr(), from: from.ptr(), num_bytes: from.num_bytes() };
                // SAFETY: both are this long.
                unsafe { driver.enqueue(stream, command) }.unwrap();
            }
            if is_replay {
                // SAFETY: all that was captured lives until the end of the test.
                unsafe { driver.enqueue(stream, Command::Replay(graph)) }.unwrap();
            } else {
                let args = bench.args(&logits, SampleKind::Edited);
                sample(&bench.context, &bench.state, args).unwrap();
            }
            tokens(&bench.results(3))
        });
        steps.collect()
    };
    let eager = run(false);
    assert_eq!(run(true), eager);
    assert_ne!(eager[0], eager[1], "positions draw different numbers");
    // Nothing is edited in a slot without edits.
    let edited = download_f32(&bench.context, &logits);
    assert_eq!(edited[2 * vocab_size..], rows[2][..]);
}
