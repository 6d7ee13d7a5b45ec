//! The body of a request, once it is known to be wanted.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};

use crate::app::App;
use crate::error::ApiError;
use crate::lifecycle::ActiveWork;

/// A JSON body that was read whole, and the right to work on it.
#[derive(Debug)]
pub struct JsonBody {
    /// The bytes, not yet parsed.
    pub bytes: Bytes,
    /// Keeps the server from stopping.
    pub work: ActiveWork,
}

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    /// Refuses, in this order: while draining, another content type, too long a body.
    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let work = app.lifecycle.enter()?;
        check_content_type(request.headers())?;
        let max_bytes = app.settings.max_body_bytes;
        if announced_length(request.headers()).is_some_and(|length| length > max_bytes as u64) {
            return Err(ApiError::body_too_large(max_bytes));
        }
        let bytes = axum::body::to_bytes(request.into_body(), max_bytes).await;
        let bytes = bytes.map_err(|error| {
            let inner = error.into_inner();
            if inner.is::<http_body_util::LengthLimitError>() {
                ApiError::body_too_large(max_bytes)
            } else {
                ApiError::body_unreadable(format!("the body could not be read: {inner}"))
            }
        })?;
        Ok(Self { bytes, work })
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let value = headers.get(header::CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok());
    let essence = text.map(|text| text.split(';').next().unwrap_or("").trim());
    let is_json = essence.is_some_and(|essence| {
        let essence = essence.to_ascii_lowercase();
        essence == "application/json"
            || (essence.starts_with("application/") && essence.ends_with("+json"))
    });
    if is_json { Ok(()) } else { Err(ApiError::unsupported_media_type(text)) }
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
