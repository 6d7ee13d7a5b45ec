//! The loop over virtual time: arrivals and ends of steps, in the order of their times.
//!
//! What arrives at the very time at which a step ends is admitted before the step is committed; a
//! step is planned when the one before it is committed, or when something arrives at an engine
//! that has nothing to do. Idle time costs nothing. The same inputs give the same outcome.

use std::collections::HashMap;
use std::sync::Arc;

use folio_engine::types::{Ended, FinishReason, Nanos, RequestId, SequenceId};

use crate::arrivals::{Arrival, Arrivals};
use crate::cluster::{Cluster, InstanceView, Route, RouteRequest, Router, Transfer};
use crate::executor::Expected;
use crate::gaps::Gaps;
use crate::instance::{Instance, Job, Setup, TurnedAway};
use crate::lengths::KnownLengths;
use crate::options::{Detail, FrontEnd, LogSink, Options, SimError};
use crate::outcome::{End, Outcome, RequestOutcome, Times, Verdict, Work};
use crate::series::{PerSecond, Series, num_tokens};
use crate::workload::{Record, Slo, Workload, combine};

/// Runs `workload` through one engine.
pub fn simulate(options: Options, workload: &mut dyn Workload) -> Result<Outcome, SimError> {
    Run::new(options, None)?.carry_out(workload)
}

/// Runs `workload` through several engines: that of the options and those of the cluster.
pub fn simulate_cluster(
    options: Options,
    cluster: Cluster,
    workload: &mut dyn Workload,
) -> Result<Outcome, SimError> {
    Run::new(options, Some(cluster))?.carry_out(workload)
}

/// A simulation on its way.
struct Run {
    instances: Vec<Instance>,
    router: Option<Box<dyn Router>>,
    rules: Rules,
    /// Requests that were sent and have not ended, by number.
    live: HashMap<u64, Live>,
    /// Requests whose prompts are computed, on their way to another engine.
    transfers: Vec<Moving>,
    log: Option<LogSink>,
    books: Books,
}

/// What holds for all requests.
struct Rules {
    front: FrontEnd,
    slo: Slo,
    detail: Detail,
    transfer: Transfer,
    lengths: Option<Arc<KnownLengths>>,
}

/// What is written down.
#[derive(Default)]
struct Books {
    requests: Vec<RequestOutcome>,
    tokens: Vec<(u64, Vec<Nanos>)>,
    series: Series,
    tokens_per_s: PerSecond,
    arrivals_per_s: PerSecond,
    work: Work,
    gaps: Gaps,
}

/// A request that was sent.
struct Live {
    record: Record,
    instance: usize,
    sequence: SequenceId,
    stage: Stage,
    outcome: RequestOutcome,
    /// When its tokens were known, of those given by an engine before.
    tokens: Vec<Nanos>,
}

/// What an engine does for a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// All of it.
    Whole,
    /// Its prompt and its first token; then it moves on.
    Prefill {
        /// Where to.
        decode: usize,
    },
    /// What comes after the first token.
    Decode,
}

/// A request whose keys and values are on their way.
struct Moving {
    at: Nanos,
    index: u64,
    decode: usize,
}

impl Run {
    fn new(options: Options, cluster: Option<Cluster>) -> Result<Self, SimError> {
        let Options { engine, policy, cost, host, front, slo, seed, detail, hooks } = options;
        let setup = |engine| Setup { engine, cost: cost.clone(), host, detail, seed };
        let mut instances = vec![Instance::new(setup(engine.validated()?), policy)];
        let (mut router, mut transfer) = (None, Transfer::default());
        if let Some(cluster) = cluster {
            for member in cluster.others {
                let engine = member.engine.validated()?;
                instances.push(Instance::new(setup(engine), member.policy));
            }
            router = Some(cluster.router);
            transfer = cluster.transfer;
        }
        if hooks.log.is_some() {
            instances[0].record();
        }
        Ok(Self {
            instances,
            router,
            rules: Rules { front, slo, detail, transfer, lengths: hooks.lengths },
            log: hooks.log,
            live: HashMap::new(),
            transfers: Vec::new(),
            books: Books::default(),
        })
    }

