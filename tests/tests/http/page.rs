//! The page at `/` and the live view behind it: what is served, to whom, and that the parts fit
//! together. How it behaves in a browser is for `scripts/page_test`.

use std::collections::BTreeSet;
use std::task::Poll;

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use folio::routes::live::MAX_WATCHERS;
use folio::routes::page::{ASSETS, Asset, PageMode};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::{Options, Server, events_in, wait_until};

fn html() -> &'static str {
    ASSETS.iter().find(|asset| asset.path == "/").expect("a page").body
}

fn scripts() -> impl Iterator<Item = &'static Asset> {
    ASSETS.iter().filter(|asset| asset.content_type.starts_with("text/javascript"))
}

/// What stands between `before` and the next `after`, wherever it does.
fn all_between<'a>(
    text: &'a str,
    before: &'a str,
    after: &'a str,
) -> impl Iterator<Item = &'a str> {
    text.split(before).skip(1).filter_map(move |rest| Some(rest.split_once(after)?.0))
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let start = tag.find(&format!(" {name}=\""))? + name.len() + 3;
    tag[start..].split('"').next()
}

/// Tags in order: name, whole text, for opening and closing ones alike.
fn tags(html: &str) -> Vec<(&str, &str)> {
    let body = html.split_once("<!doctype html>").expect("a doctype").1;
    all_between(body, "<", ">")
        .map(|tag| (tag.split([' ', '\n']).next().unwrap_or(""), tag))
        .collect()
}

#[tokio::test]
async fn every_file_comes_with_its_headers_and_needs_no_key() {
    let server = Server::with(Options { keys: vec!["secret"], ..Options::default() });
    for asset in ASSETS {
        let reply = server.get(asset.path).await;
        assert_eq!(reply.status, 200, "{}", asset.path);
        assert_eq!(reply.text(), asset.body);
        assert!(!asset.body.is_empty(), "{}", asset.path);
        let header = |name: &str| reply.headers[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), asset.content_type);
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("cache-control"), "no-cache");
        let policy = header("content-security-policy");
        for rule in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.split("; ").any(|one| one.trim() == rule), "{rule} in {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(reply.headers.contains_key("x-request-id"));
        let tag = header("etag");
        for (known, status) in [(tag.clone(), 304), (format!("W/{tag}, \"x\""), 304)] {
            let request = Request::get(asset.path).header("if-none-match", known);
            let again = server.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!((again.status.as_u16(), again.body.len()), (status, 0));
            assert_eq!(again.headers["etag"], tag);
        }
        let request = Request::get(asset.path).header("if-none-match", "\"other\"");
        assert_eq!(server.send(request.body(Body::empty()).unwrap()).await.status, 200);
    }
    let post = Request::post("/").body(Body::empty()).unwrap();
    assert_eq!(server.send(post).await.json()["error"]["code"], "method_not_allowed");
}

#[tokio::test]
async fn a_server_without_a_page_has_nothing_at_its_addresses() {
    let server = Server::with(Options { page: PageMode::Off, ..Options::default() });
    for asset in ASSETS {
        assert_eq!(server.get(asset.path).await.json()["error"]["code"], "unknown_url");
    }
    assert_eq!(server.get("/v1/engine/live").await.status, 200, "which is part of the API");
}

#[test]
fn the_page_is_well_formed() {
    const VOID: [&str; 5] = ["meta", "link", "input", "img", "br"];
    let mut open = Vec::new();
    for (name, tag) in tags(html()) {
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes another element");
        } else if !VOID.contains(&name) && !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    let ids: Vec<_> = tags(html()).iter().filter_map(|(_, tag)| attribute(tag, "id")).collect();
    let known: BTreeSet<_> = ids.iter().copied().collect();
    assert_eq!(known.len(), ids.len(), "an id is used twice");
    for (_, tag) in tags(html()) {
        for name in ["for", "aria-controls", "aria-labelledby", "aria-describedby"] {
            for id in attribute(tag, name).into_iter().flat_map(str::split_whitespace) {
                assert!(known.contains(id), "{name} = {id} in <{tag}>");
            }
        }
        assert!(attribute(tag, "style").is_none(), "the policy forbids <{tag}>");
        assert!(!tag.contains(" on"), "the policy forbids <{tag}>");
    }
    let labelled: BTreeSet<_> =
        tags(html()).iter().filter_map(|(_, tag)| attribute(tag, "for")).collect();
    for (name, tag) in tags(html()) {
        let is_field = ["input", "select", "textarea"].contains(&name);
        let is_inside_label = attribute(tag, "type") == Some("checkbox");
        let id = attribute(tag, "id").unwrap_or("");
        assert!(!is_field || is_inside_label || labelled.contains(id), "no label: <{tag}>");
    }
}

