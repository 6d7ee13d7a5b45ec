//! What the choices of a job experience, observed as their events are read.

use std::sync::Arc;

use folio_engine::types::{Nanos, RequestStats};

use super::Metrics;
use super::clients::ClientMeter;
use super::requests::{ModelMetrics, Reason};
use crate::client::Client;
use crate::generate::End;
use crate::openai::Finish;
use crate::telemetry::{ChoiceFacts, Record};

/// What a job handed to the engine, as far as its meters care.
#[derive(Clone, Debug, Default)]
pub struct Handed {
    /// Tokens of each prompt.
    pub prompt_lens: Vec<u64>,
    /// Most tokens of a choice, for each prompt; empty if nothing is generated.
    pub max_tokens: Vec<u32>,
    /// Choices of each prompt.
    pub num_choices: u32,
}

/// Observes the choices of one job, or the texts of one embedding request. Those that have not
/// ended when this is dropped count as aborted.
#[derive(Debug)]
pub struct Meters {
    model: ModelMetrics,
    client: ClientMeter,
    /// Where it is written down what becomes of the request.
    record: Option<Arc<Record>>,
    /// When the whole request was here.
    arrival: Nanos,
    choices: Vec<Option<ChoiceMeter>>,
    prompts: Vec<PromptMeter>,
    num_choices: usize,
}

/// The choices of one prompt.
#[derive(Clone, Copy, Debug)]
struct PromptMeter {
    num_running: u32,
    /// Tokens of the longest choice that has ended.
    max_tokens: u32,
}

impl Meters {
    /// For what was `handed` to `model` for `client` at `now`.
    pub fn start(
        metrics: &Metrics,
        client: &Client,
        model: &str,
        handed: &Handed,
        now: Nanos,
    ) -> Self {
        let record = client.record.clone();
        let arrival = record.as_ref().map_or(now, |record| record.arrival());
        if let Some(record) = &record {
            record.submit(model, handed.prompt_lens.iter().sum());
        }
        let client = metrics.clients.of_client(&client.name, model);
        let model = metrics.requests.of_model(model);
        for &num_tokens in &handed.prompt_lens {
            model.sizes.prompt.observe(num_tokens as f64);
            model.sizes.num_choices.observe(f64::from(handed.num_choices));
            client.prompt_tokens.inc_by(num_tokens);
        }
        for &max_tokens in &handed.max_tokens {
            model.sizes.max_tokens.observe(f64::from(max_tokens));
        }
        let (num_prompts, num_choices) = (handed.prompt_lens.len(), handed.num_choices as usize);
        let prompt = PromptMeter { num_running: handed.num_choices, max_tokens: 0 };
        Self {
            model,
            client,
            record,
            arrival,
            choices: vec![Some(ChoiceMeter::default()); num_prompts * num_choices],
            prompts: vec![prompt; num_prompts],
            num_choices,
        }
    }

    /// The first result of a choice was known to the engine, which says how it fared so far.
    pub fn see_first(&mut self, index: usize, stats: RequestStats) {
        let choice = self.choices.get_mut(index).and_then(Option::as_mut);
        if let (Some(choice), Some(first)) = (choice, stats.first_token)
            && choice.stats.first_token.is_none()
        {
            choice.stats = stats;
            let seconds = first.since(self.arrival).as_secs_f64();
            self.model.times.to_first_token.observe(seconds);
        }
    }

    /// Tokens of a choice were read at `now`, all at once.
    pub fn read_tokens(&mut self, index: usize, num_tokens: u32, now: Nanos) {
        if let Some(Some(choice)) = self.choices.get_mut(index)
            && num_tokens > 0
        {
            choice.last_read = Some(now);
            choice.num_tokens += num_tokens;
            self.client.generation_tokens.inc_by(u64::from(num_tokens));
        }
    }

