//! `POST /v1/score`, also as `/score`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::app::App;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::openai::{ScoreItem, ScoreRequest, ScoreResponse, parse};
use crate::score::ScoreJob;
use crate::service::unix_seconds;

/// Scores pairs of texts.
pub async fn create(
    State(app): State<Arc<App>>,
    body: JsonBody,
) -> Result<Json<ScoreResponse>, ApiError> {
    let service = Arc::clone(&app.service);
    let JsonBody { bytes, client, work, .. } = body;
    let prepare = move || {
        let request = ScoreRequest::read(parse(&bytes)?)?;
        let pairs = (request.first, request.second);
        let whose = (request.model.as_str(), &request.queueing);
        let job = ScoreJob::new(&service, &client, whose, pairs)?;
        Ok((request.model, job))
    };
    let (model, job) = app.gate.run(prepare).await?;
    let usage = job.usage();
    let scores = job.run(&app.service).await?.into_iter().enumerate();
    let data = scores.map(|(index, score)| ScoreItem { index, object: "score", score }).collect();
    let (id, created) = (app.service.unique_id("score"), unix_seconds());
    drop(work);
    Ok(Json(ScoreResponse { id, object: "list", created, model, data, usage }))
}
