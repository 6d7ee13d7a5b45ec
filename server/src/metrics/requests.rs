//! Histograms of what requests ask for and experience, and how they end.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

use super::{ENGINE, register};
use crate::models::Models;

const SECONDS_TO_FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const SECONDS_PER_TOKEN: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const SECONDS_PER_REQUEST: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
const SECONDS_OF_ERROR: &[f64] =
    &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0];
const CHOICES_PER_REQUEST: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

const LABELS: &[&str] = &["engine", "model_name"];

/// The histograms and counters of requests, for all models.
#[derive(Debug)]
pub(super) struct RequestMetrics {
    times: TimeVecs,
    sizes: SizeVecs,
    success: IntCounterVec,
}

#[derive(Debug)]
struct TimeVecs {
    to_first_token: HistogramVec,
    per_output_token: HistogramVec,
    e2e: HistogramVec,
    queue: HistogramVec,
    queue_error: HistogramVec,
    inference: HistogramVec,
    prefill: HistogramVec,
    decode: HistogramVec,
}

#[derive(Debug)]
struct SizeVecs {
    prompt: HistogramVec,
    generation: HistogramVec,
    max_generation: HistogramVec,
    num_choices: HistogramVec,
    max_tokens: HistogramVec,
}

/// Those of one model.
#[derive(Clone, Debug)]
pub(super) struct ModelMetrics {
    pub(super) times: Times,
    pub(super) sizes: Sizes,
    /// By [`Reason`].
    success: [IntCounter; Reason::ALL.len()],
}

/// How long things take, in seconds.
#[derive(Clone, Debug)]
pub(super) struct Times {
    /// From arrival to the first token.
    pub(super) to_first_token: Histogram,
    /// Mean of a choice.
    pub(super) per_output_token: Histogram,
    /// From arrival to the end.
    pub(super) e2e: Histogram,
    /// From admission to the first step.
    pub(super) queue: Histogram,
    /// How far that was from what was expected at arrival.
    pub(super) queue_error: Histogram,
    /// From the first step to the last token.
    pub(super) inference: Histogram,
    /// From the first step to the first token.
    pub(super) prefill: Histogram,
    /// From the first token to the last.
    pub(super) decode: Histogram,
}

/// Numbers of tokens and choices.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    /// Tokens of a prompt.
    pub(super) prompt: Histogram,
    /// Tokens of a choice.
    pub(super) generation: Histogram,
    /// Tokens of the longest choice of a prompt.
    pub(super) max_generation: Histogram,
    /// Choices of a prompt.
    pub(super) num_choices: Histogram,
    /// Most tokens that a choice may have.
    pub(super) max_tokens: Histogram,
}

/// Why a choice ended, in the words of the label `finished_reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Stop,
    Length,
    Abort,
    Error,
}

impl Reason {
    pub(super) const ALL: [Self; 4] = [Self::Stop, Self::Length, Self::Abort, Self::Error];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}

impl RequestMetrics {
    /// Everything at zero for each of `models`.
    pub(super) fn new(registry: &Registry, models: &Models) -> Result<Self, prometheus::Error> {
        let success = Opts::new("vllm:request_success_total", "Choices that ended, by reason.");
        let labels = &["engine", "finished_reason", "model_name"];
        let max_len = models.all().iter().map(|model| model.limits.max_model_len).max();
        let metrics = Self {
            times: TimeVecs::new(registry)?,
            sizes: SizeVecs::new(registry, &one_two_five(max_len.unwrap_or(1)))?,
            success: register(registry, IntCounterVec::new(success, labels)?)?,
        };
        for model in models.all() {
            let _ = metrics.of_model(model.name());
        }
        Ok(metrics)
    }

    /// What is observed of `model`.
    pub(super) fn of_model(&self, model: &str) -> ModelMetrics {
        ModelMetrics {
            times: self.times.of_model(model),
            sizes: self.sizes.of_model(model),
            success: Reason::ALL
                .map(|reason| self.success.with_label_values(&[ENGINE, reason.as_str(), model])),
        }
    }
}

impl ModelMetrics {
    /// A choice ended.
    pub(super) fn count_end(&self, reason: Reason) {
        self.success[reason as usize].inc();
    }
}

