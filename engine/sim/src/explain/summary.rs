//! A whole log in numbers: what became of requests, why they waited, who waited longest.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use folio_engine::decisions::{Entry, Header};
use folio_engine::sched::decisions::{Call, ComputedFate, Decision, Ending, Input, Levels};
use folio_engine::types::{ModelId, Nanos, SequenceId};
use serde::Serialize;

use super::reason::{Reason, closed};
use crate::history::{History, Place, count, duration, percent};
use crate::statistics::percentile;

const MINUTE: u64 = 60_000_000_000;

/// A log in numbers. Times are in seconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// What wrote the log.
    pub program: String,
    /// The policy at first.
    pub policy: String,
    /// Policies that followed, and when.
    pub policy_changes: Vec<(f64, String)>,
    /// Requests that arrived.
    pub num_requests: u64,
    /// Sequences of them.
    pub num_sequences: u64,
    /// Steps.
    pub num_steps: u64,
    /// From the first call to the last.
    pub span_s: f64,
    /// How sequences ended.
    pub ends: BTreeMap<&'static str, u64>,
    /// From the arrival to the first step: mean, median, 99th percentile, most.
    pub wait_s: [f64; 4],
    /// Why, by share of all waiting, preempted sequences included; the most first.
    pub reasons: Vec<ReasonShare>,
    /// The longest waits for a first step.
    pub longest_waits: Vec<WaitRow>,
    /// Preemptions, and tokens that they dropped and saved.
    pub preemptions: [u64; 3],
    /// Sequences that were preempted most often, with how often.
    pub most_preempted: Vec<(String, u64)>,
    /// The minute with the most waiting: when it began, sequences that waited and ran on average.
    pub busiest_minute: Option<(f64, f64, f64)>,
    /// Plans that the policy would have left empty.
    pub num_overridden: u64,
    /// Calls that are missing.
    pub num_lost_calls: u64,
    /// Failures after which the engine started anew.
    pub num_failures: u64,
}

/// A reason to wait.
#[derive(Clone, Debug, Serialize)]
pub struct ReasonShare {
    /// In words.
    pub reason: &'static str,
    /// Seconds, summed over sequences.
    pub total_s: f64,
}

/// A sequence that waited long.
#[derive(Clone, Debug, Serialize)]
pub struct WaitRow {
    /// Its request.
    pub request: u64,
    /// By its request, and its client's name for it.
    pub name: String,
    /// When it arrived.
    pub arrival_s: f64,
    /// How long it waited for its first step.
    pub wait_s: f64,
    /// Mostly for this, in a word.
    pub mostly: &'static str,
}

/// Time in the queue for each reason.
type ByReason = [u64; Reason::ALL.len()];

/// A summary in the making.
pub(super) struct Summing {
    summary: Summary,
    num_rows: usize,
    first: Option<Nanos>,
    last: Nanos,
    /// Reasons that held since the start, by model: every waiting sequence's time is a difference
    /// of these.
    clocks: Vec<Clock>,
    waiting: HashMap<SequenceId, Waiting>,
    waits: Vec<f64>,
    total: ByReason,
    preemptions: HashMap<SequenceId, u64>,
    minute: Minute,
}

#[derive(Clone, Default)]
struct Clock {
    passed: ByReason,
    reason: Option<Reason>,
    mark: Nanos,
}

/// A waiting sequence.
struct Waiting {
    since: Nanos,
    /// Since when, and the clock then; before it waits for the first plan.
    planned: Option<(Nanos, ByReason)>,
    /// A reason of its own, and since when.
    own: Option<(Reason, Nanos)>,
    passed: ByReason,
}

#[derive(Default)]
struct Minute {
    number: u64,
    num_plans: u64,
    num_waiting: u64,
    num_running: u64,
}

impl Summing {
    pub(super) fn new(header: &Header, num_rows: usize) -> Self {
        let summary = Summary {
            program: header.program.clone(),
            policy: header.policy.clone(),
            ..Summary::default()
        };
        Self {
            summary,
            num_rows,
            first: None,
            last: Nanos(0),
            clocks: vec![Clock::default(); header.engine.models.len()],
            waiting: HashMap::new(),
            waits: Vec::new(),
            total: ByReason::default(),
            preemptions: HashMap::new(),
            minute: Minute::default(),
        }
    }

