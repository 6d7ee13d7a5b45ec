//! `/openapi.json`: it has every address of the router and every field that readers take, and what
//! it says of them is so.

use std::collections::BTreeSet;
use std::path::Path;

use axum::body::Body;
use axum::http::Request;
use folio::openapi::{Access, ModelNames, Operation, document, operations};
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use tower::ServiceExt;

use crate::support::{Options, Server, post};

/// Files that may add addresses to the router.
fn sources(folder: &Path, texts: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.push(std::fs::read_to_string(&path).expect("UTF-8"));
        }
    }
}

/// The addresses of the router, from its source.
fn routed() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut texts = Vec::new();
    sources(&root.join("server/src"), &mut texts);
    let routes = texts.iter().flat_map(|text| text.split(".route(").skip(1));
    let paths = routes.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
    paths.map(|path| path.replace("{*", "{")).collect()
}

#[test]
fn every_address_of_the_router_is_described() {
    let described: BTreeSet<_> = operations().iter().map(|one| one.path.to_owned()).collect();
    assert_eq!(described, routed());
}

#[tokio::test]
async fn the_server_sends_the_document_and_each_address_takes_its_method() {
    let server = Server::start();
    let sent = server.get("/openapi.json").await.ok();
    let names = ModelNames::of(&server.app.service.models);
    assert_eq!(sent, document(Access::Open, &names).unwrap());
    let names = &sent["components"]["schemas"]["EmbeddingRequest"]["properties"]["model"]["enum"];
    assert_eq!(*names, json!(["sines", "multilingual-e5-large"]));
    assert_eq!(sent["openapi"], "3.1.0");
    for operation in operations() {
        let path = operation.path.replace("{id}", "echo");
        let method = operation.method.to_uppercase();
        let request = Request::builder().method(method.as_str()).uri(&path);
        let request = request.header("content-type", "application/json");
        let response = server.router.clone().oneshot(request.body(Body::from("{}")).unwrap()).await;
        let response = response.unwrap();
        // Some streams go on as long as the server does.
        if response.status().is_success() {
            continue;
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let error: Value = serde_json::from_slice(&body).unwrap();
        let code = error["error"]["code"].as_str().unwrap();
        assert!(!["unknown_url", "method_not_allowed"].contains(&code), "{method} {path}: {code}");
    }
}

#[tokio::test]
async fn with_keys_the_document_needs_one_and_says_so() {
    let server = Server::with(Options { keys: vec!["secret"], ..Options::default() });
    assert_eq!(server.get("/openapi.json").await.status, 401);
    let document = document(Access::Keys, &ModelNames::default()).unwrap();
    for operation in operations() {
        let described = &document["paths"][operation.path][operation.method];
        let path = operation.path.replace("{id}", "echo");
        let request = Request::builder().method(operation.method.to_uppercase().as_str()).uri(path);
        let reply = server.send(request.body(Body::empty()).unwrap()).await;
        let needs_key = described["security"] != json!([]);
        assert_eq!(reply.status == 401, needs_key, "{}", operation.path);
        assert_eq!(described["responses"].get("401").is_some(), needs_key);
    }
}

/// Whoever asks, and however badly: the status is one that is described.
#[tokio::test]
async fn every_status_is_described() {
    const FILE: &str = "[[key]]\nname = \"user\"\nkey = \"sk-key-of-an-ordinary-user\"\n";
    let server = Server::with(Options { key_file: Some(FILE), ..Options::default() });
    let document = document(Access::Keys, &ModelNames::default()).unwrap();
    for operation in operations() {
        let described = &document["paths"][operation.path][operation.method]["responses"];
        for (key, kind, body) in [
            ("sk-key-of-an-ordinary-user", "application/json", "{}"),
            ("sk-key-of-an-ordinary-user", "application/json", "{"),
            ("sk-key-of-an-ordinary-user", "text/plain", "{}"),
            ("sk-key-of-nobody-at-all", "application/json", "{}"),
        ] {
            let request = Request::builder()
                .method(operation.method.to_uppercase().as_str())
                .uri(operation.path.replace("{id}", "nothing"))
                .header("authorization", format!("Bearer {key}"))
                .header("content-type", kind);
            let reply = server.send(request.body(Body::from(body)).unwrap()).await;
            let status = reply.status.as_u16().to_string();
            let what = format!("{} {}: {}", operation.method, operation.path, reply.text());
            assert!(described.get(&status).is_some(), "{status} of {what}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document(Access::Keys, &ModelNames::default()).unwrap();
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("inside the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

fn collect_references(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                references.push(reference.clone());
            }
            map.values().for_each(|value| collect_references(value, references));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, references)),
        _ => {}
    }
}

/// The operations that take a body, each with its schema: those that this server takes without
/// anybody's key.
fn with_bodies() -> Vec<(Operation, Value)> {
    let open = operations().into_iter().filter(|operation| operation.method == "post");
    let all = open.filter_map(|operation| {
        let schema = operation.request.as_ref()?.schema().unwrap();
        Some((operation, schema))
    });
    all.collect()
}

/// The examples of `operation` with the names of this server's models.
fn examples(operation: &Operation) -> Vec<Map<String, Value>> {
    let examples = operation.request.as_ref().unwrap().examples().unwrap();
    examples.into_iter().map(served_here).collect()
}

fn served_here(example: Value) -> Map<String, Value> {
    let Value::Object(mut example) = example else { panic!("{example} is no object") };
    match example.get("model").and_then(Value::as_str) {
        Some("folio-tiny") => example.insert("model".into(), "echo".into()),
        Some("folio-tiny-e5") => example.insert("model".into(), "sines".into()),
        _ => None,
    };
    example
}

#[tokio::test]
async fn the_examples_are_accepted() {
    let server = Server::start();
    for (operation, _) in with_bodies() {
        for example in examples(&operation) {
            let reply = server.post(operation.path, &example.into()).await;
            assert_eq!(reply.status, 200, "{}: {}", operation.path, reply.text());
        }
    }
}

/// Values that `schema` of a field does not take, with what is wrong about them.
fn wrong_values(schema: &Value) -> Vec<Value> {
    let mut wrong = Vec::new();
    let kinds = match &schema["type"] {
        Value::String(kind) => vec![kind.as_str()],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if kinds.is_empty() {
        return wrong;
    }
    for (kind, value) in [
        ("string", json!("~")),
        ("boolean", json!(true)),
        ("object", json!({ "~": 1 })),
        ("array", json!(["~"])),
    ] {
        if !kinds.contains(&kind) && !kinds.is_empty() {
            wrong.push(value);
        }
    }
    if kinds.contains(&"integer") {
        wrong.push(json!(1.5));
    }
    if let Some(Value::Number(min)) = schema.get("minimum")
        && min.as_f64().unwrap() > -1e18
    {
        wrong.push(step(min, -1));
    }
    if let Some(Value::Number(max)) = schema.get("maximum")
        && max.as_f64().unwrap() < 1e18
    {
        wrong.push(step(max, 1));
    }
    if let Some(min) = schema.get("exclusiveMinimum") {
        wrong.push(min.clone());
    }
    if kinds.contains(&"string") && schema.get("enum").is_some() {
        wrong.push(json!("~"));
    }
    wrong
}

fn step(bound: &serde_json::Number, by: i64) -> Value {
    bound.as_i64().map_or_else(|| json!(bound.as_f64().unwrap() + by as f64), |n| json!(n + by))
}

/// Every field is named: what its schema refuses is refused by its name, and null is no value.
#[tokio::test]
async fn what_a_schema_refuses_the_reader_refuses_by_name() {
    let server = Server::start();
    let mut num_checked = 0;
    for (operation, schema) in with_bodies() {
        let all: Vec<_> = examples(&operation);
        for (name, shape) in schema["properties"].as_object().unwrap() {
            for wrong in wrong_values(shape) {
                for example in &all {
                    let mut body = example.clone();
                    body.insert(name.clone(), wrong.clone());
                    let reply = server.post(operation.path, &body.into()).await;
                    let what = format!("{} {name} = {wrong}", operation.path);
                    assert_eq!(reply.status, 400, "{what}: {}", reply.text());
                    let param = reply.json()["error"]["param"].clone();
                    let param = param.as_str().unwrap_or_default();
                    assert!(param.starts_with(name.as_str()), "{what}: {}", reply.text());
                    num_checked += 1;
                }
            }
        }
        for example in &all {
            let mut body = example.clone();
            body.insert("no_such_field".into(), 1.into());
            let reply = server.post(operation.path, &body.into()).await;
            assert_eq!(reply.json()["error"]["param"], "no_such_field");
        }
    }
    assert!(num_checked > 100, "{num_checked}");
}

#[tokio::test]
async fn required_fields_are_missed_and_others_may_be_null() {
    let server = Server::start();
    for (operation, schema) in with_bodies() {
        let required: BTreeSet<_> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect();
        for name in schema["properties"].as_object().unwrap().keys() {
            for example in examples(&operation) {
                let mut body = example.clone();
                body.insert(name.clone(), Value::Null);
                let reply = server.post(operation.path, &body.into()).await;
                let misses = reply.status == 400
                    && reply.json()["error"]["code"] == "missing_required_parameter"
                    && reply.json()["error"]["param"] == **name;
                let what = format!("{} without {name}: {}", operation.path, reply.status);
                if required.contains(name) {
                    assert!(misses, "{what}");
                } else if !example.contains_key(name) {
                    assert_eq!(reply.status, 200, "{what}: {}", reply.text());
                }
            }
        }
    }
}

/// A body that a reader takes has no field that the schema does not have: the fields of the tests'
/// own requests are the witnesses, by way of the closed schema.
#[test]
fn schemas_are_closed_and_typed() {
    for (operation, schema) in with_bodies() {
        assert_eq!(schema["additionalProperties"], json!({ "type": "null" }), "{}", operation.path);
        for (name, shape) in schema["properties"].as_object().unwrap() {
            let is_typed =
                ["type", "enum", "anyOf", "$ref"].iter().any(|key| shape.get(key).is_some());
            assert!(is_typed, "{} {name} takes anything: {shape}", operation.path);
        }
    }
}

#[tokio::test]
async fn errors_have_the_shape_that_is_described() {
    let server = Server::start();
    let reply = server.send(post("/v1/chat/completions", &json!({ "model": 1 }))).await;
    let document = document(Access::Open, &ModelNames::default()).unwrap();
    let described = &document["components"]["schemas"]["ErrorBody"];
    let names: Vec<_> = described["properties"].as_object().unwrap().keys().collect();
    let sent = reply.json();
    assert_eq!(names, sent["error"].as_object().unwrap().keys().collect::<Vec<_>>());
    assert_eq!(described["additionalProperties"], false);
}
