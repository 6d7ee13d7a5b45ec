//! `POST /v1/chat/completions/render` and `/v1/completions/render`, as in vLLM: what would run for
//! a request, every check passed, but nothing is computed.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use folio_engine::types::ModelKind;

use crate::app::App;
use crate::body::JsonBody;
use crate::client::Client;
use crate::error::ApiError;
use crate::generate::{ChatJob, Job, Prompt};
use crate::openai::{ChatRequest, CompletionRequest, Rendered, parse};
use crate::service::Service;

/// Shows the prompt of a conversation.
pub async fn chat(State(app): State<Arc<App>>, body: JsonBody) -> Result<Json<Rendered>, ApiError> {
    let service = Arc::clone(&app.service);
    let JsonBody { bytes, client, .. } = body;
    app.gate.run(move || render_chat(&service, &client, &bytes).map(Json)).await
}

/// Shows the prompts of a completion, in order.
pub async fn completion(
    State(app): State<Arc<App>>,
    body: JsonBody,
) -> Result<Json<Vec<Rendered>>, ApiError> {
    let service = Arc::clone(&app.service);
    let JsonBody { bytes, client, .. } = body;
    app.gate.run(move || render_completion(&service, &client, &bytes).map(Json)).await
}

fn render_chat(service: &Service, client: &Client, body: &[u8]) -> Result<Rendered, ApiError> {
    let request = ChatRequest::read(parse(body)?)?;
    let model = service.models.find_kind(&request.model, ModelKind::Decoder)?;
    let name = request.model.clone();
    let job = ChatJob::new(service, client, model, request)?;
    let mut rendered = job.job().render(&name);
    rendered.pop().ok_or_else(|| ApiError::internal("a conversation without a prompt"))
}

fn render_completion(
    service: &Service,
    client: &Client,
    body: &[u8],
) -> Result<Vec<Rendered>, ApiError> {
    let request = CompletionRequest::read(parse(body)?)?;
    let model = service.models.find_kind(&request.model, ModelKind::Decoder)?;
    let prompts = request.prompts.into_iter().map(|input| Prompt::encode(model, input));
    let prompts = prompts.collect::<Result<_, _>>()?;
    let job = Job::new(service, client, Arc::clone(model), prompts, request.generation)?;
    Ok(job.render(&request.model))
}
