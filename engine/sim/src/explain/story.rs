//! What happened to one request, from its arrival to its end.

use std::fmt::Write as _;

use folio_engine::decisions::{Entry, Header};
use folio_engine::sched::decisions::{Call, Decision, Input, RowResult};
use folio_engine::types::{Nanos, SequenceId};

use super::beat::{Beat, Tokens};
use super::reason::{Reason, closed};
use super::wait::{Wait, detail};
use super::{ShowTime, Wanted};
use crate::history::{History, Member, Place, count, duration, ending};

/// The sequences that are wanted.
pub(super) struct Stories {
    wanted: Wanted,
    models: Vec<String>,
    policy: String,
    block_size: u32,
    num_blocks: u32,
    told: Vec<Story>,
}

/// What happened to a sequence.
struct Story {
    id: SequenceId,
    member: Member,
    name: String,
    beats: Vec<(Nanos, Beat)>,
    wait: Option<Wait>,
    chunks: Vec<u32>,
    chunks_since: Nanos,
    tokens: Tokens,
    is_over: bool,
}

impl Stories {
    pub(super) fn new(header: &Header, wanted: Wanted) -> Self {
        Self {
            wanted,
            models: header.models.iter().map(|model| model.name.clone()).collect(),
            policy: header.policy.clone(),
            block_size: header.engine.block_size,
            num_blocks: header.engine.num_blocks.saturating_sub(1),
            told: Vec::new(),
        }
    }

    /// Looks at an entry; `history` is what was before it.
    pub(super) fn look(&mut self, entry: &Entry, history: &History) {
        match entry {
            Entry::Label { .. } => {}
            Entry::Carried { at, .. } => self.meet(entry, *at, history),
            Entry::Call(call) => {
                for story in self.told.iter_mut().filter(|story| !story.is_over) {
                    story.look(call, history, (self.block_size, self.num_blocks));
                }
                if let Input::Policy { spec } = &call.input {
                    self.policy.clone_from(spec);
                }
                if let Input::Arrival(_) = call.input {
                    self.meet(entry, call.at, history);
                }
            }
        }
    }

    /// Begins the stories of a request that is wanted.
    fn meet(&mut self, entry: &Entry, at: Nanos, history: &History) {
        let (arrival, refusal) = match entry {
            Entry::Carried { arrival, .. } => (arrival, None),
            Entry::Call(call) => match &call.input {
                Input::Arrival(arrival) => (arrival, call.decisions.iter().find_map(refusal)),
                _ => return,
            },
            Entry::Label { .. } => return,
        };
        let is_wanted = match &self.wanted {
            Wanted::Number(number) => arrival.request == *number,
            Wanted::Label(label) => history.label(arrival.request) == Some(label),
        };
        if !is_wanted {
            return;
        }
        let mut after = History::default();
        after.enter(&without_decisions(entry));
        let num_ahead =
            history.members().filter(|(_, member)| member.place == Place::Waiting).count();
        for choice in 0..arrival.num_choices {
            let id = SequenceId(arrival.first.0 + u64::from(choice));
            let Some(member) = after.member(id) else { continue };
            let label = history.label(arrival.request);
            let label = label.map(|label| format!(" ({label})")).unwrap_or_default();
            let mut story =
                Story::new(id, member.clone(), format!("Request {}{label}", arrival.request));
            match (&entry, &refusal) {
                (Entry::Carried { .. }, _) => story.beat(at, Beat::Carried),
                (_, Some(why)) => {
                    story.beat(at, Beat::Ended(format!("refused at once: {why}")));
                    story.is_over = true;
                }
                _ => {
                    story.beat(at, Beat::Arrived { num_ahead });
                    let reason = if choice == 0 { Reason::Step } else { Reason::Sibling };
                    story.wait = Some(Wait::new(at, reason));
                }
            }
            self.told.push(story);
        }
    }

    /// The stories in words.
    pub(super) fn tell(self, show: &ShowTime<'_>) -> Vec<String> {
        let (models, policy) = (self.models, self.policy);
        self.told.into_iter().map(|story| story.tell(&models, &policy, show)).collect()
    }
}

