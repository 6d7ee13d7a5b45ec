//! The engine as people watch it: a picture now and then, made by the engine thread on request.
//!
//! Nobody asks: a turn costs one look at an empty channel. Somebody asks: the next turn (an idle
//! engine wakes up for it) makes one picture for all who wait, and steps are noted until two
//! seconds after the last one was asked for. The engine never waits for who watches.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::watch;

use crate::core::EngineCore;
use crate::sched::{Gauges, LiveView};
use crate::types::{Clock, Nanos, Refusal, StepReport};

/// Steps that a picture tells of, at most: the latest.
pub const MAX_LIVE_STEPS: usize = 256;
/// No two pictures are made within this time: who asks earlier gets the last one.
pub const MIN_LIVE_INTERVAL: Nanos = Nanos(200_000_000);
/// Steps are noted for so long after the last picture.
const INTEREST: Nanos = Nanos(2_000_000_000);

/// The engine at one moment, between two steps.
#[derive(Clone, Debug)]
pub struct LiveSnapshot {
    /// When it was taken.
    pub taken: Nanos,
    /// The state in numbers, and totals since the start.
    pub gauges: Gauges,
    /// Blocks and sequences.
    pub view: LiveView,
    /// The latest steps, oldest first, as far as somebody watched.
    pub steps: Vec<LiveStep>,
}

/// A step that somebody watched.
#[derive(Clone, Copy, Debug)]
pub struct LiveStep {
    /// Its number since the start, from 1.
    pub number: u64,
    /// When its results were entered.
    pub ended: Nanos,
    /// What it did.
    pub report: StepReport,
}

type Shown = Option<Arc<LiveSnapshot>>;

/// Where pictures are asked for and received; any number of askers.
#[derive(Debug)]
pub(crate) struct LiveAccess {
    /// Full while a picture is wanted.
    wanted: Sender<()>,
    shown: watch::Receiver<Shown>,
}

/// The engine thread's end.
pub(crate) struct LiveRecorder {
    wanted: Receiver<()>,
    shown: watch::Sender<Shown>,
    clock: Arc<dyn Clock>,
    steps: VecDeque<LiveStep>,
    /// When the last picture was made, as long as steps are noted.
    watched: Option<Nanos>,
}

/// Both ends; times are those of `clock`.
pub(crate) fn channel(clock: Arc<dyn Clock>) -> (LiveAccess, LiveRecorder) {
    let (wanted, requests) = crossbeam_channel::bounded(1);
    let (sender, shown) = watch::channel(None);
    let recorder = LiveRecorder {
        wanted: requests,
        shown: sender,
        clock,
        steps: VecDeque::new(),
        watched: None,
    };
    (LiveAccess { wanted, shown }, recorder)
}

impl LiveAccess {
    /// The next picture, or the last one if it is recent at `now`. Takes as long as the step in
    /// progress.
    pub(crate) async fn next(&self, now: Nanos) -> Result<Arc<LiveSnapshot>, Refusal> {
        let mut shown = self.shown.clone();
        if let Some(last) = &*shown.borrow_and_update()
            && now.since(last.taken) < MIN_LIVE_INTERVAL
        {
            return Ok(Arc::clone(last));
        }
        // Full: somebody else has asked, and the answer is for all.
        let _ = self.wanted.try_send(());
        let is_new = shown.changed().await;
        let latest = shown.borrow().clone();
        latest.filter(|_| is_new.is_ok()).ok_or(Refusal::Stopped)
    }
}

impl LiveRecorder {
    /// Where requests for a picture arrive, for an engine that sleeps until something does.
    pub(crate) fn wanted(&self) -> &Receiver<()> {
        &self.wanted
    }

    /// Notes a step, if somebody watches.
    pub(crate) fn record(&mut self, report: &StepReport, core: &EngineCore) {
        let Some(watched) = self.watched else { return };
        let ended = self.clock.now();
        if ended.since(watched) > INTEREST {
            self.watched = None;
            self.steps = VecDeque::new();
            return;
        }
        if self.steps.len() == MAX_LIVE_STEPS {
            self.steps.pop_front();
        }
        let number = core.gauges().totals.num_steps;
        self.steps.push_back(LiveStep { number, ended, report: *report });
    }

    /// Makes a picture if one is wanted.
    pub(crate) fn answer(&mut self, core: &EngineCore) {
        if self.wanted.try_recv().is_ok() {
            self.show(core);
        }
    }

    /// Makes a picture for all who wait for one.
    pub(crate) fn show(&mut self, core: &EngineCore) {
        let taken = self.clock.now();
        self.watched = Some(taken);
        self.shown.send_replace(Some(Arc::new(LiveSnapshot {
            taken,
            gauges: core.gauges(),
            view: core.scheduler().live_view(taken),
            steps: self.steps.iter().copied().collect(),
        })));
    }
}
