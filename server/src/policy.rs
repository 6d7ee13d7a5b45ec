//! The scheduling policies that this program knows, and those that run.
//!
//! What policies complain about goes to the log. What runs is kept beside the engine, since
//! requests that set a priority are refused where it would change nothing; it changes only once
//! the engine has changed.

use std::sync::Arc;
use std::time::Duration;

use folio_engine::sched::{
    Complaints, Decider, Origin, Policy, PolicyContext, PolicyError, PriorityUse, Registry, Tempo,
};
use folio_engine::{ControlError, EngineHandle, policy_process};
use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;

/// How often the log says what a shadow policy would have done otherwise.
const SHADOW_INTERVAL: Duration = Duration::from_secs(60);

/// The policies that ship with the program: those of the engine, and `process:`. A program of your
/// own adds its policies and hands all of them to [`main_with`](crate::program::main_with).
#[must_use]
pub fn registry() -> Registry {
    let mut registry = Registry::builtin();
    policy_process::register(&mut registry);
    registry
}

/// The policies that a program knows. Clones share the counts of what went wrong.
#[derive(Clone, Debug)]
pub struct Policies {
    registry: Arc<Registry>,
    complaints: Complaints,
}

/// A policy that was made, and how it was written.
#[derive(Debug)]
pub struct Made {
    /// As it was written.
    pub spec: String,
    /// What it is.
    pub policy: Decider,
}

/// A shadow policy that was made, and how it was written.
pub struct MadeShadow {
    /// As it was written.
    pub spec: String,
    /// What it is.
    pub policy: Box<dyn Policy>,
}

impl std::fmt::Debug for MadeShadow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MadeShadow").field(&self.spec).finish()
    }
}

impl Default for Policies {
    /// Those that ship with the program.
    fn default() -> Self {
        Self::new(registry())
    }
}

impl Policies {
    /// Those of `registry`.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        let complaints = Complaints::new(|text| tracing::warn!("{text}"));
        Self { registry: Arc::new(registry), complaints }
    }

    /// All of them.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What went wrong with policies so far.
    #[must_use]
    pub fn complaints(&self) -> &Complaints {
        &self.complaints
    }

    /// The policy that `spec`, which came from `origin`, describes, for an engine that serves with
    /// blocks of `block_size` tokens.
    pub fn make(&self, spec: &str, block_size: u32, origin: Origin) -> Result<Made, PolicyError> {
        let policy = self.registry.make(spec, &self.context(block_size, origin))?;
        Ok(Made { spec: spec.trim().to_owned(), policy })
    }

    /// The same for a policy that is asked and not followed.
    pub fn make_shadow(
        &self,
        spec: &str,
        block_size: u32,
        origin: Origin,
    ) -> Result<MadeShadow, PolicyError> {
        let policy = self.registry.make_shadow(spec, &self.context(block_size, origin))?;
        Ok(MadeShadow { spec: spec.trim().to_owned(), policy })
    }

    fn context(&self, block_size: u32, origin: Origin) -> PolicyContext {
        PolicyContext {
            block_size,
            origin,
            tempo: Tempo::Live,
            complaints: self.complaints.clone(),
            ..PolicyContext::default()
        }
    }
}

/// What runs.
#[derive(Clone, Debug)]
pub struct Seated {
    /// The policy, as it was written.
    pub policy: String,
    /// The policy that is asked and not followed, as it was written.
    pub shadow: Option<String>,
}

/// The policies that run, and how they are changed.
#[derive(Debug)]
pub struct Seat {
    policies: Policies,
    seated: Mutex<Seated>,
    /// Held while the engine changes, so that what is told and what runs agree.
    changing: tokio::sync::Mutex<()>,
}

/// A change of what runs. What is `None` stays.
#[derive(Debug, Default)]
pub struct Change {
    /// Another policy.
    pub policy: Option<Made>,
    /// Another shadow policy, or none from now on.
    pub shadow: Option<Option<MadeShadow>>,
}

impl Seat {
    /// `policy` runs, one of `policies`, and `shadow` in its shadow.
    #[must_use]
    pub fn new(policies: Policies, policy: &str, shadow: Option<&str>) -> Self {
        let seated = Seated { policy: policy.to_owned(), shadow: shadow.map(str::to_owned) };
        Self { policies, seated: Mutex::new(seated), changing: tokio::sync::Mutex::default() }
    }

    /// All that could run.
    #[must_use]
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// What runs.
    #[must_use]
    pub fn seated(&self) -> Seated {
        self.seated.lock().clone()
    }

    /// Whether the policy that runs looks at priorities.
    #[must_use]
    pub fn priority_use(&self) -> PriorityUse {
        self.policies.registry.priority_use(&self.seated.lock().policy)
    }

    /// Logs now and then what the shadow policy would have done otherwise, for ever.
    pub async fn watch_shadow(&self, engine: &EngineHandle) {
        let mut ticks = tokio::time::interval(SHADOW_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = 0;
        loop {
            ticks.tick().await;
            let (shadow, report) = (self.seated().shadow, engine.metrics().shadow);
            let Some((shadow, report)) = shadow.zip(report) else { continue };
            if report.num_plans != before {
                before = report.num_plans;
                tracing::info!(
                    shadow,
                    plans = report.num_plans,
                    other_first = report.num_other_first,
                    pairs = report.num_pairs,
                    reversed_pairs = report.num_reversed_pairs,
                    "what the shadow policy would have done otherwise"
                );
            }
        }
    }

    /// Changes what runs on `engine`, between two of its steps.
    pub async fn change(&self, change: Change, engine: &EngineHandle) -> Result<(), ControlError> {
        let _changing = self.changing.lock().await;
        if let Some(Made { spec, policy }) = change.policy {
            engine.set_policy(policy, spec.clone()).await?;
            tracing::info!(policy = spec, "another scheduling policy");
            self.seated.lock().policy = spec;
        }
        if let Some(shadow) = change.shadow {
            let (spec, policy) = match shadow {
                Some(MadeShadow { spec, policy }) => (Some(spec), Some(policy)),
                None => (None, None),
            };
            engine.set_shadow(policy).await?;
            tracing::info!(policy = spec, "another shadow policy");
            self.seated.lock().shadow = spec;
        }
        Ok(())
    }
}
