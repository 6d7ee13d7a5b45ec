//! The live view of the engine on the wire: one JSON object a picture.
//!
//! Nothing in it says what a prompt or an answer contains, or whose it is. `docs/page.md`
//! describes the format for people who draw it themselves.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use folio_engine::live::{LiveSnapshot, LiveStep};
use folio_engine::sched::{Gauges, LiveCell, LivePool, LiveSequence, LiveState};
use folio_engine::types::{EngineConfig, ModelKind};
use schemars::JsonSchema;
use serde::Serialize;

use crate::models::Models;

/// One picture.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Frame {
    /// When it was taken, in seconds of the engine's clock.
    pub time: f64,
    /// The models, in the order of their indices.
    pub models: Vec<FrameModel>,
    /// Sequences and totals.
    pub counts: FrameCounts,
    /// The block pool.
    pub pool: FramePool,
    /// The sequences of the pool's cells, running ones first; at most 1024.
    pub sequences: Vec<FrameSequence>,
    /// Steps since the picture before, oldest first; at most 256.
    pub steps: Vec<FrameStep>,
}

/// A model of the engine.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FrameModel {
    /// Its first name.
    pub name: String,
    /// What it does: `generate` or `embed`.
    pub task: &'static str,
}

/// How much there is, and totals since the start.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FrameCounts {
    /// Sequences that take part in steps.
    pub running: u32,
    /// Sequences that wait.
    pub waiting: u32,
    /// Steps.
    pub steps: u64,
    /// Positions computed for prompts, recomputation included.
    pub prefill_tokens: u64,
    /// Tokens sampled.
    pub generated_tokens: u64,
    /// Sequences that lost their blocks.
    pub preemptions: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Prompt tokens found there.
    pub prefix_hits: u64,
    /// Choices that had their first result.
    pub first_tokens: u64,
    /// Seconds from arrival to that, summed over them.
    pub first_token_seconds: f64,
}

/// The block pool.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FramePool {
    /// Blocks.
    pub blocks: u32,
    /// Tokens in a block.
    pub block_size: u32,
    /// Blocks that somebody holds.
    pub used: u32,
    /// Blocks whose content can be found again, held or not.
    pub cached: u32,
    /// Blocks that one cell stands for.
    pub blocks_per_cell: u32,
    /// Cells.
    pub cells: u32,
    /// The cells as runs: base64 of pairs of LEB128 numbers, a code and how many cells have it.
    /// Codes: 0 free, 1 free with content to be found again, 2 held by several sequences, 3 held
    /// for a sequence that is not listed, 4 + i held by sequence i of the list; 32768 is added
    /// when a held block's content can be found by others.
    pub runs: String,
}

/// A sequence: one choice of a request.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FrameSequence {
    /// Which sequence.
    pub id: u64,
    /// Its request, by the engine's count.
    pub request: u64,
    /// Which choice of it.
    pub choice: u32,
    /// Index of its model.
    pub model: u32,
    /// `running`, `waiting`, `preempted` or `following`.
    pub state: &'static str,
    /// How far it is.
    #[serde(flatten)]
    pub progress: FrameProgress,
    /// Blocks that it holds.
    pub blocks: u32,
    /// How often its blocks were taken away.
    pub preemptions: u32,
    /// Seconds since it arrived.
    pub age: f64,
    /// Seconds until it was first part of a step, so far or for good.
    pub waited: f64,
}

/// How far a sequence is, in tokens.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FrameProgress {
    /// Of its prompt.
    pub prompt: u32,
    /// Of its prompt, found in the prefix cache.
    pub cached: u32,
    /// Computed.
    pub computed: u32,
    /// Generated.
    pub generated: u32,
    /// The most that it may generate.
    pub max_generated: u32,
}

/// A step.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FrameStep {
    /// Its number since the start.
    pub number: u64,
    /// When it ended, in seconds of the engine's clock.
    pub ended: f64,
    /// Sequences in it.
    pub sequences: u32,
    /// Tokens of prompts.
    pub prefill: u32,
    /// Tokens of answers, one a sequence.
    pub decode: u32,
    /// Tokens computed in vain.
    pub wasted: u32,
    /// Seconds on the device.
    pub seconds: f64,
}

impl Frame {
    /// The picture for a client that knows the steps up to `last_step`.
    pub fn new(
        snapshot: &LiveSnapshot,
        models: &Models,
        config: &EngineConfig,
        last_step: u64,
    ) -> Self {
        let new_steps = snapshot.steps.iter().filter(|step| step.number > last_step);
        Self {
            time: snapshot.taken.as_secs_f64(),
            models: frame_models(models),
            counts: counts(&snapshot.gauges),
            pool: pool(&snapshot.view.pool, &snapshot.gauges, config),
            sequences: snapshot.view.sequences.iter().map(sequence).collect(),
            steps: new_steps.map(step).collect(),
        }
    }
}

