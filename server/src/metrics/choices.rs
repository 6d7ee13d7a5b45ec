//! What the choices of a job experience, observed as their events are read.

use std::sync::Arc;

use folio_engine::types::{MarkReceiver, Nanos, RequestStats};

use super::clients::ClientMeter;
use super::requests::{ModelMetrics, Reason, Times};
use super::{Metrics, seconds};
use crate::client::Client;
use crate::error::ErrorNote;
use crate::generate::End;
use crate::openai::Finish;
use crate::telemetry::{ChoiceFacts, Record, Wish};

/// What a job handed to the engine, as far as its meters care.
#[derive(Debug, Default)]
pub struct Handed {
    /// Tokens of each prompt.
    pub prompt_lens: Vec<u64>,
    /// Most tokens of a choice, for each prompt; empty if nothing is generated.
    pub max_tokens: Vec<u32>,
    /// Choices of each prompt.
    pub num_choices: u32,
    /// Temperature and `top_p`, if anything is generated.
    pub sampling: Option<(f32, f32)>,
    /// Where the marks of each choice arrive; empty if the request is not traced.
    pub marks: Vec<MarkReceiver>,
}

impl Handed {
    /// What was asked of `model`.
    fn wish(&self, model: &str) -> Wish {
        Wish {
            model: model.to_owned(),
            num_prompt_tokens: self.prompt_lens.iter().sum(),
            num_choices: self.num_choices,
            max_tokens: self.max_tokens.first().copied(),
            sampling: self.sampling,
        }
    }
}

