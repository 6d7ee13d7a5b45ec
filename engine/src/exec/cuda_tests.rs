//! Small models of random weights on an emulated GPU, against the same on the processor.

use std::sync::Arc;

use folio_emulator::{EmulatorOptions, emulator_only, test_driver};
use folio_kernels::cuda::{Driver, Element};
use half::bf16;
use safetensors::tensor::{TensorView, serialize};
use serde_json::{Value, json};

use crate::exec::{
    BatchRow, DeviceOptions, Emits, KvCacheSize, MemoryOptions, MemoryPlan, ModelRunner,
    RunnerOptions,
};
use crate::model::{Embedded, ModelConfig, ModelFiles};
use crate::ops::{CudaOptions, Determinism, Graphs};
use crate::types::{BlockId, Error, ModelId, Result, TokenId};

const MODEL: ModelId = ModelId(0);
const VOCAB: usize = 96;
const BLOCK_SIZE: u32 = 16;
/// Blocks of a sequence.
const MAX_BLOCKS: u32 = 8;
const CPU: DeviceOptions = DeviceOptions::Cpu { num_threads: 2 };

fn decoder(architecture: &str, more: &Value) -> Value {
    let mut config = json!({
        "architectures": [architecture], "vocab_size": VOCAB, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128,
        "tie_word_embeddings": true
    });
    for (name, value) in more.as_object().unwrap() {
        config[name] = value.clone();
    }
    config
}

fn encoder(architecture: &str, activation: &str) -> Value {
    json!({
        "architectures": [architecture], "vocab_size": VOCAB, "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 130, "type_vocab_size": 2, "hidden_act": activation
    })
}

fn options(element: Element, determinism: Determinism) -> CudaOptions {
    CudaOptions { element, determinism, graphs: Graphs::Off }
}

fn cuda(options: CudaOptions) -> DeviceOptions {
    DeviceOptions::Cuda { driver: test_driver(), options }
}

/// A model of random weights, biases and norms included, that are exact in every format.
fn model(config: &Value) -> Result<(ModelFiles, ModelConfig)> {
    let text: &[u8] = config.to_string().into_bytes().leak();
    let embedded = |files: Vec<(&'static str, &'static [u8])>| {
        let files = files.leak();
        ModelFiles::Embedded(Box::leak(Box::new(Embedded { name: "random", files })))
    };
    let bare = ModelConfig::read_dummy(&embedded(vec![("config.json", text)]), None)?;
    let weights: &[u8] = random_weights(&bare.tensors()?).leak();
    let files = embedded(vec![("config.json", text), ("model.safetensors", weights)]);
    let config = ModelConfig::read(&files, None)?;
    Ok((files, config))
}

fn random_weights(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    };
    let mut data = Vec::new();
    for (name, shape) in tensors {
        let (centre, scale) = match shape.as_slice() {
            // A sum over so many products keeps the size of what goes in.
            [_, cols] => (0.0, (3.0 / *cols as f32).sqrt()),
            _ if name.ends_with("bias") => (0.0, 0.3),
            _ => (1.0, 0.5),
        };
        let num_numbers = shape.iter().product::<usize>();
        let numbers = (0..num_numbers).map(|_| bf16::from_f32(centre + scale * uniform()));
        data.push(numbers.flat_map(bf16::to_le_bytes).collect::<Vec<_>>());
    }
    let views = tensors.iter().zip(&data).map(|((name, shape), bytes)| {
        (name, TensorView::new(safetensors::Dtype::BF16, shape.clone(), bytes).unwrap())
    });
    serialize(views, None).unwrap()
}

fn load(config: &Value, device: DeviceOptions) -> Result<ModelRunner> {
    let (files, config) = model(config)?;
    let memory = MemoryOptions {
        block_size: BLOCK_SIZE,
        max_num_seqs: 256,
        max_num_batched_tokens: 256,
        kv_cache: KvCacheSize::Blocks(1 + 4 * MAX_BLOCKS),
        layout: device.layout(),
        available_bytes: None,
    };
    let plan = MemoryPlan::new(std::slice::from_ref(&config), &memory)?;
    let options = RunnerOptions { device, plan };
    ModelRunner::load(vec![(files, config)], &options, &mut |_| {})
}

/// Tokens of sequence `index`, which has the blocks `blocks(index)`.
fn tokens(index: u32, len: u32) -> Vec<TokenId> {
    (0..len).map(|position| (7 * index + 13 * position + position * position) % 96).collect()
}

