//! A decision log against the scheduler: the same inputs at the same times must lead to the same
//! decisions, bit for bit.
//!
//! Arrivals, results, failures and cancellations are forced as they were recorded, so nothing is
//! left to the replayed scheduler but to decide. The first difference ends a replay: what follows
//! it would differ for no other reason. Neighbours: `explain` and `timeline` read the same logs.

mod difference;
mod forced;

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

use folio_engine::decisions::{Entry, Header, LogError, LogReader};
use folio_engine::sched::decisions::{
    BlameRecord, Call, Check, Decision, Ending, Input, RowResult,
};
use folio_engine::sched::{Blame, Decider, Scheduler};
use folio_engine::types::{
    ConfigError, Nanos, RequestId, ScheduledSeq, SequenceId, StepPlan, TokenSource,
};

use crate::history::History;

pub use difference::Difference;
use forced::Forced;

/// What came of a replay.
#[derive(Debug)]
#[must_use]
pub struct Replay {
    /// Calls that were compared.
    pub num_calls: u64,
    /// Steps among them.
    pub num_steps: u64,
    /// Requests that arrived in them.
    pub num_requests: u64,
    /// Time between the first and the last.
    pub span: Nanos,
    /// How it ended.
    pub end: ReplayEnd,
}

/// How a replay ended.
#[derive(Debug)]
pub enum ReplayEnd {
    /// With the log; all was equal.
    Complete,
    /// Where calls are missing in the log; all before was equal.
    Gap {
        /// Calls that are missing.
        num_calls: u64,
    },
    /// Where the log is cut off or damaged; all before was equal.
    Broken(LogError),
    /// With a decision that differs.
    Differs(Box<Difference>),
}

/// Why a log cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It begins in the middle.
    #[error("the log continues another, FILE.1, and can only be explained: replay that one")]
    Continues,
    /// Its settings are none.
    #[error("the settings in the log are invalid")]
    Config(#[from] ConfigError),
    /// Its policy cannot be made.
    #[error("policy {spec:?} of the log: {message}")]
    Policy {
        /// What the log says.
        spec: String,
        /// Why not.
        message: String,
    },
    /// What is recorded cannot have happened.
    #[error("call {call} of the log, at {at_s} s: {what}")]
    Inconsistent {
        /// Which call, from 0.
        call: u64,
        /// When.
        at_s: f64,
        /// What is wrong.
        what: &'static str,
    },
}

/// Makes a policy from its spec, for the engine of a log.
pub type MakePolicy<'a> = dyn FnMut(&Header, &str) -> Result<Decider, String> + 'a;

/// Replays `log` with policies that `make` makes.
pub fn replay<R: Read>(
    log: LogReader<R>,
    make: &mut MakePolicy<'_>,
) -> Result<Replay, ReplayError> {
    let header = log.header().clone();
    if header.continues {
        return Err(ReplayError::Continues);
    }
    let mut replayer = Replayer::new(&header, make)?;
    let mut replay = Replay {
        num_calls: 0,
        num_steps: 0,
        num_requests: 0,
        span: Nanos(0),
        end: ReplayEnd::Complete,
    };
    let mut first = None;
    for entry in log {
        let call = match entry {
            Ok(Entry::Call(call)) => call,
            Ok(Entry::Label { .. } | Entry::Carried { .. }) => continue,
            Err(error) => {
                replay.end = ReplayEnd::Broken(error);
                break;
            }
        };
        if let Input::Gap { num_calls, .. } = call.input {
            replay.end = ReplayEnd::Gap { num_calls };
            break;
        }
        replay.span = call.at.since(*first.get_or_insert(call.at));
        if let Input::Policy { spec } = &call.input {
            replayer.switch(made(make, &header, spec)?, spec, call.at);
            replay.num_calls += 1;
            continue;
        }
        if let Some(difference) = replayer.compare(&call, replay.num_calls)? {
            let num_steps = replay.num_steps;
            replay.end = ReplayEnd::Differs(Box::new(Difference { num_steps, ..difference }));
            break;
        }
        replay.num_calls += 1;
        replay.num_requests += u64::from(matches!(call.input, Input::Arrival(_)));
        let is_planned = |decision: &Decision| matches!(decision, Decision::Planned(_));
        replay.num_steps += u64::from(call.decisions.iter().any(is_planned));
    }
    Ok(replay)
}

fn made(make: &mut MakePolicy<'_>, header: &Header, spec: &str) -> Result<Decider, ReplayError> {
    let spec = spec.to_owned();
    make(header, &spec).map_err(|message| ReplayError::Policy { spec, message })
}

/// A scheduler that is fed what was recorded.
struct Replayer {
    scheduler: Scheduler,
    forced: Forced,
    in_flight: VecDeque<StepPlan>,
    /// What it said when it broke; a failure must follow.
    panic: Option<String>,
}

impl Replayer {
    fn new(header: &Header, make: &mut MakePolicy<'_>) -> Result<Self, ReplayError> {
        let mut config = header.engine.clone().validated()?;
        // Tokens of a log are hashes, and any number may be one.
        config.models.iter_mut().for_each(|model| model.vocab_size = u32::MAX);
        let mut scheduler = Scheduler::new(config, made(make, header, &header.policy)?);
        scheduler.record_decisions();
        let forced = Forced::default();
        Ok(Self { scheduler, forced, in_flight: VecDeque::new(), panic: None })
    }

