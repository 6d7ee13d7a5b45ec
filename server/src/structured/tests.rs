//! Constraints over real vocabularies, with a model that knows nothing: any allowed token may come.

mod hostile;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use folio_engine::model::ModelFiles;
use folio_engine::types::{Continuation, ModelId, ModelKind, ModelLimits, TokenId, allows};
use serde_json::{Value, json};

use super::{Compiler, Limits};
use crate::builtin;
use crate::models::{Models, ServedModel};
use crate::openai::{Constraint, EndOfSequence, JsonShape, Keywords, Structure, Whitespace};
use crate::text::{Skip, TextModel};

/// A vocabulary with a fallback to bytes whose decoder drops a leading space, as Llama 2 has it.
fn fallback_tokenizer() -> Vec<u8> {
    let mut pieces = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    pieces.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    pieces.extend((' '..='~').map(|c| if c == ' ' { "▁".to_owned() } else { c.to_string() }));
    let words =
        ["▁a", "▁{", "{\"", "\":", "▁\"", "true", "false", "▁true", "ü", "日本", "🎉", "▁▁"];
    pieces.extend(words.map(str::to_owned));
    let vocab: serde_json::Map<String, Value> =
        pieces.iter().zip(0u32..).map(|(piece, id)| (piece.clone(), id.into())).collect();
    let special = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true })
    };
    let replace = json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " });
    let strip = json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 });
    let stages = [replace, json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" }), strip];
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": stages },
        "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>",
                   "continuing_subword_prefix": null, "end_of_word_suffix": null,
                   "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                   "vocab": vocab, "merges": [] },
    });
    file.to_string().into_bytes()
}

fn served(id: u32, text: TextModel, end_tokens: Vec<TokenId>, vocab_size: u32) -> ServedModel {
    ServedModel {
        id: ModelId(id),
        names: vec![format!("model-{id}")],
        limits: ModelLimits { kind: ModelKind::Decoder, max_model_len: 4096, vocab_size },
        text,
        end_tokens,
        hidden_size: 4,
        fingerprint: "fp".into(),
    }
}

/// The built-in chat model, and one with a fallback to bytes and some rows without a token.
fn models() -> Models {
    let files = ModelFiles::Embedded(builtin::chat());
    let read = |name: &str| Ok(files.read(name).unwrap().map(Cow::into_owned));
    let chat = TextModel::load("folio-tiny", &read, None).unwrap();
    let size = chat.tokenizer().vocab_size();
    let read = |name: &str| Ok((name == "tokenizer.json").then(fallback_tokenizer));
    let fallback = TextModel::load("fallback", &read, None).unwrap();
    let fallback_size = fallback.tokenizer().vocab_size() + 13;
    let models =
        vec![served(0, chat, vec![2, 0], size), served(1, fallback, vec![2], fallback_size)];
    Models::new(models, 0).unwrap()
}

fn compiler(models: &Models) -> Compiler {
    Compiler::new(models, Limits::default())
}

fn structure(constraint: Constraint) -> Structure {
    Structure { path: "shape".into(), constraint }
}

fn schema(schema: Value) -> Structure {
    Structure::json_schema("shape", schema, Keywords::MustHold)
}

/// Numbers that look random.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit
    }
}

/// How a text ended, and what of it is delivered.
struct Answer {
    text: String,
    is_whole: bool,
}

/// Up to `max_tokens` tokens, any that are allowed.
fn generate(
    compiler: &Compiler,
    model: &Arc<ServedModel>,
    structure: &Structure,
    (seed, max_tokens): (u64, usize),
) -> Answer {
    let session = compiler.session(model, structure).unwrap_or_else(|error| {
        panic!("{structure:?}: {error}");
    });
    let mut text = session.start(EndOfSequence::Stops);
    let (mut chance, mut tokens) = (Chance(seed), Vec::new());
    let mut is_whole = false;
    while !is_whole && tokens.len() < max_tokens {
        let mask = text.mask().unwrap_or_else(|error| panic!("{structure:?}: {error}"));
        let allowed: Vec<_> = (0..model.limits.vocab_size).filter(|&id| allows(mask, id)).collect();
        assert!(!allowed.is_empty(), "{structure:?}: no token after {tokens:?}");
        let token = allowed[chance.below(allowed.len())];
        if model.end_tokens.contains(&token) {
            is_whole = true;
        } else {
            tokens.push(token);
            is_whole = text.accept(token).unwrap() == Continuation::Complete;
        }
    }
    let text = model.text.tokenizer().decode(&tokens, Skip::Special);
    Answer { text, is_whole }
}

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    finite: bool,
    schema: Value,
}

