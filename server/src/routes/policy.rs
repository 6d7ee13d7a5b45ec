//! `GET /v1/policy` and `PUT /v1/policy`: the scheduling policy, shown and changed while the server
//! works.
//!
//! A change takes a key of an administrator, on a server without keys too: a page in somebody's
//! browser can reach one of those.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::{Json, RequestExt};
use folio_engine::ControlError;
use folio_engine::sched::{ComplaintKind, Origin, PolicyError, ShadowReport};
use folio_engine::types::Refusal;

use crate::app::App;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::openai::{FaultCount, KnownPolicy, PolicyRequest, PolicyResponse, ShadowAnswer, parse};
use crate::policy::Change;

/// No shadow policy from now on.
const NO_SHADOW: &str = "none";

/// Shows what runs.
pub async fn show(State(app): State<Arc<App>>) -> Json<PolicyResponse> {
    Json(answer(&app))
}

/// Changes what runs, between two steps. No request is lost.
pub async fn change(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<PolicyResponse>, ApiError> {
    if app.keys.is_open() {
        return Err(ApiError::needs_admin_key());
    }
    let body: JsonBody = request.extract_with_state(&app).await?;
    let PolicyRequest { policy, shadow_policy } = PolicyRequest::read(parse(&body.bytes)?)?;
    let seat = &app.service.policy;
    let (policies, block_size) = (seat.policies(), app.service.engine.config().block_size);
    let make = |spec: String| policies.make(&spec, block_size, Origin::Network);
    let policy = policy.map(make).transpose();
    let policy = policy.map_err(|error| refused("policy", &error))?;
    let shadow = shadow_policy.map(|spec| match spec.trim() {
        NO_SHADOW => Ok(None),
        spec => policies.make_shadow(spec, block_size, Origin::Network).map(Some),
    });
    let shadow = shadow.transpose().map_err(|error| refused("shadow_policy", &error))?;
    let changed = seat.change(Change { policy, shadow }, &app.service.engine).await;
    changed.map_err(|error| match error {
        ControlError::Stopped => ApiError::from_refusal(&Refusal::Stopped, "policy"),
        ControlError::Busy => ApiError::engine_busy(1),
        ControlError::Failed(_) => ApiError::invalid_value("policy", error.to_string()),
    })?;
    Ok(Json(answer(&app)))
}

fn refused(field: &str, error: &PolicyError) -> ApiError {
    ApiError::invalid_value(field, format!("{field}: {error}"))
}

fn answer(app: &App) -> PolicyResponse {
    let seat = &app.service.policy;
    let seated = seat.seated();
    let snapshot = app.service.engine.metrics();
    let policies = seat.policies();
    let faults = ComplaintKind::ALL
        .map(|kind| FaultCount { kind: kind.name(), count: policies.complaints().num(kind) });
    let known = policies.registry().help();
    PolicyResponse {
        object: "policy",
        policy: seated.policy,
        shadow: seated.shadow.map(|spec| shadow(spec, snapshot.shadow.unwrap_or_default())),
        faults: faults.into(),
        overridden_plans: snapshot.gauges.totals.num_overridden_plans,
        known: known.map(|(name, help)| KnownPolicy { name, help: help.to_owned() }).collect(),
    }
}

fn shadow(policy: String, report: ShadowReport) -> ShadowAnswer {
    let is_compared = report.num_pairs > 0;
    ShadowAnswer {
        policy,
        plans: report.num_plans,
        other_first: report.num_other_first,
        order_distance: is_compared
            .then(|| report.num_reversed_pairs as f64 / report.num_pairs as f64),
        failed: report.has_failed,
    }
}
