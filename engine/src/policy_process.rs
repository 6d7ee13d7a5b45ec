//! A policy that another program is: `process: python3 my_policy.py`.
//!
//! Once a step the program is sent a line of JSON with what has changed, and answers with a line
//! that orders what waits. Live, the answer is used in the next plan and nobody waits for it longer
//! than a deadline; in a simulation it is waited for, so that runs are alike. While there is no
//! usable answer, the order is first come, first served. See docs/policy-protocol.md.

mod link;
mod protocol;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use self::link::{Link, Silence};
use self::protocol::{Answer, Arrival, Hello, Message};
use crate::sched::{
    ComplaintKind, Complaints, Limits, Origin, Policy, PolicyContext, PolicyError, PolicyRequest,
    Rank, Refresh, Registry, SchedEvent, SpecText, Tempo, View, parse_duration,
};
use crate::types::{Nanos, SequenceId};

/// Longest wait for an answer before a plan that serves clients.
const DEADLINE: Duration = Duration::from_millis(2);
/// Without an answer for so long, a program is given up.
const STALL: Duration = Duration::from_secs(5);
/// The same where time is simulated, and nobody else waits.
const SIMULATED_STALL: Duration = Duration::from_secs(30);
/// Deltas are sent ahead of their turn when there are so many.
const MAX_DELTAS: usize = 1 << 16;

const HELP: &str = "asks another program, such as 'process: python3 policy.py'; see \
    docs/policy-protocol.md";

/// Adds `process:` to the policies of `registry`.
pub fn register(registry: &mut Registry) {
    registry.register_language("process", HELP, make);
}

/// What stands before the command.
#[derive(Debug)]
struct Settings {
    deadline: Duration,
    stall: Duration,
    tells_cached: bool,
}

/// Starts the program that `text` names.
fn make(text: SpecText<'_>, context: &PolicyContext) -> Result<Box<dyn Policy>, PolicyError> {
    if context.origin == Origin::Network {
        let message = "a program is started for whoever starts the server, and for nobody else";
        return Err(text.error_at(0, message));
    }
    let (settings, command) = settings(text, context.tempo)?;
    let num_blanks = command.text().len() - command.text().trim_start().len();
    let words = shlex::split(command.text()).filter(|words| !words.is_empty());
    let Some(words) = words else {
        let message = match command.text().trim() {
            "" => "a command is missing, such as python3 policy.py",
            _ => "a quotation mark is open",
        };
        return Err(command.error_at(num_blanks, message));
    };
    let hello = Hello::new(context);
    let link = Link::start(&words, &hello).map_err(|error| {
        command.error_at(num_blanks, format!("{} cannot be started: {error}", words[0]))
    })?;
    Ok(Box::new(ProcessPolicy {
        command: command.text().trim().to_owned(),
        settings,
        tempo: context.tempo,
        link: Some(link),
        outstanding: None,
        ranks: HashMap::new(),
        live: HashSet::new(),
        next_id: 0,
        message: Message::default(),
        told: HashMap::new(),
        voice: Voice { complaints: context.complaints.clone(), said: HashSet::new() },
    }))
}

