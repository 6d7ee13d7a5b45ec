//! An executor without weights. Its decoder does what the prompt says, its encoder makes a vector
//! of the tokens; both are functions of the sequence alone, so every answer can be foretold.
//!
//! The decoder reads the last user's message (or the whole prompt, if it is no chat):
//! - `forever`: the letter a, without end;
//! - `bytes:N`: N pseudo-random bytes that depend on seed, choice and position, then the end;
//! - `explode`: fails;
//! - `panic`: takes the step down;
//! - anything else: the same text again, then the end.
//!
//! A choice with a grammar gets the nearest that it allows: what ends a text soon, if not that.

use std::sync::{Arc, Condvar, Mutex};

use folio_engine::exec::Executor;
use folio_engine::sched::{Sequence, Sequences};
use folio_engine::types::{
    ModelId, Nanos, PromptLogprob, PromptScores, Result, SampledToken, ScheduledSeq, SeqResult,
    SequenceId, StepOutput, StepPlan, TokenId, TokenLogprobs, allows,
};
use serde_json::{Value, json};

/// The decoder.
pub(crate) const CHAT: ModelId = ModelId(0);
/// Tokens of the decoder: 256 bytes, then these.
pub(crate) const SPECIAL: [&str; 10] = [
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
    "<|developer|>",
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
];
/// Ends a message.
pub(crate) const END: TokenId = 256;
const USER: TokenId = 258;
/// Vocabulary of both models: a few rows more than there are tokens.
pub(crate) const VOCAB_SIZE: u32 = 272;
/// Length of an embedding.
pub(crate) const HIDDEN_SIZE: u32 = 8;

/// Lets a test decide when steps happen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace(Arc<(Mutex<Steps>, Condvar)>);

#[derive(Debug, Default)]
struct Steps {
    /// Steps that may still end; `None` for any number.
    num_allowed: Option<u64>,
    /// Whether a step waits to be allowed to end.
    is_waiting: bool,
}

impl Pace {
    /// From now on steps wait for [`allow`](Self::allow).
    pub(crate) fn hold(&self) {
        self.0.0.lock().unwrap().num_allowed = Some(0);
    }

    /// Lets `num` more steps end.
    pub(crate) fn allow(&self, num: u64) {
        if let Some(left) = &mut self.0.0.lock().unwrap().num_allowed {
            *left += num;
        }
        self.0.1.notify_all();
    }

    /// Whether a step has begun and is not allowed to end.
    pub(crate) fn is_waiting(&self) -> bool {
        let steps = self.0.0.lock().unwrap();
        steps.is_waiting && steps.num_allowed == Some(0)
    }

    /// Steps end by themselves again.
    pub(crate) fn release(&self) {
        self.0.0.lock().unwrap().num_allowed = None;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let mut steps = self.0.0.lock().unwrap();
        steps.is_waiting = true;
        let mut steps = self.0.1.wait_while(steps, |steps| steps.num_allowed == Some(0)).unwrap();
        steps.is_waiting = false;
        if let Some(left) = &mut steps.num_allowed {
            *left -= 1;
        }
    }
}

/// See the module.
pub(crate) struct FakeExecutor {
    pace: Pace,
    output: Option<StepOutput>,
}

impl FakeExecutor {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, output: None }
    }
}

