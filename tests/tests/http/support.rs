//! A server on the fake executor, and ways to talk to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use folio::app::{App, HttpSettings, MetricsAccess, router};
use folio::body::BodyLimits;
use folio::keys::KeyRing;
use folio::listen::ConnectionLimits;
use folio::models::{Models, ServedModel};
use folio::policy::{Policies, Seat};
use folio::responses::StoreLimits;
use folio::routes::page::PageMode;
use folio::service::Service;
use folio::telemetry::Tracer;
use folio::text::TextModel;
use folio_engine::EngineSetup;
use folio_engine::sched::{Gauges, Origin};
use folio_engine::types::{
    EngineConfig, ModelId, ModelKind, ModelLimits, PrefixCaching, Protection,
};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::task::JoinHandle;
use tower::ServiceExt;

use crate::fake::{self, FakeExecutor, HIDDEN_SIZE, Pace, VOCAB_SIZE};

/// Longest conversation.
pub(crate) const MAX_CHAT_LEN: u32 = 4096;
/// Longest text to embed.
pub(crate) const MAX_EMBED_LEN: u32 = 512;

/// What tests vary.
pub(crate) struct Options {
    pub keys: Vec<&'static str>,
    pub key_file: Option<&'static str>,
    pub origins: Vec<&'static str>,
    pub max_body_bytes: usize,
    pub max_total_body_bytes: usize,
    pub connections: ConnectionLimits,
    pub metrics: MetricsAccess,
    pub max_num_seqs: u32,
    pub max_queued_requests: u32,
    pub protection: Protection,
    pub max_timeout: Option<Duration>,
    pub num_blocks: u32,
    pub policy: &'static str,
    pub template: &'static str,
    pub seed: Option<u64>,
    pub responses: StoreLimits,
    /// Where traces go.
    pub traces: Option<String>,
    pub page: PageMode,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            key_file: None,
            origins: Vec::new(),
            max_body_bytes: 32 << 20,
            max_total_body_bytes: 1 << 30,
            connections: ConnectionLimits::default(),
            metrics: MetricsAccess::Keys,
            max_num_seqs: 64,
            max_queued_requests: 4096,
            protection: Protection::default(),
            max_timeout: None,
            num_blocks: 1025,
            policy: "fcfs",
            seed: None,
            template: fake::TEMPLATE,
            responses: StoreLimits::default(),
            traces: None,
            page: PageMode::Served,
        }
    }
}

impl Options {
    fn key_ring(&self) -> KeyRing {
        let keys = KeyRing::new(self.keys.iter().copied()).unwrap();
        match self.key_file {
            Some(text) => keys.with_file(&folio::keys::parse(text).unwrap()).unwrap(),
            None => keys,
        }
    }
}

/// A server without a socket.
pub(crate) struct Server {
    pub app: Arc<App>,
    pub router: Router,
    pub pace: Pace,
}

/// An answer, read whole.
pub(crate) struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// The answer, which must be a success.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// The data of each event, `[DONE]` included.
    pub(crate) fn events(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.headers["content-type"], "text/event-stream");
        events_in(self.text())
    }

    /// The chunks of a stream that ends as it should.
    pub(crate) fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"));
        let parse = |event: &String| serde_json::from_str(event).expect("JSON in an event");
        events.iter().map(parse).collect()
    }
}

