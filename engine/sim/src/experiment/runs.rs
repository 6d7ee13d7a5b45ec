//! The runs of an experiment, and how they are carried out on every core.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::file::{Arrivals, Experiment, words};

/// Flags of a command line without their dashes, each with its values.
pub type Flags = Vec<(String, Vec<String>)>;

/// One run: a policy under a load with a seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// What it is called beside what it is compared with: the policy, or the variant where the
    /// experiment has one policy only.
    pub label: String,
    /// The policy.
    pub policy: String,
    /// The request rate; `None` as the workload has it.
    pub rate: Option<Rate>,
    /// The seed.
    pub seed: u64,
    /// Values of the other flags that are varied, as `max-num-seqs=64 block-size=16`; empty where
    /// none are, or where they are the label.
    pub variant: String,
    /// How requests come at that rate.
    pub arrivals: Arrivals,
    /// All flags but those of the policy, the rate and the seed, with their values.
    pub flags: Flags,
}

/// A request rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// In requests a second.
    pub per_second: f64,
    /// As a share of what `fcfs` can do, where the experiment says it so.
    pub load: Option<f64>,
}

impl Job {
    /// The command line that does the same, after `folio sim`.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        for (flag, values) in &self.flags {
            arguments.push(format!("--{flag}"));
            arguments.extend(values.iter().cloned());
        }
        arguments.extend(["--policy".to_owned(), self.policy.clone()]);
        arguments.extend(["--seed".to_owned(), self.seed.to_string()]);
        if let Some(rate) = self.rate {
            let flag = format!("--{}", self.arrivals.flag());
            arguments.extend([flag, rate.per_second.to_string()]);
        }
        arguments
    }

    /// A name for its file: letters, digits and dashes. `tag` tells jobs of equal letters apart.
    pub fn file_name(&self, tag: &str) -> String {
        let mut text = format!("{} {}", self.label, self.variant);
        if let Some(rate) = self.rate {
            let _ = write!(text, " rate {}", (rate.per_second * 1e3).round() / 1e3);
        }
        let _ = write!(text, " seed {} {tag}", self.seed);
        let letters = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
        let name: String = letters.collect();
        name.split('-').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
    }
}

impl Experiment {
    /// The values of the flags that are varied beside policy, rate and seed: the variant's name
    /// and all flags.
    pub fn variants(&self) -> Vec<(String, Flags)> {
        let shared: Flags = self
            .run
            .iter()
            .filter_map(|(flag, value)| Some((flag.clone(), words(value)?)))
            .collect();
        let mut variants = vec![(String::new(), shared)];
        for (flag, values) in &self.sweep.options {
            variants = variants
                .iter()
                .flat_map(|(name, flags)| {
                    values.iter().filter_map(move |value| {
                        let values = words(value)?;
                        let name = format!("{name} {flag}={}", values.join(","));
                        let mut flags = flags.clone();
                        flags.push((flag.clone(), values));
                        Some((name.trim_start().to_owned(), flags))
                    })
                })
                .collect();
        }
        variants
    }

    /// All runs, given what `fcfs` can do in each variant (requests a second), which only
    /// [`loads`](super::Sweep::loads) need. In the order of variants, policies, rates, seeds.
    pub fn jobs(&self, capacities: &[f64]) -> Vec<Job> {
        let mut jobs = Vec::new();
        for (index, (variant, flags)) in self.variants().into_iter().enumerate() {
            // What is compared with each other gets the same load.
            let index = if self.compares_options() { 0 } else { index };
            let capacity = capacities.get(index).copied().unwrap_or(f64::NAN);
            let loads = self.sweep.loads.iter();
            let by_load = loads.map(|load| Rate { per_second: load * capacity, load: Some(*load) });
            let by_rate =
                self.sweep.rates.iter().map(|&per_second| Rate { per_second, load: None });
            let mut rates: Vec<Option<Rate>> = by_load.chain(by_rate).map(Some).collect();
            if rates.is_empty() {
                rates.push(None);
            }
            for policy in &self.sweep.policies {
                for rate in &rates {
                    for seed in self.sweep.seeds.list() {
                        let (label, variant) = if self.compares_options() {
                            (variant.clone(), String::new())
                        } else {
                            (policy.clone(), variant.clone())
                        };
                        jobs.push(Job {
                            label,
                            policy: policy.clone(),
                            rate: *rate,
                            seed,
                            variant,
                            arrivals: self.sweep.arrivals,
                            flags: flags.clone(),
                        });
                    }
                }
            }
        }
        jobs
    }
}

/// Does `work` for every item on `num_threads` threads; the results stand in the order of the
/// items, whatever the number of threads. After an error no further item is begun, and the error
/// of the first item that had one comes back.
pub fn in_parallel<T: Sync, R: Send, E: Send>(
    items: &[T],
    num_threads: NonZeroUsize,
    work: impl Fn(usize, &T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<R, E>>>> =
        Mutex::new(items.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..num_threads.get().min(items.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    let result = work(index, item);
                    if result.is_err() {
                        next.store(items.len(), Ordering::Relaxed);
                    }
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results[index] = Some(result);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().flatten().collect()
}
