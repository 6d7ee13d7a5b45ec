//! The measurement on a device whose times are known.

use std::sync::Arc;

use folio_engine::types::{Clock, CostModel, ManualClock, Nanos, Sampling};

use super::*;
use crate::SimExecutor;
use crate::cost::{Identity, TERMS, Table, terms};
use crate::instance::decoder_config;

/// A device with these prices: a step, a sequence, a token, a pair, a token of context.
#[derive(Debug)]
struct Known;

impl CostModel for Known {
    fn name(&self) -> &'static str {
        "known"
    }

    fn predict(&self, shape: &BatchShape) -> Nanos {
        let prices =
            [90e3, 2e3, 0.0, 1e3, 700.0, 700.0, 700.0, 700.0, 700.0, 700.0, 0.4, 3.0, 9.0, 0.0];
        Nanos(terms(shape).iter().zip(prices).map(|(term, price)| term * price).sum::<f64>() as u64)
    }
}

/// Long enough for the pool and shorter than a round.
const SHORT: Nanos = Nanos(300_000_000);

fn measure(num_blocks: u32, max_time: Nanos) -> Profile {
    let clock = ManualClock::default();
    let executor = Box::new(SimExecutor::new(Arc::new(Known), clock.clone()));
    let options = ProfileOptions {
        engine: decoder_config(1024, num_blocks),
        sampling: Sampling::default(),
        max_time,
        seed: 3,
    };
    let clock: Arc<dyn Clock> = Arc::new(clock);
    let mut told = Vec::new();
    let profile = profile(executor, &clock, &options, &mut |share| told.push(share)).unwrap();
    assert!(told.iter().all(|share| (0.0..=1.0).contains(share)));
    profile
}

#[test]
fn about_three_hundred_shapes_of_all_kinds_are_measured() {
    let profile = measure(8193, SHORT);
    assert_eq!(profile.num_rounds, 1);
    let num_shapes = profile.samples.len();
    assert!((200..500).contains(&num_shapes), "{num_shapes}");
    let num = |is: fn(&BatchShape) -> bool| {
        profile.samples.iter().filter(|sample| is(&sample.shape)).count()
    };
    assert!(num(BatchShape::is_pure_decode) >= 50);
    assert!(num(|shape| shape.num_decode == 0) >= 30);
    assert!(num(|shape| shape.num_decode > 0 && shape.num_prefill() > 0) >= 100);
    assert!(num(|shape| shape.num_emitting < shape.num_seqs) >= 20);
    assert!(num(|shape| shape.num_seqs == 64 && shape.decode_context > 40_000) >= 1);
    assert!(num(|shape| shape.num_tokens > 1500) >= 5);
    for sample in &profile.samples {
        assert_eq!(sample.device_ns.round() as u64, Known.predict(&sample.shape).0, "{sample:?}");
    }
}

#[test]
fn the_fit_tells_the_prices_of_the_device() {
    let profile = measure(8193, SHORT);
    let file = profile.fit(Identity::default()).unwrap();
    assert!(file.decode.held_back.max < 0.01, "{file:?}");
    assert!(file.mixed.held_back.max < 0.01, "{file:?}");
    let pair = file.mixed.terms_ns["prefill_pair"];
    assert!((pair / 0.4 - 1.0).abs() < 0.02, "{pair}");
    let context = file.decode.terms_ns["decode_context"];
    assert!((context / 9.0 - 1.0).abs() < 0.02, "{context}");
    assert!(TERMS.iter().any(|(name, _)| *name == "prefill_pair"));
}

/// A cache of 400 blocks holds a fifth of what 64 sequences of full length need.
#[test]
fn a_small_cache_leaves_long_contexts_out_and_the_table_whole() {
    let profile = measure(400, SHORT);
    let file = profile.fit(Identity::default()).unwrap();
    let table = Table::new("t", profile.table(&file).unwrap(), None);
    for sample in profile.samples.iter().filter(|one| scenes::is_prefill_point(&one.shape)) {
        let error = table.predict(&sample.shape).0 as f64 / sample.device_ns - 1.0;
        assert!(error.abs() < 0.01, "{error} at {:?}", sample.shape);
    }
}

#[test]
fn rounds_go_on_until_the_time_is_up() {
    let one = measure(8193, SHORT);
    let more = measure(8193, Nanos(10 * SHORT.0));
    assert!(more.num_rounds > 2, "{}", more.num_rounds);
    assert!(more.steps.len() > 2 * one.steps.len());
    assert_eq!(more.samples.len(), one.samples.len());
}
