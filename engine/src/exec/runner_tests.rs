//! Two small models in one runner, driven by the engine's own core.

use folio_emulator::test_driver;
use folio_kernels::cuda::Element;
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};
use serde_json::{Value, json};

use super::*;
use crate::core::{EngineCore, Turn};
use crate::exec::{KvCacheSize, MemoryOptions};
use crate::model::Embedded;
use crate::ops::Determinism;
use crate::sched::policies::Fcfs;
use crate::types::{
    Choice, EngineConfig, Event, EventReceiver, EventSender, FinishReason, ManualClock,
    PrefixCaching, Request, RequestId, Sampling, SamplingParams, Slo, StopConditions, Task,
    TenantId, TokenId,
};

const VOCAB: usize = 32;
const HIDDEN: usize = 64;
/// Width of keys and values.
const KV_COLS: usize = 32;
/// A token whose embedding is not a number.
const POISON: TokenId = 5;
const DECODER: ModelId = ModelId(0);
const ENCODER: ModelId = ModelId(1);

/// A safetensors file of reproducible numbers, those of `words` poisoned in one row.
fn weights(tensors: &[(String, Vec<usize>)], words: &str) -> Vec<u8> {
    let mut state = 1u32;
    let mut data = Vec::new();
    for (name, shape) in tensors {
        let mut numbers = (0..shape.iter().product::<usize>())
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
            })
            .collect::<Vec<_>>();
        if name == words {
            numbers[POISON as usize * HIDDEN..][..HIDDEN].fill(f32::NAN);
        }
        data.push(numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    }
    let views = tensors.iter().zip(&data).map(|((name, shape), bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    serialize(views, None).unwrap()
}

fn model(name: &'static str, config: &Value, weights: Vec<u8>) -> ModelFiles {
    let files: [(&str, &[u8]); 2] = [
        ("config.json", config.to_string().into_bytes().leak()),
        ("model.safetensors", weights.leak()),
    ];
    let files = Box::leak(Box::new(files)).as_slice();
    ModelFiles::Embedded(Box::leak(Box::new(Embedded { name, files })))
}

fn decoder_tensors() -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("lm_head.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..2 {
        let shapes: [(&str, &[usize]); 9] = [
            ("input_layernorm", &[HIDDEN]),
            ("post_attention_layernorm", &[HIDDEN]),
            ("self_attn.q_proj", &[HIDDEN, HIDDEN]),
            ("self_attn.k_proj", &[KV_COLS, HIDDEN]),
            ("self_attn.v_proj", &[KV_COLS, HIDDEN]),
            ("self_attn.o_proj", &[HIDDEN, HIDDEN]),
            ("mlp.gate_proj", &[24, HIDDEN]),
            ("mlp.up_proj", &[24, HIDDEN]),
            ("mlp.down_proj", &[HIDDEN, 24]),
        ];
        let named = |(name, shape): (&str, &[usize])| {
            (format!("model.layers.{layer}.{name}.weight"), shape.to_vec())
        };
        tensors.extend(shapes.map(named));
    }
    tensors
}

fn decoder(tensors: &[(String, Vec<usize>)]) -> ModelFiles {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 64
    });
    model("tiny-decoder", &config, weights(tensors, "model.embed_tokens.weight"))
}

fn encoder() -> ModelFiles {
    let config = json!({
        "architectures": ["BertModel"], "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 20, "type_vocab_size": 2
    });
    let shapes: [(&str, &[usize]); 21] = [
        ("embeddings.word_embeddings.weight", &[VOCAB, HIDDEN]),
        ("embeddings.position_embeddings.weight", &[20, HIDDEN]),
        ("embeddings.token_type_embeddings.weight", &[2, HIDDEN]),
        ("embeddings.LayerNorm.weight", &[HIDDEN]),
        ("embeddings.LayerNorm.bias", &[HIDDEN]),
        ("encoder.layer.0.attention.self.query.weight", &[HIDDEN, HIDDEN]),
        ("encoder.layer.0.attention.self.query.bias", &[HIDDEN]),
        ("encoder.layer.0.attention.self.key.weight", &[HIDDEN, HIDDEN]),
        ("encoder.layer.0.attention.self.key.bias", &[HIDDEN]),
        ("encoder.layer.0.attention.self.value.weight", &[HIDDEN, HIDDEN]),
        ("encoder.layer.0.attention.self.value.bias", &[HIDDEN]),
        ("encoder.layer.0.attention.output.dense.weight", &[HIDDEN, HIDDEN]),
        ("encoder.layer.0.attention.output.dense.bias", &[HIDDEN]),
        ("encoder.layer.0.attention.output.LayerNorm.gamma", &[HIDDEN]),
        ("encoder.layer.0.attention.output.LayerNorm.beta", &[HIDDEN]),
        ("encoder.layer.0.intermediate.dense.weight", &[24, HIDDEN]),
        ("encoder.layer.0.intermediate.dense.bias", &[24]),
        ("encoder.layer.0.output.dense.weight", &[HIDDEN, 24]),
        ("encoder.layer.0.output.dense.bias", &[HIDDEN]),
        ("encoder.layer.0.output.LayerNorm.weight", &[HIDDEN]),
        ("encoder.layer.0.output.LayerNorm.bias", &[HIDDEN]),
    ];
    let tensors = shapes.map(|(name, shape)| (name.to_owned(), shape.to_vec()));
    model("tiny-encoder", &config, weights(&tensors, "embeddings.word_embeddings.weight"))
}

