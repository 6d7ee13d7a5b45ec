//! Reading the fixtures, and driving a runner over them.
#![expect(clippy::expect_used, reason = "a fixture that cannot be read fails its test")]

use std::path::{Path, PathBuf};

use folio_engine::core::{EngineCore, Turn};
use folio_engine::exec::{
    ActivationLayout, BatchRow, DeviceOptions, Emits, KvCacheSize, MemoryOptions, MemoryPlan,
    ModelRunner, RunnerOptions, pooling,
};
use folio_engine::model::{ModelConfig, ModelFiles, PoolingConfig};
use folio_engine::sched::policies::Fcfs;
use folio_engine::types::{
    BlockId, Choice, EngineConfig, Event, EventReceiver, EventSender, FinishReason, ManualClock,
    ModelId, PrefixCaching, PromptLogprob, Request, RequestId, Sampling, SamplingParams, Slo,
    StopConditions, Task, TenantId, TokenId,
};
use folio_tests::{Setup, generation};
use safetensors::SafeTensors;
use serde_json::Value;

/// Tokens in a block: odd, so that nothing lines up by luck.
const BLOCK_SIZE: u32 = 5;
/// Enough for all prompts of a case at once, with their continuations.
const NUM_BLOCKS: u32 = 128;
/// Enough for all texts of a case in one step, each row emitting.
const MAX_TOKENS: u32 = 2048;
/// The decoder or encoder under test is the only model.
const MODEL: ModelId = ModelId(0);

/// A checkpoint of a decoder with what the reference makes of it.
pub(crate) struct DecoderCase {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    pub(crate) vocab_size: usize,
    pub(crate) prompts: Vec<Prompt>,
}

/// One prompt of a decoder case.
pub(crate) struct Prompt {
    pub(crate) ids: Vec<TokenId>,
    /// Logits of every position, `[T, V]`.
    pub(crate) logits: Vec<f32>,
    /// Greedy continuation, with how far the best logit was ahead at each step.
    pub(crate) greedy: Vec<TokenId>,
    pub(crate) margins: Vec<f64>,
}

/// A checkpoint of an encoder with what the reference makes of it.
pub(crate) struct EncoderCase {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    pub(crate) texts: Vec<Text>,
}

/// One text of an encoder case.
pub(crate) struct Text {
    pub(crate) ids: Vec<TokenId>,
    pub(crate) embedding: Vec<f32>,
}

/// Every decoder fixture, by name.
pub(crate) fn decoder_cases() -> Vec<DecoderCase> {
    let cases = expected_files()
        .into_iter()
        .filter(|(_, expected)| expected.get("prompts").is_some())
        .map(|(directory, expected)| decoder_case(directory, &expected));
    let cases = cases.collect::<Vec<_>>();
    assert!(!cases.is_empty(), "no decoder fixtures in tests/golden");
    cases
}

/// Every encoder fixture, by name.
pub(crate) fn encoder_cases() -> Vec<EncoderCase> {
    let cases = expected_files()
        .into_iter()
        .filter(|(_, expected)| expected.get("inputs").is_some())
        .map(|(directory, expected)| encoder_case(directory, &expected));
    let cases = cases.collect::<Vec<_>>();
    assert!(!cases.is_empty(), "no encoder fixtures in tests/golden");
    cases
}

/// A checkpoint of a cross-encoder with what the reference makes of it.
pub(crate) struct CrossCase {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    pub(crate) pairs: Vec<Pair>,
}

/// One pair of texts of a cross-encoder case.
pub(crate) struct Pair {
    pub(crate) ids: Vec<TokenId>,
    pub(crate) types: Vec<u32>,
    pub(crate) score: f64,
}

/// Every cross-encoder fixture, by name.
pub(crate) fn cross_cases() -> Vec<CrossCase> {
    let pair = |pair: &Value| Pair {
        ids: ids(&pair["ids"]),
        types: ids(&pair["types"]),
        score: pair["score"].as_f64().expect("a score"),
    };
    let case = |(directory, expected): (PathBuf, Value)| {
        let pairs = expected["pairs"].as_array()?.iter().map(pair).collect();
        Some(CrossCase { name: name_of(&directory), directory, pairs })
    };
    let cases = expected_files().into_iter().filter_map(case).collect::<Vec<_>>();
    assert!(!cases.is_empty(), "no cross-encoder fixtures in tests/golden");
    cases
}