#[test]
fn the_page_loads_what_is_there_and_nothing_else() {
    let served: BTreeSet<_> = ASSETS.iter().map(|asset| asset.path).collect();
    let mut used = BTreeSet::from(["/"]);
    for (_, tag) in tags(html()) {
        used.extend(attribute(tag, "src").into_iter().chain(attribute(tag, "href")));
    }
    for asset in scripts() {
        for module in all_between(asset.body, "from './", "'") {
            let path = format!("/page/{module}");
            used.extend(ASSETS.iter().map(|asset| asset.path).filter(|known| **known == path));
            assert!(served.contains(path.as_str()), "{} imports {module}", asset.path);
        }
    }
    assert_eq!(used, served);
    for asset in ASSETS {
        let body = asset.body.replace("http://www.w3.org/2000/svg", "");
        for word in ["http://", "https://", "innerHTML", "eval(", "document.write"] {
            assert!(!body.contains(word), "{} has {word}", asset.path);
        }
        assert!(asset.body.lines().count() <= 500, "{} is too long", asset.path);
    }
}

#[test]
fn scripts_find_the_elements_that_they_name() {
    let ids: BTreeSet<_> =
        tags(html()).iter().filter_map(|(_, tag)| attribute(tag, "id")).collect();
    let made_by_scripts = ["form-problem"];
    for asset in scripts() {
        for id in all_between(asset.body, "byId('", "'") {
            let is_known = ids.contains(id) || made_by_scripts.contains(&id);
            assert!(is_known, "{} looks for #{id}", asset.path);
        }
    }
}

#[tokio::test]
async fn every_address_that_the_page_uses_exists() {
    let server = Server::start();
    let mut paths = BTreeSet::new();
    for asset in scripts() {
        paths.extend(all_between(asset.body, "'/", "'"));
    }
    assert!(paths.len() >= 4, "{paths:?}");
    for path in paths {
        let reply = server.get(&format!("/{path}")).await;
        assert_ne!(reply.status, 404, "/{path}");
    }
}

/// The control of each field that the page sends has the field's own name.
#[tokio::test]
async fn the_api_honours_every_control() {
    let server = Server::start();
    let script = scripts().find(|asset| asset.path.ends_with("request.js")).unwrap();
    let list = script.body.split_once("const NUMBERS = [").unwrap().1.split_once("];").unwrap().0;
    let mut body = json!({
        "model": "echo",
        "messages": [{"role": "user", "content": "hi"}],
        "stop": ["x"], "logit_bias": {"5": -3.5}, "tools": [], "logprobs": true,
        "top_logprobs": 5, "stream": true, "stream_options": {"include_usage": true},
    });
    let names = list.split('\'').skip(1).step_by(2);
    for name in names {
        body[name] = json!(1);
    }
    assert_eq!(body.as_object().unwrap().len(), 19);
    assert_eq!(server.post("/v1/chat/completions", &body).await.status, 200);
}

fn watch_request() -> Request<Body> {
    let request = Request::get("/v1/engine/live").header("accept", "text/event-stream");
    request.body(Body::empty()).unwrap()
}

/// The pictures that a watcher gets, one by one.
async fn watch(server: &Server) -> (HeaderMap, impl StreamExt<Item = Value> + Unpin) {
    let response = server.router.clone().oneshot(watch_request()).await.unwrap();
    let (parts, body) = response.into_parts();
    assert_eq!(parts.status, 200);
    let frames = body.into_data_stream().flat_map(|chunk| {
        let text = String::from_utf8(chunk.unwrap().to_vec()).unwrap();
        let events = events_in(&text).into_iter();
        stream::iter(events.map(|event| serde_json::from_str(&event).unwrap()).collect::<Vec<_>>())
    });
    (parts.headers, Box::pin(frames))
}

