//! When requests are due: absolute times that are known before the first is sent, so that no
//! delay of one moves the others.
//!
//! Gaps are gamma distributed, as vLLM's are: shape `burstiness`, mean 1/rate. Without a ramp the
//! times are stretched so that the last one falls at n/rate, so that two seeds offer the same load.

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Gamma};

use super::error::BenchError;
use super::load::Due;
use super::request::Request;

/// When requests are due.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// At `rate` a second on average.
    Rate {
        /// Requests a second; infinite for all at once.
        rate: f64,
        /// 1 for a Poisson process, less for bursts, more for even gaps, infinite for equal ones.
        burstiness: f64,
    },
    /// At a rate that grows from the first request to the last.
    Ramp {
        /// How it grows.
        strategy: Ramp,
        /// Requests a second at first.
        start: f64,
        /// Requests a second at last.
        end: f64,
        /// As above.
        burstiness: f64,
    },
    /// When the trace says, `speed` times as fast.
    Trace {
        /// 1 for as it was.
        speed: f64,
    },
    /// A number of users, each of whom sends, waits for the end, thinks and sends again.
    Users {
        /// How many.
        num: usize,
        /// Seconds of thinking after each answer.
        think: f64,
    },
    /// Turns of sessions wait for one another; sessions start at `rate`.
    Sessions {
        /// Sessions a second; infinite for all at once.
        rate: f64,
        /// As above.
        burstiness: f64,
        /// Seconds of thinking after each answer.
        think: f64,
    },
}

/// How a rate grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ramp {
    /// By equal steps.
    Linear,
    /// By equal factors.
    Exponential,
}

impl Arrivals {
    /// When each of `requests` is due.
    ///
    /// # Errors
    /// [`BenchError::Flag`] for rates and factors that are not positive, and a trace without times.
    pub fn schedule(&self, requests: &[Request], seed: u64) -> Result<Vec<Due>, BenchError> {
        let num = requests.len();
        match *self {
            Self::Rate { rate, burstiness } => {
                let times = paced(num, seed, burstiness, |_| rate)?;
                Ok(stretched(times, num as f64 / rate).into_iter().map(Due::At).collect())
            }
            Self::Ramp { strategy, start, end, burstiness } => {
                check_ramp(strategy, start, end)?;
                let rate = |index| {
                    let progress = index as f64 / (num.max(2) - 1) as f64;
                    match strategy {
                        Ramp::Linear => start + (end - start) * progress,
                        Ramp::Exponential => start * (end / start).powf(progress),
                    }
                };
                Ok(paced(num, seed, burstiness, rate)?.into_iter().map(Due::At).collect())
            }
            Self::Trace { speed } => from_trace(requests, speed),
            Self::Users { num: 0, .. } => Err(BenchError::flag("--users", "0: must be at least 1")),
            Self::Users { num, think } => {
                let due = |index: usize| match index.checked_sub(num) {
                    Some(before) => Due::After { index: before, think },
                    None => Due::At(0.0),
                };
                Ok((0..requests.len()).map(due).collect())
            }
            Self::Sessions { rate, burstiness, think } => {
                sessions(requests, (rate, burstiness, think), seed)
            }
        }
    }
}

/// Sums of gaps whose mean is 1 over the rate at each.
fn paced(
    num: usize,
    seed: u64,
    burstiness: f64,
    rate: impl Fn(usize) -> f64,
) -> Result<Vec<f64>, BenchError> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut time = 0.0;
    (0..num)
        .map(|index| {
            let rate = rate(index);
            if rate.is_nan() || rate <= 0.0 {
                return Err(BenchError::flag("--request-rate", format!("{rate}: must be above 0")));
            }
            if burstiness.is_nan() || burstiness <= 0.0 {
                let message = format!("{burstiness}: must be above 0");
                return Err(BenchError::flag("--burstiness", message));
            }
            time += match (rate.is_infinite(), burstiness.is_infinite()) {
                (true, _) => 0.0,
                (false, true) => 1.0 / rate,
                (false, false) => Gamma::new(burstiness, 1.0 / (rate * burstiness))
                    .map_err(|error| BenchError::flag("--burstiness", error.to_string()))?
                    .sample(&mut random),
            };
            Ok(time)
        })
        .collect()
}

/// `times` with the last one at `end`.
fn stretched(mut times: Vec<f64>, end: f64) -> Vec<f64> {
    let last = times.last().copied().unwrap_or(0.0);
    if last > 0.0 {
        for time in &mut times {
            *time *= end / last;
        }
    }
    times
}

fn check_ramp(strategy: Ramp, start: f64, end: f64) -> Result<(), BenchError> {
    let fail = |message: String| Err(BenchError::flag("--ramp-up-start-rps", message));
    match strategy {
        _ if start > end => fail(format!("{start}: must not be above --ramp-up-end-rps, {end}")),
        _ if start <= 0.0 => fail(format!("{start}: must be above 0")),
        _ => Ok(()),
    }
}

