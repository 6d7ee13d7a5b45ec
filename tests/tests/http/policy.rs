//! The scheduling policy over HTTP: shown, changed between two steps, refused with the column.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};

use crate::support::{Options, Reply, Server};

const FILE: &str = r#"
[[key]]
name = "search"
key = "sk-key-of-the-search-team"

[[key]]
name = "ops"
key = "sk-key-of-the-operators"
admin = true
"#;

const SEARCH: &str = "sk-key-of-the-search-team";
const OPS: &str = "sk-key-of-the-operators";

fn server() -> Server {
    Server::with(Options { key_file: Some(FILE), ..Options::default() })
}

fn request(method: Method, path: &str, key: &str, body: &Value) -> Request<Body> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/json");
    request.body(Body::from(body.to_string())).unwrap()
}

async fn send(server: &Server, method: Method, path: &str, key: &str, body: &Value) -> Reply {
    server.send(request(method, path, key, body)).await
}

async fn put(server: &Server, body: Value) -> Reply {
    send(server, Method::PUT, "/v1/policy", OPS, &body).await
}

async fn show(server: &Server) -> Value {
    send(server, Method::GET, "/v1/policy", OPS, &json!({})).await.ok()
}

async fn chat(server: &Server, text: &str, priority: i32) -> Reply {
    let body = json!({ "model": "echo", "messages": text, "priority": priority });
    send(server, Method::POST, "/v1/chat/completions", SEARCH, &body).await
}

fn content(answer: &Value) -> &Value {
    &answer["choices"][0]["message"]["content"]
}

#[tokio::test]
async fn the_policy_is_shown_and_changed() {
    let server = server();
    let before = show(&server).await;
    assert_eq!((&before["object"], &before["policy"]), (&json!("policy"), &json!("fcfs")));
    assert_eq!(before["shadow"], Value::Null);
    let known = before["known"].as_array().unwrap();
    assert!(known.iter().any(|one| one["name"] == "expr:"), "{known:?}");
    let body = json!({ "policy": " expr: uncached - 200*waited_s ", "shadow_policy": "priority" });
    let after = put(&server, body).await.ok();
    assert_eq!(after["policy"], "expr: uncached - 200*waited_s");
    assert_eq!(after["shadow"]["policy"], "priority");
    assert_eq!(after["shadow"]["plans"], 0);
    // What is absent stays; "none" takes the shadow away.
    let after = put(&server, json!({ "shadow_policy": "none", "policy": null })).await.ok();
    assert_eq!(
        (&after["policy"], &after["shadow"]),
        (&show(&server).await["policy"], &Value::Null)
    );
    assert_eq!(content(&chat(&server, "hello", 0).await.ok()), "hello");
}

#[tokio::test]
async fn priorities_are_taken_as_soon_as_the_policy_looks_at_them() {
    let server = server();
    let refused = chat(&server, "x", 3).await;
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("under the policy that runs (fcfs)"), "{}", refused.text());
    put(&server, json!({ "policy": "priority" })).await.ok();
    assert_eq!(chat(&server, "x", 3).await.status, 200);
    put(&server, json!({ "policy": "expr: prompt" })).await.ok();
    assert_eq!(chat(&server, "x", 3).await.status, 400);
}

#[tokio::test]
async fn what_runs_and_waits_is_kept_and_answered() {
    let server = server();
    server.pace.hold();
    let chats: Vec<_> = (0..12)
        .map(|number| {
            let body = json!({ "model": "echo", "messages": format!("number {number}") });
            server.spawn(request(Method::POST, "/v1/chat/completions", SEARCH, &body))
        })
        .collect();
    server.wait_for("all", |gauges| gauges.num_running + gauges.num_waiting == 12).await;
    let body = json!({ "policy": "expr: -arrival", "shadow_policy": "fcfs" });
    let first = server.spawn(request(Method::PUT, "/v1/policy", OPS, &body));
    server.pace.release();
    first.await.unwrap().ok();
    for spec in ["priority", "expr: prompt; displace: true", "expr: -arrival; victim: computed"] {
        put(&server, json!({ "policy": spec, "shadow_policy": "expr: -arrival" })).await.ok();
    }
    for (number, chat) in chats.into_iter().enumerate() {
        let answer = chat.await.unwrap().ok();
        assert_eq!(content(&answer), &json!(format!("number {number}")));
    }
    assert_eq!(show(&server).await["policy"], "expr: -arrival; victim: computed");
}

