//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::body::JsonBody;
use crate::embed::EmbedJob;
use crate::error::ApiError;
use crate::openai::{
    EmbeddingItem, EmbeddingRequest, EmbeddingResponse, EmbeddingUsage, Encoding, Vector, parse,
};

/// Turns texts into vectors.
pub async fn create(State(app): State<Arc<App>>, body: JsonBody) -> Result<Response, ApiError> {
    let service = Arc::clone(&app.service);
    let JsonBody { bytes, client, work, .. } = body;
    let (name, encoding, job) = app
        .gate
        .run(move || {
            let request = EmbeddingRequest::read(parse(&bytes)?)?;
            let name = request.model.clone();
            let encoding = request.encoding;
            Ok((name, encoding, EmbedJob::new(&service, &client, request)?))
        })
        .await?;
    let num_tokens = job.num_tokens();
    let vectors = job.run(&app.service).await?;
    let response = tokio::task::spawn_blocking(move || {
        let response = EmbeddingResponse {
            object: "list",
            data: items(vectors, encoding),
            model: name,
            usage: EmbeddingUsage { prompt_tokens: num_tokens, total_tokens: num_tokens },
        };
        Json(response).into_response()
    });
    let response = response
        .await
        .map_err(|error| ApiError::internal(format!("the answer could not be written: {error}")));
    drop(work);
    response
}

fn items(vectors: Vec<Vec<f32>>, encoding: Encoding) -> Vec<EmbeddingItem> {
    vectors
        .into_iter()
        .enumerate()
        .map(|(index, values)| EmbeddingItem {
            object: "embedding",
            index,
            embedding: Vector::encode(values, encoding),
        })
        .collect()
}
