//! The determinism contract on the CPU: tokens and log-probabilities of greedy and seeded requests
//! are the same bits alone, in any batch, for any chunking, thread count, pool size, prefix-cache
//! state and number of choices.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use folio_engine::core::{EngineCore, Turn};
use folio_engine::model::ModelFiles;
use folio_engine::types::{
    Event, EventReceiver, FinishReason, Penalties, PrefixCaching, Sampling, SamplingParams,
    StopConditions, TokenId,
};
use folio_tests::{Setup, generation};

const ROOMY: Setup = Setup::ROOMY;

/// A request in terms of what a client says.
#[derive(Clone, Debug)]
struct Ask {
    prompt: Vec<TokenId>,
    params: SamplingParams,
    num_choices: u32,
}

/// Bits of everything a choice yields: chosen token (or rank of a prompt's token), its
/// log-probability, the likeliest ones.
type Trace = Vec<(TokenId, u32, Vec<(TokenId, u32)>)>;

struct Engine {
    core: EngineCore,
}

impl Engine {
    fn start(case: &str, setup: Setup) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/");
        let files = ModelFiles::Directory(format!("{folder}{case}").into());
        Self { core: setup.start(files).unwrap() }
    }

    /// Runs all requests together and returns a trace for every choice of every request.
    fn run(&mut self, asks: &[Ask]) -> Vec<Vec<Trace>> {
        let receivers: Vec<_> = asks.iter().map(|ask| self.admit(ask)).collect();
        while !self.core.is_idle() {
            let turn = self.core.step();
            assert!(matches!(turn, Turn::Stepped(_)), "{turn:?}");
        }
        receivers.into_iter().map(|of_ask| of_ask.into_iter().map(trace).collect()).collect()
    }

    fn admit(&mut self, ask: &Ask) -> Vec<EventReceiver> {
        let (prompt, params) = (ask.prompt.clone(), ask.params.clone());
        let (request, receivers) = generation(prompt, params, ask.num_choices);
        self.core.admit(request);
        receivers
    }
}

fn trace(mut receiver: EventReceiver) -> Trace {
    let mut trace = Vec::new();
    while let Ok(event) = receiver.try_recv() {
        match event {
            Event::Token(token) => {
                let logprobs = token.logprobs.expect("log-probabilities were asked for");
                let top = logprobs.top.iter().map(|&(id, p)| (id, p.to_bits())).collect();
                trace.push((token.id, logprobs.logprob.to_bits(), top));
            }
            Event::Finished { reason, .. } => assert_eq!(reason, FinishReason::Length),
            Event::Started(_) => {}
            Event::PromptLogprobs(scores) => trace.extend(scores.into_iter().map(|score| {
                let top = score.logprobs.top.iter().map(|&(id, p)| (id, p.to_bits()));
                (score.rank, score.logprobs.logprob.to_bits(), top.collect())
            })),
            Event::Embedding(_) => panic!("an embedding from a decoder"),
        }
    }
    trace
}

/// Requests of many lengths; some share a beginning, some sample, some are penalised.
fn asks() -> Vec<Ask> {
    let lengths = [1, 2, 5, 16, 17, 31, 33, 48, 64, 90];
    let mut asks = Vec::new();
    for (index, &len) in lengths.iter().enumerate() {
        let prompt: Vec<TokenId> = (0..len)
            .map(|i| if i < 24 { (i * 7) % 90 } else { (i * 11 + index as u32) % 90 })
            .collect();
        let sampling = match index % 3 {
            0 => Sampling { temperature: 0.0, ..Sampling::default() },
            1 => Sampling { temperature: 0.9, top_p: 0.8, seed: 7, ..Sampling::default() },
            _ => Sampling { top_k: 12, min_p: 0.02, seed: index as u64, ..Sampling::default() },
        };
        let penalties = match index % 4 {
            3 => Penalties { frequency: 0.6, repetition: 1.2, ..Penalties::default() },
            _ => Penalties::default(),
        };
        let stop = StopConditions { max_tokens: 24, ..StopConditions::default() };
        let prompt_logprobs = (index % 2 == 1).then_some(2);
        let params =
            SamplingParams { sampling, penalties, stop, logprobs: Some(3), prompt_logprobs };
        asks.push(Ask { prompt, params, num_choices: 1 + (index as u32 % 3) });
    }
    asks
}