impl Executor for FakeExecutor {
    fn submit(&mut self, plan: &StepPlan, sequences: &mut Sequences) -> Result<()> {
        let results = plan
            .seqs
            .iter()
            .map(|seq| match (seq.emits, seq.model) {
                (false, _) => SeqResult::Computed,
                (true, CHAT) => within_grammar(sequences, seq.id),
                (true, _) => SeqResult::Embedding(embedding(sequences.get(seq.id).tokens())),
            })
            .collect();
        let prompt_scores = prompt_scores(plan, sequences);
        self.output = Some(StepOutput { results, prompt_scores, device_time: Nanos(1) });
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput> {
        self.pace.wait();
        Ok(self.output.take().expect("a step was submitted"))
    }
}

/// What prompts are told about their tokens, where they ask: what the tokens' ids say.
fn prompt_scores(plan: &StepPlan, sequences: &Sequences) -> Vec<PromptScores> {
    let of = |(index, seq): (usize, &ScheduledSeq)| {
        let sequence = sequences.get(seq.id);
        let positions = sequence.positions_to_score(&seq.positions);
        let num_top = sequence.sampling()?.prompt_logprobs?;
        let score = |position: u32| prompt_score(sequence.tokens()[position as usize + 1], num_top);
        let logprobs = positions.map(score).collect::<Vec<_>>();
        (!logprobs.is_empty()).then_some(PromptScores { index, logprobs })
    };
    plan.seqs.iter().enumerate().filter_map(of).collect()
}

/// What a prompt is told about one of its tokens.
pub(crate) fn prompt_score(id: TokenId, num_top: u32) -> PromptLogprob {
    PromptLogprob { logprobs: logprobs_of(id, num_top), rank: id + 1 }
}

fn next_token(sequence: &Sequence) -> SeqResult {
    let num_generated = sequence.num_generated() as usize;
    let params = sequence.sampling().expect("a generation");
    let prompt_len = sequence.tokens().len() - num_generated;
    let said = said_in(&sequence.tokens()[..prompt_len]);
    let text = String::from_utf8(said.iter().map(|&id| id as u8).collect());
    let id = match text.as_deref() {
        Ok("explode") => return SeqResult::Failed("the numbers are not finite".into()),
        Ok("panic") => panic!("as asked for"),
        Ok("forever") => TokenId::from(b'a'),
        Ok(text) if text.starts_with("bytes:") => {
            let num: usize = text["bytes:".len()..].parse().expect("a number");
            let seed = params.sampling.seed;
            if num_generated < num {
                random_byte(seed, sequence.choice_index(), num_generated as u64)
            } else {
                END
            }
        }
        _ => said.get(num_generated).copied().unwrap_or(END),
    };
    let logprobs = params.logprobs.map(|num| Box::new(logprobs_of(id, num)));
    SeqResult::Token(SampledToken { id, logprobs })
}

/// The token of [`next_token`] if the sequence's grammar allows it, or else one that it allows.
fn within_grammar(sequences: &mut Sequences, id: SequenceId) -> SeqResult {
    let wanted = next_token(sequences.get(id));
    let (Some(mask), SeqResult::Token(token)) = (sequences.get_mut(id).mask(), &wanted) else {
        return wanted;
    };
    let mask = match mask {
        Ok(mask) => mask,
        Err(message) => return SeqResult::Failed(message),
    };
    let closing = [END, b'"'.into(), b'}'.into(), b']'.into()];
    let mut candidates = [token.id].into_iter().chain(closing).chain(0..VOCAB_SIZE);
    let Some(id) = candidates.find(|&id| allows(mask, id)) else {
        return SeqResult::Failed("no token is allowed".into());
    };
    let num = token.logprobs.as_ref().map(|logprobs| logprobs.top.len() as u32);
    SeqResult::Token(SampledToken { id, logprobs: num.map(|num| Box::new(logprobs_of(id, num))) })
}

/// The last user's message, or the whole prompt.
fn said_in(prompt: &[TokenId]) -> &[TokenId] {
    let Some(start) = prompt.iter().rposition(|&id| id == USER) else {
        return prompt;
    };
    let said = &prompt[start + 1..];
    let len = said.iter().position(|&id| id == END).unwrap_or(said.len());
    &said[..len]
}

/// The token that the decoder samples for `bytes:N`.
pub(crate) fn random_byte(seed: u64, choice: u32, position: u64) -> TokenId {
    let mut state = seed ^ (u64::from(choice) << 32) ^ position.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for _ in 0..3 {
        state ^= state >> 30;
        state = state.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state ^= state >> 27;
    }
    (state % 256) as TokenId
}

/// Log-probabilities that tell the tokens apart.
pub(crate) fn logprobs_of(id: TokenId, num: u32) -> TokenLogprobs {
    let logprob = |id: TokenId| -0.5 - id as f32 / 64.0;
    TokenLogprobs {
        logprob: logprob(id),
        top: (0..num).map(|rank| (id + rank) % VOCAB_SIZE).map(|id| (id, logprob(id))).collect(),
    }
}

/// The vector that the encoder makes of tokens: of unit length.
pub(crate) fn embedding(tokens: &[TokenId]) -> Vec<f32> {
    let value = |at: u32| -> f32 {
        let terms = tokens.iter().zip(1u32..);
        terms.map(|(&id, place)| ((id * (at + 1) + place) as f32).sin()).sum()
    };
    let values: Vec<f32> = (0..HIDDEN_SIZE).map(value).collect();
    let norm = values.iter().map(|v| v * v).sum::<f32>().sqrt();
    values.iter().map(|v| v / norm).collect()
}

/// The decoder's chat template, unless a test has another. It shows tools, and calls as Qwen and
/// Hermes write them.
pub(crate) const TEMPLATE: &str = "{% if tools %}<|system|>{% for tool in tools %}\
    {{ tool | tojson }}{% endfor %}{# calls: <tool_call> #}<|end|>{% endif %}\
    {% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}\
    {% if add_generation_prompt %}<|assistant|>{% endif %}";

/// Files of the decoder: one token a byte.
pub(crate) fn chat_file(name: &str, template: &str) -> Option<Vec<u8>> {
    match name {
        "tokenizer.json" => Some(tokenizer(&SPECIAL, &Value::Null)),
        "chat_template.jinja" => Some(template.as_bytes().to_vec()),
        _ => None,
    }
}

/// Files of the encoder: one token a byte, `<s>` before and `</s>` after a text.
pub(crate) fn embedding_file(name: &str) -> Option<Vec<u8>> {
    let special = |token: &str, id: u32| json!({ "id": token, "ids": [id], "tokens": [token] });
    let frame = json!({
        "type": "TemplateProcessing",
        "single": [
            { "SpecialToken": { "id": "<s>", "type_id": 0 } },
            { "Sequence": { "id": "A", "type_id": 0 } },
            { "SpecialToken": { "id": "</s>", "type_id": 0 } },
        ],
        "pair": [],
        "special_tokens": { "<s>": special("<s>", 256), "</s>": special("</s>", 257) },
    });
    (name == "tokenizer.json").then(|| tokenizer(&["<s>", "</s>"], &frame))
}

fn tokenizer(special: &[&str], post_processor: &Value) -> Vec<u8> {
    let vocab: serde_json::Map<String, Value> =
        (0..=255u8).map(|byte| (byte_char(byte).to_string(), u32::from(byte).into())).collect();
    let added: Vec<Value> = special
        .iter()
        .zip(256..)
        .map(|(content, id)| {
            json!({ "id": id, "content": content, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true })
        })
        .collect();
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false,
                             "trim_offsets": true, "use_regex": false });
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": post_processor,
        "decoder": byte_level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null,
                   "continuing_subword_prefix": null, "end_of_word_suffix": null,
                   "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                   "vocab": vocab, "merges": [] },
    });
    serde_json::to_vec(&file).expect("plain JSON")
}

/// The printable character that stands for a byte in byte-level vocabularies.
fn byte_char(byte: u8) -> char {
    let is_itself = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if is_itself(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&b| !is_itself(b)).count() as u32;
    char::from_u32(256 + rank).expect("a letter beyond Latin-1")
}
