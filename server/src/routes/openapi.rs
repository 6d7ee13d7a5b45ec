//! `GET /openapi.json`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::Value;

use crate::app::App;
use crate::error::ApiError;
use crate::openapi::{Access, ModelNames, document};

/// The description of the whole interface.
pub async fn show(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let access = if app.keys.is_open() { Access::Open } else { Access::Keys };
    let names = ModelNames::of(&app.service.models);
    app.gate.run(move || document(access, &names).map(Json)).await
}