fn from_trace(requests: &[Request], speed: f64) -> Result<Vec<Due>, BenchError> {
    if !(speed > 0.0 && speed.is_finite()) {
        return Err(BenchError::flag("--speed", format!("{speed}: must be above 0")));
    }
    let first = requests.iter().filter_map(|request| request.timestamp);
    let first = first.fold(f64::INFINITY, f64::min);
    let due = |request: &Request| match (request.after, request.timestamp) {
        (Some((index, think)), _) => Some(Due::After { index, think: think / speed }),
        (None, time) => Some(Due::At((time? - first) / speed)),
    };
    requests.iter().map(due).collect::<Option<_>>().ok_or_else(|| {
        BenchError::flag("--self-timed", "the requests of this dataset have no times")
    })
}

fn sessions(
    requests: &[Request],
    (rate, burstiness, think): (f64, f64, f64),
    seed: u64,
) -> Result<Vec<Due>, BenchError> {
    let mut previous = std::collections::HashMap::new();
    let links: Vec<Option<usize>> = requests
        .iter()
        .enumerate()
        .map(|(index, request)| previous.insert(request.session?, index))
        .collect();
    let num_first = links.iter().filter(|link| link.is_none()).count();
    let times = stretched(paced(num_first, seed, burstiness, |_| rate)?, num_first as f64 / rate);
    let mut times = times.into_iter();
    let due = |link: &Option<usize>| match link {
        Some(index) => Due::After { index: *index, think },
        None => Due::At(times.next().unwrap_or(0.0)),
    };
    Ok(links.iter().map(due).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::request::Prompt;
    use super::*;

    fn requests(num: usize) -> Vec<Request> {
        let prompt = Prompt::Ids(Arc::from([1]));
        (0..num).map(|_| Request::new(prompt.clone(), 1, 1)).collect()
    }

    fn times(arrivals: &Arrivals, num: usize) -> Vec<f64> {
        let due = arrivals.schedule(&requests(num), 7).unwrap();
        due.into_iter()
            .map(|due| match due {
                Due::At(time) => time,
                after @ Due::After { .. } => panic!("{after:?}"),
            })
            .collect()
    }

    #[test]
    fn the_last_request_falls_at_the_number_over_the_rate() {
        for burstiness in [0.2, 1.0, 5.0, f64::INFINITY] {
            let times = times(&Arrivals::Rate { rate: 4.0, burstiness }, 400);
            assert!(times.is_sorted(), "{burstiness}");
            assert!((times[399] - 100.0).abs() < 1e-9, "{burstiness}: {}", times[399]);
        }
        assert_eq!(times(&Arrivals::Rate { rate: f64::INFINITY, burstiness: 1.0 }, 3), [0.0; 3]);
    }

    #[test]
    fn burstiness_is_one_over_the_squared_variation_of_the_gaps() {
        for burstiness in [0.25, 1.0, 4.0] {
            let times = times(&Arrivals::Rate { rate: 10.0, burstiness }, 20_000);
            let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance =
                gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
            let found = mean * mean / variance;
            // Four standard errors of the estimate, roughly.
            assert!((found / burstiness - 1.0).abs() < 0.12, "{burstiness}: {found}");
        }
    }

    #[test]
    fn a_ramp_ends_faster_than_it_starts() {
        for strategy in [Ramp::Linear, Ramp::Exponential] {
            let ramp =
                Arrivals::Ramp { strategy, start: 1.0, end: 100.0, burstiness: f64::INFINITY };
            let times = times(&ramp, 50);
            assert!((times[0] - 1.0).abs() < 1e-9, "{times:?}");
            assert!((times[49] - times[48] - 0.01).abs() < 1e-9, "{times:?}");
        }
    }

    #[test]
    fn users_wait_for_their_own_answers() {
        let due = Arrivals::Users { num: 2, think: 0.5 }.schedule(&requests(4), 0).unwrap();
        let after = |index| Due::After { index, think: 0.5 };
        assert_eq!(due, [Due::At(0.0), Due::At(0.0), after(0), after(1)]);
    }

    #[test]
    fn turns_of_a_session_wait_for_one_another() {
        let mut requests = requests(4);
        for (request, session) in requests.iter_mut().zip([1, 2, 1, 2]) {
            request.session = Some(session);
        }
        let arrivals = Arrivals::Sessions { rate: 1.0, burstiness: f64::INFINITY, think: 0.0 };
        let due = arrivals.schedule(&requests, 0).unwrap();
        let after = |index| Due::After { index, think: 0.0 };
        assert_eq!(due, [Due::At(1.0), Due::At(2.0), after(0), after(1)]);
    }

    #[test]
    fn what_cannot_be_a_load_is_refused_by_name() {
        let fails =
            |arrivals: Arrivals| arrivals.schedule(&requests(2), 0).unwrap_err().to_string();
        let error = fails(Arrivals::Rate { rate: 0.0, burstiness: 1.0 });
        assert_eq!(error, "--request-rate: 0: must be above 0");
        let error = fails(Arrivals::Rate { rate: 1.0, burstiness: -1.0 });
        assert_eq!(error, "--burstiness: -1: must be above 0");
        let error = fails(Arrivals::Trace { speed: 1.0 });
        assert!(error.contains("have no times"), "{error}");
        let error = fails(Arrivals::Users { num: 0, think: 0.0 });
        assert!(error.contains("--users"), "{error}");
        let strategy = Ramp::Linear;
        let error = fails(Arrivals::Ramp { strategy, start: 3.0, end: 2.0, burstiness: 1.0 });
        assert!(error.contains("must not be above --ramp-up-end-rps, 2"), "{error}");
    }
}
