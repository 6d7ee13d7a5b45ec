//! A decision log as a trace for <https://ui.perfetto.dev> and Chrome's `chrome://tracing`: a track
//! for each sequence, tracks for steps, and counters.
//!
//! The format is Chrome's JSON: complete events (`X`), counters (`C`) and names (`M`), times in
//! microseconds. Slices of a track never overlap. What is written is bounded by [`Window`].

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};

use folio_engine::decisions::{Entry, Header, LogError, LogReader};
use folio_engine::sched::decisions::{
    BlockMoves, Call, Decision, Input, Levels, Planned, Row, RowResult,
};
use folio_engine::types::{Nanos, SequenceId};
use serde_json::{Value, json};

use crate::history::{History, ending};

/// Tracks of the engine, and of sequences.
const ENGINE: u32 = 1;
const SEQUENCES: u32 = 2;

/// What is shown of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// From then on.
    pub from: Nanos,
    /// Until then.
    pub to: Nanos,
    /// Sequences, the first that are there.
    pub max_sequences: u32,
    /// Steps, the first of them.
    pub max_steps: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self { from: Nanos(0), to: Nanos(u64::MAX), max_sequences: 2000, max_steps: 100_000 }
    }
}

/// What was written.
#[derive(Debug)]
#[must_use]
pub struct Written {
    /// Sequences with a track.
    pub num_sequences: u32,
    /// Sequences that are left out.
    pub num_left_out: u64,
    /// Steps.
    pub num_steps: u32,
    /// Where the steps ended that may be shown, if there were more.
    pub cut_at: Option<Nanos>,
    /// What is wrong with the end of the log, if anything is.
    pub broken: Option<LogError>,
}

/// Writes what `window` shows of `log` to `output`.
pub fn timeline<R: Read>(
    log: LogReader<R>,
    window: Window,
    output: impl Write,
) -> io::Result<Written> {
    let header = log.header().clone();
    let mut history = History::default();
    let mut drawing = Drawing::new(&header, window, output)?;
    let mut broken = None;
    for entry in log {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                broken = Some(error);
                break;
            }
        };
        let Entry::Call(call) = &entry else {
            history.enter(&entry);
            continue;
        };
        if call.at > window.to || drawing.cut_at.is_some() {
            break;
        }
        drawing.look(call, &history)?;
        history.enter(&entry);
        drawing.latest = call.at;
    }
    drawing.finish(broken)
}

/// A trace in the making.
struct Drawing<W> {
    output: W,
    window: Window,
    num_blocks: u32,
    is_first: bool,
    tracks: HashMap<SequenceId, Track>,
    /// The steps in flight, the oldest first: when planned, on which track, of how many tokens.
    steps: VecDeque<(Nanos, u32, Planned)>,
    num_sequences: u32,
    num_left_out: u64,
    num_steps: u32,
    num_step_tracks: u32,
    cut_at: Option<Nanos>,
    latest: Nanos,
}

/// A sequence on its way.
struct Track {
    name: String,
    /// What it does, since when.
    state: State,
    since: Nanos,
    /// Tokens generated since then, or computed in the chunk.
    num_tokens: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Queued,
    Sibling,
    Prefill,
    Decode,
    Preempted,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sibling => "waits for a sibling",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Preempted => "preempted",
        }
    }
}

impl<W: Write> Drawing<W> {
    fn new(header: &Header, window: Window, output: W) -> io::Result<Self> {
        let mut drawing = Self {
            output,
            window,
            num_blocks: header.engine.num_blocks.saturating_sub(1),
            is_first: true,
            tracks: HashMap::new(),
            steps: VecDeque::new(),
            num_sequences: 0,
            num_left_out: 0,
            num_steps: 0,
            num_step_tracks: 0,
            cut_at: None,
            latest: Nanos(0),
        };
        let facts = json!({ "program": header.program, "policy": header.policy });
        write!(
            drawing.output,
            "{{\"displayTimeUnit\": \"ms\", \"otherData\": {facts}, \"traceEvents\": ["
        )?;
        drawing.name("process_name", (ENGINE, 0), &format!("engine, policy {}", header.policy))?;
        drawing.name("process_name", (SEQUENCES, 0), "sequences")?;
        Ok(drawing)
    }

    fn event(&mut self, event: &Value) -> io::Result<()> {
        let comma = if std::mem::take(&mut self.is_first) { "" } else { "," };
        write!(self.output, "{comma}\n{event}")
    }

