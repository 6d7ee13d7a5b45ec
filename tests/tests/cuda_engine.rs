//! The engine on an emulated GPU: graphs, slots, sampling on the device and two steps in flight,
//! against the plainest way to compute the same.
//!
//! The reference runs every request alone, one step at a time, every kernel launched, and samples
//! on the host. In deterministic mode all the rest must not change a bit.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::sync::Arc;

use folio_emulator::{Emulator, EmulatorOptions, TestDevice};
use folio_engine::core::{EngineCore, Turn};
use folio_engine::exec::{
    CudaOptions, Determinism, DeviceOptions, Executor, Graphs, KvCacheSize, MemoryOptions,
    MemoryPlan, ModelRunner, RunnerOptions, SwapChoice, SwapRates, load,
};
use folio_engine::model::{Embedded, ModelConfig, ModelFiles};
use folio_engine::sched::policies::Fcfs;
use folio_engine::types::{
    Choice, EngineConfig, Event, EventReceiver, EventSender, FinishReason, LogitsProcessor,
    ManualClock, ModelId, Penalties, PrefixCaching, PromptLogprob, Request, RequestId, Sampling,
    SamplingParams, Slo, StopConditions, Task, TenantId, TokenId,
};
use folio_kernels::cuda::Element;
use folio_tests::{ToyGrammar, generation};

const VOCAB: u32 = 90;
const DECODER: &str = r#"{"architectures": ["Qwen3ForCausalLM"], "vocab_size": 90,
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256,
    "tie_word_embeddings": true}"#;
const ENCODER: &str = r#"{"architectures": ["BertModel"], "vocab_size": 90, "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 66, "type_vocab_size": 2, "hidden_act": "gelu"}"#;

/// A decoder with room for more tokens than a slot counts.
const LONG: &str = r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 16400,
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1,
    "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 16400,
    "tie_word_embeddings": true}"#;

static LONG_MODEL: [Embedded; 1] =
    [Embedded { name: "long", files: &[("config.json", LONG.as_bytes())] }];

static MODELS: [Embedded; 2] = [
    Embedded { name: "decoder", files: &[("config.json", DECODER.as_bytes())] },
    Embedded { name: "encoder", files: &[("config.json", ENCODER.as_bytes())] },
];

/// What a test varies.
#[derive(Clone, Copy, Debug)]
struct Setup {
    runner: Runner,
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
    chunk: Option<u32>,
    num_blocks: u32,
    caching: PrefixCaching,
    num_host_blocks: u32,
}

/// Who carries plans out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runner {
    /// One step at a time, sampled on the host.
    Plain,
    /// Two steps in flight, sampled on the device.
    Cuda(Graphs),
}

const ROOMY: Setup = Setup {
    runner: Runner::Cuda(Graphs::Captured),
    max_num_seqs: 24,
    max_num_batched_tokens: 512,
    chunk: None,
    num_blocks: 400,
    caching: PrefixCaching::On,
    num_host_blocks: 0,
};
const PLAIN: Setup = Setup { runner: Runner::Plain, ..ROOMY };

struct Engine {
    core: EngineCore,
    /// The device, where it counts what runs.
    emulator: Option<Arc<Emulator>>,
    notes: Vec<String>,
}

impl Engine {
    fn start(setup: Setup) -> Self {
        Self::start_with(&MODELS, setup)
    }