/// Observes the choices of one job, or the texts of one embedding request. Those that have not
/// ended when this is dropped count as aborted.
#[derive(Debug)]
pub struct Meters {
    model: ModelMetrics,
    client: ClientMeter,
    /// Where it is written down what becomes of the request.
    record: Option<Arc<Record>>,
    /// Where the marks of each choice arrive; empty if the request is not traced.
    marks: Vec<MarkReceiver>,
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
        handed: Handed,
        now: Nanos,
    ) -> Self {
        let record = client.record.clone();
        let arrival = record.as_ref().map_or(now, |record| record.arrival());
        if let Some(record) = &record {
            record.submit(handed.wish(model), now);
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
            marks: handed.marks,
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
            let waited = first.since(self.arrival);
            self.model.times.to_first_token.observe(seconds(waited));
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
            let marks = self.marks.get_mut(index);
            let marks = marks.map(|marks| std::iter::from_fn(|| marks.try_recv().ok()).collect());
            record.end_choice(ChoiceFacts {
                reason: reason.as_str(),
                stats,
                last_read: choice.last_read,
                num_tokens: choice.num_tokens,
                marks: marks.unwrap_or_default(),
            });
        }
        if !matches!(outcome, Outcome::Embedded(..)) {
            self.count_tokens(index, choice.num_tokens);
        }
    }

    /// All choices that have not ended do so now, with this error.
    pub fn fail(&mut self, error: ErrorNote) {
        if let Some(record) = &self.record {
            record.fail(error);
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
        times.e2e.observe(seconds(now.since(self.arrival)));
        let (Some(scheduled), Some(first)) = (stats.first_scheduled, stats.first_token) else {
            return;
        };
        // After a stop string the engine has not said when the last token was known.
        let last = stats.last_token.or(choice.last_read).unwrap_or(first);
        observe_queue(times, scheduled, stats);
        times.prefill.observe(seconds(first.since(scheduled)));
        times.decode.observe(seconds(last.since(first)));
        times.inference.observe(seconds(last.since(scheduled)));
        if let Some(num_gaps) = choice.num_tokens.checked_sub(1).filter(|&gaps| gaps > 0) {
            let mean = seconds(last.since(first)) / f64::from(num_gaps);
            times.per_output_token.observe(mean);
        }
    }

    fn observe_embedding(&self, stats: RequestStats, now: Nanos) {
        let times = &self.model.times;
        times.e2e.observe(seconds(now.since(self.arrival)));
        if let (Some(scheduled), Some(first)) = (stats.first_scheduled, stats.first_token) {
            observe_queue(times, scheduled, stats);
            times.prefill.observe(seconds(first.since(scheduled)));
            times.inference.observe(seconds(first.since(scheduled)));
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

/// Enters how long a choice was in the queue, and how far that is from what was expected.
fn observe_queue(times: &Times, scheduled: Nanos, stats: RequestStats) {
    let waited = seconds(scheduled.since(stats.arrival));
    times.queue.observe(waited);
    times.queue_error.observe((waited - seconds(stats.expected_wait)).abs());
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

#[cfg(test)]
mod tests {
    use prometheus::Histogram;

    use super::*;
    use crate::models::Models;

    fn at(number: u64) -> Nanos {
        Nanos(number * 1_000_000_000)
    }

    fn meters(metrics: &Metrics, prompt_lens: Vec<u64>, num_choices: u32, now: u64) -> Meters {
        let max_tokens = vec![10; prompt_lens.len()];
        let handed = Handed { prompt_lens, max_tokens, num_choices, ..Handed::default() };
        Meters::start(metrics, &Client::anonymous(), "m", handed, at(now))
    }

    fn of(histogram: &Histogram) -> (u64, f64) {
        (histogram.get_sample_count(), histogram.get_sample_sum())
    }

    /// Arrived at 10 s, admitted at 11, first step at 14, tokens at 20, 22 and 29, read at 40.
    #[test]
    fn times_are_the_engines() {
        let metrics = Metrics::new(&Models::new(Vec::new(), 0).unwrap()).unwrap();
        let mut meters = meters(&metrics, vec![5], 1, 10);
        let started = RequestStats {
            arrival: at(11),
            first_scheduled: Some(at(14)),
            first_token: Some(at(20)),
            ..RequestStats::default()
        };
        let times = metrics.requests.of_model("m").times;
        meters.see_first(0, started);
        assert_eq!(of(&times.to_first_token), (1, 10.0), "known as soon as the token is");
        meters.see_first(0, started);
        meters.read_tokens(0, 3, at(40));
        let stats = RequestStats { last_token: Some(at(29)), ..started };
        let end = End { reason: Finish::Length, stats };
        meters.end(0, Outcome::Finished(end, at(40)));
        drop(meters);
        assert_eq!(of(&times.to_first_token), (1, 10.0));
        assert_eq!(of(&times.queue), (1, 3.0));
        assert_eq!(of(&times.prefill), (1, 6.0));
        assert_eq!(of(&times.decode), (1, 9.0));
        assert_eq!(of(&times.inference), (1, 15.0));
        assert_eq!(of(&times.per_output_token), (1, 4.5));
        assert_eq!(of(&times.e2e), (1, 30.0));
    }

    /// After a stop string the engine has told only of the first token.
    #[test]
    fn a_stop_string_ends_a_choice_when_it_was_read() {
        let metrics = Metrics::new(&Models::new(Vec::new(), 0).unwrap()).unwrap();
        let mut meters = meters(&metrics, vec![5], 1, 0);
        let stats = RequestStats {
            first_scheduled: Some(at(1)),
            first_token: Some(at(2)),
            ..RequestStats::default()
        };
        meters.see_first(0, stats);
        meters.read_tokens(0, 1, at(2));
        meters.read_tokens(0, 4, at(6));
        meters.end(0, Outcome::Finished(End { reason: Finish::Stop, stats }, at(7)));
        let times = metrics.requests.of_model("m").times;
        assert_eq!(of(&times.decode), (1, 4.0));
        assert_eq!(of(&times.per_output_token), (1, 1.0));
        assert_eq!(of(&times.e2e), (1, 7.0));
    }

    #[test]
    fn the_longest_choice_counts_once_for_its_prompt() {
        let metrics = Metrics::new(&Models::new(Vec::new(), 0).unwrap()).unwrap();
        let mut meters = meters(&metrics, vec![5, 6], 2, 0);
        let sizes = metrics.requests.of_model("m").sizes;
        for (index, num_tokens) in [(0, 3), (1, 9), (2, 4), (3, 2)] {
            meters.read_tokens(index, num_tokens, at(1));
        }
        let end = End { reason: Finish::Stop, stats: RequestStats::default() };
        meters.end(1, Outcome::Finished(end, at(2)));
        assert_eq!(of(&sizes.max_generation), (0, 0.0));
        meters.end(0, Outcome::Finished(end, at(2)));
        assert_eq!(of(&sizes.max_generation), (1, 9.0));
        drop(meters); // the choices of the second prompt are aborted
        assert_eq!(of(&sizes.max_generation), (2, 13.0));
        assert_eq!(of(&sizes.generation), (4, 18.0));
        assert_eq!(of(&sizes.prompt), (2, 11.0));
        assert_eq!(of(&sizes.num_choices), (2, 4.0));
        assert_eq!(of(&sizes.max_tokens), (2, 20.0));
    }
}