pub(crate) fn events_in(text: &str) -> Vec<String> {
    text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_owned).collect()
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        let pace = Pace::default();
        let config = EngineConfig {
            models: vec![
                limits(ModelKind::Decoder, MAX_CHAT_LEN),
                limits(ModelKind::Encoder, MAX_EMBED_LEN),
            ],
            block_size: 16,
            num_blocks: options.num_blocks,
            max_num_seqs: options.max_num_seqs,
            max_num_batched_tokens: 2048,
            max_num_partial_prefills: 4,
            long_prefill_token_threshold: None,
            max_queued_requests: options.max_queued_requests,
            prefix_caching: PrefixCaching::On,
            num_host_blocks: 0,
        };
        let policies = Policies::default();
        let made = policies.make(options.policy, 16, Origin::Operator).unwrap();
        let of_engine = pace.clone();
        let build = move || Ok(Box::new(FakeExecutor::new(of_engine.clone())) as Box<_>);
        let setup = EngineSetup::new(config, made.policy).protection(options.protection);
        let engine = setup.spawn(build).unwrap();
        let keys = options.key_ring();
        let models = models(options.template);
        let service =
            Service::new(engine, models, Seat::new(policies, options.policy, None), options.seed)
                .unwrap();
        let mut service = service.with_max_timeout(options.max_timeout);
        if let Some(endpoint) = &options.traces {
            service.trace_to(Tracer::start(endpoint, &service.metrics).unwrap());
        }
        let settings = HttpSettings {
            body: BodyLimits {
                max_bytes: options.max_body_bytes,
                max_total_bytes: options.max_total_body_bytes,
                ..BodyLimits::default()
            },
            connections: options.connections,
            metrics: options.metrics,
            allowed_origins: options
                .origins
                .iter()
                .map(|origin| HeaderValue::from_static(origin))
                .collect(),
            num_readers: 2,
            responses: options.responses,
            page: options.page,
        };
        let app = Arc::new(App::new(service, keys, settings));
        Self { router: router(Arc::clone(&app)), app, pace }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        answer(self.router.clone(), request).await
    }

    /// Sends a request and lets others go on.
    pub(crate) fn spawn(&self, request: Request<Body>) -> JoinHandle<Reply> {
        tokio::spawn(answer(self.router.clone(), request))
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(post(path, body)).await
    }

    pub(crate) async fn post_text(&self, path: &str, body: &str) -> Reply {
        let request = Request::post(path).header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    pub(crate) fn gauges(&self) -> Gauges {
        self.app.service.engine.metrics().gauges
    }

    /// Waits until the engine's numbers are as wanted.
    pub(crate) async fn wait_for(&self, what: &str, is_so: impl Fn(&Gauges) -> bool) {
        wait_until(what, || is_so(&self.gauges())).await;
    }

    /// Waits until nothing runs, waits or holds a block.
    pub(crate) async fn wait_for_idle(&self) {
        let is_idle = |g: &Gauges| (g.num_running, g.num_waiting, g.num_used_blocks) == (0, 0, 0);
        self.wait_for("an idle engine", is_idle).await;
    }
}

async fn answer(router: Router, request: Request<Body>) -> Reply {
    let response = router.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Reply {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.pace.release();
    }
}

pub(crate) fn post(path: &str, body: &Value) -> Request<Body> {
    Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap()
}

/// Polls until `is_so`, and fails after far longer than it can take.
pub(crate) async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::task::yield_now().await;
    }
}

fn limits(kind: ModelKind, max_model_len: u32) -> ModelLimits {
    ModelLimits { kind, max_model_len, vocab_size: VOCAB_SIZE }
}

fn models(template: &str) -> Models {
    let chat = ServedModel {
        id: ModelId(0),
        names: vec!["echo".into(), "org/echo-1".into()],
        limits: limits(ModelKind::Decoder, MAX_CHAT_LEN),
        text: TextModel::load("echo", &|name| Ok(fake::chat_file(name, template)), None).unwrap(),
        end_tokens: vec![fake::END],
        hidden_size: 4,
        fingerprint: "fp_test".into(),
    };
    let embedding = ServedModel {
        id: ModelId(1),
        names: vec!["sines".into(), "multilingual-e5-large".into()],
        limits: limits(ModelKind::Encoder, MAX_EMBED_LEN),
        text: TextModel::load("sines", &|name| Ok(fake::embedding_file(name)), None).unwrap(),
        end_tokens: Vec::new(),
        hidden_size: HIDDEN_SIZE,
        fingerprint: "fp_test".into(),
    };
    Models::new(vec![chat, embedding], 1_700_000_000).unwrap()
}