    fn start_with(of: &'static [Embedded], setup: Setup) -> Self {
        let TestDevice { driver, emulator } = TestDevice::open(EmulatorOptions::default());
        let models = || of.iter().map(ModelFiles::Embedded);
        let configs: Vec<_> =
            models().map(|files| ModelConfig::read_dummy(&files, None).unwrap()).collect();
        let graphs = match setup.runner {
            Runner::Plain => Graphs::Off,
            Runner::Cuda(graphs) => graphs,
        };
        let options =
            CudaOptions { element: Element::Bf16, determinism: Determinism::Fixed, graphs };
        let device = DeviceOptions::Cuda { driver, options };
        let memory = MemoryOptions {
            block_size: 16,
            max_num_seqs: setup.max_num_seqs,
            max_num_batched_tokens: setup.max_num_batched_tokens,
            kv_cache: KvCacheSize::Blocks(setup.num_blocks),
            layout: device.layout(),
            available_bytes: None,
        };
        let mut plan = MemoryPlan::new(&configs, &memory).unwrap();
        plan.num_host_blocks = setup.num_host_blocks;
        let config = EngineConfig {
            models: configs.iter().map(ModelConfig::limits).collect(),
            block_size: 16,
            num_blocks: plan.num_blocks(),
            max_num_seqs: setup.max_num_seqs,
            max_num_batched_tokens: setup.max_num_batched_tokens,
            max_num_partial_prefills: 2,
            long_prefill_token_threshold: setup.chunk,
            max_queued_requests: 1000,
            prefix_caching: setup.caching,
            num_host_blocks: setup.num_host_blocks,
        };
        let config = config.validated().unwrap();
        let options = RunnerOptions { device, plan };
        let models = models().zip(configs).collect();
        let runner: Box<dyn Executor> = match setup.runner {
            Runner::Plain => Box::new(ModelRunner::load(models, &options, &mut |_| {}).unwrap()),
            Runner::Cuda(_) => load(models, &options, &mut |_| {}).unwrap(),
        };
        let clock = Box::new(ManualClock::default());
        let notes = runner.notes().to_vec();
        Self { core: EngineCore::new(config, Box::new(Fcfs), runner, clock), emulator, notes }
    }

    fn admit(&mut self, ask: &Ask) -> Vec<EventReceiver> {
        let (mut request, receivers) =
            generation(ask.prompt.clone(), ask.params.clone(), ask.num_choices);
        for choice in &mut request.choices {
            if ask.is_processed {
                choice.processors.push(Box::new(OnlyEven));
            }
            choice.grammar = ask.grammar_len.map(|len| Box::new(ToyGrammar::new(VOCAB, len)) as _);
        }
        self.core.admit(request);
        receivers
    }

    fn finish(&mut self) {
        while !self.core.is_idle() {
            let turn = self.core.step();
            assert!(matches!(turn, Turn::Stepped(_)), "{turn:?}");
        }
    }

    fn run(&mut self, asks: &[Ask]) -> Vec<Vec<Trace>> {
        let receivers: Vec<_> = asks.iter().map(|ask| self.admit(ask)).collect();
        self.finish();
        receivers.into_iter().map(|of_ask| of_ask.into_iter().map(trace).collect()).collect()
    }
}

/// A processor that bans odd tokens.
struct OnlyEven;

impl LogitsProcessor for OnlyEven {
    fn process(&mut self, _context: &[TokenId], logits: &mut [f32]) {
        logits.iter_mut().skip(1).step_by(2).for_each(|logit| *logit = f32::NEG_INFINITY);
    }
}

/// A request in terms of what a client says.
#[derive(Clone, Debug)]
struct Ask {
    prompt: Vec<TokenId>,
    params: SamplingParams,
    num_choices: u32,
    is_processed: bool,
    /// Length of a text of its grammar, if it has one.
    grammar_len: Option<usize>,
}

/// Bits of the log-probability of a token, and of the likeliest ones.
type Bits = (u32, Vec<(TokenId, u32)>);

/// What a choice yields: tokens with the bits of their log-probabilities, and its end.
#[derive(Debug, Default, PartialEq)]
struct Trace {
    /// Bits of the prompt's log-probabilities, and ranks.
    prompt: Option<Vec<(Bits, u32)>>,
    tokens: Vec<(TokenId, Option<Bits>)>,
    end: Option<FinishReason>,
}

fn score_bits(score: &PromptLogprob) -> (Bits, u32) {
    let top = score.logprobs.top.iter().map(|&(id, p)| (id, p.to_bits())).collect();
    ((score.logprobs.logprob.to_bits(), top), score.rank)
}

