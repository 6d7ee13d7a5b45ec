//! `GET /health` and its kin, `GET /metrics`, `GET /load` and `GET /version`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use folio_engine::EngineHealth;

use crate::app::App;
use crate::error::ApiError;
use crate::metrics::CONTENT_TYPE;
use crate::openai::{HealthResponse, LoadResponse, VersionResponse};

/// Whether the program runs at all: if this fails, only a restart helps.
pub async fn live() -> Json<HealthResponse> {
    Json(HealthResponse { status: "ok" })
}

/// Whether new work is taken and there is an engine to do it.
pub async fn ready(State(app): State<Arc<App>>) -> Result<Json<HealthResponse>, ApiError> {
    if app.lifecycle.is_draining() {
        return Err(ApiError::shutting_down());
    }
    match app.service.engine.health() {
        EngineHealth::Ready if app.service.is_running() => {
            Ok(Json(HealthResponse { status: "ok" }))
        }
        EngineHealth::Ready | EngineHealth::Stopped => Err(ApiError::engine_stopped()),
        EngineHealth::Loading => {
            Err(ApiError::not_ready("engine_loading", "the models are being loaded"))
        }
        EngineHealth::Rebuilding => {
            let message = "a step failed, and the models are being loaded again";
            Err(ApiError::not_ready("engine_rebuilding", message))
        }
        EngineHealth::Stalled { silent_for } => {
            let seconds = silent_for.as_secs_f64();
            let message = format!("there is work, and no step has ended for {seconds:.1} s");
            Err(ApiError::not_ready("engine_stalled", message))
        }
    }
}

/// Everything that is counted.
pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let service = &app.service;
    let text = service.metrics.render(&service.engine, &service.policy).map_err(|error| {
        ApiError::internal(format!("the metrics could not be written: {error}"))
    })?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

/// How much there is to do, for balancers that ask each replica.
pub async fn load(State(app): State<Arc<App>>) -> Json<LoadResponse> {
    let gauges = app.service.engine.metrics().gauges;
    let usage = f64::from(gauges.num_used_blocks) / f64::from(gauges.num_blocks.max(1));
    Json(LoadResponse {
        server_load: gauges.num_running + gauges.num_waiting,
        num_requests_running: gauges.num_running,
        num_requests_waiting: gauges.num_waiting,
        kv_cache_usage: usage,
    })
}

/// The program's version.
pub async fn version() -> Json<VersionResponse> {
    Json(VersionResponse { version: env!("CARGO_PKG_VERSION") })
}