impl TimeVecs {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let add = |name, help, buckets| histogram(registry, (name, help), buckets);
        Ok(Self {
            to_first_token: add(
                "vllm:time_to_first_token_seconds",
                "Time from arrival to the first token.",
                SECONDS_TO_FIRST_TOKEN,
            )?,
            per_output_token: add(
                "vllm:request_time_per_output_token_seconds",
                "Mean time between two tokens of a choice.",
                SECONDS_PER_TOKEN,
            )?,
            e2e: add(
                "vllm:e2e_request_latency_seconds",
                "Time from arrival to the end.",
                SECONDS_PER_REQUEST,
            )?,
            queue: add(
                "vllm:request_queue_time_seconds",
                "Time from admission to the first step.",
                SECONDS_PER_REQUEST,
            )?,
            queue_error: add(
                "folio:queue_wait_prediction_error_seconds",
                "How far the time in the queue was from what was expected at arrival.",
                SECONDS_OF_ERROR,
            )?,
            inference: add(
                "vllm:request_inference_time_seconds",
                "Time from the first step to the last token.",
                SECONDS_PER_REQUEST,
            )?,
            prefill: add(
                "vllm:request_prefill_time_seconds",
                "Time from the first step to the first token.",
                SECONDS_PER_REQUEST,
            )?,
            decode: add(
                "vllm:request_decode_time_seconds",
                "Time from the first token to the last.",
                SECONDS_PER_REQUEST,
            )?,
        })
    }

    fn of_model(&self, model: &str) -> Times {
        let of_model = |family: &HistogramVec| family.with_label_values(&[ENGINE, model]);
        Times {
            to_first_token: of_model(&self.to_first_token),
            per_output_token: of_model(&self.per_output_token),
            e2e: of_model(&self.e2e),
            queue: of_model(&self.queue),
            queue_error: of_model(&self.queue_error),
            inference: of_model(&self.inference),
            prefill: of_model(&self.prefill),
            decode: of_model(&self.decode),
        }
    }
}

impl SizeVecs {
    fn new(registry: &Registry, tokens: &[f64]) -> Result<Self, prometheus::Error> {
        let add = |name, help, buckets| histogram(registry, (name, help), buckets);
        Ok(Self {
            prompt: add("vllm:request_prompt_tokens", "Tokens of a prompt.", tokens)?,
            generation: add(
                "vllm:request_generation_tokens",
                "Tokens generated for a choice.",
                tokens,
            )?,
            max_generation: add(
                "vllm:request_max_num_generation_tokens",
                "Tokens generated for the longest choice of a prompt.",
                tokens,
            )?,
            num_choices: add(
                "vllm:request_params_n",
                "Choices asked for of a prompt.",
                CHOICES_PER_REQUEST,
            )?,
            max_tokens: add(
                "vllm:request_params_max_tokens",
                "Most tokens that a choice may have.",
                tokens,
            )?,
        })
    }

    fn of_model(&self, model: &str) -> Sizes {
        let of_model = |family: &HistogramVec| family.with_label_values(&[ENGINE, model]);
        Sizes {
            prompt: of_model(&self.prompt),
            generation: of_model(&self.generation),
            max_generation: of_model(&self.max_generation),
            num_choices: of_model(&self.num_choices),
            max_tokens: of_model(&self.max_tokens),
        }
    }
}

fn histogram(
    registry: &Registry,
    (name, help): (&str, &str),
    buckets: &[f64],
) -> Result<HistogramVec, prometheus::Error> {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    register(registry, HistogramVec::new(options, LABELS)?)
}

/// 1, 2, 5, 10, 20, 50 and so on, up to `max`.
fn one_two_five(max: u32) -> Vec<f64> {
    let powers = (0..10).map(|exponent| 10u64.pow(exponent));
    let numbers = powers.flat_map(|power| [power, 2 * power, 5 * power]);
    numbers.take_while(|&number| number <= u64::from(max)).map(|number| number as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_token_numbers_go_up_to_the_longest_sequence() {
        assert_eq!(one_two_five(100), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(one_two_five(99), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(one_two_five(1), [1.0]);
    }
}
