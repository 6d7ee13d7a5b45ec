//! Service-level objectives: what a request must keep to be good.

use super::error::BenchError;
use super::sample::Sample;

/// Limits of one request, in milliseconds; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Objective {
    /// Time to the first token.
    pub ttft: Option<f64>,
    /// Time a token after the first.
    pub tpot: Option<f64>,
    /// Time to the end.
    pub e2el: Option<f64>,
}

/// Where a request's time begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// When it was sent, as vLLM's benchmark has it.
    Sent,
    /// When it was due, as MLPerf has it: the client's own queue counts.
    Scheduled,
}

/// A preset: its name, and the limits of time to the first token and of time a token.
type Preset = (&'static str, f64, f64);

/// Limits of MLPerf Inference's server scenarios, which 99 % of the requests must keep
/// (mlcommons/inference, loadgen/mlperf.conf).
const MLPERF: &[Preset] = &[
    ("llama2-70b", 2000.0, 200.0),
    ("llama2-70b-interactive", 450.0, 40.0),
    ("llama3.1-8b", 2000.0, 100.0),
    ("llama3.1-8b-interactive", 500.0, 30.0),
    ("llama3.1-405b", 6000.0, 175.0),
    ("llama3.1-405b-interactive", 4500.0, 80.0),
    ("mixtral-8x7b", 2000.0, 200.0),
    ("deepseek-r1", 2000.0, 80.0),
    ("deepseek-r1-interactive", 1500.0, 15.0),
];

impl Objective {
    /// Reads pairs as `ttft:500`, in milliseconds.
    ///
    /// # Errors
    /// [`BenchError::Flag`], named `flag`, for other names, numbers that are negative or none.
    pub fn parse<'a>(
        flag: &'static str,
        pairs: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, BenchError> {
        let mut objective = Self::default();
        for pair in pairs {
            let fail = |why: &str| Err(BenchError::flag(flag, format!("{pair}: {why}")));
            let Some((name, value)) = pair.split_once(':') else {
                return fail("must be NAME:MILLISECONDS, as ttft:500");
            };
            let limit = match value.parse::<f64>() {
                Ok(limit) if limit.is_finite() && limit >= 0.0 => limit,
                _ => return fail("the limit must be a number of milliseconds, at least 0"),
            };
            match name {
                "ttft" => objective.ttft = Some(limit),
                "tpot" => objective.tpot = Some(limit),
                "e2el" => objective.e2el = Some(limit),
                _ => return fail("the name must be ttft, tpot or e2el"),
            }
        }
        Ok(objective)
    }

    /// The preset called `name`, as `mlperf:llama3.1-8b-interactive`.
    ///
    /// # Errors
    /// [`BenchError::Flag`] for a name that is none, with those that are.
    pub fn preset(name: &str) -> Result<Self, BenchError> {
        let found = name
            .strip_prefix("mlperf:")
            .and_then(|name| MLPERF.iter().find(|(known, ..)| *known == name));
        let Some(&(_, ttft, tpot)) = found else {
            let known: Vec<String> =
                MLPERF.iter().map(|(name, ..)| format!("mlperf:{name}")).collect();
            let message = format!("{name}: must be one of {}", known.join(", "));
            return Err(BenchError::flag("--slo", message));
        };
        Ok(Self { ttft: Some(ttft), tpot: Some(tpot), e2el: None })
    }

    /// Whether there is no limit at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether `sample` was answered within the limits. The time a token of an answer of one token
    /// counts as 0.
    pub fn is_kept_by(&self, sample: &Sample, from: From) -> bool {
        let within = |seconds: Option<f64>, limit: Option<f64>| {
            limit.is_none_or(|limit| seconds.is_some_and(|seconds| 1e3 * seconds <= limit))
        };
        let (ttft, e2el) = match from {
            From::Sent => (sample.ttft(), sample.e2el()),
            From::Scheduled => (sample.ttft_sched(), sample.e2el_sched()),
        };
        sample.is_success()
            && within(ttft, self.ttft)
            && within(Some(sample.tpot().unwrap_or(0.0)), self.tpot)
            && within(Some(e2el), self.e2el)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Times, Tokens};
    use super::*;

    fn sample() -> Sample {
        Sample {
            times: Times { scheduled: 0.0, released: 0.0, sent: 1.0, first: Some(1.2), last: 2.2 },
            tokens: Tokens { output: 11, ..Tokens::default() },
            ..Sample::default()
        }
    }

    #[test]
    fn limits_hold_from_where_they_are_measured() {
        let keeps = |pairs: &[&str], from| {
            let pairs = pairs.iter().copied();
            Objective::parse("--goodput", pairs).unwrap().is_kept_by(&sample(), from)
        };
        assert!(keeps(&["ttft:201", "tpot:101", "e2el:1201"], From::Sent));
        assert!(!keeps(&["ttft:199"], From::Sent));
        assert!(!keeps(&["tpot:99"], From::Sent));
        assert!(!keeps(&["ttft:201"], From::Scheduled), "it waited for a second");
        assert!(keeps(&["ttft:1201", "e2el:2201"], From::Scheduled));
    }

    #[test]
    fn what_is_no_objective_is_refused() {
        for (pair, expected) in [
            ("ttft", "NAME:MILLISECONDS"),
            ("itl:5", "ttft, tpot or e2el"),
            ("ttft:-1", "at least 0"),
            ("ttft:fast", "number of milliseconds"),
        ] {
            let error = Objective::parse("--goodput", [pair]).unwrap_err().to_string();
            assert!(error.contains(pair) && error.contains(expected), "{error}");
        }
        let error = Objective::preset("mlperf:gpt-5").unwrap_err().to_string();
        assert!(error.contains("mlperf:llama3.1-8b-interactive"), "{error}");
    }
}
