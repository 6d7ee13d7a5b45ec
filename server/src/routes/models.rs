//! `GET /v1/models` and `GET /v1/models/{id}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};

use crate::app::App;
use crate::error::ApiError;
use crate::openai::{ModelCard, ModelList};

/// Lists all names.
pub async fn list(State(app): State<Arc<App>>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: app.service.models.cards() })
}

/// Describes the model of one name, which may have slashes in it.
pub async fn show(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<ModelCard>, ApiError> {
    let Path(id) = id.map_err(|_| {
        ApiError::invalid_value("model", "the model's name in the address is not UTF-8")
    })?;
    app.service.models.card(&id).map(Json)
}
