//! Which steps are measured: scenes of sequences that decode and of prompts that join them.

use folio_engine::types::{BatchShape, Emission, EngineConfig};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::cost::{Fitted, Sample};
use folio_engine::types::CostModel as _;

/// Steps of pure decoding that a scene measures, all of them as one shape.
pub(super) const NUM_DECODE_STEPS: u32 = 7;
/// Mixed steps of a scene, where sequences decode.
const NUM_ADDITIONS: usize = 4;
/// Contexts of the grid, as shares of the longest.
const CONTEXT_SHARES: [f64; 4] = [0.0, 0.25, 0.5, 1.0];
/// Scenes in which every sequence has a context of its own.
const NUM_RAGGED: u32 = 32;
/// Most prompts that join in one step.
const MAX_PROMPTS: u32 = 4;

/// Sequences that decode, and prompts that join them, one addition after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scene {
    /// Contexts of the sequences that decode: whole blocks, at most those of the pool.
    pub(super) decoding: Vec<u32>,
    /// What joins them, each for one step.
    pub(super) additions: Vec<Addition>,
}

/// Prompts that join for one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Addition {
    /// The prompts.
    pub(super) prompts: Vec<NewPrompt>,
    /// Whether the last of them goes on after the step.
    pub(super) is_cut: bool,
}

/// A prompt that joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NewPrompt {
    /// Tokens that are cached.
    pub(super) context: u32,
    /// Tokens to compute, at least 2.
    pub(super) num_tokens: u32,
}

/// The scenes for an engine whose pool has prefixes of these lengths, the longest first.
pub(super) fn scenes(engine: &EngineConfig, pool: Vec<u32>, seed: u64) -> Vec<Scene> {
    let mut maker = Maker { engine, pool, generator: ChaCha8Rng::seed_from_u64(seed ^ 1) };
    let mut scenes = maker.prefill_scenes();
    for num_seqs in sizes(engine.max_num_seqs) {
        for share in CONTEXT_SHARES {
            let shortest = maker.pool[num_seqs as usize - 1];
            let longest = maker.pool[0];
            let context = maker.blocks(f64::from(longest) * share);
            if context <= shortest {
                let decoding = vec![context; num_seqs as usize];
                let additions = maker.additions(num_seqs);
                scenes.push(Scene { decoding, additions });
            }
        }
    }
    for _ in 0..NUM_RAGGED {
        let num_seqs = maker.log_uniform(2.min(engine.max_num_seqs), engine.max_num_seqs);
        let decoding = (0..num_seqs as usize).map(|index| maker.context(index)).collect();
        let additions = maker.additions(num_seqs);
        scenes.push(Scene { decoding, additions });
    }
    scenes
}

/// Powers of two up to `max`, and `max`.
fn sizes(max: u32) -> Vec<u32> {
    let powers = std::iter::successors(Some(1u32), |size| size.checked_mul(2));
    let mut sizes: Vec<u32> = powers.take_while(|&size| size < max).collect();
    sizes.push(max);
    sizes
}

struct Maker<'a> {
    engine: &'a EngineConfig,
    pool: Vec<u32>,
    generator: ChaCha8Rng,
}

