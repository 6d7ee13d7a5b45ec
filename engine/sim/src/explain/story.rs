//! What happened to one request, from its arrival to its end.

use std::collections::HashMap;
use std::fmt::Write as _;

use folio_engine::decisions::{Entry, Header};
use folio_engine::sched::decisions::{
    Call, ComputedFate, Decision, Input, Obstacle, Preemption, PreemptionCause, RowResult,
};
use folio_engine::types::{Nanos, SequenceId};

use super::reason::{Reason, closed};
use super::{ShowTime, Wanted};
use crate::history::{History, Member, Place, count, duration, ending, percent};

/// Others that are named where many are meant.
const NUM_NAMED: usize = 3;
/// Chunks of a prompt that are shown one by one.
const NUM_CHUNKS: usize = 6;

/// The sequences that are wanted.
pub(super) struct Stories {
    wanted: Wanted,
    models: Vec<String>,
    policy: String,
    block_size: u32,
    num_blocks: u32,
    stories: Vec<Story>,
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

/// Something worth telling.
enum Beat {
    Arrived { num_ahead: usize },
    Carried,
    Waited(Wait),
    Started { num_cached: u32, is_first: bool },
    Prompt { chunks: Vec<u32>, took: Nanos },
    FirstToken,
    Decoded(Tokens),
    Preempted(Preemption, String),
    Failure(String),
    Lost(u64),
    Ended(String),
}

/// Tokens since it last started.
#[derive(Clone, Default)]
struct Tokens {
    num: u64,
    num_before: u64,
    first: Nanos,
    last: Nanos,
    longest: Nanos,
    longest_at: Nanos,
}

/// A time in the queue.
#[derive(Default)]
struct Wait {
    since: Nanos,
    /// Since when the reason holds.
    mark: Nanos,
    reason: Option<Reason>,
    until: Nanos,
    spells: Vec<Spell>,
    overtaken_by: Vec<String>,
    num_overtaken: usize,
}

/// All time of a wait for one reason.
struct Spell {
    reason: Reason,
    total: Nanos,
    /// What was in the way when it began.
    detail: String,
    /// In front of whom the queue was closed, if not in front of itself.
    behind: Vec<String>,
    /// Who took the tokens.
    takers: HashMap<SequenceId, (String, u64)>,
}

impl Stories {
    pub(super) fn new(header: &Header, wanted: Wanted) -> Self {
        Self {
            wanted,
            models: header.models.iter().map(|model| model.name.clone()).collect(),
            policy: header.policy.clone(),
            block_size: header.engine.block_size,
            num_blocks: header.engine.num_blocks.saturating_sub(1),
            stories: Vec::new(),
        }
    }

