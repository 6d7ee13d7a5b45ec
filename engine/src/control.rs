//! Changes that people ask for while the engine runs: another policy, another shadow policy.
//!
//! They wait in a channel of their own until the turn in progress has ended, and are carried out
//! by the engine thread between two turns. Whoever asked is told what came of it.

use crossbeam_channel::{Receiver, Sender, TrySendError};
use tokio::sync::oneshot;

use crate::core::EngineCore;
use crate::sched::{Decider, Policy};

/// Changes that may wait; there is no use in more.
const MAX_WAITING: usize = 8;

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The engine thread is gone.
    #[error("the engine has stopped")]
    Stopped,
    /// Too many changes are waiting.
    #[error("{MAX_WAITING} changes are waiting already")]
    Busy,
    /// The new policy panicked as it got to know what is there; the old one goes on.
    #[error("the policy failed at once ({0}), and the one before it goes on")]
    Failed(String),
}

/// A change on its way to the engine.
pub(crate) struct Control {
    change: Change,
    reply: oneshot::Sender<Result<(), ControlError>>,
}

enum Change {
    Policy { policy: Decider, spec: String },
    Shadow(Option<Box<dyn Policy>>),
}

/// Where changes are asked for.
#[derive(Clone)]
pub(crate) struct ControlAccess(Sender<Control>);

impl std::fmt::Debug for ControlAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ControlAccess")
    }
}

/// Where the engine thread finds them.
pub(crate) struct Controls(Receiver<Control>);

/// Both ends.
pub(crate) fn channel() -> (ControlAccess, Controls) {
    let (sender, receiver) = crossbeam_channel::bounded(MAX_WAITING);
    (ControlAccess(sender), Controls(receiver))
}

impl ControlAccess {
    /// Has another policy decide, written as `spec`.
    pub(crate) async fn set_policy(
        &self,
        policy: Decider,
        spec: String,
    ) -> Result<(), ControlError> {
        self.ask(Change::Policy { policy, spec }).await
    }

    /// Has another policy asked and not followed, or none.
    pub(crate) async fn set_shadow(
        &self,
        policy: Option<Box<dyn Policy>>,
    ) -> Result<(), ControlError> {
        self.ask(Change::Shadow(policy)).await
    }

    async fn ask(&self, change: Change) -> Result<(), ControlError> {
        let (reply, outcome) = oneshot::channel();
        self.0.try_send(Control { change, reply }).map_err(|error| match error {
            TrySendError::Full(_) => ControlError::Busy,
            TrySendError::Disconnected(_) => ControlError::Stopped,
        })?;
        outcome.await.unwrap_or(Err(ControlError::Stopped))
    }
}

impl Controls {
    /// Becomes ready when a change is asked for.
    pub(crate) fn wanted(&self) -> &Receiver<Control> {
        &self.0
    }

    /// Makes one that was waited for.
    pub(crate) fn carry_out_one(control: Option<Control>, core: &mut EngineCore) {
        if let Some(control) = control {
            control.carry_out(core);
        }
    }

    /// Makes all changes that wait.
    pub(crate) fn carry_out(&self, core: &mut EngineCore) {
        while let Ok(control) = self.0.try_recv() {
            control.carry_out(core);
        }
    }
}

impl Control {
    fn carry_out(self, core: &mut EngineCore) {
        let outcome = match self.change {
            Change::Policy { policy, spec } => core.switch_policy(policy, &spec),
            Change::Shadow(policy) => {
                core.set_shadow(policy);
                Ok(())
            }
        };
        // Whoever asked may have gone.
        let _ = self.reply.send(outcome.map_err(ControlError::Failed));
    }
}