fn frame_models(models: &Models) -> Vec<FrameModel> {
    let task = |kind| match kind {
        ModelKind::Decoder => "generate",
        ModelKind::Encoder => "embed",
        ModelKind::CrossEncoder => "score",
    };
    let models = models.all().iter();
    models
        .map(|model| FrameModel { name: model.name().to_owned(), task: task(model.limits.kind) })
        .collect()
}

fn counts(gauges: &Gauges) -> FrameCounts {
    let Gauges { totals, prefix, .. } = gauges;
    FrameCounts {
        running: gauges.num_running,
        waiting: gauges.num_waiting,
        steps: totals.num_steps,
        prefill_tokens: totals.num_prefill_tokens,
        generated_tokens: totals.num_generated_tokens,
        preemptions: totals.num_preemptions,
        prefix_queries: prefix.num_queried_tokens,
        prefix_hits: prefix.num_hit_tokens,
        first_tokens: totals.time_to_first_token.num,
        first_token_seconds: totals.time_to_first_token.total.as_secs_f64(),
    }
}

fn pool(pool: &LivePool, gauges: &Gauges, config: &EngineConfig) -> FramePool {
    FramePool {
        blocks: gauges.num_blocks,
        block_size: config.block_size,
        used: gauges.num_used_blocks,
        cached: pool.num_cached_blocks,
        blocks_per_cell: pool.blocks_per_cell,
        cells: pool.cells.len() as u32,
        runs: runs(&pool.cells),
    }
}

fn sequence(sequence: &LiveSequence) -> FrameSequence {
    let progress = sequence.progress;
    FrameSequence {
        id: sequence.id.0,
        request: sequence.request.0,
        choice: sequence.choice_index,
        model: sequence.model.0,
        state: match sequence.state {
            LiveState::Running => "running",
            LiveState::Waiting => "waiting",
            LiveState::Preempted => "preempted",
            LiveState::Following => "following",
        },
        progress: FrameProgress {
            prompt: progress.num_prompt_tokens,
            cached: progress.num_cached_tokens,
            computed: progress.num_computed_tokens,
            generated: progress.num_generated_tokens,
            max_generated: progress.max_generated_tokens,
        },
        blocks: sequence.num_blocks,
        preemptions: sequence.num_preemptions,
        age: sequence.age.as_secs_f64(),
        waited: sequence.waited.as_secs_f64(),
    }
}

fn step(step: &LiveStep) -> FrameStep {
    let report = &step.report;
    FrameStep {
        number: step.number,
        ended: step.ended.as_secs_f64(),
        sequences: report.num_seqs,
        prefill: report.num_prefill_tokens,
        decode: report.num_decode_tokens,
        wasted: report.num_wasted_tokens,
        seconds: report.device_time.as_secs_f64(),
    }
}

/// See [`FramePool::runs`].
fn runs(cells: &[LiveCell]) -> String {
    let mut bytes = Vec::new();
    for run in cells.chunk_by(|one, next| one == next) {
        if let Some(cell) = run.first() {
            push_leb128(&mut bytes, u32::from(cell.0));
            push_leb128(&mut bytes, run.len() as u32);
        }
    }
    STANDARD.encode(bytes)
}

/// Seven bits a byte, the lowest first; all bytes but the last have the highest bit set.
fn push_leb128(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the format as its description says, in other words than the writer.
    fn read(runs: &str) -> Vec<u16> {
        let bytes = STANDARD.decode(runs).unwrap();
        let (mut numbers, mut number) = (Vec::new(), (0u32, 1u32));
        for byte in bytes {
            number.0 += u32::from(byte % 128) * number.1;
            number.1 *= 128;
            if byte < 128 {
                numbers.push(number.0);
                number = (0, 1);
            }
        }
        numbers.chunks(2).flat_map(|pair| vec![pair[0] as u16; pair[1] as usize]).collect()
    }

    #[test]
    fn runs_say_what_every_cell_is() {
        let published = LiveCell::PUBLISHED + 300;
        let mut cells = vec![0; 100_000];
        cells.extend([1, 2, 2, 3, published, 127, 128, 0x7fff, 0xffff]);
        cells.extend((0..500u16).map(|cell| cell % 7));
        let codes: Vec<LiveCell> = cells.iter().map(|&code| LiveCell(code)).collect();
        assert_eq!(read(&runs(&codes)), cells);
        assert_eq!(runs(&[]), "");
    }

    #[test]
    fn an_idle_pool_is_a_few_bytes() {
        assert!(runs(&vec![LiveCell::FREE; 131_072]).len() <= 8);
    }
}
