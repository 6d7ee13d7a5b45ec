//! `POST /v1/rerank`, also as `/rerank` and `/v2/rerank`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::app::App;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::openai::{
    Content, Input, RerankRequest, RerankResponse, RerankResult, RerankedDocument, ShownDocuments,
    parse,
};
use crate::score::ScoreJob;

/// Orders documents by how well they answer a query.
pub async fn create(
    State(app): State<Arc<App>>,
    body: JsonBody,
) -> Result<Json<RerankResponse>, ApiError> {
    let service = Arc::clone(&app.service);
    let JsonBody { bytes, client, work, .. } = body;
    let prepare = move || {
        let request = RerankRequest::read(parse(&bytes)?)?;
        let documents = match request.shown {
            ShownDocuments::Shown => request.documents.iter().map(shown).collect(),
            ShownDocuments::Hidden => Vec::new(),
        };
        let pairs = (vec![request.query], request.documents);
        let whose = (request.model.as_str(), &request.queueing);
        let job = ScoreJob::new(&service, &client, whose, pairs)?;
        Ok((request.model, request.top_n, documents, job))
    };
    let (model, top_n, documents, job) = app.gate.run(prepare).await?;
    let usage = job.usage();
    let scores = job.run(&app.service).await?;
    let mut results: Vec<RerankResult> = scores
        .into_iter()
        .enumerate()
        .map(|(index, relevance_score)| RerankResult { index, relevance_score, document: None })
        .collect();
    // Stable: of equal scores the one that the client named first.
    results.sort_by(|a, b| b.relevance_score.total_cmp(&a.relevance_score));
    results.truncate(top_n.map_or(usize::MAX, |num| num as usize));
    for result in &mut results {
        result.document = documents.get(result.index).cloned();
    }
    drop(work);
    Ok(Json(RerankResponse { id: app.service.unique_id("rerank"), model, usage, results }))
}

fn shown(document: &Input) -> RerankedDocument {
    let text = match &document.content {
        Content::Text(text) => text.clone(),
        Content::Tokens(_) => String::new(),
    };
    RerankedDocument { text }
}