/// Reads `deadline=`, `stall=` and `cached=` before the command, and what is left.
fn settings(text: SpecText<'_>, tempo: Tempo) -> Result<(Settings, SpecText<'_>), PolicyError> {
    let stall = if tempo == Tempo::Live { STALL } else { SIMULATED_STALL };
    let mut settings = Settings { deadline: DEADLINE, stall, tells_cached: false };
    let mut rest = text;
    loop {
        let num_blanks = rest.text().len() - rest.text().trim_start().len();
        let start = rest.after(num_blanks);
        let end = start.text().find(char::is_whitespace).unwrap_or(start.text().len());
        let word = start.part(0, end);
        let Some((key, value)) = word.text().split_once('=') else { return Ok((settings, rest)) };
        let refuse = |limit: &str| {
            let message = format!("{key} is {value:?} and must be {limit}");
            Err(word.error_at(key.len() + 1, message))
        };
        let time = || parse_duration(value).map(|time| Duration::from_nanos(time.0));
        let limit = "a time above 0 and at most 1h, such as 500us, 2ms or 1.5s";
        match (key, time()) {
            ("deadline", Some(time)) => settings.deadline = time,
            ("stall", Some(time)) => settings.stall = time,
            ("deadline" | "stall", None) => return refuse(limit),
            ("cached", _) if value == "on" => settings.tells_cached = true,
            ("cached", _) if value == "off" => settings.tells_cached = false,
            ("cached", _) => return refuse("on or off"),
            // A variable for the program, or part of its name.
            _ => return Ok((settings, rest)),
        }
        rest = start.after(end);
    }
}

/// A policy that another program is.
struct ProcessPolicy {
    command: String,
    settings: Settings,
    tempo: Tempo,
    /// `None` once it is given up.
    link: Option<Link>,
    /// The question without an answer.
    outstanding: Option<Question>,
    /// What the latest answers said.
    ranks: HashMap<SequenceId, f64>,
    live: HashSet<SequenceId>,
    /// The smallest id that was never heard of.
    next_id: u64,
    /// What has changed since the last question.
    message: Message,
    /// Cached tokens that the program knows of, where it wants to.
    told: HashMap<SequenceId, u32>,
    voice: Voice,
}

/// A line that was sent and not answered.
#[derive(Clone, Copy, Debug)]
struct Question {
    step: u64,
    sent: Nanos,
    /// Whether somebody has waited for the answer: once is enough.
    is_late: bool,
}

/// Complains, about each kind of thing once.
struct Voice {
    complaints: Complaints,
    said: HashSet<&'static str>,
}

impl Voice {
    fn complain(&mut self, kind: ComplaintKind, text: impl FnOnce() -> String) {
        self.complaints.count(kind);
        if self.said.insert(kind.name()) {
            self.complaints.say(&text());
        }
    }
}

impl ProcessPolicy {
    /// Takes the answer if it is there, or comes within the deadline of its question.
    fn take_answer(&mut self, now: Nanos) {
        let (Some(question), Some(link)) = (&mut self.outstanding, &self.link) else { return };
        let patience = match self.tempo {
            _ if question.is_late => Duration::ZERO,
            Tempo::Live => self.settings.deadline,
            Tempo::Simulated => self.settings.stall,
        };
        let question_now = *question;
        match link.answer(patience) {
            Ok(line) => {
                self.outstanding = None;
                self.enter(question_now.step, &line);
            }
            Err(Silence::Ended(how)) => self.give_up(question_now.step, &how),
            Err(Silence::NotYet) => {
                let was_late = std::mem::replace(&mut question.is_late, true);
                let silent_for = Duration::from_nanos(now.since(question.sent).0);
                let is_stalled = silent_for >= self.settings.stall;
                if is_stalled || self.tempo == Tempo::Simulated {
                    let stall = self.settings.stall;
                    self.give_up(question_now.step, &format!("no answer for {stall:?}"));
                } else if !was_late {
                    let (command, deadline) = (&self.command, self.settings.deadline);
                    self.voice.complain(ComplaintKind::Late, || {
                        format!(
                            "policy process {command:?}: no answer to step {} within {deadline:?}: \
                             the order before it holds; from now on this is counted",
                            question_now.step
                        )
                    });
                }
            }
        }
    }