#[tokio::test]
async fn the_live_view_is_behind_the_key_and_says_nothing_of_texts() {
    let server = Server::with(Options { keys: vec!["secret"], ..Options::default() });
    assert_eq!(server.get("/v1/engine/live").await.status, 401);
    let ask = || Request::get("/v1/engine/live?once").header("authorization", "Bearer secret");
    let frame = server.send(ask().body(Body::empty()).unwrap()).await.ok();
    assert_eq!(frame["models"][0], json!({"name": "echo", "task": "generate"}));
    assert_eq!(frame["models"][1], json!({"name": "sines", "task": "embed"}));
    assert_eq!(frame["pool"]["blocks"], 1024);
    assert_eq!(frame["counts"]["running"], 0);
    let wrong = Request::get("/v1/engine/live?often").header("authorization", "Bearer secret");
    assert_eq!(server.send(wrong.body(Body::empty()).unwrap()).await.status, 400);
}

#[tokio::test]
async fn a_watcher_sees_requests_come_and_go() {
    let server = Server::start();
    let (headers, mut frames) = watch(&server).await;
    assert_eq!(headers["content-type"], "text/event-stream");
    assert_eq!(headers["cache-control"], "no-store");
    let idle = frames.next().await.unwrap();
    assert_eq!((&idle["sequences"], &idle["steps"]), (&json!([]), &json!([])));
    let said = "a secret that takes more than one block of sixteen tokens";
    let body = json!({"model": "echo", "messages": [{"role": "user", "content": said}], "n": 2});
    assert_eq!(server.post("/v1/chat/completions", &body).await.status, 200);
    let after = frames.next().await.unwrap();
    assert_eq!(after["counts"]["first_tokens"], 2);
    let sum = |field: &str| -> u64 {
        let steps = after["steps"].as_array().unwrap().iter();
        steps.map(|step| step[field].as_u64().unwrap()).sum()
    };
    let generated = after["counts"]["generated_tokens"].as_u64().unwrap();
    assert_eq!(generated, 2 * (said.len() as u64 + 1));
    assert_eq!(sum("decode"), generated - 2, "the first token of each comes with the prompt");
    assert!(after["pool"]["cached"].as_u64().unwrap() > 0);
    assert!(!after.to_string().contains("secret"));
}

#[tokio::test]
async fn a_running_sequence_is_shown_with_its_blocks() {
    let server = Server::start();
    server.pace.hold();
    let body = json!({"model": "echo", "messages": [{"role": "user", "content": "forever"}]});
    let router = server.router.clone();
    let chat = tokio::spawn(router.oneshot(crate::support::post("/v1/chat/completions", &body)));
    wait_until("a step", || server.pace.is_waiting()).await;
    let (_, mut frames) = watch(&server).await;
    // A step at a time, until one ends after the picture was asked for.
    let mut frame = std::pin::pin!(frames.next());
    let frame = loop {
        match futures_util::poll!(&mut frame) {
            Poll::Ready(frame) => break frame.unwrap(),
            Poll::Pending if server.pace.is_waiting() => server.pace.allow(1),
            Poll::Pending => tokio::task::yield_now().await,
        }
    };
    let sequence = &frame["sequences"][0];
    assert_eq!(sequence["state"], "running");
    assert!(sequence["generated"].as_u64().unwrap() > 0);
    assert_eq!(sequence["blocks"], frame["pool"]["used"]);
    chat.abort();
    server.pace.release();
    server.wait_for_idle().await;
}

#[tokio::test]
async fn there_is_room_for_so_many_watchers() {
    let server = Server::start();
    let mut watchers = Vec::new();
    for _ in 0..MAX_WATCHERS {
        watchers.push(watch(&server).await);
    }
    let reply = server.send(watch_request()).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.headers["retry-after"]),
        (429, &"1".parse().unwrap())
    );
    assert_eq!(reply.json()["error"]["code"], "too_many_watchers");
    watchers.pop();
    let (_, mut frames) = watch(&server).await;
    assert!(frames.next().await.is_some());
}

#[tokio::test]
async fn a_draining_server_ends_the_stream_with_its_work() {
    let server = Server::start();
    let (_, mut frames) = watch(&server).await;
    assert!(frames.next().await.is_some());
    server.app.lifecycle.drain();
    assert!(frames.next().await.is_none());
}
