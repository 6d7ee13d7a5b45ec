//! The HTTP side: addresses, and the layers that every request passes.
//!
//! From the outside in: CORS (a preflight needs no key, errors carry its headers), request id,
//! log and counts, key. The key is checked before a byte of the body is read. An address is behind
//! the key unless it is in the list of the open ones.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::body::{BodyLimits, BodyRoom};
use crate::client::{Client, RequestId};
use crate::error::ApiError;
use crate::gate::Gate;
use crate::keys::{self, Allowance, KeyRing};
use crate::lifecycle::Lifecycle;
use crate::listen::{ConnectionLimits, Front, Socket};
use crate::responses::{Store, StoreLimits};
use crate::routes;
use crate::routes::live::Watchers;
use crate::routes::page::PageMode;
use crate::service::Service;
use crate::telemetry::{self, Record};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken from a client.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// What handlers share.
#[derive(Debug)]
pub struct App {
    /// Engine and models.
    pub service: Arc<Service>,
    /// Who may use the server.
    pub keys: KeyRing,
    /// Limits and habits of the HTTP side.
    pub settings: HttpSettings,
    /// Bounds the reading of requests.
    pub gate: Gate,
    /// Bounds the memory of their bodies.
    pub body_room: BodyRoom,
    /// Whether new work is taken.
    pub lifecycle: Lifecycle,
    /// Responses that clients may come back to.
    pub responses: Store,
    /// Room for those who watch the engine.
    pub watchers: Watchers,
}

/// Limits and habits of the HTTP side.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// How bodies are read.
    pub body: BodyLimits,
    /// What connections may hold.
    pub connections: ConnectionLimits,
    /// Origins whose pages may use the server; empty for all.
    pub allowed_origins: Vec<HeaderValue>,
    /// Requests that are read at the same time.
    pub num_readers: usize,
    /// How many finished responses are kept.
    pub responses: StoreLimits,
    /// Whether there is a page at `/`.
    pub page: PageMode,
    /// Who may read the metrics.
    pub metrics: MetricsAccess,
}

/// Who may read the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetricsAccess {
    /// Whoever has a key.
    #[default]
    Keys,
    /// Everybody.
    Open,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            body: BodyLimits::default(),
            connections: ConnectionLimits::default(),
            allowed_origins: Vec::new(),
            num_readers: std::thread::available_parallelism().map_or(1, usize::from),
            responses: StoreLimits::default(),
            page: PageMode::default(),
            metrics: MetricsAccess::default(),
        }
    }
}

impl App {
    /// Serves `service`. No more requests are read at a time than the
    /// engine could take: whether it does is for its own queue to say.
    pub fn new(service: Service, keys: KeyRing, settings: HttpSettings) -> Self {
        let config = service.engine.config();
        let max_places = (config.max_queued_requests as usize)
            .saturating_add(config.max_num_seqs as usize)
            .saturating_add(settings.num_readers);
        Self {
            service: Arc::new(service),
            keys,
            gate: Gate::new(settings.num_readers, max_places),
            body_room: BodyRoom::new(settings.body.max_total_bytes),
            lifecycle: Lifecycle::new(),
            responses: Store::new(settings.responses),
            watchers: Watchers::default(),
            settings,
        }
    }

    /// Waits until the server takes no more work and all that it took is done.
    pub async fn drained(&self) {
        let is_idle = || {
            let gauges = self.service.engine.metrics().gauges;
            gauges.num_running == 0 && gauges.num_waiting == 0
        };
        self.lifecycle.drained(is_idle).await;
    }
}

