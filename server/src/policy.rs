//! The scheduling policies that this program knows, and the one that runs.
//!
//! What policies complain about goes to the log. The spec that runs is kept beside the engine:
//! requests that set a priority are refused where it would change nothing.

use std::sync::Arc;

use folio_engine::sched::{
    Complaints, Policy, PolicyContext, PolicyError, PriorityUse, Registry, Tempo,
};
use parking_lot::Mutex;

/// The policies that a program knows. Clones share the counts of what went wrong.
#[derive(Clone, Debug)]
pub struct Policies {
    registry: Arc<Registry>,
    complaints: Complaints,
}

/// A policy that was made, and how it was written.
pub struct Made {
    /// As it was written.
    pub spec: String,
    /// What it is.
    pub policy: Box<dyn Policy>,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Made").field(&self.spec).finish()
    }
}

impl Default for Policies {
    /// Those that ship with the engine.
    fn default() -> Self {
        Self::new(Registry::builtin())
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

    /// The policy that `spec` describes, for an engine that serves.
    pub fn make(&self, spec: &str, block_size: u32) -> Result<Made, PolicyError> {
        let context = PolicyContext {
            block_size,
            tempo: Tempo::Live,
            complaints: self.complaints.clone(),
            ..PolicyContext::default()
        };
        let policy = self.registry.make(spec, &context)?;
        Ok(Made { spec: spec.trim().to_owned(), policy })
    }
}

/// The policy that runs.
#[derive(Debug)]
pub struct Seat {
    policies: Policies,
    spec: Mutex<String>,
}

impl Seat {
    /// `spec` runs, one of `policies`.
    #[must_use]
    pub fn new(policies: Policies, spec: &str) -> Self {
        Self { policies, spec: Mutex::new(spec.to_owned()) }
    }

    /// All that could run.
    #[must_use]
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// What runs, as it was written.
    #[must_use]
    pub fn spec(&self) -> String {
        self.spec.lock().clone()
    }

    /// Whether what runs looks at priorities.
    #[must_use]
    pub fn priority_use(&self) -> PriorityUse {
        self.policies.registry.priority_use(&self.spec.lock())
    }
}