/// Scores of all pairs from the whole engine, on one thread and in steps of `max_tokens`.
pub(crate) fn scores(case: &CrossCase, device: DeviceOptions, max_tokens: u32) -> Vec<f32> {
    let files = ModelFiles::Directory(case.directory.clone());
    let setup = Setup { max_num_batched_tokens: max_tokens, max_num_seqs: 8, ..Setup::ROOMY };
    let mut core = setup.start_on(device, files).expect("a readable fixture");
    let mut receivers = Vec::new();
    for pair in &case.pairs {
        let (mut request, mut own) = generation(pair.ids.clone(), SamplingParams::default(), 1);
        let second_start = pair.types.iter().position(|&kind| kind == 1);
        let second_start = second_start.unwrap_or(pair.ids.len()) as u32;
        request.task = Task::Score { second_start };
        core.admit(request);
        receivers.append(&mut own);
    }
    while !core.is_idle() {
        let turn = core.step();
        assert!(matches!(turn, Turn::Stepped(_)), "{turn:?}");
    }
    let score = |receiver| match &events_of(receiver)[..] {
        [Event::Started(_), Event::Embedding(score), Event::Finished { .. }] => {
            assert_eq!(score.len(), 1, "one number");
            score[0]
        }
        events => panic!("{events:?}"),
    };
    receivers.into_iter().map(score).collect()
}

fn encoder_case(directory: PathBuf, expected: &Value) -> EncoderCase {
    let bytes = std::fs::read(directory.join("expected.safetensors")).expect("expected values");
    let tensors = SafeTensors::deserialize(&bytes).expect("valid safetensors");
    let mut texts = Vec::new();
    for part in ["inputs", "texts"] {
        let inputs = expected[part].as_array().expect("a list of inputs");
        let embeddings = numbers(&tensors, &format!("{part}.embeddings"));
        let width = embeddings.len() / inputs.len();
        let pairs = inputs.iter().zip(embeddings.chunks_exact(width));
        texts.extend(pairs.map(|(input, embedding)| Text {
            ids: ids(&input["ids"]),
            embedding: embedding.to_vec(),
        }));
    }
    EncoderCase { name: name_of(&directory), directory, texts }
}

/// The real MiniLM, where `scripts/fetch_minilm.sh` has fetched it.
pub(crate) fn minilm() -> Option<EncoderCase> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = root.join("../.cache/minilm");
    if !directory.join(".complete").exists() {
        return None;
    }
    let text = std::fs::read_to_string(root.join("golden/minilm/expected.json"));
    let expected: Value = serde_json::from_str(&text.expect("expected.json")).expect("valid JSON");
    let texts = expected["texts"].as_array().expect("a list of texts").iter();
    let texts = texts.map(|text| Text {
        ids: ids(&text["ids"]),
        embedding: serde_json::from_value(text["embedding"].clone()).expect("numbers"),
    });
    Some(EncoderCase { name: "minilm".into(), texts: texts.collect(), directory })
}

fn expected_files() -> Vec<(PathBuf, Value)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let entries = std::fs::read_dir(&root).expect("tests/golden exists");
    let mut directories = entries
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.join("model.safetensors").exists() || is_sharded(path))
        .collect::<Vec<_>>();
    directories.sort();
    let read = |directory: PathBuf| {
        let text = std::fs::read_to_string(directory.join("expected.json")).expect("expected.json");
        (directory, serde_json::from_str(&text).expect("valid JSON"))
    };
    directories.into_iter().map(read).collect()
}

fn is_sharded(path: &Path) -> bool {
    path.join("model.safetensors.index.json").exists()
}

fn decoder_case(directory: PathBuf, expected: &Value) -> DecoderCase {
    let bytes = std::fs::read(directory.join("expected.safetensors")).expect("expected logits");
    let tensors = SafeTensors::deserialize(&bytes).expect("valid safetensors");
    let prompts = expected["prompts"].as_array().expect("a list of prompts");
    let config = std::fs::read(directory.join("config.json")).expect("config.json");
    let config: Value = serde_json::from_slice(&config).expect("valid JSON");
    let prompts = prompts
        .iter()
        .enumerate()
        .map(|(index, prompt)| Prompt {
            ids: ids(&prompt["ids"]),
            logits: numbers(&tensors, &format!("prompt{index}.logits")),
            greedy: ids(&prompt["greedy"]),
            margins: serde_json::from_value(prompt["margins"].clone()).expect("margins"),
        })
        .collect();
    DecoderCase {
        name: name_of(&directory),
        vocab_size: config["vocab_size"].as_u64().expect("vocab_size") as usize,
        directory,
        prompts,
    }
}

fn name_of(directory: &Path) -> String {
    let name = directory.file_name().expect("a directory below tests/golden");
    name.to_string_lossy().into_owned()
}

fn ids(value: &Value) -> Vec<TokenId> {
    serde_json::from_value(value.clone()).expect("token ids")
}

