//! `GET /v1/engine/live`: the engine as it works, once as a JSON object or, for a client that
//! accepts `text/event-stream`, again and again as server-sent events.
//!
//! At most four pictures a second go to a watcher, made when its connection can take one. There
//! is room for a few watchers only; one picture serves all who ask at about the same time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use folio_engine::live::LiveSnapshot;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, MissedTickBehavior};

use crate::app::App;
use crate::error::ApiError;
use crate::live::Frame;

/// Most clients that watch at the same time.
pub const MAX_WATCHERS: usize = 8;
/// Time between two pictures.
const INTERVAL: Duration = Duration::from_millis(250);
/// How often a stream without a picture, for a step takes long, says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Longest wait for a single picture.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Room for watchers.
#[derive(Debug)]
pub struct Watchers(Arc<Semaphore>);

impl Default for Watchers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_WATCHERS)))
    }
}

impl Watchers {
    fn enter(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let place = Arc::clone(&self.0).try_acquire_owned();
        place.map_err(|_| ApiError::too_many_watchers(MAX_WATCHERS))
    }
}

/// Shows the engine.
pub async fn live(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    match query.as_deref() {
        None | Some("") if accepts_events(&headers) => watch(&app),
        None | Some("" | "once") => once(&app).await,
        Some(_) => Err(ApiError::invalid_value("query", "the query must be ?once or absent")),
    }
}

fn accepts_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|all| all.split([',', ';'])).any(|one| one.trim() == "text/event-stream")
}

async fn once(app: &App) -> Result<Response, ApiError> {
    let _place = app.watchers.enter()?;
    let snapshot = tokio::time::timeout(MAX_WAIT, app.service.engine.live()).await;
    let snapshot = snapshot
        .map_err(|_| ApiError::engine_busy(MAX_WAIT.as_secs()))?
        .map_err(|refusal| ApiError::from_refusal(&refusal, "query"))?;
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((no_store, Json(frame(app, &snapshot, 0))).into_response())
}

fn watch(app: &Arc<App>) -> Result<Response, ApiError> {
    let place = app.watchers.enter()?;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watcher = Watcher { app: Arc::clone(app), ticks, last_step: 0, _place: place };
    let events = stream::unfold(watcher, |mut watcher| async {
        let event = watcher.next().await?;
        Some((Ok::<_, Infallible>(event), watcher))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn frame(app: &App, snapshot: &LiveSnapshot, last_step: u64) -> Frame {
    let service = &app.service;
    Frame::new(snapshot, &service.models, service.engine.config(), last_step)
}

/// One client that watches.
struct Watcher {
    app: Arc<App>,
    ticks: Interval,
    /// The latest step that it was told of.
    last_step: u64,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    /// The next picture. The stream ends with the engine, and with the work of a server that
    /// takes no more.
    async fn next(&mut self) -> Option<Event> {
        self.ticks.tick().await;
        let snapshot = self.app.service.engine.live().await.ok()?;
        let is_idle = snapshot.gauges.num_running == 0 && snapshot.gauges.num_waiting == 0;
        if is_idle && self.app.lifecycle.is_draining() {
            return None;
        }
        let frame = frame(&self.app, &snapshot, self.last_step);
        self.last_step = snapshot.steps.last().map_or(self.last_step, |step| step.number);
        Event::default().json_data(frame).ok()
    }
}
