//! Conversations rendered by transformers, and texts encoded by it.

use serde_json::Value;

use super::super::{ChatInput, ChatTemplate, Error, GenerationPrompt, Skip, SpecialTokens};
use super::super::{TemplateSource, Tokenizer, TokenizerConfig};
use super::{golden, read, read_json};

/// 2025-03-04T09:05:07, the time of the goldens.
const NOW: i64 = 1_741_079_107;

/// The length to which the encoders' texts were cut.
const MAX_TOKENS: usize = 128;

fn render(case: &Value) -> Result<String, Error> {
    let mut kwargs = case["kwargs"].as_object().unwrap().clone();
    let mut take = |name: &str| kwargs.shift_remove(name);
    let generation_prompt = match (take("add_generation_prompt"), take("continue_final_message")) {
        (_, Some(Value::Bool(true))) => GenerationPrompt::ContinueFinal,
        (Some(Value::Bool(true)), _) => GenerationPrompt::Add,
        _ => GenerationPrompt::Omit,
    };
    let tools = take("tools");
    let documents = take("documents");
    let template = TemplateSource::single(case["template"].as_str().unwrap());
    ChatTemplate::new(template, Vec::new())?.render(&ChatInput {
        messages: case["messages"].as_array().unwrap(),
        tools: tools.as_ref().map(|v| v.as_array().unwrap().as_slice()),
        documents: documents.as_ref().map(|v| v.as_array().unwrap().as_slice()),
        generation_prompt,
        kwargs: Some(&kwargs),
        now: NOW,
    })
}

/// What is wrong with the outcome of a case, if anything.
fn complaint(case: &Value) -> Option<String> {
    let name = case["name"].as_str().unwrap();
    let outcome = render(case);
    let error = &case["error"];
    let expected = case["expected"].as_str();
    let is_as_expected = match (&outcome, expected) {
        (Ok(text), Some(expected)) => text == expected,
        (Err(Error::Refused(message)), None) => {
            error["by_template"] == true && error["message"] == message.as_str()
        }
        (Err(_), None) => error["by_template"] == false,
        _ => false,
    };
    let wanted = expected.map_or_else(|| error.to_string(), |text| format!("{text:?}"));
    (!is_as_expected).then(|| format!("{name}\n   found {outcome:?}\n  wanted {wanted}"))
}

#[test]
fn chats_render_as_transformers_renders_them() {
    let cases = read_json("chat_templates/cases.json");
    let cases = cases.as_array().unwrap();
    assert!(cases.len() > 100, "only {} cases", cases.len());
    let complaints: Vec<String> = cases.iter().filter_map(complaint).collect();
    assert!(
        complaints.is_empty(),
        "{} of {} cases:\n{}",
        complaints.len(),
        cases.len(),
        complaints.join("\n")
    );
}

#[test]
fn texts_encode_and_decode_as_in_transformers() {
    for name in ["bert-cls", "bert-mean", "xlm-roberta-mean", "xlm-roberta-lasttoken"] {
        let config = TokenizerConfig::new(&read(&format!("{name}/tokenizer_config.json"))).unwrap();
        let tokenizer = Tokenizer::new(&read(&format!("{name}/tokenizer.json")), &config).unwrap();
        let expected = read_json(&format!("{name}/expected.json"));
        let cases = expected["texts"].as_array().unwrap();
        assert!(!cases.is_empty(), "{}", golden(name).display());
        for case in cases {
            let prompt = case["prompt_name"].as_str().map_or_else(String::new, |prompt| {
                let file = read_json(&format!("{name}/config_sentence_transformers.json"));
                file["prompts"][prompt].as_str().unwrap().to_owned()
            });
            let text = format!("{prompt}{}", case["text"].as_str().unwrap());
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            // The goldens are cut to what the models take; `encode` never cuts.
            let whole = tokenizer.encode(&text, SpecialTokens::Add).unwrap();
            let (cut, num_tokens) =
                tokenizer.encode_truncated(&text, SpecialTokens::Add, MAX_TOKENS).unwrap();
            assert_eq!(cut, ids, "{name}: {text:?}");
            assert_eq!(num_tokens, whole.len(), "{name}: {text:?}");
            let truncated_from = case["truncated_from"].as_u64().unwrap_or(ids.len() as u64);
            assert_eq!(num_tokens as u64, truncated_from, "{name}: {text:?}");
            assert!(whole.len() > MAX_TOKENS || whole == ids, "{name}: {text:?}");
            if let Some(decoded) = case["decoded"].as_str() {
                assert_eq!(tokenizer.decode(&ids, Skip::Special), decoded, "{name}: {ids:?}");
            }
        }
    }
}