fn numbers(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = tensors.tensor(name).expect("an expected tensor");
    assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
    let (numbers, _) = tensor.data().as_chunks::<4>();
    numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// A case in a runner, with blocks to give out.
pub(crate) struct Loaded {
    runner: ModelRunner,
    pooling: Option<PoolingConfig>,
    hidden_size: usize,
    vocab_size: usize,
}

/// One prompt on its way through several steps.
pub(crate) struct Lane<'a> {
    ids: &'a [TokenId],
    chunk: usize,
    num_computed: usize,
}

impl<'a> Lane<'a> {
    /// `ids`, `chunk` tokens at a time.
    pub(crate) fn new(ids: &'a [TokenId], chunk: usize) -> Self {
        Self { ids, chunk, num_computed: 0 }
    }

    fn num_next(&self) -> usize {
        self.chunk.min(self.ids.len() - self.num_computed)
    }
}

/// A runner for the model in `directory`, and an engine configuration that fits it.
fn load(directory: &Path, num_threads: usize) -> (ModelRunner, EngineConfig) {
    let files = ModelFiles::Directory(directory.to_owned());
    let config = ModelConfig::read(&files, None).expect("a supported configuration");
    let models = vec![config.limits()];
    let options = MemoryOptions {
        block_size: BLOCK_SIZE,
        max_num_seqs: MAX_TOKENS,
        max_num_batched_tokens: MAX_TOKENS,
        kv_cache: KvCacheSize::Blocks(NUM_BLOCKS),
        layout: ActivationLayout::CPU,
        available_bytes: None,
    };
    let plan = MemoryPlan::new(std::slice::from_ref(&config), &options).expect("a plan");
    let options = RunnerOptions { device: DeviceOptions::Cpu { num_threads }, plan };
    let runner = ModelRunner::load(vec![(files, config)], &options, &mut |_| {});
    let config = EngineConfig {
        models,
        block_size: BLOCK_SIZE,
        num_blocks: NUM_BLOCKS,
        max_num_seqs: 8,
        max_num_batched_tokens: 50,
        max_num_partial_prefills: 2,
        long_prefill_token_threshold: None,
        max_queued_requests: 8,
        prefix_caching: PrefixCaching::On,
        num_host_blocks: 0,
    };
    (runner.expect("loadable weights"), config)
}

/// Greedy continuations of all prompts of `case`, by the whole engine at once: scheduler, runner
/// and sampler.
pub(crate) fn generate(case: &DecoderCase) -> Vec<Vec<TokenId>> {
    let (runner, config) = load(&case.directory, 2);
    let config = config.validated().expect("a sound configuration");
    let clock = Box::new(ManualClock::default());
    let mut core = EngineCore::new(config, Box::new(Fcfs), Box::new(runner), clock);
    let admit = |core: &mut EngineCore, prompt: &Prompt| {
        let (request, receiver) = greedy_request(prompt);
        core.admit(request);
        receiver
    };
    let prompts = case.prompts.iter();
    let receivers = prompts.map(|prompt| admit(&mut core, prompt)).collect::<Vec<_>>();
    while !core.is_idle() {
        let turn = core.step();
        assert!(matches!(turn, Turn::Stepped(_)), "{turn:?}");
    }
    let tokens = |mut receiver: EventReceiver| {
        let events = std::iter::from_fn(move || receiver.try_recv().ok());
        let token = |event| match event {
            Event::Token(token) => Some(token.id),
            _ => None,
        };
        events.filter_map(token).collect()
    };
    receivers.into_iter().map(tokens).collect()
}

/// What the whole engine says of each token of a prompt after the first, when it is given `chunk`
/// tokens at a time: with the `num_top` likeliest tokens.
pub(crate) fn prompt_logprobs(
    case: &DecoderCase,
    prompt: &Prompt,
    (chunk, num_top): (u32, u32),
) -> Vec<PromptLogprob> {
    let files = ModelFiles::Directory(case.directory.clone());
    let setup = Setup { chunk: Some(chunk), ..Setup::ROOMY };
    let mut core = setup.start(files).expect("a readable fixture");
    let params = SamplingParams { prompt_logprobs: Some(num_top), ..SamplingParams::default() };
    let (request, mut receivers) = generation(prompt.ids.clone(), params, 1);
    core.admit(request);
    while !core.is_idle() {
        let turn = core.step();
        assert!(matches!(turn, Turn::Stepped(_)), "{turn:?}");
    }
    let receiver = receivers.remove(0);
    let events = events_of(receiver);
    let [Event::Started(_), Event::PromptLogprobs(found), Event::Finished { reason, .. }] =
        &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(*reason, FinishReason::Length);
    found.clone()
}