    fn carry_out(mut self, workload: &mut dyn Workload) -> Result<Outcome, SimError> {
        let mut arrivals = Arrivals::new(workload, self.rules.front.closes_at)?;
        loop {
            let sent = arrivals.next_at();
            let moved = self.transfers.iter().map(|moving| moving.at).min();
            let arrival = [sent, moved].into_iter().flatten().min();
            match (arrival, self.next_step()) {
                (None, None) => break,
                (Some(now), step) if step.is_none_or(|(end, _)| now <= end) => {
                    self.let_in(&mut arrivals, now)?;
                    self.wake_idle(&mut arrivals, now);
                }
                (_, Some((end, index))) => self.finish_step(index, end, &mut arrivals),
                (Some(_), None) => unreachable!("an arrival with no step before it comes first"),
            }
        }
        self.pass_on_calls(0);
        if self.live.is_empty() {
            return Ok(self.books.close(self.instances, &arrivals, self.rules.detail));
        }
        let now = self.instances.iter().map(Instance::now).max().unwrap_or_default();
        Err(SimError::Stuck { now_s: now.as_secs_f64(), num_left: self.live.len() })
    }

    /// The step that ends first, and the engine that computes it.
    fn next_step(&self) -> Option<(Nanos, usize)> {
        let ends = self.instances.iter().enumerate();
        ends.filter_map(|(index, instance)| Some((instance.next_end()?, index))).min()
    }

    /// Admits all that arrives at `now`.
    fn let_in(&mut self, arrivals: &mut Arrivals<'_>, now: Nanos) -> Result<(), SimError> {
        while let Some(position) = self.transfers.iter().position(|moving| moving.at == now) {
            let Moving { index, decode, .. } = self.transfers.remove(position);
            self.go_on(index, decode, arrivals, now);
        }
        while let Some(arrival) = arrivals.pop(now)? {
            self.books.tokens_per_s.start(now);
            self.books.arrivals_per_s.start(now);
            self.books.arrivals_per_s.add(1, now);
            self.send(arrival, arrivals, now)?;
        }
        Ok(())
    }

    /// Lets engines that compute nothing start.
    fn wake_idle(&mut self, arrivals: &mut Arrivals<'_>, now: Nanos) {
        for index in 0..self.instances.len() {
            let instance = &mut self.instances[index];
            if instance.next_end().is_none() && instance.num_live() > 0 {
                instance.fill(now);
                self.settle_ends(index, arrivals, now);
            }
        }
    }

    /// Ends a step and plans the next.
    fn finish_step(&mut self, index: usize, now: Nanos, arrivals: &mut Arrivals<'_>) {
        let instance = &mut self.instances[index];
        if let Some(report) = instance.finish_step() {
            let num_tokens = num_tokens(&report);
            let books = &mut self.books;
            books.work.busy = books.work.busy + report.device_time;
            books.work.num_computed_tokens += u64::from(num_tokens);
            books.work.max_step_tokens = books.work.max_step_tokens.max(num_tokens);
            books.tokens_per_s.add(u64::from(report.num_sampled_tokens), now);
            if books.series.count(num_tokens, now) {
                books.series.sample(self.instances.iter().map(Instance::gauges), now);
            }
        }
        self.settle_ends(index, arrivals, now);
        self.instances[index].fill(now);
        self.settle_ends(index, arrivals, now);
        self.pass_on_calls(index);
    }

    /// Gives the log what the first engine's scheduler was asked and decided.
    fn pass_on_calls(&mut self, index: usize) {
        if let Some(log) = &mut self.log
            && index == 0
        {
            log(self.instances[0].take_calls());
        }
    }