const CPU: DeviceOptions = DeviceOptions::Cpu { num_threads: 2 };

fn load(
    files: &[ModelFiles],
    device: DeviceOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(ModelRunner, EngineConfig)> {
    let configs = files.iter().map(|files| ModelConfig::read(files, None));
    load_configured(files.to_vec(), configs.collect::<Result<_>>()?, device, progress)
}

fn load_configured(
    files: Vec<ModelFiles>,
    configs: Vec<ModelConfig>,
    device: DeviceOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(ModelRunner, EngineConfig)> {
    let options = MemoryOptions {
        block_size: 16,
        max_num_seqs: 8,
        max_num_batched_tokens: 64,
        kv_cache: KvCacheSize::Blocks(50),
        layout: device.layout(),
        available_bytes: None,
    };
    let plan = MemoryPlan::new(&configs, &options)?;
    let config = EngineConfig {
        models: configs.iter().map(ModelConfig::limits).collect(),
        block_size: 16,
        num_blocks: plan.num_blocks(),
        max_num_seqs: 8,
        max_num_batched_tokens: 64,
        max_num_partial_prefills: 4,
        long_prefill_token_threshold: None,
        max_queued_requests: 100,
        prefix_caching: PrefixCaching::On,
        num_host_blocks: 0,
    };
    let models = files.into_iter().zip(configs).collect();
    let runner = ModelRunner::load(models, &RunnerOptions { device, plan }, progress)?;
    Ok((runner, config.validated()?))
}

fn request(model: ModelId, prompt: &[TokenId]) -> (Request, EventReceiver) {
    let stop = StopConditions { max_tokens: 6, ..StopConditions::default() };
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let params = SamplingParams { sampling: greedy, stop, ..SamplingParams::default() };
    let task = if model == DECODER { Task::Generate(params) } else { Task::Embed };
    let (events, receiver) = EventSender::channel(6);
    let choice = Choice::new(events);
    let request = Request {
        id: RequestId(0),
        model,
        prompt: prompt.to_vec(),
        task,
        choices: vec![choice],
        priority: 0,
        tenant: TenantId(0),
        deadline: None,
        slo: Slo::default(),
        cache_salt: None,
    };
    (request, receiver)
}

/// What each request came to: bits of its tokens or embedding, and how it ended.
fn run(device: DeviceOptions, requests: &[(ModelId, &[TokenId])]) -> Vec<(Vec<u32>, FinishReason)> {
    let files = vec![decoder(&decoder_tensors()), encoder()];
    let (runner, config) = load(&files, device, &mut |_| {}).unwrap();
    let clock = Box::new(ManualClock::default());
    let mut core = EngineCore::new(config, Box::new(Fcfs), Box::new(runner), clock);
    let mut receivers = Vec::new();
    for (model, prompt) in requests {
        let (request, receiver) = request(*model, prompt);
        core.admit(request);
        receivers.push(receiver);
    }
    while !core.is_idle() {
        let turn = core.step();
        assert!(matches!(turn, Turn::Stepped(_)), "{turn:?}");
    }
    receivers.into_iter().map(outcome).collect()
}

fn outcome(mut receiver: EventReceiver) -> (Vec<u32>, FinishReason) {
    let mut bits = Vec::new();
    while let Ok(event) = receiver.try_recv() {
        match event {
            Event::Token(token) => bits.push(token.id),
            Event::Embedding(vector) => bits.extend(vector.iter().map(|x| x.to_bits())),
            Event::Finished { reason, .. } => return (bits, reason),
            Event::Started(_) => {}
            Event::PromptLogprobs(_) => panic!("nobody asked about the prompt"),
        }
    }
    panic!("a request without an end");
}

fn fail_alone(device: &dyn Fn() -> DeviceOptions) {
    let healthy: [(ModelId, &[TokenId]); 4] = [
        (DECODER, &[1, 2, 3, 9, 10, 11, 12]),
        (ENCODER, &[1, 2, 3]),
        (DECODER, &[7, 8]),
        (ENCODER, &[9]),
    ];
    let poisoned: [(ModelId, &[TokenId]); 2] =
        [(DECODER, &[4, POISON, 6]), (ENCODER, &[POISON, 1])];
    let mut mixed = healthy.to_vec();
    mixed.splice(1..1, poisoned);
    let mut found = run(device(), &mixed);
    for (bits, reason) in found.drain(1..3) {
        assert!(bits.is_empty(), "{bits:?}");
        assert!(matches!(reason, FinishReason::Failed(_)), "{reason:?}");
    }
    for (index, found) in found.into_iter().enumerate() {
        let alone = run(device(), &healthy[index..=index]).remove(0);
        assert!(!alone.0.is_empty());
        assert_eq!(found, alone, "request {index}");
    }
}

#[test]
fn numbers_that_are_not_finite_fail_their_own_request_alone() {
    fail_alone(&|| CPU);
}

#[test]
fn on_cuda_they_do_as_well() {
    let options = CudaOptions {
        element: Element::F16,
        determinism: Determinism::Fixed,
        graphs: crate::ops::Graphs::Off,
    };
    fail_alone(&|| DeviceOptions::Cuda { driver: test_driver(), options });
}

#[test]
fn loading_reports_its_progress() {
    let mut reports = Vec::new();
    let files = vec![decoder(&decoder_tensors()), encoder()];
    let report = |progress: Progress<'_>| {
        reports.push((progress.model.to_owned(), progress.loaded_bytes, progress.total_bytes));
    };
    let mut report = report;
    load(&files, CPU, &mut report).unwrap();
    assert_eq!(reports[0].1, 0);
    for name in ["tiny-decoder", "tiny-encoder"] {
        let mut of_model = reports.iter().filter(|(model, ..)| model == name);
        let loaded = of_model.clone().map(|(_, loaded, _)| *loaded).collect::<Vec<_>>();
        assert!(loaded.is_sorted(), "{loaded:?}");
        let Some((_, loaded, total)) = of_model.next_back() else {
            panic!("no report for {name}");
        };
        // What is left of the file is its header.
        assert!(*loaded < *total && *loaded > *total / 2, "{loaded} of {total}");
    }
}

#[test]
fn a_missing_weight_is_named() {
    let tensors = decoder_tensors();
    for (index, (name, _)) in tensors.iter().enumerate() {
        let mut rest = tensors.clone();
        rest.remove(index);
        let error = load(&[decoder(&rest)], CPU, &mut |_| {}).unwrap_err().to_string();
        assert_eq!(error, format!("weight {name}: missing from the checkpoint"));
    }
}

#[test]
fn a_model_of_made_up_weights_needs_its_configuration_alone() {
    let config = json!({
        "architectures": ["Qwen2ForCausalLM"], "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": 24, "num_hidden_layers": 30, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 64
    });
    let text: &[u8] = config.to_string().into_bytes().leak();
    let files = ModelFiles::Embedded(Box::leak(Box::new(Embedded {
        name: "dummy",
        files: Box::leak(Box::new([("config.json", text)])),
    })));
    assert!(ModelConfig::read(&files, None).is_err());
    let config = ModelConfig::read_dummy(&files, None).unwrap();
    let mut last = (0, 0);
    let mut report = |now: Progress<'_>| last = (now.loaded_bytes, now.total_bytes);
    let (mut runner, _) = load_configured(vec![files], vec![config], CPU, &mut report).unwrap();
    assert!(last.0 > 0 && last.0 == last.1, "{last:?}");
    let row =
        BatchRow { tokens: &[1, 2, 3], positions: 0..3, blocks: &[BlockId(1)], emits: Emits::All };
    let logits = runner.forward(DECODER, &[row]).unwrap();
    assert_eq!(logits.len(), 3 * VOCAB);
    assert!(logits.iter().all(|x| x.is_finite() && x.abs() < 100.0), "{logits:?}");
}