    /// Looks at an entry; `history` is what was before it.
    pub(super) fn look(&mut self, entry: &Entry, history: &History) {
        let Entry::Call(call) = entry else { return };
        self.first.get_or_insert(call.at);
        self.last = call.at;
        match &call.input {
            Input::Arrival(arrival) => {
                self.summary.num_requests += 1;
                for choice in 0..arrival.num_choices {
                    self.summary.num_sequences += 1;
                    let id = SequenceId(arrival.first.0 + u64::from(choice));
                    let mut waiting = Waiting::new(call.at);
                    waiting.own = (choice > 0).then_some((Reason::Sibling, call.at));
                    self.waiting.insert(id, waiting);
                }
            }
            Input::Plan => self.plan(call, history),
            Input::Commit { .. } => {}
            Input::Reset { .. } | Input::FailAll { .. } => {
                self.summary.num_failures += 1;
                self.waiting.clear();
            }
            Input::Policy { spec } => {
                self.summary.policy_changes.push((call.at.as_secs_f64(), spec.clone()));
            }
            Input::Gap { num_calls, .. } => {
                self.summary.num_lost_calls += num_calls;
                self.waiting.clear();
            }
        }
        for decision in &call.decisions {
            self.decide(decision, call, history);
        }
    }

    /// A plan says why those that it leaves wait on.
    fn plan(&mut self, call: &Call, history: &History) {
        for (index, clock) in self.clocks.iter_mut().enumerate() {
            clock.advance(call.at);
            let closed = closed(call, ModelId(index as u32), history);
            clock.reason = Some(closed.map_or(Reason::Unknown, |closed| closed.reason));
        }
        let fresh = self.waiting.iter_mut();
        for (id, waiting) in fresh.filter(|(_, w)| w.planned.is_none() && w.own.is_none()) {
            let model = history.member(*id).map_or(0, |member| member.model.index());
            if let Some(clock) = self.clocks.get(model) {
                waiting.passed[Reason::Step as usize] += call.at.since(waiting.since).0;
                waiting.planned = Some((call.at, clock.passed));
            }
        }
    }

    fn decide(&mut self, decision: &Decision, call: &Call, history: &History) {
        match decision {
            Decision::Held { id, .. } => self.turn(*id, Some(Reason::Held), call.at, history),
            Decision::Skipped(id) => self.turn(*id, Some(Reason::Policy), call.at, history),
            Decision::Blocked { id, .. } => self.turn(*id, None, call.at, history),
            Decision::Admitted { id, .. } => self.stop(*id, call.at, history),
            Decision::Ended { id, end } => {
                self.stop(*id, call.at, history);
                *self.summary.ends.entry(kind(end)).or_default() += 1;
                if let Some(num) = self.preemptions.remove(id) {
                    self.summary.most_preempted.push((history.name(*id), num));
                    self.keep_most_preempted();
                }
            }
            Decision::Refused(_) => {
                *self.summary.ends.entry("refused").or_default() += 1;
                if let Input::Arrival(arrival) = &call.input {
                    let ids = arrival.first.0..arrival.first.0 + u64::from(arrival.num_choices);
                    self.waiting.retain(|id, _| !ids.contains(&id.0));
                }
            }
            Decision::Preempted(preemption) => {
                let [num, dropped, saved] = &mut self.summary.preemptions;
                *num += 1;
                match preemption.fate {
                    ComputedFate::Dropped => *dropped += u64::from(preemption.num_computed),
                    ComputedFate::Saved => *saved += u64::from(preemption.num_computed),
                }
                *self.preemptions.entry(preemption.id).or_default() += 1;
                self.waiting.insert(preemption.id, Waiting::new(call.at));
            }
            Decision::Overridden => self.summary.num_overridden += 1,
            Decision::Planned(plan) => {
                self.summary.num_steps += 1;
                self.count_minute(call.at, plan.levels);
            }
            _ => {}
        }
    }

    /// From now on a waiting sequence has a reason of its own, or that of all.
    fn turn(&mut self, id: SequenceId, own: Option<Reason>, at: Nanos, history: &History) {
        let Some(waiting) = self.waiting.get_mut(&id) else { return };
        if waiting.own.map(|(reason, _)| reason) == own {
            return;
        }
        let model = history.member(id).map_or(0, |member| member.model.index());
        if let Some(clock) = self.clocks.get(model) {
            waiting.close(at, clock);
            waiting.planned = Some((at, clock.passed));
            waiting.own = own.map(|reason| (reason, at));
        }
    }