    /// Sends a request where the router says.
    fn send(
        &mut self,
        arrival: Arrival,
        arrivals: &mut Arrivals<'_>,
        now: Nanos,
    ) -> Result<(), SimError> {
        let Arrival { index, record } = arrival;
        if let Some(lengths) = &self.rules.lengths {
            lengths.enter(RequestId(index), record.output);
        }
        let route = self.route(index, &record, now)?;
        let mut live = Live::new(index, record);
        let (instance, stage) = match route {
            Route::To(instance) => (instance, Stage::Whole),
            Route::Split { prefill, decode } if live.record.output > 1 => {
                (prefill, Stage::Prefill { decode })
            }
            Route::Split { prefill, .. } => (prefill, Stage::Whole),
            Route::Reject => {
                self.turn_away(live, End::Rejected, arrivals, now);
                return Ok(());
            }
        };
        (live.instance, live.stage) = (instance, stage);
        self.admit(live, arrivals, now);
        Ok(())
    }

    fn route(&mut self, index: u64, record: &Record, now: Nanos) -> Result<Route, SimError> {
        let Some(router) = &mut self.router else { return Ok(Route::To(0)) };
        let views: Vec<InstanceView> = self.instances.iter().map(Instance::view).collect();
        let route = router.route(&RouteRequest { index, record, now }, &views);
        let named = match route {
            Route::To(instance) => instance,
            Route::Split { prefill, decode } => prefill.max(decode),
            Route::Reject => 0,
        };
        let num_instances = self.instances.len();
        if named >= num_instances {
            return Err(SimError::Route { record: index, instance: named, num_instances });
        }
        Ok(route)
    }

    /// Gives a request to its engine.
    fn admit(&mut self, mut live: Live, arrivals: &mut Arrivals<'_>, now: Nanos) {
        let record = &live.record;
        let max_tokens = self.rules.front.max_tokens;
        let (num_known, transferred) = match live.stage {
            Stage::Decode => (1, record.input),
            Stage::Whole | Stage::Prefill { .. } => (0, 0),
        };
        let output = match live.stage {
            Stage::Prefill { .. } => 1,
            Stage::Whole | Stage::Decode => record.output - num_known,
        };
        let timeout = self.rules.front.timeout;
        let job = Job {
            record,
            index: live.outcome.record,
            num_known,
            output,
            max_tokens: max_tokens.saturating_sub(num_known).max(1),
            transferred,
            slo: combine(record.slo, self.rules.slo),
            deadline: timeout.map(|timeout| live.outcome.times.arrival + timeout),
        };
        match self.instances[live.instance].admit(&job, now) {
            Ok(sequence) => {
                live.sequence = sequence;
                self.live.insert(live.outcome.record, live);
            }
            Err(TurnedAway::TooLong) => self.turn_away(live, End::TooLong, arrivals, now),
            Err(TurnedAway::QueueFull) => self.turn_away(live, End::QueueFull, arrivals, now),
        }
    }

    /// A request whose prompt was computed elsewhere arrives where it is to go on.
    fn go_on(&mut self, index: u64, decode: usize, arrivals: &mut Arrivals<'_>, now: Nanos) {
        if let Some(mut live) = self.live.remove(&index) {
            (live.instance, live.stage) = (decode, Stage::Decode);
            self.admit(live, arrivals, now);
        }
    }

    fn turn_away(&mut self, mut live: Live, end: End, arrivals: &mut Arrivals<'_>, now: Nanos) {
        live.outcome.end = end;
        self.close(live, arrivals, now);
    }

    /// Enters all that has ended on an engine.
    fn settle_ends(&mut self, index: usize, arrivals: &mut Arrivals<'_>, now: Nanos) {
        while let Some(ended) = self.instances[index].take_ended() {
            let Some(mut live) = self.live.remove(&ended.request.0) else { continue };
            let device = self.instances[index].forget(live.sequence);
            let handover = live.enter(&ended, device);
            if let Some(gap) = handover {
                self.books.gaps.add(gap);
            }
            let is_first_part = ended.reason == FinishReason::Stop(crate::prompt::STOP_TOKEN);
            match live.stage {
                Stage::Prefill { decode } if is_first_part => {
                    let at = now + self.rules.transfer.time(live.record.input);
                    self.transfers.push(Moving { at, index: ended.request.0, decode });
                    self.live.insert(ended.request.0, live);
                }
                _ => self.close(live, arrivals, now),
            }
        }
    }