    /// Another policy decides from now on. One that breaks at that is not taken, as it was then.
    fn switch(&mut self, policy: Decider, spec: &str, at: Nanos) {
        let _ = self.scheduler.switch_policy(policy, spec, at);
        self.scheduler.take_decisions();
    }

    /// Feeds a call, and tells where what is decided differs.
    fn compare(&mut self, call: &Call, number: u64) -> Result<Option<Difference>, ReplayError> {
        if matches!(call.decisions.as_slice(), [Decision::Refused(_)]) {
            return Ok(None); // it left nothing behind, and its own tokens are not known
        }
        let is_failure = matches!(call.input, Input::Reset { .. } | Input::FailAll { .. });
        if let Some(message) = self.panic.take()
            && !is_failure
        {
            return Ok(Some(Difference::broken(call, number, message)));
        }
        let inconsistent =
            |what| ReplayError::Inconsistent { call: number, at_s: call.at.as_secs_f64(), what };
        match catch_unwind(AssertUnwindSafe(|| self.feed(call))) {
            Ok(fed) => fed.map_err(inconsistent)?,
            Err(payload) => {
                let text = payload.downcast_ref::<String>().cloned();
                let text = text.or_else(|| payload.downcast_ref::<&str>().map(|&s| s.to_owned()));
                self.panic = Some(text.unwrap_or_default());
                self.scheduler.take_decisions();
                return Ok(None);
            }
        }
        let mut replayed = self.scheduler.take_decisions();
        let Some(replayed) = replayed.pop() else {
            return Err(inconsistent("it is of a kind that is not recorded"));
        };
        Ok(Difference::between(call, &replayed, number))
    }

    fn feed(&mut self, call: &Call) -> Result<(), &'static str> {
        self.scheduler.dictate_cancellations(cancellations(call));
        match &call.input {
            Input::Arrival(arrival) => {
                if self.scheduler.next_sequence() != arrival.first {
                    return Err("a request arrives whose sequences are not the next");
                }
                let request = self.forced.request(arrival);
                self.scheduler.admit(request, call.at);
            }
            Input::Plan => self.in_flight.extend(self.scheduler.plan(call.at)),
            Input::Commit { device_time, results } => {
                let plan = self.in_flight.pop_front().ok_or("a step ends and none is in flight")?;
                if plan.seqs.len() != results.len() {
                    return Err("a step ends with more or fewer results than it has rows");
                }
                let sequences = self.scheduler.sequences_mut();
                let output = self.forced.output(&plan, (results, *device_time), call, sequences);
                let _ = self.scheduler.commit(&plan, output, call.at);
            }
            Input::Reset { blame, arrivals, message } => {
                self.in_flight.clear();
                let plan = match blame {
                    BlameRecord::Step(ids) => plan_of(ids),
                    BlameRecord::Running | BlameRecord::Arrivals => StepPlan::default(),
                };
                let blame = match blame {
                    BlameRecord::Step(_) => Blame::Step(&plan),
                    BlameRecord::Running => Blame::Running,
                    BlameRecord::Arrivals => Blame::Arrivals,
                };
                self.scheduler.reset(blame, arrivals, message, call.at);
            }
            Input::FailAll { message } => {
                self.in_flight.clear();
                self.scheduler.fail_all(message);
            }
            Input::Policy { .. } | Input::Gap { .. } => return Err("it cannot be fed"),
        }
        Ok(())
    }
}

/// Tokens that each request of `log` was answered with, the longest choice of each: what an oracle
/// of lengths is told. Of a log that is broken, as far as it goes.
pub fn output_lengths<R: Read>(log: LogReader<R>) -> HashMap<RequestId, u32> {
    let mut history = History::default();
    let mut lengths = HashMap::new();
    crate::explain::read(log, |entry| {
        if let Entry::Call(call) = entry
            && let Input::Commit { results, .. } = &call.input
            && let Some(step) = history.oldest_step()
        {
            for (row, result) in step.rows.iter().zip(results) {
                let member = history.member(row.id);
                if let (RowResult::Token(_), Some(member)) = (result, member) {
                    let num_tokens = row.start + row.num_tokens + 1 - member.prompt_len;
                    let longest = lengths.entry(member.request).or_insert(0);
                    *longest = num_tokens.max(*longest);
                }
            }
        }
        history.enter(entry);
    });
    lengths
}

/// Who was found gone in `call`, and where.
fn cancellations(call: &Call) -> Vec<(SequenceId, Check)> {
    let gone = call.decisions.iter().filter_map(|decision| match decision {
        Decision::Ended { id, end: Ending::Cancelled(check) } => Some((*id, *check)),
        _ => None,
    });
    gone.collect()
}

/// A plan that computes `ids`, for the blame of it.
fn plan_of(ids: &[SequenceId]) -> StepPlan {
    let seqs = ids.iter().map(|&id| ScheduledSeq {
        id,
        model: folio_engine::types::ModelId(0),
        positions: 0..1,
        token: TokenSource::Known,
        emits: false,
    });
    StepPlan { seqs: seqs.collect(), ..StepPlan::default() }
}