    fn name(&mut self, kind: &str, (process, track): (u32, u64), name: &str) -> io::Result<()> {
        self.event(&json!({
            "ph": "M", "name": kind, "pid": process, "tid": track, "args": { "name": name }
        }))
    }

    /// A slice from `begin` to `end`, as far as it is in the window.
    fn slice(
        &mut self,
        name: &str,
        (process, track): (u32, u64),
        (begin, end): (Nanos, Nanos),
        facts: &Value,
    ) -> io::Result<()> {
        let begin = begin.max(self.window.from);
        if end <= begin {
            return Ok(());
        }
        self.event(&json!({
            "ph": "X", "name": name, "pid": process, "tid": track,
            "ts": micros(begin), "dur": micros(end.since(begin)), "args": facts
        }))
    }

    fn look(&mut self, call: &Call, history: &History) -> io::Result<()> {
        match &call.input {
            Input::Arrival(arrival) => {
                for choice in 0..u64::from(arrival.num_choices) {
                    let state = if choice == 0 { State::Queued } else { State::Sibling };
                    let name = match history.label(arrival.request) {
                        Some(label) => format!("request {} ({label})", arrival.request),
                        None => format!("request {}", arrival.request),
                    };
                    let name = match arrival.num_choices {
                        1 => name,
                        _ => format!("{name} choice {choice}"),
                    };
                    self.open(SequenceId(arrival.first.0 + choice), name, state, call.at)?;
                }
            }
            Input::Commit { results, .. } => self.end_step(call.at, results)?,
            Input::Gap { num_planned, num_ended, .. } => {
                let unknown = || Planned {
                    rows: Vec::new(),
                    moves: BlockMoves::default(),
                    digest: 0,
                    levels: Levels::default(),
                };
                let planned = (0..*num_planned).map(|_| (call.at, 0, unknown()));
                self.steps.extend(planned);
                for _ in 0..self.steps.len().min(*num_ended as usize) {
                    self.end_step(call.at, &[])?;
                }
            }
            Input::Reset { .. } | Input::FailAll { .. } => {
                while let Some((planned, track, plan)) = self.steps.pop_front() {
                    self.step(planned, call.at, track, &plan)?;
                }
                let ids: Vec<_> = self.tracks.keys().copied().collect();
                for id in ids {
                    self.turn(id, State::Preempted, call.at)?;
                }
            }
            Input::Plan | Input::Policy { .. } => {}
        }
        for decision in &call.decisions {
            self.decide(decision, call, history)?;
        }
        Ok(())
    }

    fn decide(&mut self, decision: &Decision, call: &Call, history: &History) -> io::Result<()> {
        match decision {
            Decision::Preempted(preemption) => self.turn(preemption.id, State::Preempted, call.at),
            Decision::Ended { id, end } => self.close(*id, call.at, &ending(end)),
            Decision::Planned(planned) => {
                for row in &planned.rows {
                    self.enter_row(row, call.at, history)?;
                }
                self.begin_step(call.at, planned)
            }
            _ => Ok(()),
        }
    }

    /// A sequence begins its track, if there is room for one more.
    fn open(&mut self, id: SequenceId, name: String, state: State, at: Nanos) -> io::Result<()> {
        if self.num_sequences >= self.window.max_sequences {
            self.num_left_out += 1;
            return Ok(());
        }
        let is_shown = at >= self.window.from;
        if is_shown {
            self.show(id, &name)?;
        }
        self.tracks.insert(id, Track { name, state, since: at, num_tokens: 0 });
        Ok(())
    }

    fn show(&mut self, id: SequenceId, name: &str) -> io::Result<()> {
        self.num_sequences += 1;
        self.name("thread_name", (SEQUENCES, id.0), name)
    }

    /// A sequence takes part in a step.
    fn enter_row(&mut self, row: &Row, at: Nanos, history: &History) -> io::Result<()> {
        let is_chunk = history.member(row.id).is_some_and(|member| member.is_chunk(row));
        self.turn(row.id, if is_chunk { State::Prefill } else { State::Decode }, at)?;
        if let Some(track) = self.tracks.get_mut(&row.id).filter(|_| is_chunk) {
            track.num_tokens = row.num_tokens;
        }
        Ok(())
    }