    /// A request is over.
    fn close(&mut self, mut live: Live, arrivals: &mut Arrivals<'_>, now: Nanos) {
        let slo = combine(live.record.slo, self.rules.slo);
        live.outcome.times.ended = now;
        live.outcome.verdict = live.outcome.judge(slo);
        let index = live.outcome.record;
        if let Some(lengths) = &self.rules.lengths {
            lengths.forget(RequestId(index));
        }
        arrivals.note_end(index, live.record.session.is_some(), now);
        if self.rules.detail == Detail::Tokens {
            self.books.tokens.push((index, live.tokens));
        }
        self.books.requests.push(live.outcome);
    }
}

impl Live {
    fn new(index: u64, record: Record) -> Self {
        let outcome = RequestOutcome {
            record: index,
            tenant: record.tenant,
            times: Times { arrival: record.arrival, ..Times::default() },
            input: record.input,
            output: 0,
            num_cached: 0,
            num_preemptions: 0,
            max_gap: Nanos(0),
            end: End::Rejected,
            verdict: Verdict::NotAsked,
        };
        Self {
            record,
            instance: 0,
            sequence: SequenceId(0),
            stage: Stage::Whole,
            outcome,
            tokens: Vec::new(),
        }
    }

    /// Enters how it ended on an engine. Tells how long it was without a token while it moved there
    /// from another.
    fn enter(&mut self, ended: &Ended, device: Expected) -> Option<Nanos> {
        let (outcome, stats) = (&mut self.outcome, &ended.stats);
        let times = &mut outcome.times;
        outcome.max_gap = outcome.max_gap.max(device.max_gap);
        let handover = match (self.stage, stats.first_token, times.last_token) {
            (Stage::Decode, Some(first), Some(last)) => Some(first.since(last)),
            _ => None,
        };
        outcome.max_gap = outcome.max_gap.max(handover.unwrap_or_default());
        outcome.output += device.num_tokens;
        outcome.num_preemptions += stats.num_preemptions;
        if self.stage != Stage::Decode {
            outcome.num_cached = stats.num_cached_tokens;
        }
        times.first_scheduled = times.first_scheduled.or(stats.first_scheduled);
        times.first_token = times.first_token.or(stats.first_token);
        times.last_token = stats.last_token.or(stats.first_token).or(times.last_token);
        outcome.end = match ended.reason {
            FinishReason::Stop(_) => End::Complete,
            FinishReason::DeadlineExceeded => End::TimedOut,
            FinishReason::Refused(_) => End::Rejected,
            _ => End::Cut,
        };
        self.tokens.extend(device.tokens);
        handover
    }
}

impl Books {
    /// Sums up.
    fn close(
        mut self,
        instances: Vec<Instance>,
        arrivals: &Arrivals<'_>,
        detail: Detail,
    ) -> Outcome {
        self.requests.sort_unstable_by_key(|request| request.record);
        self.tokens.sort_unstable_by_key(|&(record, _)| record);
        self.work.num_instances = instances.len() as u32;
        for mut instance in instances {
            self.work.add(&instance.gauges());
            self.gaps.merge(instance.take_gaps());
        }
        let is_wanted = detail == Detail::Tokens;
        Outcome {
            requests: self.requests,
            tokens: self.tokens.into_iter().filter(|_| is_wanted).map(|(_, at)| at).collect(),
            gaps: self.gaps,
            work: self.work,
            series: self.series.into_samples(),
            max_tokens_per_s: self.tokens_per_s.max(),
            read: arrivals.tally(),
            arrivals_per_s: self.arrivals_per_s.burstiness(),
        }
    }
}