    /// Looks at an entry; `history` is what was before it.
    pub(super) fn look(&mut self, entry: &Entry, history: &History) {
        match entry {
            Entry::Label { .. } => {}
            Entry::Carried { at, .. } => self.meet(entry, *at, history),
            Entry::Call(call) => {
                for story in self.stories.iter_mut().filter(|story| !story.is_over) {
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
            self.stories.push(story);
        }
    }

    /// The stories in words.
    pub(super) fn tell(self, show: &ShowTime<'_>) -> Vec<String> {
        let (models, policy) = (self.models, self.policy);
        self.stories.into_iter().map(|story| story.tell(&models, &policy, show)).collect()
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
            Input::Gap { num_calls } => self.beat(call.at, Beat::Lost(*num_calls)),
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

impl Tokens {
    fn add(&mut self, at: Nanos) {
        if self.num == 0 {
            self.first = at;
        } else if at.since(self.last) > self.longest {
            (self.longest, self.longest_at) = (at.since(self.last), self.last);
        }
        self.last = at;
        self.num += 1;
    }
}

impl Wait {
    fn new(at: Nanos, reason: Reason) -> Self {
        let mut wait = Self { since: at, mark: at, ..Self::default() };
        wait.because(reason, String::new);
        wait
    }

    /// Time goes on for the reason that holds.
    fn advance(&mut self, now: Nanos) {
        let passed = now.since(self.mark);
        self.mark = now;
        if let Some(spell) = self.spell() {
            spell.total = spell.total + passed;
        }
    }

    fn spell(&mut self) -> Option<&mut Spell> {
        let reason = self.reason?;
        self.spells.iter_mut().find(|spell| spell.reason == reason)
    }

    /// From now on it waits for this reason.
    fn because(&mut self, reason: Reason, detail: impl FnOnce() -> String) {
        self.reason = Some(reason);
        if self.spell().is_none() {
            self.spells.push(Spell {
                reason,
                total: Nanos(0),
                detail: detail(),
                behind: Vec::new(),
                takers: HashMap::new(),
            });
        }
    }

    fn behind(&mut self, name: impl FnOnce() -> String) {
        if let Some(spell) = self.spell() {
            let name = name();
            if !spell.behind.contains(&name) {
                spell.behind.push(name);
            }
        }
    }

    /// Others that arrived later and were taken in.
    fn note_overtaking(
        &mut self,
        call: &Call,
        history: &History,
        (own, arrival): (SequenceId, Nanos),
    ) {
        for decision in &call.decisions {
            let Decision::Admitted { id, .. } = decision else { continue };
            let Some(other) = history.member(*id) else { continue };
            if *id > own
                && other.arrival >= arrival
                && !other.has_run
                && other.place == Place::Waiting
            {
                self.num_overtaken += 1;
                if self.overtaken_by.len() < NUM_NAMED {
                    self.overtaken_by.push(history.name(*id));
                }
            }
        }
    }

    /// Who got the tokens of the step that it was not in.
    fn count_takers(&mut self, call: &Call, history: &History) {
        let Some(spell) = self.spell() else { return };
        for decision in &call.decisions {
            let Decision::Planned(plan) = decision else { continue };
            for row in &plan.rows {
                let entry = spell.takers.entry(row.id);
                entry.or_insert_with(|| (history.name(row.id), 0)).1 += u64::from(row.num_tokens);
            }
        }
    }
}

/// What was in the way, with its numbers.
fn detail(
    before: Option<(SequenceId, Obstacle)>,
    history: &History,
    block_size: u32,
    num_blocks: u32,
) -> String {
    match before {
        Some((_, Obstacle::MaxRunning { max_running })) => {
            format!("{max_running} of {max_running}")
        }
        Some((_, Obstacle::Blocks { needed, free })) => {
            let running = history.members().filter(|(_, member)| member.place == Place::Running);
            let mut holders: Vec<_> =
                running.map(|(id, member)| (member.context.div_ceil(block_size), id)).collect();
            holders.sort_unstable_by(|a, b| b.cmp(a));
            let holders = holders
                .iter()
                .take(NUM_NAMED)
                .map(|&(num, id)| format!("{} ({num})", history.name(id)));
            let holders: Vec<_> = holders.collect();
            let mut text = format!("needed {needed}, free {free} of {num_blocks}");
            if !holders.is_empty() {
                let _ = write!(text, "; most blocks were held by {}", holders.join(", "));
            }
            text
        }
        _ => String::new(),
    }
}

impl Beat {
    fn words(&self) -> String {
        match self {
            Self::Arrived { num_ahead: 0 } => "arrived; nobody waited before it".to_owned(),
            Self::Arrived { num_ahead } => {
                format!("arrived; {} waited before it", count(*num_ahead as u64, "sequence"))
            }
            Self::Carried => "arrived before this file of the log began".to_owned(),
            Self::Waited(wait) => wait.words(),
            Self::Started { num_cached, is_first } => {
                let verb = if *is_first { "started" } else { "went on" };
                match num_cached {
                    0 => format!("{verb}, with nothing of it computed"),
                    num => {
                        let tokens = count(u64::from(*num), "token");
                        format!("{verb}; {tokens} need not be computed (again)")
                    }
                }
            }
            Self::Prompt { chunks, took } => {
                let total: u64 = chunks.iter().map(|&chunk| u64::from(chunk)).sum();
                let tokens = count(total, "token");
                match chunks.as_slice() {
                    [_] => format!("computed {tokens} in one step of {}", duration(*took)),
                    chunks => {
                        let sizes: Vec<_> =
                            chunks.iter().take(NUM_CHUNKS).map(ToString::to_string).collect();
                        let rest = if chunks.len() > NUM_CHUNKS { " + …" } else { "" };
                        let (num, sizes) = (chunks.len(), sizes.join(" + "));
                        format!(
                            "computed {tokens} in {num} steps ({sizes}{rest}), {}",
                            duration(*took)
                        )
                    }
                }
            }
            Self::FirstToken => "first token".to_owned(),
            Self::Decoded(tokens) => tokens.words(),
            Self::Preempted(preemption, whom) => {
                let why = match preemption.cause {
                    PreemptionCause::OutOfBlocks => {
                        format!("{whom} needed a block and none was free")
                    }
                    PreemptionCause::Displaced => {
                        format!("{whom} ranks better and took its place")
                    }
                    PreemptionCause::Planned => "the policy's plan says so".to_owned(),
                };
                let fate = match preemption.fate {
                    ComputedFate::Dropped => "dropped, to be computed again",
                    ComputedFate::Saved => "saved in host memory",
                };
                let num = count(u64::from(preemption.num_computed), "computed token");
                format!("preempted: {why}; {num} {fate}")
            }
            Self::Failure(message) => format!("the engine started anew after a failure: {message}"),
            Self::Lost(num) => format!("{} are missing in the log here", count(*num, "call")),
            Self::Ended(how) => format!("ended: {how}"),
        }
    }
}

impl Tokens {
    fn words(&self) -> String {
        let tokens = count(self.num, "token");
        if self.num < 2 {
            return format!("generated {tokens}");
        }
        let took = self.last.since(self.first);
        let each = Nanos(took.0 / (self.num - 1));
        let mut text = format!("generated {tokens} in {}, {} each", duration(took), duration(each));
        if self.longest.0 > 3 * each.0 {
            let longest = duration(self.longest);
            let _ = write!(text, "; the longest pause was {longest}");
        }
        text
    }
}

impl Wait {
    fn words(&self) -> String {
        let total = self.until.since(self.since);
        let mut text = format!("waited {}", duration(total));
        let spells: Vec<_> = self.spells.iter().filter(|spell| spell.total.0 > 0).collect();
        match spells.as_slice() {
            [] => {}
            [spell] => {
                let _ = write!(text, ": {}", spell.words());
            }
            spells => {
                for spell in spells {
                    let _ = write!(text, "\n  {:>9}  {}", duration(spell.total), spell.words());
                }
            }
        }
        if self.num_overtaken > 0 {
            let others = list(&self.overtaken_by, self.num_overtaken);
            let _ = write!(text, "\n  ranked before it though they arrived later: {others}");
        }
        text
    }
}

impl Spell {
    fn words(&self) -> String {
        let mut text = self.reason.words().to_owned();
        if !self.detail.is_empty() {
            let _ = write!(text, ": {}", self.detail);
        }
        if !self.takers.is_empty() {
            let total: u64 = self.takers.values().map(|taker| taker.1).sum();
            let mut takers: Vec<_> = self.takers.values().collect();
            takers.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            let shown = takers
                .iter()
                .take(NUM_NAMED)
                .map(|(name, num)| format!("{name} {}", percent(*num as f64, total as f64)));
            let _ = write!(text, ": {}", shown.collect::<Vec<_>>().join(", "));
            if takers.len() > NUM_NAMED {
                let _ = write!(text, " and {} more", takers.len() - NUM_NAMED);
            }
        }
        if !self.behind.is_empty() {
            let shown: Vec<_> = self.behind.iter().take(NUM_NAMED).cloned().collect();
            let _ = write!(
                text,
                "\n             in the queue behind {}",
                list(&shown, self.behind.len())
            );
        }
        text
    }
}

/// Names, and how many there are beyond them.
fn list(names: &[String], total: usize) -> String {
    let shown = names.join(", ");
    match total - names.len() {
        0 => shown,
        rest => format!("{shown} and {rest} more"),
    }
}