fn refusal(decision: &Decision) -> Option<String> {
    match decision {
        Decision::Refused(why) => Some(why.clone()),
        _ => None,
    }
}

/// The entry as if nothing had been decided.
fn without_decisions(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    if let Entry::Call(call) = &mut entry {
        call.decisions.clear();
    }
    entry
}

impl Story {
    fn new(id: SequenceId, member: Member, name: String) -> Self {
        Self {
            id,
            member,
            name,
            beats: Vec::new(),
            wait: None,
            chunks: Vec::new(),
            chunks_since: Nanos(0),
            tokens: Tokens::default(),
            is_over: false,
        }
    }

    fn beat(&mut self, at: Nanos, beat: Beat) {
        self.beats.push((at, beat));
    }

    fn look(&mut self, call: &Call, history: &History, pool: (u32, u32)) {
        match &call.input {
            Input::Commit { results, .. } => self.commit(call, results, history),
            Input::Plan => self.plan(call, history, pool),
            Input::Gap { num_calls, .. } => self.beat(call.at, Beat::Lost(*num_calls)),
            Input::Reset { message, .. } | Input::FailAll { message } => {
                self.stop_running(call.at);
                self.beat(call.at, Beat::Failure(message.clone()));
                self.wait.get_or_insert_with(|| Wait::new(call.at, Reason::Step));
            }
            Input::Arrival(_) | Input::Policy { .. } => {}
        }
        for decision in &call.decisions {
            self.decide(decision, call, history);
        }
    }

    /// A plan says why it goes on waiting.
    fn plan(&mut self, call: &Call, history: &History, (block_size, num_blocks): (u32, u32)) {
        let (id, model) = (self.id, self.member.model);
        let Some(wait) = &mut self.wait else { return };
        wait.advance(call.at);
        let is_leaving = |decision: &Decision| match decision {
            Decision::Admitted { id: other, .. } | Decision::Ended { id: other, .. } => {
                *other == id
            }
            _ => false,
        };
        if call.decisions.iter().any(is_leaving) || wait.reason == Some(Reason::Sibling) {
            return;
        }
        wait.note_overtaking(call, history, (id, self.member.arrival));
        let closed = closed(call, model, history);
        let own = call.decisions.iter().find_map(|decision| match decision {
            Decision::Held { id: other, by } if *other == id => {
                let by = by.map(|by| format!("computed by {}", history.name(by)));
                Some((Reason::Held, by.unwrap_or_default()))
            }
            Decision::Skipped(other) if *other == id => Some((Reason::Policy, String::new())),
            _ => None,
        });
        let is_own = |reason: Option<Reason>| matches!(reason, Some(Reason::Held | Reason::Policy));
        match (own, closed) {
            (Some((reason, detail)), _) => wait.because(reason, || detail),
            (None, Some(closed))
                if !is_own(wait.reason) || closed.before.is_some_and(|b| b.0 == id) =>
            {
                wait.because(closed.reason, || {
                    detail(closed.before, history, block_size, num_blocks)
                });
                if let Some((other, _)) = closed.before.filter(|before| before.0 != id) {
                    wait.behind(|| history.name(other));
                }
                if closed.reason == Reason::TokenBudget {
                    wait.count_takers(call, history);
                }
            }
            (None, None) if wait.reason.is_none() || wait.reason == Some(Reason::Step) => {
                wait.because(Reason::Unknown, String::new);
            }
            _ => {}
        }
    }

    fn commit(&mut self, call: &Call, results: &[RowResult], history: &History) {
        let Some(step) = history.oldest_step() else { return };
        let rows = step.rows.iter().zip(results);
        let own = self.id;
        for (row, result) in rows.filter(|(row, _)| row.id == own) {
            if self.member.is_chunk(row) {
                if self.chunks.is_empty() {
                    self.chunks_since = step.planned;
                }
                self.chunks.push(row.num_tokens);
            }
            if matches!(result, RowResult::Token(_) | RowResult::Pooled) {
                self.close_prompt(call.at);
                self.tokens.add(call.at);
                if self.tokens.num + self.tokens.num_before == 1 && *result != RowResult::Pooled {
                    self.beat(call.at, Beat::FirstToken);
                }
            }
        }
    }