impl Maker<'_> {
    /// Prompts that are computed alone: of all sizes, after all contexts.
    fn prefill_scenes(&mut self) -> Vec<Scene> {
        let longest = self.pool[0];
        let mut scenes = Vec::new();
        for share in CONTEXT_SHARES {
            let context = self.blocks(f64::from(longest) * share);
            let most = self.max_chunk(context);
            let alone = |num_tokens: u32| Addition {
                prompts: vec![NewPrompt { context, num_tokens }],
                is_cut: false,
            };
            let sizes = sizes(most).into_iter().filter(|&size| size >= 2);
            let additions = sizes.map(alone).collect();
            scenes.push(Scene { decoding: Vec::new(), additions });
        }
        let additions = self.additions(0);
        scenes.push(Scene { decoding: Vec::new(), additions });
        scenes
    }

    /// Mixed steps beside `num_decoding` sequences.
    fn additions(&mut self, num_decoding: u32) -> Vec<Addition> {
        let max_prompts = (self.engine.max_num_seqs - num_decoding).min(MAX_PROMPTS);
        let budget = self.engine.max_num_batched_tokens.saturating_sub(num_decoding);
        if max_prompts == 0 || budget < 2 {
            return Vec::new();
        }
        (0..NUM_ADDITIONS).map(|number| self.addition(max_prompts, budget, number)).collect()
    }

    fn addition(&mut self, max_prompts: u32, budget: u32, number: usize) -> Addition {
        let num_prompts = self.generator.random_range(1..=max_prompts);
        let mut left = budget;
        let mut prompts = Vec::new();
        for index in 0..num_prompts as usize {
            let context = if self.generator.random_bool(0.5) { self.context(index) } else { 0 };
            let most = self.max_chunk(context).min(left);
            if most < 2 {
                break;
            }
            // The first steps of a scene are short, the last long, so that all lengths occur.
            let least = if number.is_multiple_of(2) { 2 } else { (most / 8).max(2) };
            let num_tokens = self.log_uniform(least, most);
            prompts.push(NewPrompt { context, num_tokens });
            left -= num_tokens;
        }
        Addition { is_cut: self.generator.random_bool(0.3), prompts }
    }

    /// The longest chunk after `context`, with room for a block more and an answer.
    fn max_chunk(&self, context: u32) -> u32 {
        let model_len = self.engine.models[0].max_model_len;
        let after = self.engine.block_size + 2;
        model_len.saturating_sub(context + after).min(self.engine.max_num_batched_tokens)
    }

    /// A context for the sequence with prefix `index`.
    fn context(&mut self, index: usize) -> u32 {
        let most = self.pool[index.min(self.pool.len() - 1)];
        let drawn = self.generator.random_range(0..=most);
        self.blocks(f64::from(drawn))
    }

    fn blocks(&self, tokens: f64) -> u32 {
        tokens as u32 / self.engine.block_size * self.engine.block_size
    }

    fn log_uniform(&mut self, least: u32, most: u32) -> u32 {
        let (low, high) = (f64::from(least).ln(), f64::from(most.max(least)).ln());
        let drawn = low + (high - low) * self.generator.random::<f64>();
        (drawn.exp().round() as u32).clamp(least, most.max(least))
    }
}

/// Whether a step is a point of the grid of decoding: equal contexts, as far as sums can tell.
pub(super) fn is_decode_point(shape: &BatchShape) -> bool {
    shape.is_pure_decode()
        && shape.num_seqs > 0
        && shape.decode_context.is_multiple_of(u64::from(shape.num_seqs))
}

/// Whether a step is a point of the grid of prompts: one prompt, to its end.
pub(super) fn is_prefill_point(shape: &BatchShape) -> bool {
    shape.num_seqs == 1 && shape.num_decode == 0 && shape.num_emitting == 1
}

/// `points` and predictions for what is missing to a whole grid. Contexts that only few sizes
/// have are left out.
pub(super) fn fill_holes(
    points: &[Sample],
    model: &Fitted,
    size_of: fn(&BatchShape) -> u32,
) -> Vec<Sample> {
    let context_of = |shape: &BatchShape| {
        let reads = shape.decode_context + shape.prefill_context;
        (reads / u64::from(shape.num_seqs.max(1))) as u32
    };
    let key = |sample: &Sample| (size_of(&sample.shape), context_of(&sample.shape));
    let mut kept: Vec<Sample> = Vec::new();
    let count = |context: u32| points.iter().filter(|one| key(one).1 == context).count();
    for point in points {
        let is_new = kept.iter().all(|other| key(other) != key(point));
        if is_new && count(key(point).1) >= 3 {
            kept.push(*point);
        }
    }
    let mut sizes: Vec<u32> = kept.iter().map(|one| key(one).0).collect();
    let mut contexts: Vec<u32> = kept.iter().map(|one| key(one).1).collect();
    for axis in [&mut sizes, &mut contexts] {
        axis.sort_unstable();
        axis.dedup();
    }
    let is_decode = kept.first().is_some_and(|sample| sample.shape.is_pure_decode());
    for &size in &sizes {
        for &context in &contexts {
            if kept.iter().any(|one| key(one) == (size, context)) {
                continue;
            }
            let mut shape = BatchShape::default();
            if is_decode {
                (0..size).for_each(|_| shape.add(context..context + 1, Emission::Result));
            } else {
                shape.add(context..context + size, Emission::Result);
            }
            let device_ns = model.predict(&shape).0.max(1) as f64;
            kept.push(Sample { shape, device_ns, spread: 0.0, host_ns: 0.0 });
        }
    }
    kept
}