fn trace(mut receiver: EventReceiver) -> Trace {
    let mut trace = Trace::default();
    while let Ok(event) = receiver.try_recv() {
        match event {
            Event::Token(token) => {
                let bits = token.logprobs.map(|logprobs| {
                    let top = logprobs.top.iter().map(|&(id, p)| (id, p.to_bits())).collect();
                    (logprobs.logprob.to_bits(), top)
                });
                trace.tokens.push((token.id, bits));
            }
            Event::Finished { reason, .. } => trace.end = Some(reason),
            Event::Started(_) => {}
            Event::PromptLogprobs(scores) => {
                let bits = |score: PromptLogprob| score_bits(&score);
                trace.prompt = Some(scores.into_iter().map(bits).collect());
            }
            Event::Embedding(_) => panic!("an embedding from a decoder"),
        }
    }
    trace
}

/// Requests of many lengths; some share a beginning, some sample, are penalised, biased, stopped
/// early, asked about, or need the host.
fn asks() -> Vec<Ask> {
    let lengths = [1, 2, 5, 16, 17, 31, 33, 48, 64, 90, 15, 32];
    let ask = |(index, len): (usize, u32)| {
        let prompt = (0..len)
            .map(|i| if i < 40 { (i * 7) % VOCAB } else { (i * 11 + index as u32) % VOCAB });
        let sampling = match index % 3 {
            0 => Sampling { temperature: 0.0, ..Sampling::default() },
            1 => Sampling { temperature: 0.9, top_p: 0.8, seed: 7, ..Sampling::default() },
            _ => Sampling { top_k: 12, min_p: 0.02, seed: index as u64, ..Sampling::default() },
        };
        let penalties = match index % 4 {
            3 => Penalties { frequency: 0.6, repetition: 1.2, ..Penalties::default() },
            2 => Penalties { logit_bias: vec![(5, 2.0), (7, -100.0)], ..Penalties::default() },
            // More than a slot holds: chosen on the host, penalties counted there.
            1 if index > 4 => Penalties {
                presence: 0.7,
                logit_bias: (0..600).map(|i| (i % VOCAB + i / VOCAB * 1000, 0.1)).collect(),
                ..Penalties::default()
            },
            _ => Penalties::default(),
        };
        let stop = StopConditions {
            max_tokens: 10 + index as u32,
            min_tokens: if index % 5 == 0 { 4 } else { 0 },
            token_ids: if index % 2 == 0 { vec![3, 20, 41, 62] } else { Vec::new() },
        };
        let logprobs = (index % 3 == 1).then_some(3);
        let prompt_logprobs = (index % 4 == 1).then_some(2);
        Ask {
            prompt: prompt.collect(),
            params: SamplingParams { sampling, penalties, stop, logprobs, prompt_logprobs },
            num_choices: 1 + (index as u32 % 3),
            is_processed: index % 6 == 5,
            grammar_len: (index % 3 != 0 || index % 4 == 0).then_some(6 + index),
        }
    };
    lengths.into_iter().enumerate().map(ask).collect()
}

/// Each request by itself, the plain way.
fn alone(asks: &[Ask]) -> Vec<Vec<Trace>> {
    let run = |ask| Engine::start(PLAIN).run(std::slice::from_ref(ask)).remove(0);
    asks.iter().map(run).collect()
}

/// Runs all requests together under `setup`, twice, and compares with each alone.
fn holds_under(setup: Setup) -> Engine {
    let asks = asks();
    let expected = alone(&asks);
    let mut engine = Engine::start(setup);
    for pass in ["cold", "warm"] {
        let found = engine.run(&asks);
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "request {index}, {pass}, {setup:?}");
        }
    }
    engine.core.scheduler().assert_consistent();
    assert_eq!(engine.core.gauges().num_used_blocks, 0, "blocks leaked");
    engine
}