    /// A sequence waits no longer.
    fn stop(&mut self, id: SequenceId, at: Nanos, history: &History) {
        let Some(mut waiting) = self.waiting.remove(&id) else { return };
        let Some(member) = history.member(id) else { return };
        if let Some(clock) = self.clocks.get_mut(member.model.index()) {
            clock.advance(at);
            waiting.close(at, clock);
        }
        for (sum, passed) in self.total.iter_mut().zip(waiting.passed) {
            *sum += passed;
        }
        if !member.has_run && member.place != Place::Unknown {
            let wait = at.since(member.arrival).as_secs_f64();
            self.waits.push(wait);
            let most = (0..Reason::ALL.len()).max_by_key(|&index| waiting.passed[index]);
            let mostly = Reason::ALL[most.unwrap_or(0)].short();
            self.keep_wait(WaitRow {
                request: member.request.0,
                name: history.name(id),
                arrival_s: member.arrival.as_secs_f64(),
                wait_s: wait,
                mostly,
            });
        }
    }

    fn keep_wait(&mut self, row: WaitRow) {
        let rows = &mut self.summary.longest_waits;
        let place = rows.partition_point(|other| other.wait_s >= row.wait_s);
        if place < self.num_rows {
            rows.insert(place, row);
            rows.truncate(self.num_rows);
        }
    }

    fn keep_most_preempted(&mut self) {
        let most = &mut self.summary.most_preempted;
        most.sort_by_key(|&(_, num)| std::cmp::Reverse(num));
        most.truncate(self.num_rows);
    }

    /// Enters the levels of a plan, and the minute before if one is over.
    fn count_minute(&mut self, at: Nanos, levels: Levels) {
        let number = at.0 / MINUTE;
        if number != self.minute.number {
            self.close_minute();
            self.minute = Minute { number, ..Minute::default() };
        }
        self.minute.num_plans += 1;
        self.minute.num_waiting += u64::from(levels.num_waiting);
        self.minute.num_running += u64::from(levels.num_running);
    }

    fn close_minute(&mut self) {
        let Minute { number, num_plans, num_waiting, num_running } = self.minute;
        if num_plans == 0 {
            return;
        }
        let mean = |sum: u64| sum as f64 / num_plans as f64;
        let waiting = mean(num_waiting);
        if self.summary.busiest_minute.is_none_or(|busiest| waiting > busiest.1) {
            self.summary.busiest_minute = Some(((number * 60) as f64, waiting, mean(num_running)));
        }
    }

    pub(super) fn finish(mut self) -> Summary {
        self.close_minute();
        let span = self.last.since(self.first.unwrap_or_default());
        self.summary.span_s = span.as_secs_f64();
        self.waits.sort_unstable_by(f64::total_cmp);
        if !self.waits.is_empty() {
            let mean = self.waits.iter().sum::<f64>() / self.waits.len() as f64;
            let most = self.waits.last().copied().unwrap_or_default();
            let at = |percent| percentile(&self.waits, percent).unwrap_or_default();
            self.summary.wait_s = [mean, at(50.0), at(99.0), most];
        }
        let mut reasons: Vec<_> = Reason::ALL
            .iter()
            .zip(self.total)
            .filter(|(_, total)| *total > 0)
            .map(|(reason, total)| ReasonShare {
                reason: reason.words(),
                total_s: Nanos(total).as_secs_f64(),
            })
            .collect();
        reasons.sort_by(|a, b| b.total_s.total_cmp(&a.total_s));
        self.summary.reasons = reasons;
        self.summary
    }
}

impl Clock {
    fn advance(&mut self, now: Nanos) {
        if let Some(reason) = self.reason {
            self.passed[reason as usize] += now.since(self.mark).0;
        }
        self.mark = now;
    }
}

impl Waiting {
    fn new(since: Nanos) -> Self {
        Self { since, planned: None, own: None, passed: ByReason::default() }
    }

