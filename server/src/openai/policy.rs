//! The body and the answer of `/v1/policy`.

use schemars::JsonSchema;
use serde::Serialize;

use super::fields::Fields;
use super::trace::RequestBody;
use crate::error::ApiError;

/// A request to change the scheduling policy. What is absent stays.
#[derive(Clone, Debug)]
pub struct PolicyRequest {
    /// The spec of the policy, as after `--scheduling-policy`.
    pub policy: Option<String>,
    /// The spec of the shadow policy, or `none`.
    pub shadow_policy: Option<String>,
}

/// The scheduling policy that runs.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PolicyResponse {
    /// What it is.
    pub object: &'static str,
    /// The spec of the policy.
    pub policy: String,
    /// The policy that is asked and not followed, if there is one.
    pub shadow: Option<ShadowAnswer>,
    /// What went wrong with policies since the start.
    pub faults: Vec<FaultCount>,
    /// Steps that the policy left empty although something could be computed.
    pub overridden_plans: u64,
    /// All policies that the server knows.
    pub known: Vec<KnownPolicy>,
}

/// What a shadow policy would have done otherwise.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ShadowAnswer {
    /// Its spec.
    pub policy: String,
    /// Plans with two sequences or more waiting, for which it was asked.
    pub plans: u64,
    /// Plans in which it would have taken another sequence first.
    pub other_first: u64,
    /// Share of the pairs at the front of the queue that it would have taken in the reverse order.
    pub order_distance: Option<f64>,
    /// Whether it has panicked, and is no longer asked.
    pub failed: bool,
}

/// How often something went wrong.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FaultCount {
    /// What.
    pub kind: &'static str,
    /// How often.
    pub count: u64,
}

/// A policy that the server knows.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct KnownPolicy {
    /// As a spec begins.
    pub name: String,
    /// What it does.
    pub help: String,
}

impl PolicyRequest {
    /// Reads the body.
    pub fn read(body: impl Into<RequestBody>) -> Result<Self, ApiError> {
        let mut fields = Fields::new("", body)?;
        let policy = fields.string("policy")?;
        let shadow_policy = fields.string("shadow_policy")?;
        fields.finish()?;
        if policy.is_none() && shadow_policy.is_none() {
            return Err(ApiError::missing("policy"));
        }
        Ok(Self { policy, shadow_policy })
    }
}
