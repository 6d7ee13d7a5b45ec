//! How much a key may use in a minute: token buckets that may go into debt.
//!
//! A bucket holds a minute's worth and fills evenly. A request is let in while something is left
//! and then pays what it really takes, its prompt at once and what is generated as it comes; what
//! is missing is owed, and later requests wait until it is paid. So the rate is exact over time, a
//! prompt longer than a minute's worth is not refused for ever, and the time that a refusal names
//! depends on nothing but the bucket.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::error::ApiError;

/// What may be used in a minute; `None` for any amount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Requests that ask for work.
    pub requests_per_minute: Option<u32>,
    /// Tokens, those of prompts and those generated.
    pub tokens_per_minute: Option<u32>,
}

/// What is left of the rates of one key.
#[derive(Debug)]
pub struct Allowance(Mutex<Buckets>);

#[derive(Debug)]
struct Buckets {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    per_minute: u32,
    /// Below zero for debt.
    level: f64,
    /// When `level` was right.
    at: Instant,
}

impl Rates {
    /// Whether there is no bound.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

impl Allowance {
    /// With nothing used yet.
    pub fn new(rates: &Rates) -> Self {
        let allowance = Self(Mutex::new(Buckets { requests: None, tokens: None }));
        allowance.set_rates(rates);
        allowance
    }

    /// Sets other rates. What was used stays used: a bucket keeps what is missing in it.
    pub fn set_rates(&self, rates: &Rates) {
        self.with_buckets(|buckets, now| {
            set_rate(&mut buckets.requests, rates.requests_per_minute, now);
            set_rate(&mut buckets.tokens, rates.tokens_per_minute, now);
        });
    }

    /// Takes one request, which is let in if tokens are left too.
    pub fn take_request(&self) -> Result<(), ApiError> {
        self.with_buckets(|buckets, now| {
            check(buckets.requests.as_mut(), now, "requests")?;
            check(buckets.tokens.as_mut(), now, "tokens")?;
            spend(buckets.requests.as_mut(), 1, now);
            Ok(())
        })
    }

    /// Takes the tokens of a prompt, if any are left.
    pub fn take_prompt(&self, num_tokens: u64) -> Result<(), ApiError> {
        self.with_buckets(|buckets, now| {
            check(buckets.tokens.as_mut(), now, "tokens")?;
            spend(buckets.tokens.as_mut(), num_tokens, now);
            Ok(())
        })
    }

    /// Takes tokens that were generated, left or not.
    pub fn take_generated(&self, num_tokens: u64) {
        self.with_buckets(|buckets, now| spend(buckets.tokens.as_mut(), num_tokens, now));
    }

    /// Gives back the tokens of a prompt that was not taken after all.
    pub fn give_back(&self, num_tokens: u64) {
        self.with_buckets(|buckets, now| {
            if let Some(bucket) = &mut buckets.tokens {
                bucket.fill(now);
                bucket.level = (bucket.level + num_tokens as f64).min(bucket.capacity());
            }
        });
    }

    /// Writes OpenAI's headers: the limits, what is left of them, the time until all is.
    pub fn report(&self, headers: &mut HeaderMap) {
        self.with_buckets(|buckets, now| {
            if let Some(bucket) = &mut buckets.requests {
                bucket.report(headers, now, &REQUEST_HEADERS);
            }
            if let Some(bucket) = &mut buckets.tokens {
                bucket.report(headers, now, &TOKEN_HEADERS);
            }
        });
    }

    fn with_buckets<T>(&self, change: impl FnOnce(&mut Buckets, Instant) -> T) -> T {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut buckets, Instant::now())
    }
}

const REQUEST_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKEN_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// The names of all headers that [`Allowance::report`] may write.
pub(crate) fn headers() -> impl Iterator<Item = HeaderName> {
    REQUEST_HEADERS.into_iter().chain(TOKEN_HEADERS)
}

fn set_rate(bucket: &mut Option<Bucket>, per_minute: Option<u32>, now: Instant) {
    let num_missing = bucket.as_mut().map_or(0.0, |bucket| {
        bucket.fill(now);
        bucket.capacity() - bucket.level
    });
    *bucket = per_minute.map(|per_minute| Bucket {
        per_minute,
        level: f64::from(per_minute) - num_missing,
        at: now,
    });
}

fn check(bucket: Option<&mut Bucket>, now: Instant, what: &str) -> Result<(), ApiError> {
    let Some(bucket) = bucket else {
        return Ok(());
    };
    bucket.fill(now);
    if bucket.level >= 1.0 {
        return Ok(());
    }
    let wait = bucket.time_to(1.0);
    let limit = bucket.per_minute;
    let message = format!(
        "this API key has used up its {limit} {what} a minute; the next are there in {}",
        duration_text(wait)
    );
    Err(ApiError::rate_limited(message, wait))
}

