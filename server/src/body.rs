//! The body of a request, once it is known to be wanted.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::app::App;
use crate::client::{Arrival, Client, MAX_TIMEOUT, RequestId};
use crate::error::ApiError;
use crate::lifecycle::ActiveWork;

/// How long a request may take, in milliseconds.
const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");
/// Unit in which the room for bodies is given out.
const ROOM_UNIT_BYTES: usize = 1024;

/// How bodies are read.
#[derive(Clone, Debug)]
pub struct BodyLimits {
    /// Longest body.
    pub max_bytes: usize,
    /// Memory for all bodies that are being read or wait to be parsed.
    pub max_total_bytes: usize,
    /// Longest time without a byte of a body.
    pub timeout: Duration,
    /// Bytes a second that a body must come with once `timeout` is over; 0 for any.
    pub min_bytes_per_second: u64,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            max_bytes: 32 << 20,
            max_total_bytes: 1 << 30,
            timeout: Duration::from_secs(60),
            min_bytes_per_second: 1024,
        }
    }
}

/// Memory that bodies may take, all together.
#[derive(Debug)]
pub struct BodyRoom(Arc<Semaphore>);

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
    /// stops coming, one that there is no room for. Only a request that is here whole is work
    /// that the server finishes.
    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        app.lifecycle.check()?;
        check_content_type(request.headers())?;
        let limits = &app.settings.body;
        if announced_length(request.headers()).is_some_and(|len| len > limits.max_bytes as u64) {
            return Err(ApiError::body_too_large(limits.max_bytes));
        }
        let timeout = timeout(request.headers())?;
        let arrival = Arrival { at: app.service.engine.now(), timeout };
        let client = Client { arrival: Some(arrival), ..Client::of(request.extensions()) };
        let request_id = RequestId::of(request.extensions());
        let bytes = read(request.into_body(), limits, &app.body_room).await?;
        if let Some(record) = &client.record {
            record.receive();
        }
        let work = app.lifecycle.enter()?;
        Ok(Self { bytes, work, client, request_id })
    }
}

impl BodyRoom {
    /// Room for `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        let num_units = (max_bytes / ROOM_UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(num_units)))
    }

    /// Takes room until `room` holds `num_bytes`.
    fn grow(
        &self,
        room: &mut Option<OwnedSemaphorePermit>,
        num_bytes: usize,
    ) -> Result<(), ApiError> {
        let num_held = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let num_more = num_bytes.div_ceil(ROOM_UNIT_BYTES).saturating_sub(num_held);
        if num_more == 0 {
            return Ok(());
        }
        let num_more = u32::try_from(num_more).unwrap_or(u32::MAX);
        let more = Arc::clone(&self.0)
            .try_acquire_many_owned(num_more)
            .map_err(|_| ApiError::no_room_for_body())?;
        match room {
            Some(room) => room.merge(more),
            None => *room = Some(more),
        }
        Ok(())
    }
}

/// Bytes of a body with the room that they take.
struct Held {
    bytes: Vec<u8>,
    _room: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The whole of `body`, as long as it keeps coming.
async fn read(body: Body, limits: &BodyLimits, all_room: &BodyRoom) -> Result<Bytes, ApiError> {
    let mut body = Limited::new(body, limits.max_bytes);
    let mut bytes = Vec::new();
    let mut room = None;
    let start = Instant::now();
    loop {
        let frame = next_frame(&mut body, limits, (start, bytes.len())).await?;
        match frame {
            None => return Ok(Bytes::from_owner(Held { bytes, _room: room })),
            Some(Ok(frame)) => {
                let data = frame.data_ref().map_or(&[][..], |data| data);
                all_room.grow(&mut room, bytes.len() + data.len())?;
                bytes.extend_from_slice(data);
            }
            Some(Err(error)) if error.is::<LengthLimitError>() => {
                return Err(ApiError::body_too_large(limits.max_bytes));
            }
            Some(Err(error)) => {
                let message = format!("the body could not be read: {error}");
                return Err(ApiError::body_unreadable(message));
            }
        }
    }
}

type Frame = Option<Result<hyper::body::Frame<Bytes>, Box<dyn std::error::Error + Send + Sync>>>;

/// The next part of a body that began at `start` and of which `num_bytes` have come.
async fn next_frame(
    body: &mut Limited<Body>,
    limits: &BodyLimits,
    (start, num_bytes): (Instant, usize),
) -> Result<Frame, ApiError> {
    let timeout = limits.timeout;
    let mut max_wait = timeout;
    let min_rate = limits.min_bytes_per_second;
    if min_rate > 0 {
        let earned = Duration::from_secs_f64(num_bytes as f64 / min_rate as f64);
        let deadline = timeout.saturating_add(earned);
        max_wait = max_wait.min(deadline.saturating_sub(start.elapsed()));
    }
    let frame = tokio::time::timeout(max_wait, body.frame()).await;
    frame.map_err(|_| {
        if max_wait < timeout {
            ApiError::body_too_slow(min_rate)
        } else {
            ApiError::body_timeout(timeout)
        }
    })
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

/// What the head says about how long the request may take.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get(TIMEOUT) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or("");
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let milliseconds = if is_number { text.parse::<u64>().ok() } else { None };
    let timeout = milliseconds.map(Duration::from_millis);
    let timeout = timeout.filter(|timeout| !timeout.is_zero() && *timeout <= MAX_TIMEOUT);
    if timeout.is_none() {
        let max = MAX_TIMEOUT.as_millis();
        let message = format!(
            "X-Request-Timeout-Ms = {value:?} must be a whole number of \
             milliseconds from 1 to {max}"
        );
        return Err(ApiError::invalid_value("X-Request-Timeout-Ms", message));
    }
    Ok(timeout)
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
