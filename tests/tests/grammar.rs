//! Grammars in the engine: every token is one that the mask allows, the text ends when the grammar
//! is complete, and neither batch-mates nor the way of scheduling change or are changed.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use folio_engine::core::{EngineCore, Turn};
use folio_engine::model::ModelFiles;
use folio_engine::types::{
    Event, EventReceiver, FinishReason, Penalties, PrefixCaching, Sampling, SamplingParams,
    StopConditions, TokenId,
};
use folio_tests::{Setup, ToyGrammar, generation};

const ROOMY: Setup = Setup::ROOMY;
const VOCAB: u32 = 90;

/// A request, and the length that its grammar asks for, if it has one.
#[derive(Clone, Debug)]
struct Ask {
    prompt: Vec<TokenId>,
    params: SamplingParams,
    num_choices: u32,
    len: Option<usize>,
}

/// What a choice yields: tokens with the bits of their log-probabilities, and its end.
#[derive(Debug, PartialEq)]
struct Trace {
    tokens: Vec<TokenId>,
    logprobs: Vec<(u32, Vec<(TokenId, u32)>)>,
    end: FinishReason,
}

struct Engine {
    core: EngineCore,
    num_masks: Vec<Arc<AtomicU32>>,
}

impl Engine {
    fn start(case: &str, setup: Setup) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/");
        let files = ModelFiles::Directory(format!("{folder}{case}").into());
        Self { core: setup.start(files).unwrap(), num_masks: Vec::new() }
    }

    fn admit(&mut self, ask: &Ask, grammar: impl Fn(usize) -> ToyGrammar) -> Vec<EventReceiver> {
        let (prompt, params) = (ask.prompt.clone(), ask.params.clone());
        let (mut request, receivers) = generation(prompt, params, ask.num_choices);
        for choice in &mut request.choices {
            choice.grammar = ask.len.map(|len| {
                let grammar = grammar(len);
                self.num_masks.push(grammar.num_masks());
                Box::new(grammar) as Box<_>
            });
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
        let toy = |len| ToyGrammar::new(VOCAB, len);
        let receivers: Vec<_> = asks.iter().map(|ask| self.admit(ask, toy)).collect();
        self.finish();
        receivers.into_iter().map(|of_ask| of_ask.into_iter().map(trace).collect()).collect()
    }
}

fn trace(mut receiver: EventReceiver) -> Trace {
    let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
    loop {
        match receiver.try_recv().expect("an end") {
            Event::Token(token) => {
                tokens.push(token.id);
                if let Some(of) = token.logprobs {
                    let top = of.top.iter().map(|&(id, p)| (id, p.to_bits())).collect();
                    logprobs.push((of.logprob.to_bits(), top));
                }
            }
            Event::Finished { reason, .. } => return Trace { tokens, logprobs, end: reason },
            Event::Started(_) | Event::PromptLogprobs(_) => {}
            Event::Embedding(_) => panic!("an embedding from a decoder"),
        }
    }
}

/// Requests of many lengths, two in three with a grammar; some of those are cut off before it is
/// complete.
fn asks() -> Vec<Ask> {
    let lengths = [1, 2, 5, 16, 17, 31, 33, 48, 64, 80];
    let ask = |(index, &len): (usize, &u32)| {
        let prompt = (0..len)
            .map(|i| if i < 24 { (i * 7) % VOCAB } else { (i * 11 + index as u32) % VOCAB });
        let sampling = match index % 3 {
            0 => Sampling { temperature: 0.0, ..Sampling::default() },
            1 => Sampling { temperature: 0.9, top_p: 0.8, seed: 7, ..Sampling::default() },
            _ => Sampling { top_k: 12, min_p: 0.02, seed: index as u64, ..Sampling::default() },
        };
        let penalties = match index % 4 {
            3 => Penalties { frequency: 0.6, repetition: 1.2, ..Penalties::default() },
            2 => Penalties { logit_bias: vec![(3, 50.0), (4, 50.0)], ..Penalties::default() },
            _ => Penalties::default(),
        };
        let stop = StopConditions { max_tokens: 20, ..StopConditions::default() };
        let params =
            SamplingParams { sampling, penalties, stop, logprobs: Some(3), prompt_logprobs: None };
        let len = (index % 3 != 1).then_some(8 + 2 * index);
        Ask { prompt: prompt.collect(), params, num_choices: 1 + index as u32 % 3, len }
    };
    lengths.iter().enumerate().map(ask).collect()
}

fn check(ask: &Ask, trace: &Trace) {
    let Some(len) = ask.len else {
        assert_eq!(trace.end, FinishReason::Length);
        return;
    };
    let max = ask.params.stop.max_tokens as usize;
    let (end, num_tokens) =
        if len <= max { (FinishReason::Complete, len) } else { (FinishReason::Length, max) };
    assert_eq!((&trace.end, trace.tokens.len()), (&end, num_tokens), "{ask:?}");
    for (index, &token) in trace.tokens.iter().enumerate() {
        let before = &trace.tokens[..index];
        assert!(ToyGrammar::permits(before, token), "{token} after {before:?}");
    }
}

