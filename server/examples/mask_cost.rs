//! What structured output costs: time to compile, and to compute the mask of each token.
//!
//! `cargo run --release -p folio --example mask_cost [TOKENIZER.JSON]`; without a file, the
//! vocabulary of folio-tiny.
#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use folio::builtin;
use folio::models::{Models, ServedModel};
use folio::openai::{Constraint, EndOfSequence, Keywords, Structure, Whitespace};
use folio::structured::{Compiler, Limits};
use folio::text::{SpecialTokens, TextModel};
use folio_engine::model::ModelFiles;
use folio_engine::types::{Continuation, ModelId, ModelKind, ModelLimits};
use serde_json::{Value, json};

/// How often each text is gone through.
const NUM_ROUNDS: usize = 20;

/// A constraint, and a text that it allows.
struct Case {
    name: &'static str,
    constraint: Constraint,
    text: String,
}

fn main() -> Result<()> {
    let models = models(std::env::args().nth(1).as_deref())?;
    let model = models.all().first().context("a model")?;
    println!("vocabulary: {} tokens", model.limits.vocab_size);
    let compiler = Compiler::new(&models, Limits::default());
    let begin = Instant::now();
    let warm_up = structure(Constraint::Regex("a".into()));
    compiler.session(model, &warm_up)?;
    println!("trie and first constraint: {:.0} ms", millis(begin.elapsed()));
    println!(
        "{:<22} {:>10} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "constraint", "compile ms", "again ms", "tokens", "p50 µs", "p99 µs", "max µs"
    );
    for case in cases() {
        measure(&compiler, model, &case)?;
    }
    Ok(())
}

fn measure(compiler: &Compiler, model: &Arc<ServedModel>, case: &Case) -> Result<()> {
    let structure = structure(case.constraint.clone());
    let begin = Instant::now();
    compiler.session(model, &structure).with_context(|| case.name)?;
    let compile = begin.elapsed();
    let tokens = model.text.tokenizer().encode(&case.text, SpecialTokens::Omit)?;
    let mut times = Vec::new();
    let mut again = Duration::ZERO;
    for _ in 0..NUM_ROUNDS {
        let begin = Instant::now();
        let session = compiler.session(model, &structure)?;
        again += begin.elapsed();
        let mut grammar = session.start(EndOfSequence::Stops);
        let mut end = Continuation::Open;
        for &token in &tokens {
            ensure!(end == Continuation::Open, "{}: complete too early", case.name);
            let begin = Instant::now();
            grammar.mask()?;
            end = grammar.accept(token).with_context(|| case.name)?;
            times.push(begin.elapsed());
        }
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!(
        "{:<22} {:>10.1} {:>8.2} {:>8} {:>8.1} {:>8.1} {:>8.1}",
        case.name,
        millis(compile),
        millis(again) / NUM_ROUNDS as f64,
        tokens.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn structure(constraint: Constraint) -> Structure {
    Structure { path: "constraint".into(), constraint }
}

/// A model that has no weights, only the vocabulary.
fn models(tokenizer: Option<&str>) -> Result<Models> {
    let text = if let Some(path) = tokenizer {
        let bytes = std::fs::read(path)?;
        let read = |name: &str| Ok((name == "tokenizer.json").then(|| bytes.clone()));
        TextModel::load("tokenizer", &read, None)?
    } else {
        let files = ModelFiles::Embedded(builtin::chat());
        let read = |name: &str| Ok(files.read(name).ok().flatten().map(Cow::into_owned));
        TextModel::load("folio-tiny", &read, None)?
    };
    // As models have it: a multiple of 128.
    let vocab_size = text.tokenizer().vocab_size().next_multiple_of(128);
    let model = ServedModel {
        id: ModelId(0),
        names: vec!["model".into()],
        limits: ModelLimits { kind: ModelKind::Decoder, max_model_len: 4096, vocab_size },
        end_tokens: vec![text.tokenizer().vocab_size() - 1],
        text,
        hidden_size: 1,
        fingerprint: String::new(),
    };
    Ok(Models::new(vec![model], 0)?)
}

fn cases() -> Vec<Case> {
    let schema = |schema: Value| Structure::json_schema("", schema, Keywords::MustHold).constraint;
    let person = json!({ "type": "object", "additionalProperties": false,
        "properties": {
            "name": { "type": "string" }, "age": { "type": "integer", "minimum": 0 },
            "email": { "type": "string", "format": "email" },
            "tags": { "type": "array", "items": { "type": "string" }, "maxItems": 10 },
            "address": { "$ref": "#/$defs/address" },
        },
        "required": ["name", "age", "email", "tags", "address"],
        "$defs": { "address": { "type": "object", "additionalProperties": false,
            "properties": { "street": { "type": "string" }, "country": { "enum": ["DE", "FR"] } },
            "required": ["street", "country"] } } });
    let text = json!({ "name": "Ada Lovelace, Countess of Lovelace", "age": 36,
        "email": "ada@example.org", "tags": ["mathematics", "computing", "the first program"],
        "address": { "street": "12 St James's Square, London", "country": "FR" } });
    let fields: serde_json::Map<String, Value> =
        (0..100).map(|i| (format!("field_number_{i}"), json!({ "type": "integer" }))).collect();
    let values: serde_json::Map<String, Value> =
        (0..100).map(|i| (format!("field_number_{i}"), json!(i * 7))).collect();
    let required: Vec<_> = fields.keys().cloned().collect();
    let wide = json!({ "type": "object", "properties": fields, "required": required,
                       "additionalProperties": false });
    let cities: Vec<_> = (0..1000).map(|i| format!("city number {i}")).collect();
    vec![
        Case {
            name: "any JSON object",
            constraint: Constraint::JsonObject(Whitespace::OneSpace),
            text: text.to_string(),
        },
        Case { name: "schema of 7 fields", constraint: schema(person), text: text.to_string() },
        Case {
            name: "schema of 100 fields",
            constraint: schema(wide),
            text: Value::from(values).to_string(),
        },
        Case {
            name: "one of 1000 texts",
            constraint: Constraint::Choice(cities),
            text: "city number 987".into(),
        },
        Case {
            name: "regex of a date",
            constraint: Constraint::Regex(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?Z".into()),
            text: "2026-11-25T03:45:10Z".into(),
        },
        Case {
            name: "Lark of sums",
            constraint: Constraint::Lark(
                "start: sum\nsum: product (\"+\" product)*\nproduct: atom (\"*\" atom)*\n\
                 atom: NUMBER | \"(\" sum \")\"\nNUMBER: /[0-9]+/"
                    .into(),
            ),
            text: "(12+34*(5+6))*789+(1*2*3)".into(),
        },
    ]
}