/// All addresses with their layers.
pub fn router(app: Arc<App>) -> Router {
    let cors = cors(&app.settings);
    let locked = Router::new()
        .route("/v1/chat/completions", post(routes::chat::create))
        .route("/v1/chat/completions/render", post(routes::render::chat))
        .route("/v1/completions", post(routes::completions::create))
        .route("/v1/completions/render", post(routes::render::completion))
        .route("/v1/responses", post(routes::responses::create))
        .route("/v1/responses/input_tokens", post(routes::responses::input_tokens))
        .route("/v1/responses/{id}", get(routes::responses::show).delete(routes::responses::delete))
        .route("/v1/responses/{id}/cancel", post(routes::responses::cancel))
        .route("/v1/responses/{id}/input_items", get(routes::responses::input_items))
        .route("/v1/embeddings", post(routes::embeddings::create))
        .route("/v1/rerank", post(routes::rerank::create))
        .route("/v2/rerank", post(routes::rerank::create))
        .route("/rerank", post(routes::rerank::create))
        .route("/v1/score", post(routes::score::create))
        .route("/score", post(routes::score::create))
        .route("/v1/models", get(routes::models::list))
        .route("/v1/models/{*id}", get(routes::models::show))
        .route("/tokenize", post(routes::tokenize::tokenize))
        .route("/detokenize", post(routes::tokenize::detokenize))
        .route("/openapi.json", get(routes::openapi::show))
        .route("/load", get(routes::status::load))
        .route("/version", get(routes::status::version));
    let mut open = match app.settings.page {
        PageMode::Served => routes::page::router(),
        PageMode::Off => Router::new(),
    };
    open = open
        .route("/health", get(routes::status::ready))
        .route("/health/live", get(routes::status::live))
        .route("/health/ready", get(routes::status::ready));
    let mut admin = Router::new()
        .route("/v1/engine/live", get(routes::live::live))
        .route("/v1/policy", get(routes::policy::show).put(routes::policy::change));
    match app.settings.metrics {
        MetricsAccess::Keys => admin = admin.route("/metrics", get(routes::status::metrics)),
        MetricsAccess::Open => open = open.route("/metrics", get(routes::status::metrics)),
    }
    locked
        .merge(admin.route_layer(middleware::from_fn(check_admin)))
        .fallback(unknown_url)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), check_key))
        .merge(open.method_not_allowed_fallback(method_not_allowed))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), telemetry::observe))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), add_id))
        .layer(cors)
        .with_state(app)
}

/// Serves on `listener` until the lifecycle says that all is drained. Connections that are still
/// open then, idle or stuck, get a moment for the last bytes.
pub async fn serve(listener: TcpListener, app: Arc<App>) {
    let limits = app.settings.connections.clone();
    Socket { listener, limits, tls: None }.serve(Arc::new(Front::serving(&app))).await;
}

fn cors(settings: &HttpSettings) -> CorsLayer {
    let origins = if settings.allowed_origins.is_empty() {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(settings.allowed_origins.iter().cloned())
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(
            [REQUEST_ID, header::RETRY_AFTER]
                .into_iter()
                .chain(keys::headers())
                .collect::<Vec<_>>(),
        )
        .max_age(Duration::from_secs(3600))
}

/// Lets in whoever has a key and has not used it up, and ends what is unfinished when there is no
/// more time for it.
async fn check_key(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let client = match app.keys.check(request.headers()) {
        Ok(client) => client,
        Err(error) => return error.into_response(),
    };
    if let Some(record) = request.extensions().get::<Arc<Record>>() {
        record.identify(&client.name);
    }
    // What asks for work is counted; looking at models or metrics is not.
    let allowance = client.allowance.clone().filter(|_| request.method() == Method::POST);
    if let Some(Err(error)) = allowance.as_ref().map(|allowance| allowance.take_request()) {
        return with_rates(error.into_response(), allowance.as_deref());
    }
    request.extensions_mut().insert(client);
    let mut cut = app.service.cut.receiver();
    let response = tokio::select! {
        response = next.run(request) => response,
        () = cut.wait() => ApiError::cut_off().into_response(),
    };
    with_rates(response, allowance.as_deref())
}

fn with_rates(mut response: Response, allowance: Option<&Allowance>) -> Response {
    if let Some(allowance) = allowance {
        allowance.report(response.headers_mut());
    }
    response
}

/// Lets in administrators alone.
async fn check_admin(request: Request, next: Next) -> Response {
    match Client::of(request.extensions()).check_admin() {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Answers with the client's `X-Request-Id`, or with one of the server's own.
async fn add_id(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let id: Arc<str> = match given.filter(|id| is_presentable(id)) {
        Some(id) => id.into(),
        None => app.service.unique_id("req").into(),
    };
    request.extensions_mut().insert(RequestId(Arc::clone(&id)));
    let mut response = next.run(request).await;
    if let Ok(id) = HeaderValue::try_from(&*id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn is_presentable(id: &str) -> bool {
    let bytes = id.as_bytes();
    (1..=MAX_REQUEST_ID_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

async fn unknown_url(request: Request) -> ApiError {
    ApiError::unknown_url(request.method().as_str(), request.uri().path())
}

async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::method_not_allowed(request.method().as_str(), request.uri().path())
}
