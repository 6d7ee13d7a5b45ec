//! How an engine is started: its settings, its policy, how it protects itself, and who is told
//! when something fails.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use crate::core::EngineCore;
use crate::decisions::LogFeed;
use crate::drain::DrainMeter;
use crate::exec::Executor;
use crate::panics::caught;
use crate::recovery::{Build, Notice, Notify, Strikes};
use crate::sched::{Decider, KvBatch, Policy};
use crate::thread::{Engine, EngineHandle, IndexTeller};
use crate::types::{Clock, EngineConfig, Error, Protection, Result, SystemClock};

/// What an engine is started with.
pub struct EngineSetup {
    config: EngineConfig,
    policy: Decider,
    protection: Protection,
    clock: Arc<dyn Clock>,
    notify: Notify,
    kv_events: Option<mpsc::Sender<KvBatch>>,
    decisions: Option<LogFeed>,
    shadow: Option<Box<dyn Policy>>,
}

impl std::fmt::Debug for EngineSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineSetup")
            .field("config", &self.config)
            .field("protection", &self.protection)
            .finish_non_exhaustive()
    }
}

impl EngineSetup {
    /// An engine with the usual [`Protection`] on wall time that tells nobody of its failures.
    #[must_use]
    pub fn new(config: EngineConfig, policy: impl Into<Decider>) -> Self {
        Self {
            config,
            policy: policy.into(),
            protection: Protection::default(),
            clock: Arc::new(SystemClock::start()),
            notify: Box::new(|_| {}),
            kv_events: None,
            decisions: None,
            shadow: None,
        }
    }

    /// Protects itself so.
    #[must_use]
    pub fn protection(self, protection: Protection) -> Self {
        Self { protection, ..self }
    }

    /// Takes its time from `clock`.
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// Tells `notify` what fails and what comes of it, from the engine's thread.
    #[must_use]
    pub fn on_notice(self, notify: impl FnMut(&Notice<'_>) + Send + 'static) -> Self {
        Self { notify: Box::new(notify), ..self }
    }

    /// Sends what enters and leaves the prefix index, a batch for each step. A batch for which
    /// there is no room is dropped.
    #[must_use]
    pub fn kv_events(self, batches: mpsc::Sender<KvBatch>) -> Self {
        Self { kv_events: Some(batches), ..self }
    }

    /// Sends all that the scheduler is told and decides, turn by turn, to a decision log.
    #[must_use]
    pub fn decisions(self, feed: LogFeed) -> Self {
        Self { decisions: Some(feed), ..self }
    }

    /// Asks `policy` in each step what it would do, and does not follow it.
    #[must_use]
    pub fn shadow(self, policy: Box<dyn Policy>) -> Self {
        Self { shadow: Some(policy), ..self }
    }

    /// Starts the engine's thread and returns when it has built its executor. `build` runs on it,
    /// so that what it makes never changes threads; and it runs again after each failure, once
    /// what it made before is gone.
    pub fn spawn<B>(self, build: B) -> Result<(EngineHandle, JoinHandle<()>)>
    where
        B: FnMut() -> Result<Box<dyn Executor>> + Send + 'static,
    {
        let Self { config, policy, protection, clock, notify, kv_events, decisions, shadow } = self;
        let config = config.validated()?;
        let (ready, built) = crossbeam_channel::bounded(1);
        let (handle, inbound) =
            EngineHandle::prepare(config.clone(), protection, Arc::clone(&clock));
        let strikes = Strikes::new(protection);
        let mut build: Build = Box::new(build);
        let thread = std::thread::Builder::new().name("folio-engine".into());
        let thread = thread.spawn(move || match caught(&mut build).unwrap_or_else(panicked) {
            Ok(executor) => {
                let mut core = EngineCore::new(config, policy, executor, Box::new(clock));
                core.set_shadow(shadow);
                let index = IndexTeller::new(kv_events);
                let meter = DrainMeter::default();
                let mut engine =
                    Engine { core, inbound, build, notify, strikes, meter, index, decisions };
                let _ = ready.send(Ok(()));
                engine.run();
            }
            Err(error) => drop(ready.send(Err(error))),
        });
        let thread = thread.map_err(|error| Error::Device(format!("engine thread: {error}")))?;
        built.recv().map_err(|_| Error::Stopped)??;
        Ok((handle, thread))
    }
}

/// A panic while building is an error like any other.
pub(crate) fn panicked<T>(message: String) -> Result<T> {
    Err(Error::Device(message))
}
