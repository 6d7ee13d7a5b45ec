//! Who is where while a decision log is read: what `explain` and `timeline` have in common.
//!
//! Grows with the sequences that have not ended, not with the log.

mod words;

use std::collections::{HashMap, VecDeque};

use folio_engine::decisions::Entry;
use folio_engine::sched::decisions::{Arrival, Call, Decision, Input, Row, Wanted};
use folio_engine::types::{ModelId, Nanos, RequestId, SequenceId, TenantId};

pub(crate) use words::{count, duration, ending, percent};

/// All that is known of the sequences that have not ended.
#[derive(Debug, Default)]
pub(crate) struct History {
    labels: HashMap<RequestId, String>,
    members: HashMap<SequenceId, Member>,
    /// The steps in flight, the oldest first.
    in_flight: VecDeque<Flight>,
}

/// A step between its plan and its end.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) planned: Nanos,
    pub(crate) rows: Vec<Row>,
}

/// A sequence that has not ended.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) request: RequestId,
    pub(crate) choice: u32,
    pub(crate) num_choices: u32,
    pub(crate) model: ModelId,
    pub(crate) tenant: TenantId,
    pub(crate) priority: i32,
    pub(crate) arrival: Nanos,
    pub(crate) deadline: Option<Nanos>,
    pub(crate) prompt_len: u32,
    /// 0 where nothing is generated.
    pub(crate) max_tokens: u32,
    pub(crate) place: Place,
    /// When it came to where it is.
    pub(crate) since: Nanos,
    /// Whether it was ever in a step.
    pub(crate) has_run: bool,
    /// Positions that steps were planned for.
    pub(crate) context: u32,
}

/// Where a sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the queue.
    Waiting,
    /// Waits for a sibling to compute the prompt.
    Following,
    /// In steps.
    Running,
    /// It was there before the log began, and nobody knows.
    Unknown,
}

impl Member {
    /// Whether `row` is work on the prompt, or on what a preemption dropped.
    pub(crate) fn is_chunk(&self, row: &Row) -> bool {
        row.start < self.prompt_len || row.num_tokens > 1
    }
}

impl History {
    pub(crate) fn member(&self, id: SequenceId) -> Option<&Member> {
        self.members.get(&id)
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (SequenceId, &Member)> {
        self.members.iter().map(|(&id, member)| (id, member))
    }

    /// What the client calls a request.
    pub(crate) fn label(&self, request: RequestId) -> Option<&str> {
        self.labels.get(&request).map(String::as_str)
    }

    /// The step that ends next.
    pub(crate) fn oldest_step(&self) -> Option<&Flight> {
        self.in_flight.front()
    }

    /// A sequence by its request, and by its choice where there are several.
    pub(crate) fn name(&self, id: SequenceId) -> String {
        let Some(member) = self.members.get(&id) else { return format!("sequence {id}") };
        let label = self.label(member.request).map(|label| format!(" ({label})"));
        let choice = match member.num_choices {
            1 => String::new(),
            _ => format!(" choice {}", member.choice),
        };
        format!("request {}{}{choice}", member.request, label.unwrap_or_default())
    }

    /// Enters an entry; where it is a call, it is looked at before.
    pub(crate) fn enter(&mut self, entry: &Entry) {
        match entry {
            Entry::Label { request, label } => {
                self.labels.insert(*request, label.clone());
            }
            Entry::Carried { at, arrival, prompt_len } => {
                self.arrive(arrival, *at, *prompt_len);
                for index in 0..u64::from(arrival.num_choices) {
                    if let Some(member) = self.members.get_mut(&SequenceId(arrival.first.0 + index))
                    {
                        (member.place, member.has_run) = (Place::Unknown, true);
                    }
                }
            }
            Entry::Call(call) => self.call(call),
        }
    }

    fn call(&mut self, call: &Call) {
        match &call.input {
            Input::Arrival(arrival) => self.arrive(arrival, call.at, arrival.prompt.len() as u32),
            Input::Commit { .. } => drop(self.in_flight.pop_front()),
            Input::Gap { num_planned, num_ended, .. } => {
                let unknown = || Flight { planned: call.at, rows: Vec::new() };
                self.in_flight.extend((0..*num_planned).map(|_| unknown()));
                self.in_flight.drain(..self.in_flight.len().min(*num_ended as usize));
            }
            Input::Reset { .. } | Input::FailAll { .. } => {
                self.in_flight.clear();
                for member in self.members.values_mut().filter(|m| m.place == Place::Running) {
                    (member.place, member.since) = (Place::Waiting, call.at);
                }
            }
            Input::Plan | Input::Policy { .. } => {}
        }
        if matches!(call.input, Input::FailAll { .. }) {
            self.members.clear();
            self.labels.clear();
        }
        for decision in &call.decisions {
            self.decide(decision, call);
        }
    }

    fn arrive(&mut self, arrival: &Arrival, at: Nanos, prompt_len: u32) {
        let max_tokens = match &arrival.wanted {
            Wanted::Pooled => 0,
            Wanted::Generation { max_tokens, .. } => *max_tokens,
        };
        for choice in 0..arrival.num_choices {
            let member = Member {
                request: arrival.request,
                choice,
                num_choices: arrival.num_choices,
                model: arrival.model,
                tenant: arrival.tenant,
                priority: arrival.priority,
                arrival: at,
                deadline: arrival.deadline,
                prompt_len,
                max_tokens,
                place: if choice == 0 { Place::Waiting } else { Place::Following },
                since: at,
                has_run: false,
                context: 0,
            };
            self.members.insert(SequenceId(arrival.first.0 + u64::from(choice)), member);
        }
    }

    fn decide(&mut self, decision: &Decision, call: &Call) {
        match decision {
            Decision::Admitted { id, .. } => self.move_to(*id, Place::Running, call.at),
            Decision::Preempted(preemption) => {
                self.move_to(preemption.id, Place::Waiting, call.at);
            }
            Decision::Ended { id, .. } => self.forget(*id),
            Decision::Refused(_) => {
                if let Input::Arrival(arrival) = &call.input {
                    let ids = arrival.first.0..arrival.first.0 + u64::from(arrival.num_choices);
                    ids.for_each(|id| self.forget(SequenceId(id)));
                }
            }
            Decision::Planned(planned) => {
                for row in &planned.rows {
                    if let Some(member) = self.members.get_mut(&row.id) {
                        member.context = row.start + row.num_tokens;
                        (member.place, member.has_run) = (Place::Running, true);
                    }
                }
                self.in_flight.push_back(Flight { planned: call.at, rows: planned.rows.clone() });
            }
            _ => {}
        }
    }

    fn move_to(&mut self, id: SequenceId, place: Place, at: Nanos) {
        if let Some(member) = self.members.get_mut(&id) {
            (member.place, member.since) = (place, at);
            if place == Place::Waiting {
                member.context = 0;
            }
        }
    }

    fn forget(&mut self, id: SequenceId) {
        let Some(member) = self.members.remove(&id) else { return };
        let is_last = !(0..u64::from(member.num_choices)).any(|index| {
            let sibling = id.0 + index - u64::from(member.choice);
            self.members.contains_key(&SequenceId(sibling))
        });
        if is_last {
            self.labels.remove(&member.request);
        }
    }
}