fn events_of(mut receiver: EventReceiver) -> Vec<Event> {
    std::iter::from_fn(move || receiver.try_recv().ok()).collect()
}

fn greedy_request(prompt: &Prompt) -> (Request, EventReceiver) {
    let max_tokens = prompt.greedy.len() as u32;
    let (events, receiver) = EventSender::channel(max_tokens);
    let params = SamplingParams {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: StopConditions { max_tokens, ..StopConditions::default() },
        ..SamplingParams::default()
    };
    let choice = Choice::new(events);
    let request = Request {
        id: RequestId(0),
        model: MODEL,
        prompt: prompt.ids.clone(),
        task: Task::Generate(params),
        choices: vec![choice],
        priority: 0,
        tenant: TenantId(0),
        deadline: None,
        slo: Slo::default(),
        cache_salt: None,
    };
    (request, receiver)
}

impl Loaded {
    /// The decoder of `case` on `num_threads` threads.
    pub(crate) fn decoder(case: &DecoderCase, num_threads: usize) -> Self {
        Self::load(&case.directory, num_threads)
    }

    /// The encoder of `case` on `num_threads` threads.
    pub(crate) fn encoder(case: &EncoderCase, num_threads: usize) -> Self {
        Self::load(&case.directory, num_threads)
    }

    fn load(directory: &Path, num_threads: usize) -> Self {
        let (runner, config) = load(directory, num_threads);
        let info = ModelConfig::read(&ModelFiles::Directory(directory.to_owned()), None);
        let info = info.expect("a supported configuration");
        Self {
            runner,
            pooling: info.pooling(),
            hidden_size: info.hidden_size() as usize,
            vocab_size: config.models[0].vocab_size as usize,
        }
    }

    /// Logits of every position of `ids`, computed `chunk` tokens at a time: `[T, V]`.
    pub(crate) fn logits(&mut self, ids: &[TokenId], chunk: usize) -> Vec<f32> {
        self.run_lanes(&mut [Lane::new(ids, chunk)]).remove(0)
    }

    /// Takes all lanes to their ends, each step a chunk of every unfinished one; returns their
    /// logits, `[T, V]` each.
    pub(crate) fn run_lanes(&mut self, lanes: &mut [Lane<'_>]) -> Vec<Vec<f32>> {
        let mut outputs = vec![Vec::new(); lanes.len()];
        while lanes.iter().any(|lane| lane.num_next() > 0) {
            let tables = (0..lanes.len()).map(blocks_of_lane).collect::<Vec<_>>();
            let active = (0..lanes.len()).filter(|index| lanes[*index].num_next() > 0);
            let active = active.collect::<Vec<_>>();
            let rows = active.iter().map(|&index| {
                let lane = &lanes[index];
                let end = lane.num_computed + lane.num_next();
                BatchRow {
                    tokens: lane.ids,
                    positions: lane.num_computed as u32..end as u32,
                    blocks: &tables[index],
                    emits: Emits::All,
                }
            });
            let rows = rows.collect::<Vec<_>>();
            let mut logits = &*self.runner.forward(MODEL, &rows).expect("a step");
            for index in active {
                let num_next = lanes[index].num_next();
                let (own, rest) = logits.split_at(num_next * self.vocab_size);
                outputs[index].extend_from_slice(own);
                logits = rest;
                lanes[index].num_computed += num_next;
            }
            assert!(logits.is_empty(), "{} logits too many", logits.len());
        }
        outputs
    }

    /// Embeddings of `texts`, computed in one step.
    pub(crate) fn embed(&mut self, texts: &[&[TokenId]]) -> Vec<Vec<f32>> {
        let rows = texts.iter().map(|ids| BatchRow {
            tokens: ids,
            positions: 0..ids.len() as u32,
            blocks: &[],
            emits: Emits::Last,
        });
        let rows = rows.collect::<Vec<_>>();
        let pooling = self.pooling.expect("an encoder");
        let mut hidden = &*self.runner.forward(MODEL, &rows).expect("a step");
        let mut embeddings = Vec::new();
        for ids in texts {
            let (own, rest) = hidden.split_at(ids.len() * self.hidden_size);
            let embedding = pooling::pool(own, self.hidden_size, pooling);
            embeddings.push(embedding.expect("finite numbers"));
            hidden = rest;
        }
        embeddings
    }
}

/// Blocks for the lane `index` of at most four: strewn over the pool, never block 0.
fn blocks_of_lane(index: usize) -> Vec<BlockId> {
    const PRIME: u32 = 37;
    let slots = NUM_BLOCKS - 1;
    let own = (0..slots / 4).map(|n| n * 4 + index as u32);
    own.map(|n| BlockId(1 + n * PRIME % slots)).collect()
}
