//! Made-up load: the `random` data set of vLLM's `bench serve`, with tenants and shared prefixes.
//!
//! Lengths are drawn as vLLM draws them: each from the whole numbers from `len (1 - r)` to
//! `len (1 + r)`, all equally likely. The same seed gives the same load.

use std::sync::Arc;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::prompt::mix;
use crate::trace::{Drawn, Pace};
use crate::workload::{ReadTally, Record, TraceError, Workload};

/// What to make up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomLoad {
    /// Requests in all.
    pub num_prompts: u64,
    /// Tokens of a prompt behind its prefix, at least 1.
    pub input_len: u32,
    /// Tokens of an answer, at least 1.
    pub output_len: u32,
    /// How far lengths stray from these, as a share of them: 0 to below 1.
    pub range_ratio: f64,
    /// What prompts begin with.
    pub prefixes: Prefixes,
    /// Tenants, at least 1, each as likely as the others.
    pub num_tenants: u32,
    /// When requests arrive.
    pub pace: Pace,
    /// Key of all that is drawn.
    pub seed: u64,
}

/// What prompts begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixes {
    /// Tokens of a prefix; 0 for none.
    pub len: u32,
    /// How many there are, at least 1: each is as likely as the others.
    pub num: u32,
}

impl Default for RandomLoad {
    /// vLLM's: 1,000 prompts of 1,024 tokens, answers of 128, all at once.
    fn default() -> Self {
        Self {
            num_prompts: 1000,
            input_len: 1024,
            output_len: 128,
            range_ratio: 0.0,
            prefixes: Prefixes { len: 0, num: 1 },
            num_tenants: 1,
            pace: Pace { rate: f64::INFINITY, burstiness: 1.0 },
            seed: 0,
        }
    }
}

/// The load, a request at a time.
#[derive(Debug)]
pub struct RandomWorkload {
    load: RandomLoad,
    arrivals: Drawn,
    random: ChaCha8Rng,
    num_given: u64,
}

impl RandomWorkload {
    /// The load from its beginning.
    #[must_use]
    pub fn new(load: RandomLoad) -> Self {
        let random = ChaCha8Rng::seed_from_u64(mix(load.seed));
        Self { arrivals: Drawn::new(load.pace, load.seed), random, load, num_given: 0 }
    }

    fn length(&mut self, mean: u32) -> u32 {
        let (mean, ratio) = (f64::from(mean), self.load.range_ratio);
        let least = ((mean * (1.0 - ratio)).floor() as u32).max(1);
        let most = ((mean * (1.0 + ratio)).ceil() as u32).max(least);
        if ratio > 0.0 { self.random.random_range(least..=most) } else { mean as u32 }
    }
}

impl Workload for RandomWorkload {
    fn next(&mut self) -> Option<Result<Record, TraceError>> {
        if self.num_given == self.load.num_prompts {
            return None;
        }
        self.num_given += 1;
        let Prefixes { len, num } = self.load.prefixes;
        let which = if num > 1 { self.random.random_range(0..num) } else { 0 };
        let tenant = match self.load.num_tenants {
            0 | 1 => 0,
            num => self.random.random_range(0..num),
        };
        let prefix: Arc<[u64]> =
            if len > 0 { Arc::from([u64::from(which)]) } else { Arc::from([]) };
        Some(Ok(Record {
            arrival: self.arrivals.next(),
            tenant,
            input: len + self.length(self.load.input_len),
            output: self.length(self.load.output_len),
            prefix,
            prefix_block: len,
            ..Record::default()
        }))
    }

    fn tally(&self) -> ReadTally {
        ReadTally { num_read: self.num_given, num_kept: self.num_given, dropped: Vec::new() }
    }
}