fn blocks(index: u32) -> Vec<BlockId> {
    (0..MAX_BLOCKS).map(|block| BlockId(1 + 4 * block + index)).collect()
}

/// A step: which positions of which sequence.
type Step<'a> = &'a [(u32, std::ops::Range<u32>)];

/// Outputs of all tokens of a step.
fn forward(runner: &mut ModelRunner, step: Step<'_>) -> Vec<f32> {
    let sequences = step.iter().map(|(index, positions)| {
        (tokens(*index, positions.end), blocks(*index), positions.clone())
    });
    let sequences = sequences.collect::<Vec<_>>();
    let rows = sequences.iter().map(|(tokens, blocks, positions)| BatchRow {
        tokens,
        positions: positions.clone(),
        blocks,
        emits: Emits::All,
    });
    let rows = rows.collect::<Vec<_>>();
    runner.forward(MODEL, &rows).unwrap().to_vec()
}

/// How far the numbers of a device with 16 bits may be from those in single precision, relative to
/// their root mean square: ten independent roundings a layer and four around them, each of half a
/// unit at most, twice for what layers make of them.
fn tolerance(element: Element, num_layers: f64) -> f64 {
    let half_unit = match element {
        Element::Bf16 => 1.0 / f64::from(1 << 8),
        Element::F16 => 1.0 / f64::from(1 << 11),
    };
    2.0 * half_unit * (10.0 * num_layers + 4.0).sqrt()
}

fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f64| x * x;
    let errors = found.iter().zip(expected).map(|(a, b)| square(f64::from(a - b))).sum::<f64>();
    let size = expected.iter().map(|x| square(f64::from(*x))).sum::<f64>();
    (errors / size).sqrt()
}

/// Prompts of several lengths, a step of all kinds of rows, and one of single tokens.
const STEPS: [Step<'static>; 4] = [
    &[(0, 0..70), (1, 0..5), (2, 0..1)],
    &[(0, 70..71), (1, 5..40), (3, 0..16), (2, 1..2)],
    &[(0, 71..72), (1, 40..41), (2, 2..3), (3, 16..17)],
    &[(3, 17..18)],
];

#[test]
fn decoders_compute_what_the_processor_does() {
    let cases = [
        decoder("LlamaForCausalLM", &json!({})),
        decoder("LlamaForCausalLM", &json!({"attention_bias": true, "mlp_bias": true})),
        decoder("Qwen3ForCausalLM", &json!({"head_dim": 64, "tie_word_embeddings": false})),
        decoder("Qwen2ForCausalLM", &json!({"num_attention_heads": 2, "num_key_value_heads": 2})),
        decoder("MistralForCausalLM", &json!({"sliding_window": 20})),
    ];
    for config in cases {
        let mut expected = load(&config, CPU).unwrap();
        let expected = STEPS.map(|step| forward(&mut expected, step));
        for element in [Element::Bf16, Element::F16] {
            for determinism in [Determinism::Fast, Determinism::Fixed] {
                let mut runner = load(&config, cuda(options(element, determinism))).unwrap();
                for (step, expected) in STEPS.iter().zip(&expected) {
                    let error = relative_error(&forward(&mut runner, step), expected);
                    let allowed = tolerance(element, 3.0);
                    assert!(
                        error < allowed,
                        "{config}, {element:?}, {determinism:?}, {step:?}: {error} of {allowed}"
                    );
                }
            }
        }
    }
}

#[test]
fn encoders_compute_what_the_processor_does() {
    let texts: Step<'_> = &[(0, 0..70), (1, 0..1), (2, 0..33)];
    for (architecture, activation) in
        [("BertModel", "gelu"), ("XLMRobertaModel", "gelu_new"), ("BertModel", "relu")]
    {
        let config = encoder(architecture, activation);
        let expected = forward(&mut load(&config, CPU).unwrap(), texts);
        for element in [Element::Bf16, Element::F16] {
            let device = cuda(options(element, Determinism::Fast));
            let found = forward(&mut load(&config, device).unwrap(), texts);
            let (error, allowed) = (relative_error(&found, &expected), tolerance(element, 2.0));
            assert!(error < allowed, "{config}, {element:?}: {error} of {allowed}");
        }
    }
}

