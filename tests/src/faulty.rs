//! An executor that fails when a script says so, whatever executor is within.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use folio_engine::exec::Executor;
use folio_engine::sched::Sequences;
use folio_engine::types::{Error, Result, StepOutput, StepPlan};

/// How a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepFault {
    /// `submit` returns an error.
    Refused,
    /// `submit` panics.
    PanicsAtSubmit,
    /// `collect` returns an error.
    Lost,
    /// `collect` panics.
    PanicsAtCollect,
}

impl StepFault {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::Refused, Self::PanicsAtSubmit, Self::Lost, Self::PanicsAtCollect];
}

/// Which steps fail, and how. Clones share it: it outlives the executors that it brings down, and
/// sees to it that there is never more than one of them.
#[derive(Clone, Debug, Default)]
pub struct FaultScript(Arc<Mutex<Script>>);

#[derive(Debug, Default)]
struct Script {
    num_steps: u64,
    at: BTreeMap<u64, StepFault>,
    one_in: Option<(u32, u64)>,
    num_faults: u32,
    num_executors: u32,
}

impl FaultScript {
    /// The steps with these numbers, counted from 0 over all executors, fail.
    #[must_use]
    pub fn at(faults: impl IntoIterator<Item = (u64, StepFault)>) -> Self {
        let script = Script { at: faults.into_iter().collect(), ..Script::default() };
        Self(Arc::new(Mutex::new(script)))
    }

    /// About one step in `num` fails, as `seed` says.
    #[must_use]
    pub fn one_in(num: u32, seed: u64) -> Self {
        let script = Script { one_in: Some((num, seed)), ..Script::default() };
        Self(Arc::new(Mutex::new(script)))
    }

    /// Steps that were made to fail.
    #[must_use]
    pub fn num_faults(&self) -> u32 {
        self.lock().num_faults
    }

    fn next(&self) -> Option<StepFault> {
        let mut script = self.lock();
        let step = script.num_steps;
        script.num_steps += 1;
        let by_chance = script.one_in.as_mut().and_then(|(num, state)| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99_991);
            let strikes = ((*state >> 33) as u32).is_multiple_of(*num);
            strikes.then(|| StepFault::ALL[(*state >> 40) as usize % StepFault::ALL.len()])
        });
        let fault = script.at.get(&step).copied().or(by_chance);
        script.num_faults += u32::from(fault.is_some());
        fault
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fails as its script says.
pub struct FaultyExecutor {
    inner: Box<dyn Executor>,
    script: FaultScript,
    in_flight: VecDeque<Option<StepFault>>,
}

impl std::fmt::Debug for FaultyExecutor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyExecutor").field("script", &self.script).finish_non_exhaustive()
    }
}

impl FaultyExecutor {
    /// `inner` with the faults of `script`. The one before it must be gone: two of them would
    /// take memory twice.
    #[must_use]
    pub fn new(inner: Box<dyn Executor>, script: FaultScript) -> Self {
        let mut locked = script.lock();
        locked.num_executors += 1;
        assert_eq!(locked.num_executors, 1, "another executor is still there");
        drop(locked);
        Self { inner, script, in_flight: VecDeque::new() }
    }
}

impl Drop for FaultyExecutor {
    fn drop(&mut self) {
        self.script.lock().num_executors -= 1;
    }
}

impl Executor for FaultyExecutor {
    fn max_in_flight(&self) -> usize {
        self.inner.max_in_flight()
    }

    fn notes(&self) -> &[String] {
        self.inner.notes()
    }

    fn submit(&mut self, plan: &StepPlan, sequences: &mut Sequences) -> Result<()> {
        let fault = self.script.next();
        match fault {
            Some(StepFault::Refused) => return Err(Error::Device("refused".into())),
            Some(StepFault::PanicsAtSubmit) => panic!("a panic that the test asked for"),
            _ => {}
        }
        self.inner.submit(plan, sequences)?;
        self.in_flight.push_back(fault);
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput> {
        match self.in_flight.pop_front().flatten() {
            Some(StepFault::PanicsAtCollect) => panic!("a panic that the test asked for"),
            Some(_) => Err(Error::Device("lost".into())),
            None => self.inner.collect(),
        }
    }
}
