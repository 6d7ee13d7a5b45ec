//! The layer that begins a record for each request.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::spans::parent_in;
use super::{Head, Record};
use crate::app::App;
use crate::client::RequestId;
use crate::error::ErrorNote;

/// Longest path that is written down, in bytes.
const MAX_PATH_BYTES: usize = 256;
/// Stands for the route of a path that is none of the server's.
const NO_ROUTE: &str = "none";

/// Begins a record, which the request's extensions carry on, and tells it the answer.
pub async fn observe(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let record = Record::begin(&app.service, head(&request));
    request.extensions_mut().insert(Arc::clone(&record));
    let response = next.run(request).await;
    record.answer(response.status().as_u16(), response.extensions().get::<ErrorNote>().cloned());
    response
}

fn head(request: &Request) -> Head {
    let extensions = request.extensions();
    let route = extensions.get::<MatchedPath>().map_or(NO_ROUTE, MatchedPath::as_str);
    let path = request.uri().path();
    Head {
        request_id: RequestId::of(extensions).map_or_else(|| "".into(), |id| id.0),
        method: request.method().as_str().to_owned(),
        path: path.get(..MAX_PATH_BYTES).unwrap_or(path).to_owned(),
        route: route.to_owned(),
        caller: parent_in(request.headers()),
    }
}