#[test]
fn graphs_and_steps_in_flight_change_nothing() {
    let engine = holds_under(ROOMY);
    let Some(emulator) = engine.emulator else {
        println!("left out on a GPU: how many steps were replayed");
        return;
    };
    let replayed = emulator.counters().num_replays;
    assert!(replayed > 10, "only {replayed} decode steps were replayed");
}

#[test]
fn eager_steps_give_the_same() {
    holds_under(Setup { runner: Runner::Cuda(Graphs::Off), chunk: Some(7), ..ROOMY });
}

#[test]
fn slots_are_shared_by_more_sequences_than_there_are() {
    holds_under(Setup { max_num_seqs: 5, max_num_batched_tokens: 96, ..ROOMY });
}

#[test]
fn preemption_and_tiny_pools_change_nothing() {
    let setup = Setup { num_blocks: 13, caching: PrefixCaching::Off, ..ROOMY };
    let engine = holds_under(setup);
    let num_preemptions = engine.core.gauges().totals.num_preemptions;
    assert!(num_preemptions > 3, "only {num_preemptions} preemptions: the pool was too large");
    holds_under(Setup { num_blocks: 13, ..ROOMY });
}

#[test]
fn blocks_that_waited_on_the_host_change_nothing() {
    let setup =
        Setup { num_blocks: 13, num_host_blocks: 200, caching: PrefixCaching::Off, ..ROOMY };
    let totals = holds_under(setup).core.gauges().totals;
    assert!(totals.num_swapped_in_tokens > 100, "{totals:?}");
    assert_eq!(totals.num_dropped_tokens, 0, "computed again, with room to save");
}

#[test]
fn host_memory_is_taken_where_it_pays_and_no_more_than_that() {
    let TestDevice { driver, .. } = TestDevice::open(EmulatorOptions::default());
    let measured = SwapRates::measure(&driver).unwrap();
    assert!(measured.in_bytes_per_s > 0.0 && measured.out_bytes_per_s > 0.0, "{measured:?}");
    let files = ModelFiles::Embedded(&MODELS[0]);
    let configs = [ModelConfig::read_dummy(&files, None).unwrap()];
    let options =
        CudaOptions { element: Element::Bf16, determinism: Determinism::Fast, graphs: Graphs::Off };
    let memory = MemoryOptions {
        block_size: 16,
        max_num_seqs: 4,
        max_num_batched_tokens: 64,
        kv_cache: KvCacheSize::Blocks(11),
        layout: DeviceOptions::Cuda { driver, options }.layout(),
        available_bytes: None,
    };
    let plan = MemoryPlan::new(&configs, &memory).unwrap();
    // Keys and values of 2 layers, 2 heads of 32, 16 tokens.
    let block_bytes = 2 * 2 * 2 * 32 * 16 * 2;
    let fast = SwapRates { out_bytes_per_s: 1e12, in_bytes_per_s: 1e12, flops: 1e9 };
    let num_blocks = |rates, host_bytes| {
        SwapChoice::new(rates, &configs, &plan, host_bytes).unwrap().num_host_blocks
    };
    assert_eq!(num_blocks(fast, 3 * block_bytes + 5), 3);
    assert_eq!(num_blocks(fast, 1 << 40), 10, "as many as the device can hand out");
    assert_eq!(num_blocks(SwapRates { in_bytes_per_s: 1.0, ..fast }, 1 << 40), 0);
}

fn embedding(text: &[TokenId]) -> (Request, EventReceiver) {
    let (events, receiver) = EventSender::channel(1);
    let request = Request {
        id: RequestId(0),
        model: ModelId(1),
        prompt: text.to_vec(),
        task: Task::Embed,
        choices: vec![Choice::new(events)],
        priority: 0,
        tenant: TenantId(0),
        deadline: None,
        slo: Slo::default(),
        cache_salt: None,
    };
    (request, receiver)
}