#[test]
fn fixed_results_are_the_same_in_any_batch_and_with_any_chunking() {
    let config = decoder("LlamaForCausalLM", &json!({}));
    let device = || cuda(options(Element::Bf16, Determinism::Fixed));
    let whole = forward(&mut load(&config, device()).unwrap(), &[(0, 0..72)]);
    let mut mixed = load(&config, device()).unwrap();
    let mut found = Vec::new();
    let steps: [Step<'_>; 4] = [
        &[(0, 0..31), (1, 0..40)],
        &[(0, 31..70), (1, 40..41), (2, 0..100)],
        &[(0, 70..71), (2, 100..101)],
        &[(0, 71..72)],
    ];
    for step in steps {
        let num_tokens = step[0].1.len();
        found.extend_from_slice(&forward(&mut mixed, step)[..num_tokens * VOCAB]);
    }
    let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(&found) == bits(&whole), "{}", relative_error(&found, &whole));
}

/// Launches of a step of single tokens by a model of so many layers.
fn num_launches(num_layers: u32, config: &Value) -> Option<u64> {
    let emulator = emulator_only(EmulatorOptions::default(), "the number of launches")?;
    let driver = Arc::clone(&emulator) as Arc<dyn Driver>;
    let options = options(Element::Bf16, Determinism::Fast);
    let mut config = config.clone();
    config["num_hidden_layers"] = num_layers.into();
    let mut runner = load(&config, DeviceOptions::Cuda { driver, options }).unwrap();
    let total = || emulator.counters().launches.values().sum::<u64>();
    forward(&mut runner, &[(0, 0..20), (1, 0..1)]);
    let before = total();
    forward(&mut runner, &[(0, 20..21), (1, 1..2)]);
    Some(total() - before)
}

#[test]
fn a_decoder_layer_is_nine_launches() {
    for (architecture, more) in [
        ("LlamaForCausalLM", json!({})),
        ("Qwen3ForCausalLM", json!({})),
        ("LlamaForCausalLM", json!({"attention_bias": true, "mlp_bias": true})),
    ] {
        let config = decoder(architecture, &more);
        let (Some(two), Some(five)) = (num_launches(2, &config), num_launches(5, &config)) else {
            return;
        };
        assert_eq!(five - two, 3 * 9, "{config}");
        // Preparing the step and its attention, embedding, the first norm, two gathers, logits.
        assert_eq!(two - 2 * 9, 7, "{config}");
    }
}

#[test]
fn an_encoder_layer_is_seven_launches() {
    let num_launches = |num_layers: u32| {
        let emulator = emulator_only(EmulatorOptions::default(), "the number of launches")?;
        let driver = Arc::clone(&emulator) as Arc<dyn Driver>;
        let options = options(Element::F16, Determinism::Fast);
        let mut config = encoder("BertModel", "gelu");
        config["num_hidden_layers"] = num_layers.into();
        let mut runner = load(&config, DeviceOptions::Cuda { driver, options }).unwrap();
        let total = || emulator.counters().launches.values().sum::<u64>();
        let before = total();
        forward(&mut runner, &[(0, 0..20), (1, 0..1)]);
        Some(total() - before)
    };
    if let (Some(four), Some(two)) = (num_launches(4), num_launches(2)) {
        assert_eq!(four - two, 2 * 7);
    }
}

#[test]
fn what_has_no_kernels_is_refused_by_name() {
    let device = || cuda(options(Element::Bf16, Determinism::Fast));
    let message = |config: Value| load(&config, device()).unwrap_err().to_string();
    let heads = message(decoder("LlamaForCausalLM", &json!({"head_dim": 16})));
    assert!(heads.contains("head_dim") && heads.contains("16") && heads.contains("128"), "{heads}");
    let width = message(decoder("LlamaForCausalLM", &json!({"intermediate_size": 100})));
    assert!(width.contains("intermediate_size = 100"), "{width}");
}

#[test]
fn a_device_without_room_names_the_plan() {
    let options = EmulatorOptions { memory_bytes: 11 << 20, ..EmulatorOptions::default() };
    let Some(driver) = emulator_only(options, "a device without room") else {
        return;
    };
    let driver = driver as Arc<dyn Driver>;
    let options = self::options(Element::Bf16, Determinism::Fast);
    let config = decoder("LlamaForCausalLM", &json!({"vocab_size": 100_000}));
    let error = load(&config, DeviceOptions::Cuda { driver, options }).unwrap_err();
    let Error::OutOfMemory(message) = error else {
        panic!("{error}");
    };
    assert!(message.contains("weights 13.1 MB") && message.contains("KV cache"), "{message}");
    assert!(message.contains("max_num_batched_tokens"), "{message}");
}
