//! What configurations say, and how those that are not supported are refused.

use serde_json::{Map, Value, json};

use crate::model::{Embedded, ModelConfig, ModelFiles, Normalization, Pooling};
use crate::types::{Error, ModelKind, Result};

/// A model of these files, with an empty weight file: nothing here may read it.
fn model(files: &[(&'static str, Value)]) -> ModelFiles {
    let text = |value: &Value| -> &'static [u8] { value.to_string().into_bytes().leak() };
    let mut files = files.iter().map(|(name, value)| (*name, text(value))).collect::<Vec<_>>();
    files.push(("model.safetensors", b""));
    ModelFiles::Embedded(Box::leak(Box::new(Embedded { name: "test", files: files.leak() })))
}

/// `base` in which the fields of `changes` replace others, or remove them where null.
fn changed(base: Value, changes: Value) -> Value {
    let (Value::Object(mut base), Value::Object(changes)) = (base, changes) else {
        panic!("objects");
    };
    base.extend(changes);
    Value::Object(base.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
}

fn llama(changes: Value) -> Value {
    let base = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 100, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16", "eos_token_id": 2
    });
    changed(base, changes)
}

fn bert(changes: Value) -> Value {
    let base = json!({
        "architectures": ["BertModel"], "vocab_size": 100, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "max_position_embeddings": 512, "type_vocab_size": 2, "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "position_embedding_type": "absolute"
    });
    changed(base, changes)
}

fn read(config: Value) -> Result<ModelConfig> {
    ModelConfig::read(&model(&[("config.json", config)]), None)
}

/// Each configuration is refused for the field and with the value beside it.
fn assert_refused(cases: &[(Value, &str, &str)]) {
    for (config, field, value) in cases {
        match read(config.clone()).unwrap_err() {
            Error::UnsupportedModel { field: found_field, value: found, .. } => {
                assert_eq!(found_field, *field);
                assert!(found.starts_with(value), "{field} = {found}, expected {value}");
            }
            other => panic!("{field} = {value}: {other}"),
        }
    }
}

#[test]
fn what_no_decoder_implements_is_refused_by_field_and_value() {
    assert_refused(&[
        (llama(json!({"architectures": ["GPT2LMHeadModel"]})), "architectures", "[\"GPT2"),
        (llama(json!({"architectures": null})), "architectures", "absent"),
        (llama(json!({"quantization_config": {"bits": 4}})), "quantization_config", "{\"bits\":4}"),
        (llama(json!({"torch_dtype": "float8_e4m3fn"})), "torch_dtype", "\"float8_e4m3fn\""),
        (llama(json!({"hidden_act": "relu"})), "hidden_act", "\"relu\""),
        (llama(json!({"rope_scaling": {"type": "dynamic"}})), "rope_scaling.type", "\"dynamic\""),
        (llama(json!({"head_dim": 20})), "head_dim", "20"),
        (llama(json!({"head_dim": 512})), "head_dim", "512"),
        (llama(json!({"num_key_value_heads": 3})), "num_key_value_heads", "3"),
        (llama(json!({"hidden_size": 66})), "num_attention_heads", "4"),
        (
            llama(json!({"layer_types": ["full_attention", "linear", "full_attention"]})),
            "layer_types",
            "linear",
        ),
        (
            llama(json!({"layer_types": ["full_attention", "sliding_attention", "x"]})),
            "layer_types",
            "sliding_attention",
        ),
    ]);
}

#[test]
fn what_no_encoder_implements_is_refused_by_field_and_value() {
    assert_refused(&[
        (
            bert(json!({"position_embedding_type": "relative_key"})),
            "position_embedding_type",
            "\"r",
        ),
        (bert(json!({"hidden_act": "tanh"})), "hidden_act", "\"tanh\""),
        (bert(json!({"is_decoder": true})), "is_decoder", "true"),
        (bert(json!({"num_attention_heads": 16})), "head_dim", "4"),
        (bert(json!({"architectures": ["BertForTokenClassification"]})), "architectures", "[\"B"),
    ]);
}

#[test]
fn malformed_configurations_name_file_and_field() {
    let cases = [
        (llama(json!({"hidden_size": null})), "test/config.json: hidden_size is missing"),
        (llama(json!({"hidden_size": -1})), "test/config.json: hidden_size = -1 is not a whole"),
        (llama(json!({"tie_word_embeddings": 1})), "tie_word_embeddings = 1 is not true or false"),
        (llama(json!({"layer_types": ["full_attention"]})), "layer_types has 1 entries"),
        (json!([1]), "test/config.json: not a JSON object"),
    ];
    for (config, message) in cases {
        let error = read(config).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    let error = ModelConfig::read(&model(&[]), None).unwrap_err().to_string();
    assert_eq!(error, "test/config.json: there is no such file");
}

#[test]
fn lengths_can_be_shortened_and_not_lengthened() {
    let files = model(&[("config.json", llama(json!({})))]);
    let limits = |length| ModelConfig::read(&files, length).map(|config| config.limits());
    assert_eq!(limits(None).unwrap().max_model_len, 512);
    assert_eq!(limits(Some(100)).unwrap().max_model_len, 100);
    for length in [0, 513] {
        let error = limits(Some(length)).unwrap_err().to_string();
        let expected = format!("max_model_len = {length}: must be from 1 to 512");
        assert!(error.starts_with(&expected), "{error}");
    }
    let yarn = json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}});
    assert_eq!(read(llama(yarn)).unwrap().limits().max_model_len, 2048);
}