    /// A sequence does something else from now on.
    fn turn(&mut self, id: SequenceId, state: State, at: Nanos) -> io::Result<()> {
        let Some(track) = self.tracks.get_mut(&id) else { return Ok(()) };
        if track.state == state && state != State::Prefill {
            return Ok(());
        }
        let (before, since) = (track.state, track.since);
        let num_tokens = std::mem::take(&mut track.num_tokens);
        (track.state, track.since) = (state, at);
        let was_hidden = since < self.window.from && at >= self.window.from;
        if was_hidden {
            let name = track.name.clone();
            self.show(id, &name)?;
        }
        let facts = match before {
            State::Decode | State::Prefill => json!({ "tokens": num_tokens }),
            _ => json!({}),
        };
        self.slice(before.name(), (SEQUENCES, id.0), (since, at), &facts)
    }

    fn close(&mut self, id: SequenceId, at: Nanos, how: &str) -> io::Result<()> {
        let Some(track) = self.tracks.remove(&id) else { return Ok(()) };
        if track.since < self.window.from && at >= self.window.from {
            self.show(id, &track.name)?;
        }
        let facts = json!({ "tokens": track.num_tokens, "ended": how });
        self.slice(track.state.name(), (SEQUENCES, id.0), (track.since, at), &facts)
    }

    fn begin_step(&mut self, at: Nanos, planned: &Planned) -> io::Result<()> {
        let taken: Vec<u32> = self.steps.iter().map(|step| step.1).collect();
        let most = taken.len() as u32;
        let track = (0..most).find(|track| !taken.contains(track)).unwrap_or(most);
        self.steps.push_back((at, track, planned.clone()));
        self.num_step_tracks = self.num_step_tracks.max(track + 1);
        if at < self.window.from {
            return Ok(());
        }
        if self.num_steps >= self.window.max_steps {
            self.cut_at = Some(at);
            return Ok(());
        }
        self.num_steps += 1;
        let levels = planned.levels;
        let num_tokens: u32 = planned.rows.iter().map(|row| row.num_tokens).sum();
        for (name, value) in [
            ("KV blocks used", self.num_blocks.saturating_sub(levels.num_free_blocks)),
            ("running", levels.num_running),
            ("waiting", levels.num_waiting),
            ("tokens in the step", num_tokens),
        ] {
            self.event(&json!({
                "ph": "C", "name": name, "pid": ENGINE, "tid": 0, "ts": micros(at),
                "args": { "value": value }
            }))?;
        }
        Ok(())
    }

    fn end_step(&mut self, at: Nanos, results: &[RowResult]) -> io::Result<()> {
        let Some((planned, track, plan)) = self.steps.pop_front() else { return Ok(()) };
        for (row, result) in plan.rows.iter().zip(results) {
            if let (RowResult::Token(_), Some(track)) = (result, self.tracks.get_mut(&row.id))
                && track.state == State::Decode
            {
                track.num_tokens += 1;
            }
        }
        self.step(planned, at, track, &plan)
    }

    fn step(&mut self, begin: Nanos, end: Nanos, track: u32, plan: &Planned) -> io::Result<()> {
        if plan.rows.is_empty() {
            return Ok(()); // what is missing in the log
        }
        let num_tokens: u32 = plan.rows.iter().map(|row| row.num_tokens).sum();
        let facts = json!({
            "sequences": plan.rows.len(),
            "tokens": num_tokens,
            "emitting": plan.rows.iter().filter(|row| row.emits).count(),
            "blocks copied": plan.moves.num_copied,
            "blocks swapped out": plan.moves.num_swapped_out,
            "blocks swapped in": plan.moves.num_swapped_in,
        });
        let name = format!("step of {num_tokens}");
        self.slice(&name, (ENGINE, 1 + u64::from(track)), (begin, end), &facts)
    }

    fn finish(mut self, broken: Option<LogError>) -> io::Result<Written> {
        let latest = self.latest;
        let mut ids: Vec<_> = self.tracks.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.close(id, latest, "not in the window")?;
        }
        for track in 0..u64::from(self.num_step_tracks) {
            let name = if track == 0 { "steps" } else { "steps ahead" };
            self.name("thread_name", (ENGINE, 1 + track), name)?;
        }
        writeln!(self.output, "\n]}}")?;
        self.output.flush()?;
        Ok(Written {
            num_sequences: self.num_sequences,
            num_left_out: self.num_left_out,
            num_steps: self.num_steps,
            cut_at: self.cut_at,
            broken,
        })
    }
}

fn micros(time: Nanos) -> f64 {
    time.0 as f64 / 1000.0
}