/// Each request by itself, in an engine of its own.
fn alone(case: &str, asks: &[Ask]) -> Vec<Vec<Trace>> {
    asks.iter()
        .map(|ask| Engine::start(case, ROOMY).run(std::slice::from_ref(ask)).remove(0))
        .collect()
}

const CASES: [&str; 4] = ["llama-gqa", "mistral-window", "qwen3", "llama-bf16"];

/// Runs all requests together under `setup` and compares with each one alone.
fn holds_under(setup: Setup) {
    let asks = asks();
    for case in CASES {
        let expected = alone(case, &asks);
        let mut engine = Engine::start(case, setup);
        for pass in ["cold", "warm"] {
            let found = engine.run(&asks);
            for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_eq!(found, expected, "{case}, request {index}, {pass}, {setup:?}");
            }
        }
    }
}

#[test]
fn one_batch_of_all() {
    holds_under(ROOMY);
}

#[test]
fn any_thread_count() {
    for num_threads in [2, 3, 5] {
        holds_under(Setup { num_threads, ..ROOMY });
    }
}

#[test]
fn any_token_budget_and_chunk() {
    for (max_num_batched_tokens, chunk) in [(24, None), (37, Some(5)), (100, Some(1))] {
        holds_under(Setup { max_num_seqs: 20, max_num_batched_tokens, chunk, ..ROOMY });
    }
}

#[test]
fn any_block_size_and_without_a_prefix_cache() {
    holds_under(Setup { block_size: 1, num_blocks: 9000, ..ROOMY });
    holds_under(Setup { block_size: 5, caching: PrefixCaching::Off, ..ROOMY });
}

#[test]
fn under_preemption() {
    let setup = Setup { num_blocks: 16, block_size: 8, max_num_batched_tokens: 64, ..ROOMY };
    holds_under(setup);
    let mut engine = Engine::start("llama-gqa", setup);
    engine.run(&asks());
    let num_preemptions = engine.core.gauges().totals.num_preemptions;
    assert!(num_preemptions > 3, "only {num_preemptions} preemptions: the pool was too large");
}

#[test]
fn a_prefix_cache_hides_no_log_probability_of_a_prompt() {
    let mut ask = asks().remove(9);
    ask.params.prompt_logprobs = Some(4);
    ask.params.stop.max_tokens = 1;
    ask.num_choices = 1;
    let mut engine = Engine::start("llama-gqa", ROOMY);
    let cold = engine.run(std::slice::from_ref(&ask)).remove(0);
    assert_eq!(cold[0].len(), ask.prompt.len(), "all prompt tokens but the first, and one more");
    let hits = |engine: &Engine| engine.core.gauges().prefix.num_hit_tokens;
    assert_eq!(hits(&engine), 0);
    assert_eq!(engine.run(std::slice::from_ref(&ask)).remove(0), cold, "the same request again");
    assert_eq!(hits(&engine), 0, "logits are not cached");
    ask.params.prompt_logprobs = None;
    let tokens_only = engine.run(&[ask]).remove(0);
    assert_eq!(tokens_only[0][..], cold[0][cold[0].len() - 1..]);
    assert!(hits(&engine) > 0, "its blocks serve others");
}

#[test]
fn any_number_of_choices() {
    let ask = Ask { num_choices: 4, ..asks().remove(4) };
    let four = Engine::start("llama-gqa", ROOMY).run(std::slice::from_ref(&ask)).remove(0);
    let one = Ask { num_choices: 1, ..ask };
    let one = Engine::start("llama-gqa", ROOMY).run(&[one]).remove(0);
    assert_eq!(one[0], four[0], "the first choice does not depend on how many there are");
    for (index, choice) in four.iter().enumerate().skip(1) {
        assert_ne!(choice, &four[0], "choice {index} repeats the first: one random stream for all");
    }
}
