//! Whether the load was what it claims to be: the client measures its own lag.
//!
//! An open loop sends when requests are due, however the server fares. A client that is late, by
//! more than a millisecond for one request in a hundred or by more than a percent over the run,
//! does not offer the load that it was told to, and is not called one.

use folio_sim::statistics::{mean, percentile};
use serde_json::{Value, json};

use super::load::Due;
use super::sample::Sample;

/// Longest 99th percentile of the lag of an open loop, in milliseconds.
const MAX_LAG_MS: f64 = 1.0;
/// How much longer than planned an open loop may take to send all.
const MAX_STRETCH: f64 = 0.01;

/// What kind of load a run was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All at once.
    Burst,
    /// On time, whatever the server does.
    Open,
    /// Due at set times, but held back by `--max-concurrency`.
    SemiOpen,
    /// Requests that wait for the ends of others.
    Closed,
    /// Meant to be open, but the client was late.
    Late,
}

impl Kind {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Burst => "burst",
            Self::Open => "open loop",
            Self::SemiOpen => "semi-open loop",
            Self::Closed => "closed loop",
            Self::Late => "not an open loop: the client was late",
        }
    }
}

/// How well a run kept its times.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// What it was.
    pub kind: Kind,
    /// Why it is not what it was meant to be.
    pub why: Option<String>,
    /// Time from when requests were due until the client got to them, in milliseconds: mean, 99th
    /// percentile, most.
    pub lag_ms: [f64; 3],
    /// Requests a second that should have been sent; `None` where that depends on the server.
    pub offered_rate: Option<f64>,
    /// Requests a second that were.
    pub achieved_rate: Option<f64>,
}

impl Timing {
    /// Judges `samples`, sent as `due` says, with or without a bound on those in flight.
    pub fn of(samples: &[Sample], due: &[Due], max_concurrency: Option<usize>) -> Self {
        let mut lags: Vec<f64> = samples
            .iter()
            .map(|sample| 1e3 * (sample.times.released - sample.times.scheduled).max(0.0))
            .collect();
        lags.sort_by(f64::total_cmp);
        let at = |percent| percentile(&lags, percent).unwrap_or(0.0);
        let lag_ms = [mean(&lags).unwrap_or(0.0), at(99.0), at(100.0)];
        let planned = span(samples.iter().map(|sample| sample.times.scheduled));
        let taken = span(samples.iter().map(|sample| sample.times.released));
        let rate = |span: f64| (span > 0.0).then(|| (samples.len() - 1) as f64 / span);
        let is_closed = due.iter().any(|due| matches!(due, Due::After { .. }));
        let mut timing = Self {
            kind: Kind::Open,
            why: None,
            lag_ms,
            offered_rate: rate(planned).filter(|_| !is_closed),
            achieved_rate: rate(taken),
        };
        timing.kind = match max_concurrency {
            _ if is_closed => Kind::Closed,
            _ if planned == 0.0 => Kind::Burst,
            max => {
                timing.why = timing.lateness(planned, taken);
                match (&timing.why, max) {
                    (Some(_), _) => Kind::Late,
                    (None, Some(_)) => Kind::SemiOpen,
                    (None, None) => Kind::Open,
                }
            }
        };
        timing
    }

    fn lateness(&self, planned: f64, taken: f64) -> Option<String> {
        let [_, p99, most] = self.lag_ms;
        if p99 > MAX_LAG_MS {
            return Some(format!(
                "1 % of the requests were sent {p99:.2} ms late or more (at most {MAX_LAG_MS} ms \
                 in an open loop; the latest: {most:.2} ms)"
            ));
        }
        let stretch = taken / planned - 1.0;
        (stretch > MAX_STRETCH).then(|| {
            format!(
                "sending took {:.1} % longer than planned (at most {:.0} % in an open loop)",
                100.0 * stretch,
                100.0 * MAX_STRETCH
            )
        })
    }

    /// As it stands in result files.
    pub fn to_json(&self) -> Value {
        let [mean, p99, max] = self.lag_ms;
        json!({
            "kind": self.kind.as_str(),
            "why": self.why,
            "is_open_loop": self.kind == Kind::Open,
            "mean_lag_ms": mean,
            "p99_lag_ms": p99,
            "max_lag_ms": max,
            "offered_rate": self.offered_rate,
            "achieved_rate": self.achieved_rate,
        })
    }
}

fn span(times: impl Iterator<Item = f64> + Clone) -> f64 {
    let least = times.clone().fold(f64::INFINITY, f64::min);
    let most = times.fold(f64::NEG_INFINITY, f64::max);
    (most - least).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::super::sample::Times;
    use super::*;

    fn timing(lag: impl Fn(usize) -> f64, max_concurrency: Option<usize>) -> Timing {
        let samples: Vec<Sample> = (0..1000)
            .map(|index| {
                let scheduled = index as f64 * 0.01;
                let times =
                    Times { scheduled, released: scheduled + lag(index), ..Times::default() };
                Sample { index, times, ..Sample::default() }
            })
            .collect();
        let due: Vec<Due> = samples.iter().map(|sample| Due::At(sample.times.scheduled)).collect();
        Timing::of(&samples, &due, max_concurrency)
    }

    #[test]
    fn the_label_is_refused_to_a_late_client() {
        assert_eq!(timing(|_| 1e-4, None).kind, Kind::Open);
        assert_eq!(timing(|_| 1e-4, Some(4)).kind, Kind::SemiOpen);
        let late = timing(|index| if index % 50 == 0 { 2e-3 } else { 0.0 }, None);
        assert_eq!(late.kind, Kind::Late);
        assert!(late.why.unwrap().contains("2.00 ms late"), "{:?}", late.lag_ms);
        // Ever later, but never by a millisecond until the last few requests.
        let slow = timing(|index| if index > 995 { 0.2 } else { 0.0 }, None);
        assert_eq!(slow.kind, Kind::Late);
        assert!(slow.why.unwrap().contains("2.0 % longer"), "{:?}", slow.lag_ms);
    }

    #[test]
    fn what_waits_for_answers_is_a_closed_loop() {
        let times = |scheduled| Times { scheduled, released: scheduled, ..Times::default() };
        let samples: Vec<Sample> = (0..3)
            .map(|index| Sample { index, times: times(index as f64), ..Sample::default() })
            .collect();
        let due = [Due::At(0.0), Due::After { index: 0, think: 0.0 }, Due::At(2.0)];
        let timing = Timing::of(&samples, &due, None);
        assert_eq!((timing.kind, timing.offered_rate), (Kind::Closed, None));
        let samples = vec![samples[0].clone(); 3];
        assert_eq!(Timing::of(&samples, &[Due::At(0.0); 3], None).kind, Kind::Burst);
    }
}