#[tokio::test]
async fn a_bad_spec_changes_nothing_and_is_refused_with_its_column() {
    let server = server();
    for (body, param, message) in [
        (json!({ "policy": "fcsf" }), "policy", "column 1: there is no policy \"fcsf\" (did you"),
        (json!({ "policy": "fcfs ageing=2" }), "policy", "column 6: ageing is not a parameter"),
        (
            json!({ "policy": "expr: uncached - 200*wated_s" }),
            "policy",
            "column 22: there is no feature \"wated_s\" (did you mean waited_s?)",
        ),
        (json!({ "policy": "" }), "policy", "a policy is missing"),
        (json!({ "policy": "priority", "shadow_policy": "x" }), "shadow_policy", "column 1"),
        (json!({ "policy": 3 }), "policy", "a string"),
        (json!({ "polcy": "fcfs" }), "polcy", ""),
        (json!({}), "policy", ""),
    ] {
        let reply = put(&server, body.clone()).await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
        let error = reply.json()["error"].clone();
        assert_eq!(error["param"], param, "{error}");
        assert!(error["message"].as_str().unwrap().contains(message), "{error}");
        assert_eq!(show(&server).await["policy"], "fcfs", "{body}");
    }
}

#[tokio::test]
async fn only_an_administrators_key_changes_the_policy() {
    let server = server();
    let body = json!({ "policy": "priority" });
    for method in [Method::GET, Method::PUT] {
        let reply = send(&server, method, "/v1/policy", SEARCH, &body).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json()["error"]["code"]),
            (403, &json!("permission_denied"))
        );
    }
    let open = Server::start();
    let reply = put(&open, body).await;
    assert_eq!(reply.status, 403);
    assert!(reply.text().contains("started without keys"), "{}", reply.text());
    assert_eq!(show(&open).await["policy"], "fcfs");
}

#[tokio::test]
async fn metrics_name_the_policy_and_count_its_shadow() {
    let server = server();
    let body = json!({ "policy": "expr: 1/(priority*0)", "shadow_policy": "expr: -arrival" });
    put(&server, body).await.ok();
    chat(&server, "x", 0).await.ok();
    let text = send(&server, Method::GET, "/metrics", OPS, &json!({})).await;
    let text = text.text().to_owned();
    for line in [
        "folio:policy_info{engine=\"0\",policy=\"expr\",shadow_policy=\"expr\"} 1",
        "folio:shadow_plans_total{engine=\"0\"} 0",
    ] {
        assert!(text.lines().any(|one| one == line), "{line} is not in {text}");
    }
    let faults = "folio:policy_faults_total{engine=\"0\",kind=\"undefined\"} ";
    let count = text.lines().find_map(|line| line.strip_prefix(faults)).unwrap();
    assert!(count.parse::<u64>().unwrap() > 0, "{count}");
}

fn with_process(command: &str) -> Server {
    let spec = format!("process: stall=60s {command}");
    Server::with(Options { policy: spec.leak(), key_file: Some(FILE), ..Options::default() })
}

async fn num_faults(server: &Server, kind: &str) -> u64 {
    let faults = show(server).await["faults"].clone();
    let fault = faults.as_array().unwrap().iter().find(|fault| fault["kind"] == kind);
    fault.unwrap()["count"].as_u64().unwrap()
}

#[tokio::test]
async fn another_program_orders_what_waits() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../server/examples/shortest_first.py");
    let server = with_process(&format!("deadline=10s python3 {script}"));
    for number in 0..5 {
        let text = format!("number {number}");
        assert_eq!(content(&chat(&server, &text, 0).await.ok()), &json!(text));
    }
    for kind in ["late", "nonsense", "ended"] {
        assert_eq!(num_faults(&server, kind).await, 0, "{kind}");
    }
    // A program is started for the operator alone, and the one that runs can be let go.
    let reply = put(&server, json!({ "policy": "process: true" })).await;
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("whoever starts the server"), "{}", reply.text());
    put(&server, json!({ "policy": "fcfs" })).await.ok();
    assert_eq!(content(&chat(&server, "bye", 0).await.ok()), "bye");
}

#[tokio::test]
async fn a_program_that_ends_leaves_the_order_of_arrival() {
    let server = with_process("deadline=10s sh -c 'read a; read b; exit 3'");
    for _ in 0..3 {
        assert_eq!(content(&chat(&server, "hello", 0).await.ok()), "hello");
    }
    assert_eq!(num_faults(&server, "ended").await, 1);
}