#[test]
fn end_tokens_come_from_the_generation_file_first() {
    let ids = |generation: Option<Value>| {
        let mut files = vec![("config.json", llama(json!({"eos_token_id": [7, 8]})))];
        files.extend(generation.map(|generation| ("generation_config.json", generation)));
        ModelConfig::read(&model(&files), None).unwrap().eos_token_ids().to_vec()
    };
    assert_eq!(ids(None), [7, 8]);
    assert_eq!(ids(Some(json!({}))), [7, 8]);
    assert_eq!(ids(Some(json!({"eos_token_id": 9}))), [9]);
    assert_eq!(ids(Some(json!({"eos_token_id": [9, 1]}))), [9, 1]);
}

/// An encoder of these files beside its config.json.
fn encoder(config: Value, files: &[(&'static str, Value)]) -> Result<ModelConfig> {
    let mut files = files.to_vec();
    files.push(("config.json", config));
    ModelConfig::read(&model(&files), None)
}

fn modules(kinds: &[&str]) -> (&'static str, Value) {
    let module = |kind: &&str| json!({"path": "1_Pooling", "type": format!("x.models.{kind}")});
    ("modules.json", kinds.iter().map(module).collect())
}

#[test]
fn pooling_is_what_the_files_say() {
    let pooled = |config: Value, kinds: &[&str]| {
        let files = [modules(kinds), ("1_Pooling/config.json", config)];
        encoder(bert(json!({})), &files).map(|config| config.pooling().unwrap())
    };
    let usual = ["Transformer", "Pooling", "Normalize"];
    let flags = |set: &str| {
        let mut flags = json!({"word_embedding_dimension": 64, "pooling_mode_cls_token": false,
            "pooling_mode_mean_tokens": false, "include_prompt": true});
        flags[set] = true.into();
        flags
    };
    let cases = [
        (flags("pooling_mode_mean_tokens"), Pooling::Mean),
        (flags("pooling_mode_cls_token"), Pooling::Cls),
        (flags("pooling_mode_lasttoken"), Pooling::Last),
        (json!({"pooling_mode": "cls"}), Pooling::Cls),
    ];
    for (config, pooling) in cases {
        let found = pooled(config.clone(), &usual).unwrap();
        assert_eq!((found.pooling, found.normalization), (pooling, Normalization::L2));
        let found = pooled(config, &usual[..2]).unwrap();
        assert_eq!((found.pooling, found.normalization), (pooling, Normalization::None));
    }
    let mut both = flags("pooling_mode_mean_tokens");
    both["pooling_mode_cls_token"] = true.into();
    let refused = [
        (both, &usual[..]),
        (flags("pooling_mode_max_tokens"), &usual[..]),
        (json!({"pooling_mode": "weightedmean"}), &usual[..]),
        (flags("pooling_mode_mean_tokens"), &["Transformer", "Pooling", "Dense"][..]),
    ];
    for (config, kinds) in refused {
        let error = pooled(config.clone(), kinds).unwrap_err();
        assert!(matches!(error, Error::UnsupportedModel { .. }), "{config}: {error}");
    }
    assert!(pooled(flags("pooling_mode_mean_tokens"), &["Transformer"]).is_err());
}

#[test]
fn without_sentence_files_the_default_is_noted() {
    let config = encoder(bert(json!({})), &[]).unwrap();
    let pooling = config.pooling().unwrap();
    assert_eq!((pooling.pooling, pooling.normalization), (Pooling::Mean, Normalization::L2));
    assert_eq!(config.notes().len(), 1);
    assert_eq!(config.limits().kind, ModelKind::Encoder);
}

#[test]
fn the_longest_text_is_the_least_of_all_limits() {
    let len = |config: Value, files: &[(&'static str, Value)]| {
        encoder(config, files).unwrap().limits().max_model_len
    };
    let sentence = |max: Value| ("sentence_bert_config.json", json!({"max_seq_length": max}));
    let tokenizer = |max: Value| ("tokenizer_config.json", json!({"model_max_length": max}));
    assert_eq!(len(bert(json!({})), &[]), 512);
    assert_eq!(len(bert(json!({})), &[sentence(json!(256)), tokenizer(json!(300))]), 256);
    assert_eq!(len(bert(json!({})), &[sentence(Value::Null), tokenizer(json!(300))]), 300);
    assert_eq!(len(bert(json!({})), &[tokenizer(json!(1e30))]), 512);
    assert_eq!(len(bert(json!({})), &[sentence(json!(1024))]), 512);
    let roberta = |rows: u32| {
        bert(json!({"architectures": ["XLMRobertaModel"], "pad_token_id": 1,
            "max_position_embeddings": rows}))
    };
    assert_eq!(len(roberta(514), &[]), 512);
    assert!(encoder(roberta(2), &[]).is_err());
}