    /// Enters an answer, or complains about it.
    fn enter(&mut self, step: u64, line: &str) {
        let is_known = |id: u64| id < self.next_id;
        let answer = match Answer::read(line, step, is_known) {
            Ok(answer) => answer,
            Err(what) => {
                self.ranks.clear();
                let command = &self.command;
                self.voice.complain(ComplaintKind::Nonsense, || {
                    format!(
                        "policy process {command:?}: the answer to step {step} is of no use: \
                         {what}; first come, first served until the next; from now on this is \
                         counted"
                    )
                });
                return;
            }
        };
        match answer {
            Answer::Nothing => {}
            Answer::Ranks(ranks) => {
                let live = &self.live;
                self.ranks.extend(ranks.into_iter().filter(|(id, _)| live.contains(id)));
            }
            Answer::Order(order) => {
                let ids = order.into_iter().filter(|id| self.live.contains(id));
                self.ranks = ids.zip(0..).map(|(id, place)| (id, f64::from(place))).collect();
            }
        }
    }

    /// First come, first served from now on.
    fn give_up(&mut self, step: u64, why: &str) {
        self.link = None;
        self.outstanding = None;
        self.ranks = HashMap::new();
        self.told = HashMap::new();
        let command = &self.command;
        self.voice.complain(ComplaintKind::Ended, || {
            format!(
                "policy process {command:?}: {why} at step {step}: first come, first served from \
                 now on"
            )
        });
    }

    /// Sends what has changed, unless the program still thinks about the last time or nothing has.
    fn ask(&mut self, view: &View<'_>) {
        let Some(link) = &self.link else { return };
        if self.outstanding.is_some() || (self.message.is_empty() && view.num_waiting() == 0) {
            return;
        }
        let step = self.message.step + 1;
        let mut message = std::mem::replace(&mut self.message, Message::of_step(step));
        message.step = step;
        message.look(view);
        let line = message.line();
        let sent = view.now();
        match line.map(|line| link.ask(line)) {
            Ok(Ok(())) => self.outstanding = Some(Question { step, sent, is_late: false }),
            Ok(Err(how)) => self.give_up(step, &how),
            Err(error) => self.give_up(step, &format!("the step could not be written: {error}")),
        }
        if self.tempo == Tempo::Simulated {
            self.take_answer(view.now());
        }
    }
}

impl Policy for ProcessPolicy {
    fn name(&self) -> &'static str {
        "process"
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Rank {
        self.take_answer(view.now());
        let id = request.id();
        if self.settings.tells_cached && self.link.is_some() && request.num_computed() == 0 {
            let num_cached = view.num_cached_tokens(request);
            if self.told.insert(id, num_cached) != Some(num_cached) {
                self.message.cached.push((id.0, num_cached));
            }
        }
        Rank(self.ranks.get(&id).copied().unwrap_or(f64::INFINITY), 0.0)
    }

    fn refresh(&self) -> Refresh {
        Refresh::EveryStep
    }

    fn limits(&mut self, view: &View<'_>) -> Limits {
        self.ask(view);
        view.defaults()
    }

    fn observe(&mut self, event: &SchedEvent, view: &View<'_>) {
        if self.link.is_none() {
            return;
        }
        let message = &mut self.message;
        match *event {
            SchedEvent::Arrived(id) => {
                self.live.insert(id);
                self.next_id = self.next_id.max(id.0 + 1);
                if let Some(request) = view.request(id) {
                    message.arrived.push(Arrival::of(request, view.now()));
                }
            }
            SchedEvent::Admitted { id, num_cached_tokens } => {
                message.admitted.push((id.0, num_cached_tokens));
            }
            SchedEvent::Granted { id, num_tokens, .. } => message.grant(id, num_tokens),
            SchedEvent::Preempted(id) => message.preempted.push(id.0),
            SchedEvent::Finished { id, num_generated, .. } => {
                self.live.remove(&id);
                self.ranks.remove(&id);
                self.told.remove(&id);
                message.finished.push((id.0, num_generated));
            }
            SchedEvent::Stepped { device_time, .. } => message.device_ns += device_time.0,
        }
        if self.message.len() > MAX_DELTAS {
            let step = self.message.step + 1;
            self.give_up(step, "it does not keep up with what happens");
        }
    }
}