fn spend(bucket: Option<&mut Bucket>, num: u64, now: Instant) {
    if let Some(bucket) = bucket {
        bucket.fill(now);
        bucket.level -= num as f64;
    }
}

impl Bucket {
    fn capacity(&self) -> f64 {
        f64::from(self.per_minute)
    }

    fn per_second(&self) -> f64 {
        self.capacity() / 60.0
    }

    fn fill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + seconds * self.per_second()).min(self.capacity());
        self.at = now;
    }

    /// How long until the bucket holds `level`, nothing being taken.
    fn time_to(&self, level: f64) -> Duration {
        let seconds = ((level - self.level) / self.per_second()).max(0.0);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    fn report(&mut self, headers: &mut HeaderMap, now: Instant, names: &[HeaderName; 3]) {
        self.fill(now);
        let values = [
            self.per_minute.to_string(),
            format!("{:.0}", self.level.max(0.0).floor()),
            duration_text(self.time_to(self.capacity())),
        ];
        for (name, value) in names.iter().zip(values) {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name.clone(), value);
            }
        }
    }
}

/// As OpenAI writes times: `120ms`, `6s`, `1m30s`, rounded up.
fn duration_text(duration: Duration) -> String {
    let millis = duration.as_micros().div_ceil(1000);
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let seconds = millis.div_ceil(1000);
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates { requests_per_minute: Some(60), tokens_per_minute: Some(600) };

    fn header(allowance: &Allowance, name: &str) -> String {
        let mut headers = HeaderMap::new();
        allowance.report(&mut headers);
        headers[name].to_str().unwrap().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_names_the_time_after_which_a_request_is_let_in() {
        let allowance = Allowance::new(&RATES);
        for _ in 0..60 {
            allowance.take_request().unwrap();
        }
        let error = allowance.take_request().unwrap_err();
        assert_eq!(error.status(), 429);
        assert!(error.message().contains("60 requests a minute"), "{error}");
        tokio::time::advance(Duration::from_millis(999)).await;
        allowance.take_request().unwrap_err();
        tokio::time::advance(Duration::from_millis(2)).await;
        allowance.take_request().unwrap();
        allowance.take_request().unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_owed_is_paid_before_the_next_request() {
        let allowance = Allowance::new(&RATES);
        // More than a minute's worth: let in, and paid for afterwards.
        allowance.take_prompt(900).unwrap();
        allowance.take_generated(100);
        assert_eq!(header(&allowance, "x-ratelimit-remaining-tokens"), "0");
        assert_eq!(header(&allowance, "x-ratelimit-reset-tokens"), "1m40s");
        let error = allowance.take_request().unwrap_err();
        assert!(error.message().contains("600 tokens a minute"), "{error}");
        assert!(error.message().contains("41s"), "{error}");
        tokio::time::advance(Duration::from_secs(40)).await;
        allowance.take_request().unwrap_err();
        tokio::time::advance(Duration::from_millis(101)).await;
        allowance.take_request().unwrap();
        // A refused request took nothing.
        assert_eq!(header(&allowance, "x-ratelimit-remaining-requests"), "59");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_never_holds_more_than_a_minutes_worth() {
        let allowance = Allowance::new(&RATES);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(header(&allowance, "x-ratelimit-remaining-tokens"), "600");
        allowance.take_prompt(10).unwrap();
        allowance.give_back(10);
        allowance.give_back(10);
        assert_eq!(header(&allowance, "x-ratelimit-remaining-tokens"), "600");
    }

    #[tokio::test(start_paused = true)]
    async fn other_rates_forgive_nothing() {
        let allowance = Allowance::new(&RATES);
        allowance.take_prompt(500).unwrap();
        let tokens_per_minute = Some(1200);
        allowance.set_rates(&Rates { tokens_per_minute, ..RATES });
        assert_eq!(header(&allowance, "x-ratelimit-remaining-tokens"), "700");
        allowance.set_rates(&Rates { tokens_per_minute: Some(100), ..RATES });
        assert_eq!(header(&allowance, "x-ratelimit-remaining-tokens"), "0");
        allowance.take_prompt(1).unwrap_err();
    }

    #[test]
    fn times_are_written_as_openai_does() {
        for (millis, text) in
            [(0, "0ms"), (120, "120ms"), (1000, "1s"), (1001, "2s"), (90_000, "1m30s")]
        {
            assert_eq!(duration_text(Duration::from_millis(millis)), text);
        }
    }
}
