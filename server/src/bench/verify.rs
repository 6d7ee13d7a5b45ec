//! Whether answers under load are those that requests get alone: wrong tokens are no throughput.
//!
//! Some of the requests that succeeded are sent again, one at a time, at the same temperature 0 or
//! with the same seed. Text, number of tokens and reason of the end must be equal; vectors must
//! agree within a tolerance that is stated.

use std::fmt::Write as _;
use std::sync::Arc;

use rand::SeedableRng as _;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::client::Client;
use super::request::Request;
use super::sample::{Class, Sample};

/// Differences that are kept with their texts.
const MAX_SHOWN: usize = 5;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Check {
    /// Requests that are sent again.
    pub num: usize,
    /// Most that an element of a vector may differ.
    pub tolerance: f32,
    /// Chooses the requests.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verification {
    /// Requests that were sent again.
    pub num_checked: usize,
    /// Of these, those whose answer was another.
    pub num_different: usize,
    /// Of these, those that got no answer now.
    pub num_failed: usize,
    /// Largest difference between elements of vectors; 0 where there are none.
    pub max_difference: f32,
    /// Most that it may be.
    pub tolerance: f32,
    /// The first differences, in words.
    pub shown: Vec<String>,
}

impl Verification {
    /// Whether nothing differs. A run of which nothing could be checked is not verified.
    pub fn is_good(&self) -> bool {
        self.num_checked > 0 && self.num_different == 0 && self.num_failed == 0
    }

    /// In one line.
    pub fn line(&self) -> String {
        let Self { num_checked, num_different, num_failed, .. } = self;
        let verdict = if self.is_good() { "Verified" } else { "NOT VERIFIED" };
        let mut line = format!(
            "{verdict}: of {num_checked} requests sent again alone, {num_different} answers differ"
        );
        if *num_failed > 0 {
            let _ = write!(line, ", {num_failed} failed");
        }
        if self.max_difference > 0.0 {
            let _ = write!(
                line,
                " (vectors: largest difference {:e}, at most {:e})",
                self.max_difference, self.tolerance
            );
        }
        self.shown.iter().fold(line, |line, shown| line + "\n  " + shown)
    }

    /// As it stands in result files.
    pub fn to_json(&self) -> Value {
        json!({
            "passed": self.is_good(),
            "num_checked": self.num_checked,
            "num_different": self.num_different,
            "num_failed": self.num_failed,
            "max_difference": self.max_difference,
            "tolerance": self.tolerance,
            "differences": self.shown,
        })
    }
}

/// Sends some of `samples`, made of `requests`, again and alone.
pub async fn verify(
    client: &Arc<Client>,
    requests: &[Request],
    samples: &[Sample],
    check: Check,
) -> Verification {
    let good: Vec<&Sample> = samples.iter().filter(|sample| sample.is_success()).collect();
    let mut random = ChaCha8Rng::seed_from_u64(check.seed);
    let mut chosen = index::sample(&mut random, good.len(), check.num.min(good.len())).into_vec();
    chosen.sort_unstable();
    let mut found = Verification { tolerance: check.tolerance, ..Verification::default() };
    for sample in chosen.into_iter().map(|index| good[index]) {
        let request = &requests[sample.index];
        let body = client.body(sample.index, request, &[]);
        let alone = client.send(sample.index, request, body).await;
        found.num_checked += 1;
        let difference = match (&alone.failure, sample.class) {
            (Some(failure), _) => {
                found.num_failed += 1;
                Some(format!("failed ({}): {}", failure.kind, failure.text))
            }
            (None, Class::Embeddings) => {
                let difference = distance(&sample.vectors, &alone.vectors);
                found.max_difference = found.max_difference.max(difference);
                (difference > check.tolerance).then(|| format!("vectors differ by {difference:e}"))
            }
            (None, Class::Generation) => {
                let loaded = (&sample.text, sample.tokens.output, &sample.finish_reason);
                let alone = (&alone.text, alone.tokens.output, &alone.finish_reason);
                (loaded != alone).then(|| text_difference(loaded, alone))
            }
        };
        let Some(difference) = difference else { continue };
        found.num_different += usize::from(alone.failure.is_none());
        if found.shown.len() < MAX_SHOWN {
            found.shown.push(format!("request {}: {difference}", sample.index));
        }
    }
    found
}

/// Largest difference between elements; infinite if there are not as many.
fn distance(left: &[f32], right: &[f32]) -> f32 {
    if left.len() != right.len() {
        return f32::INFINITY;
    }
    // A NaN is no vector: it must not pass for equal.
    let differences = left.iter().zip(right).map(|(left, right)| (left - right).abs());
    differences.fold(0.0, |most, one| if one.is_nan() { f32::INFINITY } else { most.max(one) })
}

/// Text, tokens and reason of the end.
type Answer<'a> = (&'a String, u32, &'a Option<String>);

fn text_difference(loaded: Answer<'_>, alone: Answer<'_>) -> String {
    const MAX_CHARS: usize = 60;
    let shared = loaded.0.chars().zip(alone.0.chars()).take_while(|(a, b)| a == b).count();
    let rest = |text: &str| text.chars().skip(shared).take(MAX_CHARS).collect::<String>();
    let describe = |(text, num, reason): Answer<'_>| {
        let reason = reason.as_deref().unwrap_or("no reason");
        format!("{num} tokens ({reason}) going on with {:?}", rest(text))
    };
    format!(
        "the same for {shared} characters, then under load {}, alone {}",
        describe(loaded),
        describe(alone)
    )
}