fn corpus() -> Vec<Case> {
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("../../../tests/structured/corpus.json")).unwrap();
    assert!(cases.len() >= 60);
    cases
}

/// `scripts/check_structured.py` holds such texts against the schemas with a validator.
#[test]
fn whatever_tokens_come_the_text_is_json_and_ends_where_the_schema_is_finite() {
    let models = models();
    let compiler = compiler(&models);
    for model in models.all() {
        for case in corpus() {
            let structure = schema(case.schema.clone());
            for seed in 0..4 {
                let what = format!("{} on {}, seed {seed}", case.name, model.name());
                let answer = generate(&compiler, model, &structure, (seed, 600));
                assert!(answer.is_whole || !case.finite, "{what} has no end: {}", answer.text);
                let parsed = serde_json::from_str::<Value>(&answer.text);
                match parsed {
                    Ok(_) => {}
                    Err(error) if !answer.is_whole && error.is_eof() => {}
                    Err(error) if error.to_string().contains("number out of range") => {}
                    Err(error) => {
                        let cut = answer.text.trim_end_matches('\u{fffd}');
                        let error = serde_json::from_str::<Value>(cut).err().unwrap_or(error);
                        assert!(!answer.is_whole && error.is_eof(), "{what}: {error}: {cut:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_text_cut_off_anywhere_is_the_beginning_of_json() {
    let models = models();
    let compiler = compiler(&models);
    let case = corpus().into_iter().find(|case| case.name == "person").unwrap();
    for model in models.all() {
        for max_tokens in 1..40 {
            let structure = schema(case.schema.clone());
            let answer = generate(&compiler, model, &structure, (max_tokens as u64, max_tokens));
            let text = answer.text.trim_end_matches('\u{fffd}');
            let parsed = serde_json::from_str::<Value>(text);
            assert!(
                parsed.as_ref().is_ok_and(|_| answer.is_whole)
                    || parsed.is_err_and(|error| error.is_eof()),
                "{text:?}"
            );
        }
    }
}

#[test]
fn choices_and_patterns_are_kept_to_whole() {
    let models = models();
    let compiler = compiler(&models);
    let choices = ["yes", "no", "maybe so", "ja\"nein", "日本", "yes!"].map(str::to_owned);
    for model in models.all() {
        for seed in 0..20 {
            let choice = structure(Constraint::Choice(choices.to_vec()));
            let answer = generate(&compiler, model, &choice, (seed, 50));
            assert!(answer.is_whole && choices.contains(&answer.text), "{:?}", answer.text);
            let pattern = structure(Constraint::Regex(r"(ab|c/d){1,3}\n[ü🎉]{2}".into()));
            let answer = generate(&compiler, model, &pattern, (seed, 50));
            let (head, tail) = answer.text.split_once('\n').unwrap();
            assert!(answer.is_whole && tail.chars().count() == 2, "{:?}", answer.text);
            assert!(head.replace("ab", "").replace("c/d", "").is_empty(), "{head:?}");
            let lark = structure(Constraint::Lark(
                "start: sum\nsum: NUMBER | sum \"+\" NUMBER\nNUMBER: /[1-9]{1,2}/".into(),
            ));
            let answer = generate(&compiler, model, &lark, (seed, 60));
            let terms = answer.text.split('+');
            assert!(!answer.is_whole || terms.into_iter().all(|n| n.parse::<u8>().is_ok()));
        }
    }
}

#[test]
fn white_space_is_at_most_one_space_or_what_was_asked_for() {
    let models = models();
    let compiler = compiler(&models);
    let numbers = json!({ "type": "array", "items": { "enum": [1, 2] }, "minItems": 9,
                          "maxItems": 9 });
    let texts = |whitespace: Whitespace| -> Vec<String> {
        let keywords = Keywords::MustHold;
        let shape = JsonShape { schema: numbers.clone(), whitespace, keywords };
        let structure = structure(Constraint::JsonSchema(shape));
        let model = &models.all()[0];
        let text = |seed| generate(&compiler, model, &structure, (seed, 200)).text;
        (0..6).map(text).collect()
    };
    let usual = texts(Whitespace::OneSpace);
    assert!(usual.iter().all(|text| !text.contains("  ") && !text.contains("[ ")));
    assert!(usual.iter().any(|text| text.contains(", ")), "{usual:?}");
    assert!(texts(Whitespace::Nothing).iter().all(|text| !text.contains(' ')));
    let lines = texts(Whitespace::Pattern(r"\n?".into()));
    assert!(lines.iter().any(|text| text.contains('\n')), "{lines:?}");
    assert!(lines.iter().all(|text| !text.contains("\n\n") && !text.contains(' ')));
}

#[test]
fn with_ends_ignored_a_text_goes_on_for_as_long_as_it_can() {
    let models = models();
    let compiler = compiler(&models);
    let model = &models.all()[0];
    let session = compiler.session(model, &structure(Constraint::Regex("[ab]{1,9}".into())));
    let session = session.unwrap();
    let mut text = session.start(EndOfSequence::Ignored);
    let letter = model.text.tokenizer().id("a").unwrap();
    for num in 1..=9 {
        let mask = text.mask().unwrap();
        assert!(!model.end_tokens.iter().any(|&end| allows(mask, end)));
        assert_eq!(text.accept(letter).unwrap() == Continuation::Complete, num == 9);
    }
    let mut other = session.start(EndOfSequence::Stops);
    other.mask().unwrap();
    other.accept(letter).unwrap();
    let mask = other.mask().unwrap();
    assert!(model.end_tokens.iter().all(|&end| allows(mask, end)));
}

#[test]
fn a_token_that_is_not_allowed_is_an_error_and_no_panic() {
    let models = models();
    let compiler = compiler(&models);
    let session = compiler.session(&models.all()[0], &schema(json!({ "type": "object" })));
    let mut text = session.unwrap().start(EndOfSequence::Stops);
    text.mask().unwrap();
    for token in [5, u32::MAX] {
        assert!(text.accept(token).is_err());
    }
    assert!(text.mask().is_err());
}

/// What is wrong with a constraint: the error names the place and says why.
fn refusal(compiler: &Compiler, models: &Models, structure: &Structure) -> Value {
    let error = compiler.session(&models.all()[0], structure).map(drop).unwrap_err();
    assert_eq!(error.status(), 400, "{error}");
    error.to_json()["error"].clone()
}

#[test]
fn constraints_that_cannot_be_kept_are_refused_by_place() {
    let models = models();
    let compiler = compiler(&models);
    let object = |value: Value| json!({ "type": "object", "properties": { "a": value } });
    for (value, param, words) in [
        (object(json!({ "not": {} })), "shape.properties.a.not", "cannot be enforced"),
        (object(json!({ "uniqueItems": true })), "shape.properties.a.uniqueItems", "strict"),
        (object(json!({ "if": {}, "then": {} })), "shape.properties.a.if", "cannot be"),
        (json!({ "anyOf": [{}, { "contains": {} }] }), "shape.anyOf[1].contains", "cannot"),
        (object(json!({ "const": 9_007_199_254_740_993_u64 })), "shape.properties.a.const", "2^53"),
        (object(json!(3)), "shape.properties.a", "must be a schema"),
        (json!({ "type": "strange" }), "shape", "strange"),
        (json!({ "type": "string", "format": "fancy" }), "shape", "fancy"),
        (json!({ "type": "string", "pattern": "(" }), "shape", "grammar"),
        (json!({ "$ref": "https://example.com/x.json" }), "shape", "grammar"),
        (json!({ "$ref": "#/$defs/none" }), "shape", "grammar"),
        (json!({ "oneOf": [{ "type": "integer" }, { "type": "number" }] }), "shape", "oneOf"),
        (json!({ "type": "integer", "minimum": 5, "maximum": 4 }), "shape", "nsatisfiable"),
        (json!(false), "shape", "nsatisfiable"),
    ] {
        let error = refusal(&compiler, &models, &schema(value.clone()));
        assert_eq!(error["param"], param, "{value}: {error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{value}: {error}");
    }
    for (constraint, words) in [
        (Constraint::Regex("(".into()), "grammar"),
        (Constraint::Regex(String::new()), "empty"),
        (Constraint::Regex("(a{0})?".into()), "no text but the empty"),
        (Constraint::Lark("root ::= \"a\"".into()), "EBNF"),
        (Constraint::Lark(" ".into()), "empty"),
        (Constraint::Lark("start: nothing".into()), "nothing"),
        (Constraint::Lark("start: /a&b/ \"&\" A & B # &".into()), "&"),
        (Constraint::Lark("start: %json { \"not\": {} }".into()), "not"),
        (Constraint::Lark("start[temperature=0.5]: \"a\"".into()), "temperature"),
    ] {
        let error = refusal(&compiler, &models, &structure(constraint.clone()));
        assert!(error["message"].as_str().unwrap().contains(words), "{constraint:?}: {error}");
    }
}

#[test]
fn without_strictness_what_cannot_be_enforced_is_left_out() {
    let models = models();
    let compiler = compiler(&models);
    let loose = |value| Structure::json_schema("shape", value, Keywords::BestEffort);
    let value = json!({ "type": "array", "items": { "type": "boolean" }, "maxItems": 3,
                        "uniqueItems": true, "not": { "const": [] } });
    let answer = generate(&compiler, &models.all()[0], &loose(value), (1, 100));
    assert!(serde_json::from_str::<Vec<bool>>(&answer.text).is_ok_and(|all| all.len() <= 3));
    let value = json!({ "oneOf": [{ "type": "integer" }, { "type": "number" }] });
    compiler.session(&models.all()[0], &loose(value)).unwrap();
}

#[test]
fn hostile_constraints_are_answered_and_harm_nobody() {
    let models = models();
    let model = &models.all()[0];
    // Not about the time, which is another test's.
    let long = Duration::from_secs(100);
    let limits = Limits { max_compile_time: long, max_wait: long, ..Limits::default() };
    let compiler = Compiler::new(&models, limits);
    for (name, structure) in hostile::all() {
        match compiler.session(model, &structure) {
            Err(error) => assert!([400, 429].contains(&error.status().as_u16()), "{name}: {error}"),
            Ok(session) => {
                // What compiles must also be followed, or end with an error that says why.
                let mut text = session.start(EndOfSequence::Ignored);
                let mut chance = Chance(1);
                for _ in 0..50 {
                    let Ok(mask) = text.mask() else { break };
                    let allowed: Vec<_> =
                        (0..model.limits.vocab_size).filter(|&id| allows(mask, id)).collect();
                    let Some(_) = allowed.first() else { break };
                    let token = allowed[chance.below(allowed.len())];
                    if !matches!(text.accept(token), Ok(Continuation::Open)) {
                        break;
                    }
                }
            }
        }
    }
    let answer = generate(&compiler, model, &schema(json!({ "enum": [true] })), (0, 9));
    assert_eq!(answer.text, "true");
}

#[test]
fn where_all_compilers_are_busy_the_request_may_come_back() {
    let models = models();
    let limits = Limits { max_compilers: 0, max_compile_time: Duration::ZERO, ..Limits::default() };
    let compiler = Compiler::new(&models, limits);
    let error = compiler.session(&models.all()[0], &schema(json!({}))).unwrap_err();
    assert_eq!(error.status(), 429, "{error}");
    assert_eq!(compiler.num_cached(), 0, "another moment may be better");
}

#[test]
fn the_cache_is_bounded_and_shared_by_equal_constraints() {
    let models = models();
    let model = &models.all()[0];
    let limits = Limits { max_cached: 3, max_cached_bytes: 4000, ..Limits::default() };
    let compiler = Compiler::new(&models, limits);
    let word = |word: String| structure(Constraint::Choice(vec![word]));
    for round in 0..2 {
        for letter in ["a", "b", "c", "d", "a"] {
            compiler.session(model, &word(letter.into())).unwrap();
            assert!(compiler.num_cached() <= 3, "round {round}");
        }
    }
    assert_eq!(compiler.num_cached(), 3);
    compiler.session(model, &word("x".repeat(3500))).unwrap();
    compiler.session(model, &word("y".repeat(3500))).unwrap();
    assert_eq!(compiler.num_cached(), 1, "two of them are too many bytes");
    // Threads that ask for the same at the same time get the same.
    let limits = Limits { max_wait: Duration::from_secs(100), ..Limits::default() };
    let compiler = Compiler::new(&models, limits);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| compiler.session(model, &schema(json!({ "type": "object" }))).unwrap());
        }
    });
    assert_eq!(compiler.num_cached(), 1);
}
