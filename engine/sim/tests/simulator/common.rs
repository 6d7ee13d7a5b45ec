//! What tests of simulations share.

use std::sync::Arc;

use folio_engine::sched::policies::Fcfs;
use folio_engine::types::{BatchShape, CostModel, EngineConfig, Nanos, PrefixCaching};
use folio_sim::instance::decoder_config;
use folio_sim::{Options, Outcome, Record, simulate};

pub(crate) const MS: u64 = 1_000_000;

/// A step takes 10 ms and 1 ms a token.
#[derive(Debug)]
pub(crate) struct TenAndOne;

impl CostModel for TenAndOne {
    fn name(&self) -> &'static str {
        "ten-and-one"
    }

    fn predict(&self, shape: &BatchShape) -> Nanos {
        Nanos((10 + u64::from(shape.num_tokens)) * MS)
    }
}

/// Every step takes this long.
#[derive(Debug)]
pub(crate) struct Constant(pub(crate) Nanos);

impl CostModel for Constant {
    fn name(&self) -> &'static str {
        "constant"
    }

    fn predict(&self, _: &BatchShape) -> Nanos {
        self.0
    }
}

pub(crate) fn ms(time: u64) -> Nanos {
    Nanos(time * MS)
}

pub(crate) fn record(arrival: u64, input: u32, output: u32) -> Record {
    Record { arrival: ms(arrival), input, output, ..Record::default() }
}

pub(crate) fn config() -> EngineConfig {
    EngineConfig { prefix_caching: PrefixCaching::Off, ..decoder_config(1000, 200) }
}

pub(crate) fn options(engine: EngineConfig) -> Options {
    Options::new(engine, Box::new(Fcfs), Arc::new(TenAndOne))
}

pub(crate) fn run(options: Options, records: Vec<Record>) -> Outcome {
    simulate(options, &mut records.into_iter()).expect("a simulation")
}

/// First scheduled, first token, last token, in milliseconds.
pub(crate) fn times(outcome: &Outcome, index: usize) -> (u64, u64, u64) {
    let times = &outcome.requests[index].times;
    let at = |time: Option<Nanos>| time.expect("it happened").0 / MS;
    (at(times.first_scheduled), at(times.first_token), at(times.last_token))
}

/// A generator of test cases (xorshift64*).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % u64::from(bound)) as u32
    }

    pub(crate) fn one_in(&mut self, num: u32) -> bool {
        self.below(num) == 0
    }
}
