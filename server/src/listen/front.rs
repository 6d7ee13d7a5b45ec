//! Who answers: while the models load, somebody who can only say so; then the app.

use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;
use tower::ServiceExt;

use crate::app::{App, router};
use crate::error::ApiError;
use crate::routes::status;

/// Addresses that are answered on connections beyond the limit too, so that a busy server is not
/// taken for a dead one.
const HEALTH: [&str; 3] = ["/health", "/health/live", "/health/ready"];

/// What the listener hands requests to.
#[derive(Debug)]
pub struct Front {
    router: ArcSwap<Router>,
    app: watch::Sender<Option<Arc<App>>>,
}

impl Front {
    /// Says that the server lives and is not ready.
    pub fn loading() -> Self {
        let router = Router::new()
            .route("/health/live", get(status::live))
            .fallback(async || ApiError::loading());
        Self { router: ArcSwap::from_pointee(router), app: watch::Sender::new(None) }
    }

    /// Serves `app`.
    pub fn serving(app: &Arc<App>) -> Self {
        let front = Self::loading();
        front.open(app);
        front
    }

    /// From now on serves `app`, on connections that are open already too.
    pub fn open(&self, app: &Arc<App>) {
        self.router.store(Arc::new(router(Arc::clone(app))));
        self.app.send_replace(Some(Arc::clone(app)));
    }

    /// Waits until there is an app that has drained.
    pub async fn drained(&self) {
        let mut app = self.app.subscribe();
        // The sender lives as long as `self`.
        let app = app.wait_for(Option::is_some).await.ok().and_then(|app| app.clone());
        if let Some(app) = app {
            app.drained().await;
        }
    }

    /// Answers a request.
    pub(super) async fn answer(&self, request: Request) -> Result<Response, Infallible> {
        let router = Router::clone(&self.router.load());
        router.oneshot(request).await
    }

    /// Answers a request on a connection beyond the limit, which ends with the answer.
    pub(super) async fn refuse(&self, request: Request) -> Result<Response, Infallible> {
        let mut response = if HEALTH.contains(&request.uri().path()) {
            self.answer(request).await?
        } else {
            ApiError::too_many_connections().into_response()
        };
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        Ok(response)
    }
}
