//! What a client gets when something is wrong: OpenAI's error object, for every status.
//!
//! A message names the field, the value and the limit; `param` is the field's path in the body.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use folio_engine::types::{Nanos, Refusal, RequestStats};
use schemars::JsonSchema;
use serde::Serialize;

use crate::text;

/// Seconds that a client is asked to wait at the least and at the most when the queue is full.
const RETRY_AFTER_SECONDS: RangeInclusive<u64> = 1..=600;
/// Whether a client library should send the request again, where the status does not say.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An answer that is an error. Becomes `{"error": {"message", "type", "param", "code"}}`.
#[derive(Clone, Debug)]
pub struct ApiError(Box<Answer>);

#[derive(Clone, Debug)]
struct Answer {
    status: StatusCode,
    body: ErrorBody,
    header: Option<(HeaderName, HeaderValue)>,
}

/// The body of an answer that is an error, as in OpenAI's API.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ErrorAnswer<'a> {
    /// What is wrong.
    error: &'a ErrorBody,
}

/// What is wrong.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct ErrorBody {
    /// What is wrong, for people.
    message: String,
    /// Whose fault it is: `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Path of the field at fault, such as `messages[2].content`.
    param: Option<String>,
    /// What is wrong, for programs.
    code: &'static str,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let kind = match status.as_u16() {
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let body = ErrorBody { message: message.into(), kind, param: None, code };
        Self(Box::new(Answer { status, body, header: None }))
    }

    fn at(mut self, param: impl Into<String>) -> Self {
        self.0.body.param = Some(param.into());
        self
    }

    fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.header = Some((name, value));
        self
    }

    /// 400: the field at `param` has a value outside its range.
    pub fn invalid_value(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_value", message).at(param)
    }

    /// 400: the field at `param` has a value of another type than `expected`.
    pub fn invalid_type(param: impl Into<String>, expected: &str, got: &str) -> Self {
        let param = param.into();
        let message = format!("{param} must be {expected}, not {got}");
        Self::new(StatusCode::BAD_REQUEST, "invalid_type", message).at(param)
    }

    /// 400: the field at `param` is needed.
    pub fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("{param} is missing");
        Self::new(StatusCode::BAD_REQUEST, "missing_required_parameter", message).at(param)
    }

    /// 400: there is no field at `param`.
    pub fn unknown_field(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("{param} is not a field of this request");
        Self::new(StatusCode::BAD_REQUEST, "unknown_parameter", message).at(param)
    }

    /// 400: the API knows the field at `param`, this server does not do what it asks for.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unsupported_parameter", message).at(param)
    }

    /// 400: the body is not JSON. `param` is the field at which reading stopped, if in one.
    pub fn malformed_json(param: Option<String>, message: &str) -> Self {
        let text = format!("the body is not valid JSON: {message}");
        let mut error = Self::new(StatusCode::BAD_REQUEST, "invalid_json", text);
        error.0.body.param = param;
        error
    }

    /// 400: the body has more than `max` values.
    pub fn too_many_values(max: usize) -> Self {
        let message = format!(
            "the body has more than {max} values: that many commas, colons and brackets outside \
             strings are allowed"
        );
        Self::new(StatusCode::BAD_REQUEST, "too_many_values", message)
    }

    /// 400: the request is longer than the model or the cache; `param` is what is too long.
    pub fn context_length(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message).at(param)
    }

    /// 404: no model of that name is served.
    pub fn model_not_found(model: &str, served: &str) -> Self {
        let message = format!("the model {model:?} does not exist; this server has {served}");
        Self::new(StatusCode::NOT_FOUND, "model_not_found", message).at("model")
    }

    /// 404: no such address.
    pub fn unknown_url(method: &str, path: &str) -> Self {
        let message = format!("there is no {method} {path}");
        Self::new(StatusCode::NOT_FOUND, "unknown_url", message)
    }

    /// 404: no such response is kept; `param` is what named it.
    pub fn response_not_found(param: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "response_not_found", message).at(param)
    }

    /// 405: the address exists, but not for this method.
    pub fn method_not_allowed(method: &str, path: &str) -> Self {
        let message = format!("{path} does not take {method}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    /// 401: no key, or a wrong one.
    pub fn unauthorized(message: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message).with_header(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"folio\""),
        )
    }

    /// 403: the key is good, but not for this.
    pub fn not_admin() -> Self {
        let message = "this API key may not look at the server itself: it needs admin = true";
        Self::new(StatusCode::FORBIDDEN, "permission_denied", message)
    }

    /// 403: nobody has a key, and this takes one.
    pub fn needs_admin_key() -> Self {
        let message = "this changes the server itself and takes the key of an administrator, but \
                       the server was started without keys (--api-key, --api-key-file)";
        Self::new(StatusCode::FORBIDDEN, "permission_denied", message)
    }

    /// 429 with `Retry-After`: the client has used up its rate and has some again after `wait`.
    pub fn rate_limited(message: impl Into<String>, wait: Duration) -> Self {
        let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1);
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message)
            .with_header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// 413: the body is longer than `max_bytes`.
    pub fn body_too_large(max_bytes: usize) -> Self {
        let message = format!("the body is longer than {max_bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    /// 408: no byte of the body came for `timeout`.
    pub fn body_timeout(timeout: Duration) -> Self {
        let message = format!("no byte of the body came for {} seconds", timeout.as_secs_f64());
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
    }

    /// 408: the body came slower than `min_bytes_per_second`.
    pub fn body_too_slow(min_bytes_per_second: u64) -> Self {
        let message =
            format!("the body came slower than {min_bytes_per_second} bytes a second, the least");
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
    }

    /// 503: the bodies that are being read take all the memory there is for them.
    pub fn no_room_for_body() -> Self {
        let message = "the bodies that are being read take all the memory there is for them \
                       (--max-total-body-size)";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_room_for_body", message)
            .with_header(header::RETRY_AFTER, HeaderValue::from(*RETRY_AFTER_SECONDS.start()))
    }

    /// 400: the body could not be read to its end.
    pub fn body_unreadable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unreadable_body", message)
    }

    /// 415: the body is not announced as JSON.
    pub fn unsupported_media_type(found: Option<&str>) -> Self {
        let found = found.unwrap_or("none");
        let message = format!("content-type must be application/json, not {found}");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    }

    /// 429 with `Retry-After`: too much is waiting already. There will be room in `room_in`, as
    /// far as is known.
    pub fn queue_full(message: impl Into<String>, room_in: Option<Nanos>) -> Self {
        let seconds = room_in.map_or(0, |time| time.0.div_ceil(1_000_000_000));
        let seconds = seconds.clamp(*RETRY_AFTER_SECONDS.start(), *RETRY_AFTER_SECONDS.end());
        Self::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message)
            .with_header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// 429: `max` clients watch the engine already.
    pub fn too_many_watchers(max: usize) -> Self {
        let message = format!("{max} clients watch the engine already, which is the limit");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_watchers", message)
            .with_header(header::RETRY_AFTER, HeaderValue::from(*RETRY_AFTER_SECONDS.start()))
    }

    /// 503: a step took longer than `seconds`, and the answer can only be given after it.
    pub fn engine_busy(seconds: u64) -> Self {
        let message = format!("the engine has not finished a step for {seconds} seconds");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "engine_busy", message)
    }

    /// 503: the server finishes what runs and takes nothing new.
    pub fn shutting_down() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "shutting_down",
            "the server is shutting down and takes no new requests",
        )
    }

    /// 503: the server shut down before the answer was whole.
    pub fn cut_off() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "shutting_down",
            "the server is shutting down and cut this answer off",
        )
    }

    /// 503: the models are not loaded yet.
    pub fn loading() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "loading",
            "the models are being loaded: /health/ready says when the server is ready",
        )
    }

    /// 503: the connection is one too many.
    pub fn too_many_connections() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_connections",
            "as many connections are open as the server takes (--max-connections)",
        )
    }

    /// 503: the engine thread is gone.
    pub fn engine_stopped() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "engine_stopped", "the engine has stopped")
    }

    /// 503: the engine does not compute now, and may again.
    pub fn not_ready(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
            .with_header(header::RETRY_AFTER, HeaderValue::from(*RETRY_AFTER_SECONDS.start()))
    }

    /// 504: the request's deadline passed; `stats` tell whether anything was computed for it.
    pub fn deadline_exceeded(stats: &RequestStats) -> Self {
        let message = match (stats.first_scheduled, stats.first_token) {
            (None, _) => "the deadline passed while the request waited; nothing was computed",
            (Some(_), None) => "the deadline passed before the first result",
            (Some(_), Some(_)) => "the deadline passed before the answer was complete",
        };
        Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message)
    }

    /// 504: the request's deadline passed a while ago, and the engine has not said so.
    pub fn overdue() -> Self {
        let message = "the deadline passed, and the engine has not ended a step since";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message)
    }

    /// 500: a step that computed the request failed, not the request itself. It may be sent again.
    pub fn step_failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "step_failed", message)
            .with_header(SHOULD_RETRY, HeaderValue::from_static("true"))
    }

    /// 500: something failed that the client cannot help.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// The refusal of the engine, for a request whose prompt came from the field `param`.
    pub fn from_refusal(refusal: &Refusal, param: &str) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::ContextLength { .. } | Refusal::KvCapacity { .. } => {
                Self::context_length(param, message)
            }
            Refusal::QueueFull { room_in, .. } | Refusal::QueueFullOfTokens { room_in, .. } => {
                Self::queue_full(message, *room_in)
            }
            Refusal::Stopped => Self::engine_stopped(),
            Refusal::Invalid(_) => Self::invalid_value(param, message),
        }
    }

    /// What the text side has against the text of the field `param`.
    pub fn from_text(error: &text::Error, param: &str) -> Self {
        let message = error.to_string();
        match error {
            text::Error::NoChatTemplate { .. }
            | text::Error::Refused(_)
            | text::Error::Template { .. } => Self::invalid_value(param, message),
            text::Error::TooLong { .. } => {
                Self::context_length(param, format!("{param}: {message}"))
            }
            text::Error::Message { field, .. } => Self::invalid_value(field, message),
            _ => Self::internal(message),
        }
    }

    /// Status of the answer.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// What goes into logs and counts.
    pub fn note(&self) -> ErrorNote {
        let is_ours = self.0.status.is_server_error();
        let cause = is_ours.then(|| Arc::from(self.0.body.message.as_str()));
        ErrorNote { code: self.0.body.code, cause }
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.0.body.message
    }

    /// Path of the field at fault.
    pub fn param(&self) -> Option<&str> {
        self.0.body.param.as_deref()
    }

    /// The same error for a client that knows the field at fault as `param`.
    pub(crate) fn renamed(mut self, param: &str) -> Self {
        let body = &mut self.0.body;
        if let Some(known) = body.param.replace(param.to_owned()) {
            body.message = body.message.replace(&known, param);
        }
        self
    }

    /// Whether it says that the field at `path` is needed and not there.
    pub(crate) fn misses(&self, path: &str) -> bool {
        let body = &self.0.body;
        body.code == "missing_required_parameter" && body.param.as_deref() == Some(path)
    }

    /// The answer's JSON, for an error inside a stream.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "error": self.0.body })
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for ApiError {}

/// The error that an answer is, in the answer's extensions: for logs and counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorNote {
    /// What is wrong, for programs.
    pub code: &'static str,
    /// What is wrong, for the operator: only where it is not the client's fault, since what is
    /// may quote the request.
    pub cause: Option<Arc<str>>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let note = self.note();
        let mut response = (self.0.status, Json(self.to_json())).into_response();
        response.extensions_mut().insert(note);
        if let Some((name, value)) = self.0.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
