//! Required calls of a model that knows nothing: whatever it picks of the tokens that are allowed,
//! the parser finds calls, and their arguments fit.

use std::borrow::Cow;
use std::sync::Arc;

use folio_engine::model::ModelFiles;
use folio_engine::types::{Continuation, ModelId, ModelKind, ModelLimits, TokenId, allows};
use serde_json::{Value, json};

use super::{
    CallSettings, ChatParser, ParserSettings, Part, ToolFormat, required_calls, special_marks,
};
use crate::builtin;
use crate::models::{Models, ServedModel};
use crate::openai::{Constraint, EndOfSequence, Strictness, Structure, Tool};
use crate::structured::{Compiler, Limits};
use crate::text::{Detokenizer, Skip, TextModel};

/// Tokens of folio-tiny.
const NUM_TOKENS: u32 = 3072;
/// Ends a text.
const END: TokenId = 2;
const MAX_CALLS: u32 = 3;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// The built-in model with `marks` added to its vocabulary as special tokens.
fn model(marks: &[&str]) -> Models {
    let files = ModelFiles::Embedded(builtin::chat());
    let read = |name: &str| {
        let content = files.read(name).unwrap().map(Cow::into_owned);
        if name != "tokenizer_config.json" {
            return Ok(content);
        }
        let mut config: Value = serde_json::from_slice(&content.unwrap()).unwrap();
        for (mark, id) in marks.iter().zip(NUM_TOKENS..) {
            config["added_tokens_decoder"][id.to_string()] =
                json!({ "content": mark, "special": true, "normalized": false });
        }
        Ok(Some(config.to_string().into_bytes()))
    };
    let vocab_size = NUM_TOKENS + marks.len() as u32;
    let model = ServedModel {
        id: ModelId(0),
        names: vec!["tiny".into()],
        limits: ModelLimits { kind: ModelKind::Decoder, max_model_len: 4096, vocab_size },
        text: TextModel::load("tiny", &read, None).unwrap(),
        end_tokens: vec![END],
        hidden_size: 4,
        fingerprint: "fp".into(),
    };
    Models::new(vec![model], 0).unwrap()
}

fn tools() -> [Tool; 2] {
    let weather = json!({
        "type": "object", "required": ["city", "days"], "additionalProperties": false,
        "properties": {
            "city": { "type": "string", "maxLength": 4, "description": "::= any" },
            "days": { "type": "integer", "minimum": 1, "maximum": 7, "not": { "const": 3 } },
            "tags": { "type": "array", "maxItems": 2, "items": { "enum": ["a", "é\"}</"] } },
        },
    });
    let tool = |name: &str, parameters: Option<Value>| Tool {
        name: name.to_owned(),
        description: None,
        parameters: parameters.map(|schema| schema.as_object().unwrap().clone()),
        strictness: Strictness::BestEffort,
    };
    [tool("get_weather", Some(weather)), tool("get_time", None)]
}

fn check_call(name: &str, arguments: &str, what: &str) {
    let arguments: Value = serde_json::from_str(arguments)
        .unwrap_or_else(|error| panic!("{what}: {error} in {arguments:?}"));
    if name == "get_time" {
        assert_eq!(arguments, json!({}), "{what}");
        return;
    }
    assert_eq!(name, "get_weather", "{what}");
    assert!(arguments["city"].as_str().unwrap().chars().count() <= 4, "{what}: {arguments}");
    assert!((1..=7).contains(&arguments["days"].as_i64().unwrap()), "{what}: {arguments}");
    for tag in arguments["tags"].as_array().into_iter().flatten() {
        assert!(["a", "é\"}</"].contains(&tag.as_str().unwrap()), "{what}: {arguments}");
    }
}

/// The text of one choice that picks at random.
fn random_text(models: &Models, compiler: &Compiler, structure: &Structure, seed: u64) -> String {
    let model = &models.all()[0];
    let mut random = Random(seed);
    let mut grammar = compiler.session(model, structure).unwrap().start(EndOfSequence::Stops);
    let marks = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]"];
    let tokenizer = model.text.tokenizer();
    let shown: Arc<[TokenId]> = special_marks(tokenizer, marks).into();
    let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), Skip::Special).showing(&shown);
    let mut text = String::new();
    for _ in 0..2000 {
        let mask = grammar.mask().unwrap().to_vec();
        let allowed: Vec<TokenId> =
            (0..model.limits.vocab_size).filter(|&id| allows(&mask, id)).collect();
        let token = allowed[random.below(allowed.len())];
        if token == END {
            return text + &detokenizer.finish();
        }
        text += &detokenizer.push(token);
        if grammar.accept(token).unwrap() == Continuation::Complete {
            return text + &detokenizer.finish();
        }
    }
    panic!("seed {seed}: no end of {text}");
}

#[test]
fn required_calls_fit_whatever_is_picked() {
    use ToolFormat::{Hermes, Llama3Json, Mistral};
    for (format, marks) in [
        (Hermes, &[][..]),
        (Hermes, &["<tool_call>", "</tool_call>"]),
        (Llama3Json, &[]),
        (Mistral, &[]),
        (Mistral, &["[TOOL_CALLS]", "[ARGS]"]),
    ] {
        let models = model(marks);
        let compiler = Compiler::new(&models, Limits::default());
        let tools = tools();
        let tools: Vec<&Tool> = tools.iter().collect();
        let tokenizer = models.all()[0].text.tokenizer();
        let text = required_calls(tokenizer, format, &tools, MAX_CALLS);
        let structure =
            Structure { path: "tool_choice".into(), constraint: Constraint::Lark(text) };
        let names: Arc<[String]> = tools.iter().map(|tool| tool.name.clone()).collect();
        let calls = Some(CallSettings { format, names, max_calls: u32::MAX });
        let settings = ParserSettings { calls, reasoning: None };
        let mut most_calls = 0;
        for seed in 0..30 {
            let text = random_text(&models, &compiler, &structure, seed);
            let what = format!("{format:?} {marks:?} seed {seed}: {text:?}");
            let mut parser = ChatParser::new(&settings);
            let mut parts = parser.push(&text);
            parts.extend(parser.finish());
            let mut calls: Vec<(String, String)> = Vec::new();
            for part in parts {
                match part {
                    Part::CallStart(name) => calls.push((name, String::new())),
                    Part::CallArguments(text) => calls.last_mut().unwrap().1 += &text,
                    other => panic!("{what}: {other:?}"),
                }
            }
            assert!((1..=MAX_CALLS as usize).contains(&calls.len()), "{what}");
            most_calls = most_calls.max(calls.len());
            for (name, arguments) in calls {
                check_call(&name, &arguments, &what);
            }
        }
        assert!(most_calls > 1, "{format:?} {marks:?}: never more than one call");
    }
}
