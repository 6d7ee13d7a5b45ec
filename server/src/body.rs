//! The body of a request, once it is known to be wanted.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::app::App;
use crate::client::{Client, RequestId};
use crate::error::ApiError;
use crate::lifecycle::ActiveWork;

/// Longest time without a byte of a body.
const BYTE_TIMEOUT: Duration = Duration::from_secs(60);

/// A JSON body that was read whole, and the right to work on it.
#[derive(Debug)]
pub struct JsonBody {
    /// The bytes, not yet parsed.
    pub bytes: Bytes,
    /// Keeps the server from stopping.
    pub work: ActiveWork,
    /// Who sent it.
    pub client: Client,
    /// What its answer calls it.
    pub request_id: Option<RequestId>,
}

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    /// Refuses, in this order: while draining, another content type, too long a body, one that
    /// stops coming. Only a request that is here whole is work that the server finishes.
    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        app.lifecycle.check()?;
        check_content_type(request.headers())?;
        let max_bytes = app.settings.max_body_bytes;
        if announced_length(request.headers()).is_some_and(|length| length > max_bytes as u64) {
            return Err(ApiError::body_too_large(max_bytes));
        }
        let client = Client::of(request.extensions());
        let request_id = RequestId::of(request.extensions());
        let bytes = read(request.into_body(), max_bytes).await?;
        if let Some(record) = &client.record {
            record.receive();
        }
        let work = app.lifecycle.enter()?;
        Ok(Self { bytes, work, client, request_id })
    }
}

/// The whole of `body`, as long as it keeps coming.
async fn read(body: Body, max_bytes: usize) -> Result<Bytes, ApiError> {
    let mut body = Limited::new(body, max_bytes);
    let mut bytes = Vec::new();
    loop {
        let frame = tokio::time::timeout(BYTE_TIMEOUT, body.frame()).await;
        let frame = frame.map_err(|_| ApiError::body_timeout(BYTE_TIMEOUT.as_secs()))?;
        match frame {
            None => return Ok(bytes.into()),
            Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Some(Err(error)) if error.is::<LengthLimitError>() => {
                return Err(ApiError::body_too_large(max_bytes));
            }
            Some(Err(error)) => {
                let message = format!("the body could not be read: {error}");
                return Err(ApiError::body_unreadable(message));
            }
        }
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