    fn decide(&mut self, decision: &Decision, call: &Call, history: &History) {
        match decision {
            Decision::Admitted { id, num_cached_tokens } if *id == self.id => {
                self.stop_waiting(call.at);
                let is_first = !self.beats.iter().any(|(_, b)| matches!(b, Beat::Started { .. }));
                let num_cached = *num_cached_tokens;
                self.beat(call.at, Beat::Started { num_cached, is_first });
            }
            Decision::Preempted(preemption) if preemption.id == self.id => {
                self.stop_running(call.at);
                let whom = match preemption.beneficiary {
                    other if other == self.id => "it".to_owned(),
                    other => history.name(other),
                };
                self.beat(call.at, Beat::Preempted(*preemption, whom));
                self.wait = Some(Wait::new(call.at, Reason::Preemption));
            }
            Decision::Ended { id, end } if *id == self.id => {
                self.stop_waiting(call.at);
                self.stop_running(call.at);
                self.beat(call.at, Beat::Ended(ending(end)));
                self.is_over = true;
            }
            _ => {}
        }
    }

    fn stop_waiting(&mut self, at: Nanos) {
        if let Some(mut wait) = self.wait.take() {
            wait.advance(at);
            wait.until = at;
            self.beat(wait.since, Beat::Waited(wait));
        }
    }

    fn close_prompt(&mut self, at: Nanos) {
        if !self.chunks.is_empty() {
            let chunks = std::mem::take(&mut self.chunks);
            let took = at.since(self.chunks_since);
            self.beat(self.chunks_since, Beat::Prompt { chunks, took });
        }
    }

    fn stop_running(&mut self, at: Nanos) {
        self.close_prompt(at);
        if self.tokens.num > 0 && self.member.max_tokens > 0 {
            let tokens = self.tokens.clone();
            self.beat(tokens.first, Beat::Decoded(tokens));
        }
        let num_before = self.tokens.num + self.tokens.num_before;
        self.tokens = Tokens { num_before, ..Tokens::default() };
    }

    fn tell(mut self, models: &[String], policy: &str, show: &ShowTime<'_>) -> String {
        if !self.is_over {
            let at = self.wait.as_ref().map_or(self.tokens.last, |wait| wait.mark);
            self.stop_waiting(at);
            self.stop_running(at);
        }
        let member = &self.member;
        let model = models.get(member.model.index()).map_or("?", String::as_str);
        let mut text = self.name.clone();
        if member.num_choices > 1 {
            let _ = write!(text, ", choice {} of {}", member.choice, member.num_choices);
        }
        let _ =
            write!(text, "\n  {model}, {}", count(u64::from(member.prompt_len), "prompt token"));
        if member.max_tokens > 0 {
            let _ =
                write!(text, ", at most {} to generate", count(u64::from(member.max_tokens), ""));
        }
        let _ = write!(text, "; tenant {}, priority {}", member.tenant, member.priority);
        if let Some(deadline) = member.deadline {
            let _ = write!(text, ", to end within {}", duration(deadline.since(member.arrival)));
        }
        let _ = writeln!(text, "\n  arrived at {}; policy {policy}\n", show(member.arrival));
        let arrival = member.arrival;
        for (at, beat) in &self.beats {
            let line = beat.words();
            let at = format!("{:.3} s", at.since(arrival).as_secs_f64());
            for (index, line) in line.lines().enumerate() {
                let at = if index == 0 { at.as_str() } else { "" };
                let _ = writeln!(text, "{at:>12}  {line}");
            }
        }
        if !self.is_over {
            let _ = writeln!(text, "{:>12}  (the log ends before it does)", "");
        }
        text
    }
}
