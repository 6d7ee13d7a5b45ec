//! The first decision that differs, in words.

use std::fmt;

use folio_engine::sched::decisions::{Call, Decision, Ending, Input, Planned, Row};
use folio_engine::types::Nanos;

/// Where a replay parts from its log.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The call, from 0.
    pub call: u64,
    /// Steps planned before it.
    pub num_steps: u64,
    /// When.
    pub at: Nanos,
    /// What the scheduler was asked.
    pub asked: &'static str,
    /// Decisions of the call that are equal.
    pub num_equal: usize,
    /// What the log has next; `None` where it has no more.
    pub recorded: Option<Decision>,
    /// What was decided; `None` where nothing more was.
    pub replayed: Option<Decision>,
    /// What the scheduler said when it broke, if it did.
    pub panic: Option<String>,
}

impl Difference {
    /// The first between two calls with the same input, if there is one.
    pub(super) fn between(recorded: &Call, replayed: &Call, number: u64) -> Option<Self> {
        let (ours, theirs) = (&replayed.decisions, &recorded.decisions);
        let pairs = theirs.iter().zip(ours);
        let num_equal =
            pairs.take_while(|(recorded, replayed)| is_equal(recorded, replayed)).count();
        if num_equal == ours.len() && num_equal == theirs.len() {
            return None;
        }
        Some(Self {
            num_equal,
            recorded: theirs.get(num_equal).cloned(),
            replayed: ours.get(num_equal).cloned(),
            ..Self::at(recorded, number)
        })
    }

    /// The scheduler broke where the recorded one did not.
    pub(super) fn broken(call: &Call, number: u64, message: String) -> Self {
        Self { panic: Some(message), ..Self::at(call, number) }
    }

    fn at(call: &Call, number: u64) -> Self {
        Self {
            call: number,
            num_steps: 0,
            at: call.at,
            asked: asked(&call.input),
            num_equal: 0,
            recorded: None,
            replayed: None,
            panic: None,
        }
    }
}

/// Grammars' failures are told in the words of the one that failed.
fn is_equal(recorded: &Decision, replayed: &Decision) -> bool {
    match (recorded, replayed) {
        (
            Decision::Ended { id, end: Ending::Failed(message) },
            Decision::Ended { id: other, end: Ending::Failed(wrapped) },
        ) => id == other && wrapped.ends_with(message.as_str()),
        _ => recorded == replayed,
    }
}

fn asked(input: &Input) -> &'static str {
    match input {
        Input::Arrival(_) => "to take a request in",
        Input::Plan => "to plan a step",
        Input::Commit { .. } => "to enter the results of a step",
        Input::Reset { .. } | Input::FailAll { .. } => "to start anew after a failure",
        Input::Policy { .. } => "to change its policy",
        Input::Gap { .. } => "nothing",
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, num_steps, asked, num_equal, .. } = self;
        let at = self.at.as_secs_f64();
        writeln!(f, "at {at:.6} s, call {call}, after {num_steps} steps, asked {asked}:")?;
        if let Some(message) = &self.panic {
            return write!(f, "  the scheduler broke: {message}");
        }
        if let (Some(Decision::Planned(recorded)), Some(Decision::Planned(replayed))) =
            (&self.recorded, &self.replayed)
        {
            return plans(f, recorded, replayed);
        }
        writeln!(f, "  decision {} of the call differs", num_equal + 1)?;
        let show = |decision: &Option<Decision>| match decision {
            None => "nothing more".to_owned(),
            Some(Decision::Planned(planned)) => {
                format!("the step, of {} sequences", planned.rows.len())
            }
            Some(decision) => format!("{decision:?}"),
        };
        writeln!(f, "  recorded: {}", show(&self.recorded))?;
        write!(f, "  replayed: {}", show(&self.replayed))
    }
}

/// How two steps differ.
fn plans(f: &mut fmt::Formatter<'_>, recorded: &Planned, replayed: &Planned) -> fmt::Result {
    let (theirs, ours) = (&recorded.rows, &replayed.rows);
    let num_equal = theirs.iter().zip(ours).take_while(|(a, b)| a == b).count();
    let show = |row: Option<&Row>| match row {
        None => "no more rows".to_owned(),
        Some(row) => {
            format!("sequence {}, {} tokens from position {}", row.id, row.num_tokens, row.start)
        }
    };
    let (num_theirs, num_ours) = (theirs.len(), ours.len());
    if num_equal < num_theirs || num_equal < num_ours {
        writeln!(f, "  row {} of the step differs", num_equal + 1)?;
        let (theirs, ours) = (show(theirs.get(num_equal)), show(ours.get(num_equal)));
        writeln!(f, "  recorded: {theirs} ({num_theirs} rows)")?;
        return write!(f, "  replayed: {ours} ({num_ours} rows)");
    }
    writeln!(f, "  the same rows, but other blocks, moves or levels")?;
    let show =
        |plan: &Planned| format!("{:?}, {:?}, digest {:08x}", plan.moves, plan.levels, plan.digest);
    writeln!(f, "  recorded: {}", show(recorded))?;
    write!(f, "  replayed: {}", show(replayed))
}