    /// Enters the time up to now.
    fn close(&mut self, now: Nanos, clock: &Clock) {
        match (self.own, self.planned) {
            (Some((reason, since)), _) => self.passed[reason as usize] += now.since(since).0,
            (None, Some((_, before))) => {
                let passed = self.passed.iter_mut().zip(clock.passed).zip(before);
                passed.for_each(|((passed, now), before)| *passed += now - before);
            }
            (None, None) => self.passed[Reason::Step as usize] += now.since(self.since).0,
        }
    }
}

/// How a sequence ended, in a word.
fn kind(end: &Ending) -> &'static str {
    match end {
        Ending::Stop => "stop token",
        Ending::Complete => "grammar complete",
        Ending::Length => "length",
        Ending::Embedded => "embedded",
        Ending::Deadline => "deadline",
        Ending::Rejected => "rejected by the policy",
        Ending::Failed(_) => "failed",
        Ending::StepFailed => "failed with the engine",
        Ending::Cancelled(_) => "client gone",
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |seconds: f64| duration(Nanos::from_secs_f64(seconds));
        let (requests, steps) =
            (count(self.num_requests, "request"), count(self.num_steps, "step"));
        writeln!(f, "{requests} and {steps} in {}, policy {}", seconds(self.span_s), self.policy)?;
        for (at, spec) in &self.policy_changes {
            writeln!(f, "  from {at:.3} s: policy {spec}")?;
        }
        let ends = self.ends.iter().map(|(end, num)| format!("{} {end}", count(*num, "")));
        let ends: Vec<_> = ends.collect();
        let sequences = count(self.num_sequences, "sequence");
        writeln!(
            f,
            "  ends of {sequences}: {}",
            if ends.is_empty() { "none".into() } else { ends.join(", ") }
        )?;
        for (num, what) in [
            (self.num_failures, "failures of the engine"),
            (self.num_overridden, "steps planned against the policy, which would have idled"),
            (self.num_lost_calls, "calls missing in the log"),
        ] {
            if num > 0 {
                writeln!(f, "  {} {what}", count(num, ""))?;
            }
        }
        let [mean, p50, p99, most] = self.wait_s.map(seconds);
        writeln!(
            f,
            "\nWait before the first step\n  mean {mean}, p50 {p50}, p99 {p99}, longest {most}"
        )?;
        if let Some((at, waiting, running)) = self.busiest_minute {
            writeln!(
                f,
                "  busiest minute: from {at} s, {waiting:.1} waiting and {running:.1} running on \
                 average"
            )?;
        }
        self.tell_reasons(f)?;
        self.tell_rows(f)
    }
}

impl Summary {
    fn tell_reasons(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |seconds: f64| duration(Nanos::from_secs_f64(seconds));
        let total: f64 = self.reasons.iter().map(|reason| reason.total_s).sum();
        if total > 0.0 {
            writeln!(
                f,
                "\nWhat all waiting was for ({} in all, preempted sequences included)",
                seconds(total)
            )?;
            for ReasonShare { reason, total_s } in &self.reasons {
                let share = match percent(*total_s, total) {
                    zero if zero == "0 %" => "<1 %".to_owned(),
                    share => share,
                };
                writeln!(f, "  {share:>6}  {reason}")?;
            }
        }
        Ok(())
    }

    fn tell_rows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |seconds: f64| duration(Nanos::from_secs_f64(seconds));
        let [num, dropped, saved] = self.preemptions;
        if num > 0 {
            let (num, dropped) = (count(num, "preemption"), count(dropped, "computed token"));
            writeln!(f, "\n{num}: {dropped} dropped, {} saved", count(saved, ""))?;
            for (name, num) in self.most_preempted.iter().filter(|(_, num)| *num > 1) {
                writeln!(f, "  {} times: {name}", count(*num, ""))?;
            }
        }
        if !self.longest_waits.is_empty() {
            writeln!(f, "\nLongest waits before the first step")?;
            writeln!(f, "{:>12}{:>14}  {:<17} request", "waited", "arrived at", "mostly for")?;
        }
        for row in &self.longest_waits {
            let (wait, at) = (seconds(row.wait_s), row.arrival_s);
            writeln!(f, "{wait:>12}{at:>12.3} s  {:<17} {}", row.mostly, row.name)?;
        }
        Ok(())
    }
}
