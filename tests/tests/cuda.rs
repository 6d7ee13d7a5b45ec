//! The built-in models on an emulated GPU: what the processor generates and embeds, or as near to
//! it as the number format allows.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use folio_emulator::{EmulatorOptions, TestDevice};
use folio_engine::core::{EngineCore, Turn};
use folio_engine::exec::{
    BatchRow, DeviceOptions, Emits, KvCacheSize, MemoryOptions, MemoryPlan, ModelRunner,
    RunnerOptions,
};
use folio_engine::model::{ModelConfig, ModelFiles};
use folio_engine::ops::{CudaOptions, Determinism, Graphs};
use folio_engine::types::{
    BlockId, Event, EventReceiver, ModelId, Sampling, SamplingParams, StopConditions, TokenId,
};
use folio_kernels::cuda::Element;
use folio_tests::{Setup, generation};

const CPU: DeviceOptions = DeviceOptions::Cpu { num_threads: 2 };
const NUM_TOKENS: u32 = 16;

/// A device in the format of the built-in models.
fn cuda() -> DeviceOptions {
    let options = CudaOptions {
        element: Element::Bf16,
        determinism: Determinism::Fast,
        graphs: Graphs::Captured,
    };
    let memory = EmulatorOptions { memory_bytes: 1 << 30, ..EmulatorOptions::default() };
    DeviceOptions::Cuda { driver: TestDevice::open(memory).driver, options }
}

fn prompt(index: u32) -> Vec<TokenId> {
    (0..3 + 17 * index).map(|i| 300 + (i * 37 + index * 101) % 2700).collect()
}

/// Greedy continuations of four prompts, computed together.
fn generate(device: DeviceOptions) -> Vec<Vec<TokenId>> {
    let files = ModelFiles::Embedded(folio::builtin::chat());
    let setup =
        Setup { max_num_seqs: 8, max_num_batched_tokens: 40, num_blocks: 60, ..Setup::ROOMY };
    let mut core = setup.start_on(device, files).unwrap();
    let mut receivers = Vec::new();
    for index in 0..4 {
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let stop = StopConditions { max_tokens: NUM_TOKENS, ..StopConditions::default() };
        let params = SamplingParams { sampling, stop, ..SamplingParams::default() };
        let (request, of_request) = generation(prompt(index), params, 1);
        core.admit(request);
        receivers.extend(of_request);
    }
    drain(&mut core);
    receivers.into_iter().map(tokens).collect()
}

fn drain(core: &mut EngineCore) {
    while !core.is_idle() {
        let turn = core.step();
        assert!(matches!(turn, Turn::Stepped(_)), "{turn:?}");
    }
}

fn tokens(mut receiver: EventReceiver) -> Vec<TokenId> {
    let events = std::iter::from_fn(move || receiver.try_recv().ok());
    let token = |event| match event {
        Event::Token(token) => Some(token.id),
        _ => None,
    };
    events.filter_map(token).collect()
}

fn runner(files: ModelFiles, device: DeviceOptions) -> ModelRunner {
    let model = ModelConfig::read(&files, None).unwrap();
    let options = MemoryOptions {
        block_size: 16,
        max_num_seqs: 8,
        max_num_batched_tokens: 256,
        kv_cache: KvCacheSize::Blocks(40),
        layout: device.layout(),
        available_bytes: None,
    };
    let plan = MemoryPlan::new(std::slice::from_ref(&model), &options).unwrap();
    let options = RunnerOptions { device, plan };
    ModelRunner::load(vec![(files, model)], &options, &mut |_| {}).unwrap()
}

fn forward(runner: &mut ModelRunner, tokens: &[TokenId]) -> Vec<f32> {
    let blocks = (1..40).map(BlockId).collect::<Vec<_>>();
    let positions = 0..tokens.len() as u32;
    let row = BatchRow { tokens, positions, blocks: &blocks, emits: Emits::Last };
    runner.forward(ModelId(0), &[row]).unwrap().to_vec()
}

fn size(numbers: &[f32]) -> f64 {
    numbers.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// How far bfloat16 may be from single precision, relative to the size of a vector: ten roundings
/// of half a unit a layer, twice for what layers make of them.
fn tolerance(num_layers: f64) -> f64 {
    2.0 / 256.0 * (10.0 * num_layers + 4.0).sqrt()
}

/// Tokens are equal up to where the processor's best two logits are nearer than the format allows.
#[test]
fn the_chat_model_generates_what_the_processor_does() {
    let (expected, found) = (generate(CPU), generate(cuda()));
    let mut num_equal = 0;
    for (index, (expected, found)) in expected.iter().zip(&found).enumerate() {
        assert!(!expected.is_empty() && !found.is_empty());
        let same = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
        num_equal += same;
        if same == expected.len() && same == found.len() {
            continue;
        }
        let known = prompt(index as u32).into_iter().chain(expected[..same].iter().copied());
        let known = known.collect::<Vec<_>>();
        let logits =
            forward(&mut runner(ModelFiles::Embedded(folio::builtin::chat()), CPU), &known);
        let chosen = |tokens: &[TokenId]| f64::from(logits[tokens[same] as usize]);
        let gap = chosen(expected) - chosen(found);
        let rms = size(&logits) / (logits.len() as f64).sqrt();
        assert!(
            gap < 2.0 * tolerance(4.0) * rms,
            "prompt {index} differs at token {same} by {gap}, logits are about {rms}"
        );
    }
    assert!(num_equal >= NUM_TOKENS as usize, "{num_equal} tokens: {expected:?}, {found:?}");
}

#[test]
fn the_embedding_model_embeds_as_the_processor_does() {
    let files = || ModelFiles::Embedded(folio::builtin::embedding());
    let (mut cpu, mut gpu) = (runner(files(), CPU), runner(files(), cuda()));
    for len in [1, 20, 130] {
        let tokens = (0..len).map(|i| 10 + i * 61).collect::<Vec<TokenId>>();
        let (expected, found) = (forward(&mut cpu, &tokens), forward(&mut gpu, &tokens));
        let differences = expected.iter().zip(&found).map(|(a, b)| a - b).collect::<Vec<_>>();
        let error = size(&differences) / size(&expected);
        assert!(error < tolerance(3.0), "{len} tokens: {error}");
    }
}
