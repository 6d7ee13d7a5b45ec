//! Skip-join multi-level feedback queue, preemptive at every token (FastServe, arXiv 2305.05920).
//!
//! Level l has a quantum of `quantum * 2^l` of device time. A request joins the first level whose
//! quantum holds its prompt, so that it skips those it would only fall through; once it has used
//! its quantum up it drops a level. Levels go in order, and within one first come first served;
//! who is displaced keeps its place. Prompts are timed by the cost model, or, without one, by the
//! time that a token took lately.
//!
//! Guarantee: who has not run for `promote` is put at the end of level 0.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::sched::PolicyOptions;
use crate::sched::{
    Displacement, Phase, Policy, PolicyContext, PolicyError, PolicyRequest, Rank, Refresh,
    SchedEvent, View,
};
use crate::types::{BatchShape, CostModel, Emission, Nanos, SequenceId};

/// Serves first who has had little so far, and displaces who has had more.
#[derive(Debug)]
pub struct Mlfq {
    levels: Levels,
    cost: Option<Arc<dyn CostModel>>,
    jobs: HashMap<SequenceId, Job>,
    next_place: u64,
    /// Steps that were planned and have not ended, with who takes part and with how many tokens.
    in_flight: VecDeque<Flight>,
    /// Device time of a token, smoothed; in nanoseconds.
    pace: f64,
}

/// The levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Device time that a request may use at level 0; twice as much at each further one.
    pub quantum: Nanos,
    /// Number of levels, at least 1; a request never drops below the last.
    pub num: u32,
    /// Time without a place in a step after which a request is promoted.
    pub promote: Nanos,
}

impl Default for Levels {
    /// Quanta from 10 ms to 5 s, and promotion after 3 s, as in FastServe.
    fn default() -> Self {
        Self { quantum: Nanos(10_000_000), num: 10, promote: Nanos(3_000_000_000) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Job {
    level: u32,
    /// Device time used at this level.
    used: Nanos,
    /// Its place within the level.
    place: u64,
}

#[derive(Debug, Default)]
struct Flight {
    step: u64,
    ids: Vec<SequenceId>,
    num_tokens: u32,
}

/// Weight of the latest step in the smoothed pace.
const SMOOTHING: f64 = 0.1;

impl Levels {
    fn quantum_of(&self, level: u32) -> Nanos {
        Nanos(self.quantum.0.saturating_mul(1u64.checked_shl(level).unwrap_or(u64::MAX)))
    }

    /// The first level whose quantum holds `time`.
    fn holding(&self, time: Nanos) -> u32 {
        let last = self.num.saturating_sub(1);
        (0..last).find(|&level| self.quantum_of(level) >= time).unwrap_or(last)
    }
}

impl Mlfq {
    /// A queue of these levels.
    #[must_use]
    pub fn new(levels: Levels, cost: Option<Arc<dyn CostModel>>) -> Self {
        let (jobs, in_flight) = (HashMap::new(), VecDeque::new());
        Self { levels, cost, jobs, next_place: 0, in_flight, pace: 0.0 }
    }

    /// The keys `quantum`, `levels` and `promote`; the cost model is that of the context.
    pub fn from_options(
        options: &mut PolicyOptions<'_>,
        context: &PolicyContext,
    ) -> Result<Self, PolicyError> {
        let default = Levels::default();
        let levels = Levels {
            quantum: options.duration("quantum")?.unwrap_or(default.quantum),
            num: options.count("levels", 1..=32, default.num)?,
            promote: options.duration("promote")?.unwrap_or(default.promote),
        };
        Ok(Self::new(levels, context.cost.clone()))
    }

    /// Device time that the rest of the prompt of `request` takes alone.
    fn prefill_time(&self, request: PolicyRequest<'_>, view: &View<'_>) -> Nanos {
        let num_tokens = view.num_uncached_tokens(&request);
        let start = request.num_known().saturating_sub(num_tokens);
        match &self.cost {
            Some(cost) => {
                cost.predict(&BatchShape::row(start..request.num_known(), Emission::Result))
            }
            None => Nanos((self.pace * f64::from(num_tokens)) as u64),
        }
    }

    fn end_of(next_place: &mut u64, level: u32) -> Job {
        *next_place += 1;
        Job { level, used: Nanos(0), place: *next_place }
    }

    fn granted(&mut self, id: SequenceId, num_tokens: u32, step: u64) {
        if self.in_flight.back().is_some_and(|flight| flight.step > step) {
            self.in_flight.clear(); // the engine has failed and counts anew
        }
        if self.in_flight.back().is_none_or(|flight| flight.step != step) {
            self.in_flight.push_back(Flight { step, ..Flight::default() });
        }
        if let Some(flight) = self.in_flight.back_mut() {
            flight.ids.push(id);
            flight.num_tokens += num_tokens;
        }
    }

    fn stepped(&mut self, step: u64, time: Nanos) {
        while self.in_flight.front().is_some_and(|flight| flight.step <= step) {
            let Some(flight) = self.in_flight.pop_front() else { return };
            if flight.step != step {
                continue;
            }
            let latest = time.0 as f64 / f64::from(flight.num_tokens.max(1));
            let weight = if self.pace > 0.0 { SMOOTHING } else { 1.0 };
            self.pace += weight * (latest - self.pace);
            for id in flight.ids {
                self.charge(id, time);
            }
        }
    }

    /// Books the time of a step for one that took part in it.
    fn charge(&mut self, id: SequenceId, time: Nanos) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.used = job.used + time;
        let is_used_up = job.used >= self.levels.quantum_of(job.level);
        if is_used_up && job.level + 1 < self.levels.num {
            *job = Self::end_of(&mut self.next_place, job.level + 1);
        }
    }
}

impl Policy for Mlfq {
    fn name(&self) -> &'static str {
        "mlfq"
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Rank {
        let is_starved = request.phase() == Phase::Waiting
            && request.waited(view) >= self.levels.promote
            && self.jobs.get(&request.id()).is_some_and(|job| job.level > 0);
        let job = match self.jobs.get(&request.id()) {
            Some(&job) if !is_starved => job,
            known => {
                let skipped = || self.levels.holding(self.prefill_time(*request, view));
                let level = if known.is_some() { 0 } else { skipped() };
                let job = Self::end_of(&mut self.next_place, level);
                self.jobs.insert(request.id(), job);
                job
            }
        };
        Rank(f64::from(job.level), job.place as f64)
    }

    fn refresh(&self) -> Refresh {
        Refresh::EveryStep
    }

    fn displacement(&self) -> Displacement {
        Displacement::ByRank
    }

    fn observe(&mut self, event: &SchedEvent, _: &View<'_>) {
        match *event {
            SchedEvent::Granted { id, num_tokens, step, .. } => self.granted(id, num_tokens, step),
            SchedEvent::Stepped { step, device_time } => self.stepped(step, device_time),
            SchedEvent::Finished { id, .. } => {
                self.jobs.remove(&id);
            }
            _ => {}
        }
    }
}
