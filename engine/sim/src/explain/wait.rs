//! A time in the queue: for which reasons, behind whom, and who took what was missing.

use std::collections::HashMap;
use std::fmt::Write as _;

use folio_engine::sched::decisions::{Call, Decision, Obstacle};
use folio_engine::types::{Nanos, SequenceId};

use super::reason::Reason;
use crate::history::{History, Place, duration, percent};

/// Others that are named where many are meant.
const NUM_NAMED: usize = 3;

/// A time in the queue.
#[derive(Default)]
pub(super) struct Wait {
    pub(super) since: Nanos,
    /// Since when the reason holds.
    pub(super) mark: Nanos,
    pub(super) reason: Option<Reason>,
    pub(super) until: Nanos,
    spells: Vec<Spell>,
    pub(super) overtaken_by: Vec<String>,
    pub(super) num_overtaken: usize,
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

impl Wait {
    pub(super) fn new(at: Nanos, reason: Reason) -> Self {
        let mut wait = Self { since: at, mark: at, ..Self::default() };
        wait.because(reason, String::new);
        wait
    }

    /// Time goes on for the reason that holds.
    pub(super) fn advance(&mut self, now: Nanos) {
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
    pub(super) fn because(&mut self, reason: Reason, detail: impl FnOnce() -> String) {
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

    pub(super) fn behind(&mut self, name: impl FnOnce() -> String) {
        if let Some(spell) = self.spell() {
            let name = name();
            if !spell.behind.contains(&name) {
                spell.behind.push(name);
            }
        }
    }

    /// Others that arrived later and were taken in.
    pub(super) fn note_overtaking(
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
    pub(super) fn count_takers(&mut self, call: &Call, history: &History) {
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
pub(super) fn detail(
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

impl Wait {
    pub(super) fn words(&self) -> String {
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