    /// A choice ended.
    pub fn end(&mut self, index: usize, outcome: Outcome) {
        let Some(choice) = self.choices.get_mut(index).and_then(Option::take) else {
            return;
        };
        let reason = match outcome {
            Outcome::Finished(end, now) => {
                self.observe_generation(&choice, end.stats, now);
                match end.reason {
                    Finish::Length => Reason::Length,
                    _ => Reason::Stop,
                }
            }
            Outcome::Embedded(stats, now) => {
                self.observe_embedding(stats, now);
                Reason::Stop
            }
            Outcome::Aborted => Reason::Abort,
            Outcome::Error => Reason::Error,
        };
        self.model.count_end(reason);
        self.client.count_end(reason);
        if let Some(record) = &self.record {
            let stats = outcome.stats().unwrap_or(choice.stats);
            record.end_choice(&ChoiceFacts { stats, num_tokens: choice.num_tokens });
        }
        if !matches!(outcome, Outcome::Embedded(..)) {
            self.count_tokens(index, choice.num_tokens);
        }
    }

    /// All choices that have not ended do so now, with an error of this code.
    pub fn fail(&mut self, code: &'static str) {
        if let Some(record) = &self.record {
            record.fail(code);
        }
        self.end_all(Outcome::Error);
    }

    /// All choices that have not ended did now.
    fn end_all(&mut self, outcome: Outcome) {
        for index in 0..self.choices.len() {
            self.end(index, outcome);
        }
    }

    /// A choice ended with so many tokens.
    fn count_tokens(&mut self, index: usize, num_tokens: u32) {
        let sizes = &self.model.sizes;
        sizes.generation.observe(f64::from(num_tokens));
        if let Some(prompt) = self.prompts.get_mut(index / self.num_choices) {
            prompt.num_running -= 1;
            prompt.max_tokens = prompt.max_tokens.max(num_tokens);
            if prompt.num_running == 0 {
                sizes.max_generation.observe(f64::from(prompt.max_tokens));
            }
        }
    }

    /// The engine's own times where there are any: they do not depend on how fast a client reads.
    fn observe_generation(&self, choice: &ChoiceMeter, stats: RequestStats, now: Nanos) {
        let times = &self.model.times;
        times.e2e.observe(now.since(self.arrival).as_secs_f64());
        let (Some(scheduled), Some(first)) = (stats.first_scheduled, stats.first_token) else {
            return;
        };
        // After a stop string the engine has not said when the last token was known.
        let last = stats.last_token.or(choice.last_read).unwrap_or(first);
        times.queue.observe(scheduled.since(stats.arrival).as_secs_f64());
        times.prefill.observe(first.since(scheduled).as_secs_f64());
        times.decode.observe(last.since(first).as_secs_f64());
        times.inference.observe(last.since(scheduled).as_secs_f64());
        if let Some(num_gaps) = choice.num_tokens.checked_sub(1).filter(|&gaps| gaps > 0) {
            let mean = last.since(first).as_secs_f64() / f64::from(num_gaps);
            times.per_output_token.observe(mean);
        }
    }

    fn observe_embedding(&self, stats: RequestStats, now: Nanos) {
        let times = &self.model.times;
        times.e2e.observe(now.since(self.arrival).as_secs_f64());
        if let (Some(scheduled), Some(first)) = (stats.first_scheduled, stats.first_token) {
            times.queue.observe(scheduled.since(stats.arrival).as_secs_f64());
            times.prefill.observe(first.since(scheduled).as_secs_f64());
            times.inference.observe(first.since(scheduled).as_secs_f64());
        }
    }
}

impl Drop for Meters {
    fn drop(&mut self) {
        self.end_all(Outcome::Aborted);
    }
}

/// How a choice ended, for its metrics.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// By itself, at this time.
    Finished(End, Nanos),
    /// Its vector was read at this time.
    Embedded(RequestStats, Nanos),
    /// Its client went away.
    Aborted,
    /// The engine failed.
    Error,
}

impl Outcome {
    /// How the choice fared, as the engine said at its end.
    fn stats(self) -> Option<RequestStats> {
        match self {
            Self::Finished(end, _) => Some(end.stats),
            Self::Embedded(stats, _) => Some(stats),
            Self::Aborted | Self::Error => None,
        }
    }
}

/// What is known of a choice that runs.
#[derive(Clone, Copy, Debug, Default)]
struct ChoiceMeter {
    /// How it fared until its first token.
    stats: RequestStats,
    /// When tokens were last read.
    last_read: Option<Nanos>,
    num_tokens: u32,
}
