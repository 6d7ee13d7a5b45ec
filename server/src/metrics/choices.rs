//! What the choices of a job experience, observed as their events are read.

use std::sync::Arc;

use folio_engine::types::{Nanos, RequestStats};

use super::{Metrics, observe};
use crate::generate::End;

/// Observes the choices of one job, or the texts of one embedding request. Those that have not
/// ended when this is dropped count as aborted.
#[derive(Debug)]
pub struct Meters {
    metrics: Arc<Metrics>,
    /// Name of the model, the label of everything observed.
    model: String,
    choices: Vec<Option<ChoiceMeter>>,
}

impl Meters {
    /// For `num_choices` choices of `model` that were submitted at `now`.
    pub fn start(metrics: &Arc<Metrics>, model: &str, num_choices: usize, now: Nanos) -> Self {
        Self {
            metrics: Arc::clone(metrics),
            model: model.to_owned(),
            choices: vec![Some(ChoiceMeter::start(now)); num_choices],
        }
    }

    /// A prompt was submitted.
    pub fn count_prompt(&self, num_tokens: u64) {
        observe(&self.metrics.prompt_tokens, &self.model, num_tokens as f64);
    }

    /// Tokens of a choice were read at `now`, all at once.
    pub fn read_tokens(&mut self, index: usize, num_tokens: u32, now: Nanos) {
        if let Some(Some(choice)) = self.choices.get_mut(index) {
            choice.read_tokens(&self.metrics, &self.model, num_tokens, now);
        }
    }

    /// A choice ended.
    pub fn end(&mut self, index: usize, outcome: Outcome) {
        if let Some(choice) = self.choices.get_mut(index).and_then(Option::take) {
            choice.end(&self.metrics, &self.model, outcome);
        }
    }

    /// All choices that have not ended did now.
    pub fn end_all(&mut self, outcome: Outcome) {
        for index in 0..self.choices.len() {
            self.end(index, outcome);
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

/// Observes one choice.
#[derive(Clone, Copy, Debug)]
struct ChoiceMeter {
    submitted: Nanos,
    first_token: Option<Nanos>,
    last_token: Nanos,
    num_tokens: u32,
}

impl ChoiceMeter {
    /// A choice that was submitted at `submitted`.
    fn start(submitted: Nanos) -> Self {
        Self {
            submitted,
            first_token: None,
            last_token: submitted,
            num_tokens: 0,
        }
    }

    /// Tokens were read at `now`, all at once.
    fn read_tokens(&mut self, metrics: &Metrics, model: &str, num_tokens: u32, now: Nanos) {
        if num_tokens == 0 {
            return;
        }
        if self.first_token.is_some() {
            let gap = now.since(self.last_token).as_secs_f64() / f64::from(num_tokens);
            let histogram = metrics.inter_token_latency.with_label_values(&[model]);
            for _ in 0..num_tokens {
                histogram.observe(gap);
            }
        }
        self.first_token.get_or_insert(now);
        self.last_token = now;
        self.num_tokens += num_tokens;
    }

    /// The choice ended.
    fn end(self, metrics: &Metrics, model: &str, outcome: Outcome) {
        let reason = match outcome {
            Outcome::Finished(end, now) => {
                self.observe_times(metrics, model, (end, now));
                end.reason.as_str()
            }
            Outcome::Embedded(stats, now) => {
                self.observe_wait(metrics, model, (stats, now));
                "stop"
            }
            Outcome::Aborted => "abort",
            Outcome::Error => "error",
        };
        if !matches!(outcome, Outcome::Embedded(..)) {
            observe(
                &metrics.generation_tokens,
                model,
                f64::from(self.num_tokens),
            );
        }
        metrics.success.with_label_values(&[model, reason]).inc();
    }

    /// The engine's own times where there are any: they do not depend on how fast a client reads.
    fn observe_times(&self, metrics: &Metrics, model: &str, (end, now): (End, Nanos)) {
        Self::observe_queue(metrics, model, end.stats);
        let first_token = end.stats.first_token.or(self.first_token).unwrap_or(now);
        let to_first = first_token.since(self.submitted);
        observe(&metrics.time_to_first_token, model, to_first.as_secs_f64());
        let e2e = now.since(self.submitted).as_secs_f64();
        observe(&metrics.e2e_latency, model, e2e);
        if let Some(num_gaps) = self.num_tokens.checked_sub(1).filter(|&gaps| gaps > 0) {
            let mean = now.since(first_token).as_secs_f64() / f64::from(num_gaps);
            observe(&metrics.time_per_output_token, model, mean);
        }
    }

    fn observe_wait(&self, metrics: &Metrics, model: &str, (stats, now): (RequestStats, Nanos)) {
        Self::observe_queue(metrics, model, stats);
        let e2e = now.since(self.submitted).as_secs_f64();
        observe(&metrics.e2e_latency, model, e2e);
    }

    fn observe_queue(metrics: &Metrics, model: &str, stats: RequestStats) {
        if let Some(first_scheduled) = stats.first_scheduled {
            let queued = first_scheduled.since(stats.arrival);
            observe(&metrics.queue_time, model, queued.as_secs_f64());
        }
    }
}
