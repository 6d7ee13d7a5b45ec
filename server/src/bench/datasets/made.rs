//! Prompts that are made up: of no meaning, but of known length and known sharing.

use std::ops::RangeInclusive;

use rand::Rng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use super::super::error::BenchError;
use super::super::request::{Prompt, Request};
use super::Maker;

/// Longest prompt or answer that is believed to be meant.
const MAX_LEN: u32 = 10_000_000;

/// Random tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Random {
    /// Tokens of a prompt, without its prefix.
    pub input_len: u32,
    /// Tokens of an answer.
    pub output_len: u32,
    /// Lengths are uniform from (1 - r) to (1 + r) times these, as vLLM has it.
    pub range_ratio: f64,
    /// Tokens that all prompts begin with.
    pub prefix_len: u32,
    /// Turns of a conversation: each is a request with a prompt of its own.
    pub turns: u32,
}

/// Random texts to embed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomTexts {
    /// Tokens of a text.
    pub input_len: u32,
    /// As above.
    pub range_ratio: f64,
    /// Texts in a request.
    pub batch_size: u32,
}

/// Few prefixes, many suffixes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrefixRepetition {
    /// Tokens of a prefix.
    pub prefix_len: u32,
    /// Tokens after it.
    pub suffix_len: u32,
    /// Prefixes.
    pub num_prefixes: u32,
    /// Tokens of an answer.
    pub output_len: u32,
}

/// Groups that share a system prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GeneratedSharedPrefix {
    /// Groups.
    pub num_groups: u32,
    /// Prompts of each; their product is the number of requests.
    pub prompts_per_group: u32,
    /// Tokens that a group shares.
    pub system_prompt_len: u32,
    /// Tokens after these.
    pub question_len: u32,
    /// Tokens of an answer.
    pub output_len: u32,
}

impl Random {
    pub(super) fn make(&self, maker: &Maker) -> Result<Vec<Request>, BenchError> {
        let inputs = range("--random-input-len", self.input_len, self.range_ratio)?;
        let outputs = range("--random-output-len", self.output_len, self.range_ratio)?;
        check_len("--random-prefix-len", self.prefix_len, 0)?;
        if self.turns == 0 {
            return Err(BenchError::flag("--turns", "0: must be at least 1"));
        }
        let mut random = maker.random(b"random");
        let (vocabulary, form) = (&maker.vocabulary, maker.form);
        let prefix = vocabulary.random(&mut random, form, self.prefix_len as usize);
        let one = |index: usize| {
            let (input, output) = (draw(&mut random, &inputs), draw(&mut random, &outputs));
            let mut tokens = prefix.clone();
            tokens.extend(vocabulary.random(&mut random, form, input as usize));
            let num = tokens.len() as u32;
            let mut request = Request::new(vocabulary.prompt(form, tokens), num, output);
            request.session = (self.turns > 1).then(|| index as u32 / self.turns);
            request
        };
        Ok((0..maker.num_prompts).map(one).collect())
    }
}

impl RandomTexts {
    pub(super) fn make(&self, maker: &Maker) -> Result<Vec<Request>, BenchError> {
        let lens = range("--random-input-len", self.input_len, self.range_ratio)?;
        check_len("--random-batch-size", self.batch_size, 1)?;
        let mut random = maker.random(b"texts");
        let one = |_| {
            let mut num = 0;
            let texts: Vec<String> = (0..self.batch_size)
                .map(|_| {
                    let len = draw(&mut random, &lens);
                    num += len;
                    maker.vocabulary.random_text(&mut random, len as usize)
                })
                .collect();
            Request::new(Prompt::Texts(texts.into()), num, 0)
        };
        Ok((0..maker.num_prompts).map(one).collect())
    }
}

impl PrefixRepetition {
    pub(super) fn make(&self, maker: &Maker) -> Result<Vec<Request>, BenchError> {
        check_len("--prefix-repetition-prefix-len", self.prefix_len, 1)?;
        check_len("--prefix-repetition-suffix-len", self.suffix_len, 1)?;
        check_len("--prefix-repetition-output-len", self.output_len, 1)?;
        let (num, max) = (self.num_prefixes, maker.num_prompts);
        if num == 0 || num as usize > max {
            let message = format!("{num}: must be from 1 to --num-prompts, {max}");
            return Err(BenchError::flag("--prefix-repetition-num-prefixes", message));
        }
        let groups = Groups {
            num,
            num_each: (max / num as usize) as u32,
            prefix_len: self.prefix_len,
            suffix_len: self.suffix_len,
            output_len: self.output_len,
        };
        Ok(groups.make(maker))
    }
}

impl GeneratedSharedPrefix {
    /// Requests that there will be, whatever `--num-prompts` says.
    pub fn num_requests(&self) -> usize {
        self.num_groups as usize * self.prompts_per_group as usize
    }

    pub(super) fn make(&self, maker: &Maker) -> Result<Vec<Request>, BenchError> {
        check_len("--gsp-num-groups", self.num_groups, 1)?;
        check_len("--gsp-prompts-per-group", self.prompts_per_group, 1)?;
        check_len("--gsp-system-prompt-len", self.system_prompt_len, 1)?;
        check_len("--gsp-question-len", self.question_len, 1)?;
        check_len("--gsp-output-len", self.output_len, 1)?;
        let groups = Groups {
            num: self.num_groups,
            num_each: self.prompts_per_group,
            prefix_len: self.system_prompt_len,
            suffix_len: self.question_len,
            output_len: self.output_len,
        };
        Ok(groups.make(maker))
    }
}

/// Prompts that share prefixes within groups, in random order.
struct Groups {
    num: u32,
    num_each: u32,
    prefix_len: u32,
    suffix_len: u32,
    output_len: u32,
}

impl Groups {
    fn make(&self, maker: &Maker) -> Vec<Request> {
        let mut random = maker.random(b"groups");
        let (vocabulary, form) = (&maker.vocabulary, maker.form);
        let mut requests = Vec::new();
        for _ in 0..self.num {
            let prefix = vocabulary.random(&mut random, form, self.prefix_len as usize);
            for _ in 0..self.num_each {
                let mut tokens = prefix.clone();
                tokens.extend(vocabulary.random(&mut random, form, self.suffix_len as usize));
                let num = tokens.len() as u32;
                let prompt = vocabulary.prompt(form, tokens);
                requests.push(Request::new(prompt, num, self.output_len));
            }
        }
        requests.shuffle(&mut random);
        requests
    }
}

/// Lengths from (1 - `ratio`) to (1 + `ratio`) times `len`, at least 1.
fn range(flag: &'static str, len: u32, ratio: f64) -> Result<RangeInclusive<u32>, BenchError> {
    check_len(flag, len, 1)?;
    if !(0.0..1.0).contains(&ratio) {
        let message = format!("{ratio}: must be at least 0 and below 1");
        return Err(BenchError::flag("--random-range-ratio", message));
    }
    let (low, high) = (f64::from(len) * (1.0 - ratio), f64::from(len) * (1.0 + ratio));
    Ok((low.floor() as u32).max(1)..=high.ceil() as u32)
}

fn draw(random: &mut ChaCha8Rng, range: &RangeInclusive<u32>) -> u32 {
    random.random_range(range.clone())
}

fn check_len(flag: &'static str, len: u32, min: u32) -> Result<(), BenchError> {
    if (min..=MAX_LEN).contains(&len) {
        return Ok(());
    }
    Err(BenchError::flag(flag, format!("{len}: must be from {min} to {MAX_LEN}")))
}