/// Each request by itself, in an engine of its own.
fn alone(asks: &[Ask]) -> Vec<Vec<Trace>> {
    let alone = |ask: &Ask| Engine::start("llama-gqa", ROOMY).run(std::slice::from_ref(ask));
    asks.iter().map(|ask| alone(ask).remove(0)).collect()
}

#[test]
fn texts_keep_to_the_grammar_and_end_with_it() {
    let asks = asks();
    for (ask, traces) in asks.iter().zip(alone(&asks)) {
        for trace in &traces {
            check(ask, trace);
        }
        let is_random = ask.params.sampling.temperature > 0.0;
        if is_random && ask.num_choices > 1 && ask.params.penalties.logit_bias.is_empty() {
            assert_ne!(
                traces[0].tokens, traces[1].tokens,
                "each choice has its own state: {ask:?}"
            );
        }
    }
}

#[test]
fn the_schedule_changes_nothing() {
    let asks = asks();
    let expected = alone(&asks);
    let tight = Setup { num_blocks: 16, block_size: 8, max_num_batched_tokens: 64, ..ROOMY };
    let setups = [
        ROOMY,
        Setup { num_threads: 3, ..ROOMY },
        Setup { max_num_seqs: 20, max_num_batched_tokens: 37, chunk: Some(5), ..ROOMY },
        Setup { block_size: 5, caching: PrefixCaching::Off, ..ROOMY },
        tight,
    ];
    for setup in setups {
        let mut engine = Engine::start("llama-gqa", setup);
        for pass in ["cold", "warm"] {
            assert_eq!(engine.run(&asks), expected, "{pass}, {setup:?}");
        }
        let num_preemptions = engine.core.gauges().totals.num_preemptions;
        assert_eq!(num_preemptions > 3, setup.num_blocks == tight.num_blocks, "{setup:?}");
    }
}

#[test]
fn a_mask_is_computed_once_for_each_token() {
    let asks: Vec<Ask> = asks().into_iter().filter(|ask| ask.len.is_some()).collect();
    let mut engine = Engine::start("llama-gqa", Setup { num_blocks: 24, block_size: 8, ..ROOMY });
    let traces = engine.run(&asks);
    let num_tokens = traces.iter().flatten().map(|trace| trace.tokens.len() as u32);
    let num_masks = engine.num_masks.iter().map(|num| num.load(Ordering::Relaxed));
    assert_eq!(num_masks.collect::<Vec<_>>(), num_tokens.collect::<Vec<_>>());
}

#[test]
fn log_probabilities_are_those_of_the_raw_logits() {
    let stop = StopConditions { max_tokens: 1, ..StopConditions::default() };
    let params = SamplingParams { stop, logprobs: Some(20), ..SamplingParams::default() };
    let free = Ask { prompt: vec![1, 2, 3], params, num_choices: 1, len: None };
    let bound = Ask { len: Some(4), ..free.clone() };
    let traces = Engine::start("llama-gqa", ROOMY).run(&[free, bound]);
    let (free, bound) = (&traces[0][0], &traces[1][0]);
    assert_eq!(free.logprobs[0].1, bound.logprobs[0].1);
    let listed = bound.logprobs[0].1.iter();
    let banned = listed.filter(|&&(id, _)| !ToyGrammar::permits(&[], id)).count();
    assert!(banned > 5, "only {banned} of the likeliest tokens are not allowed");
}

#[test]
fn a_grammar_that_fails_ends_its_choice_alone() {
    let asks = asks();
    let expected = alone(&asks);
    let mut engine = Engine::start("llama-gqa", ROOMY);
    let broken = Ask { num_choices: 2, len: Some(9), ..asks[1].clone() };
    let toy = |len| ToyGrammar::new(VOCAB, len);
    let mut receivers: Vec<_> = asks.iter().map(|ask| engine.admit(ask, toy)).collect();
    receivers.push(engine.admit(&broken, |len| toy(len).failing_after(3)));
    receivers.push(engine.admit(&broken, |len| toy(len).panicking_after(3)));
    // Masks that are too short for the vocabulary allow none of the rest.
    let short = Ask { num_choices: 1, ..broken };
    receivers.push(engine.admit(&short, |len| ToyGrammar::new(32, len)));
    engine.finish();
    let mut traces: Vec<Vec<Trace>> =
        receivers.into_iter().map(|of_ask| of_ask.into_iter().map(trace).collect()).collect();
    let short = traces.pop().unwrap();
    assert!(short[0].tokens.iter().all(|&token| token < 32), "{short:?}");
    for expected in ["panic: as asked for", "the grammar cannot go on: as asked for"] {
        for trace in traces.pop().unwrap() {
            assert_eq!(trace.tokens.len(), 3);
            let FinishReason::Failed(message) = trace.end else { panic!("{:?}", trace.end) };
            assert_eq!(message, expected);
        }
    }
    assert_eq!(traces, expected);
}