fn vector(mut receiver: EventReceiver) -> Vec<f32> {
    let events = std::iter::from_fn(|| receiver.try_recv().ok());
    let mut vectors = events.filter_map(|event| match event {
        Event::Embedding(vector) => Some(vector),
        _ => None,
    });
    vectors.next().expect("a vector")
}

#[test]
fn texts_beside_chats_are_pooled_on_the_device() {
    let texts: Vec<Vec<TokenId>> = [1, 3, 17, 30, 64, 2]
        .into_iter()
        .map(|len| (0..len).map(|i| (i * 5 + len) % VOCAB).collect())
        .collect();
    let run = |setup: Setup, num_asks: usize| {
        let mut engine = Engine::start(setup);
        let chats: Vec<_> = asks()[..num_asks].iter().map(|ask| engine.admit(ask)).collect();
        let receivers: Vec<_> = texts
            .iter()
            .map(|text| {
                let (request, receiver) = embedding(text);
                engine.core.admit(request);
                receiver
            })
            .collect();
        engine.finish();
        drop(chats);
        receivers.into_iter().map(vector).collect::<Vec<_>>()
    };
    let expected = run(PLAIN, 0);
    let found = run(ROOMY, 6);
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
        let difference = difference.fold(0.0, f32::max);
        // Both pool the same hidden states; the sums of at most 64 numbers differ in order.
        assert!(difference < 1e-5, "text {index}: {difference}");
    }
}

#[test]
fn the_price_of_determinism_is_told() {
    let notes = Engine::start(ROOMY).notes;
    let [graphs, price] = &notes[..] else {
        panic!("{notes:?}");
    };
    // 1, 2, 4, 8, 16 and 24 sequences.
    assert!(graphs.starts_with("6 decode graphs captured in "), "{graphs}");
    assert!(price.contains("24 sequences of 256 tokens"), "{price}");
    assert!(Engine::start(PLAIN).notes.is_empty());
}

#[test]
fn two_slots_with_the_longest_lists_start_in_one_step() {
    let setup = Setup {
        max_num_seqs: 2,
        max_num_batched_tokens: 32,
        chunk: Some(16),
        num_blocks: 1040,
        ..ROOMY
    };
    let mut engine = Engine::start_with(&LONG_MODEL, setup);
    // The first alone does not fill what is uploaded at a time; both together must not overflow it.
    let ask = |num_biases: u32| Ask {
        prompt: (0..16_300).map(|i| (num_biases + i) % 16_400).collect(),
        params: SamplingParams {
            penalties: Penalties {
                repetition: 1.1,
                logit_bias: (0..num_biases).map(|token| (token, 1.0)).collect(),
                ..Penalties::default()
            },
            stop: StopConditions {
                max_tokens: 80,
                min_tokens: 1,
                token_ids: (0..num_biases).collect(),
            },
            ..SamplingParams::default()
        },
        num_choices: 1,
        is_processed: false,
        grammar_len: None,
    };
    let receivers = [engine.admit(&ask(0)), engine.admit(&ask(512))];
    let Turn::Stepped(report) = engine.core.step() else { panic!("the step failed") };
    assert_eq!(report.num_seqs, 2);
    drop(receivers);
    engine.finish();
}

#[test]
fn what_clients_drop_is_freed() {
    let mut engine = Engine::start(ROOMY);
    let mut receivers: Vec<_> = asks().iter().map(|ask| engine.admit(ask)).collect();
    for _ in 0..6 {
        let turn = engine.core.step();
        assert!(matches!(turn, Turn::Stepped(_)), "{turn:?}");
    }
    let kept = receivers.split_off(6);
    drop(receivers);
    engine.finish();
    let expected = alone(&asks()[6..]);
    for (found, expected) in kept.into_iter().zip(expected) {
        let found: Vec<_> = found.into_iter().map(trace).collect();
        assert_eq!(found, expected);
    }
    assert_eq!(engine.core.gauges().num_used_blocks, 0, "blocks leaked");
}
