//! `GET /`: the page, and what it is made of.
//!
//! Everything is in the binary and loads nothing from elsewhere. The files hold no secrets and
//! are open to all; what the page shows, it asks the API for, with the key that its user gives.

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};

/// Whether the page is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageMode {
    /// At `/`.
    #[default]
    Served,
    /// There is nothing at `/`.
    Off,
}

/// What the page may do: load its own files and talk to its own server, nothing else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'; require-trusted-types-for 'script'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// A file of the page.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// Its address.
    pub path: &'static str,
    /// Its media type.
    pub content_type: &'static str,
    /// Its content.
    pub body: &'static str,
}

macro_rules! asset {
    ($path:literal, $content_type:expr, $file:literal) => {
        Asset {
            path: $path,
            content_type: $content_type,
            body: include_str!(concat!("../page/", $file)),
        }
    };
}

/// All files of the page.
pub const ASSETS: &[Asset] = &[
    asset!("/", HTML, "index.html"),
    asset!("/page/icon.svg", "image/svg+xml", "icon.svg"),
    asset!("/page/page.css", CSS, "page.css"),
    asset!("/page/chat.css", CSS, "chat.css"),
    asset!("/page/engine.css", CSS, "engine.css"),
    asset!("/page/theme.js", JAVASCRIPT, "theme.js"),
    asset!("/page/main.js", JAVASCRIPT, "main.js"),
    asset!("/page/dom.js", JAVASCRIPT, "dom.js"),
    asset!("/page/api.js", JAVASCRIPT, "api.js"),
    asset!("/page/request.js", JAVASCRIPT, "request.js"),
    asset!("/page/chat.js", JAVASCRIPT, "chat.js"),
    asset!("/page/answer.js", JAVASCRIPT, "answer.js"),
    asset!("/page/tokens.js", JAVASCRIPT, "tokens.js"),
    asset!("/page/embeddings.js", JAVASCRIPT, "embeddings.js"),
    asset!("/page/engine.js", JAVASCRIPT, "engine.js"),
    asset!("/page/pool.js", JAVASCRIPT, "pool.js"),
    asset!("/page/charts.js", JAVASCRIPT, "charts.js"),
    asset!("/page/load.js", JAVASCRIPT, "load.js"),
];

/// The addresses of the page.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        let tag = entity_tag(asset.body);
        let answer = move |headers: HeaderMap| std::future::ready(respond(*asset, &tag, &headers));
        router.route(asset.path, get(answer))
    })
}

/// Changes with the content.
fn entity_tag(body: &str) -> HeaderValue {
    let digest = Sha256::digest(body);
    let number = digest.iter().take(8).fold(0u64, |number, &byte| number << 8 | u64::from(byte));
    HeaderValue::try_from(format!("\"{number:016x}\""))
        .unwrap_or_else(|_| HeaderValue::from_static("\"folio\""))
}

/// The file, or 304 to a client that has it. It asks each time, so that a new version of the
/// program is never mixed with an old page.
fn respond(asset: Asset, tag: &HeaderValue, headers: &HeaderMap) -> Response {
    let fixed = |name: HeaderName, value: &'static str| (name, HeaderValue::from_static(value));
    let common = [
        (header::ETAG, tag.clone()),
        fixed(header::CACHE_CONTROL, "no-cache"),
        fixed(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        fixed(header::REFERRER_POLICY, "no-referrer"),
        fixed(HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    if has(headers, tag) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    (common, [fixed(header::CONTENT_TYPE, asset.content_type)], asset.body).into_response()
}

/// Whether the client says that it has the version `tag`.
fn has(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let known = headers.get_all(header::IF_NONE_MATCH).iter();
    let mut tags = known.filter_map(|value| value.to_str().ok()).flat_map(|all| all.split(','));
    tags.any(|one| {
        let one = one.trim();
        one == "*" || one.trim_start_matches("W/").as_bytes() == tag.as_bytes()
    })
}
