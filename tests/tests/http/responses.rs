//! `/v1/responses`: whole, streamed, kept and gone on from.

use axum::body::Body;
use axum::http::Request;
use folio::responses::StoreLimits;
use serde_json::{Value, json};

use crate::errors::check;
use crate::fake::SPECIAL;
use crate::support::{Options, Reply, Server};

const RESPONSES: &str = "/v1/responses";

async fn create(server: &Server, body: Value) -> Value {
    server.post(RESPONSES, &body).await.ok()
}

async fn send(server: &Server, method: &str, path: &str) -> Reply {
    server.send(Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await
}

/// The events of a stream: the name on the line before each and its data.
fn named_events(reply: &Reply) -> Vec<(String, Value)> {
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    let events = reply.text().split("\n\n").filter(|event| !event.is_empty());
    events
        .map(|event| {
            let (name, data) = event.split_once('\n').expect("two lines");
            let name = name.strip_prefix("event: ").expect("a name");
            let data = data.strip_prefix("data: ").expect("data");
            (name.to_owned(), serde_json::from_str(data).expect("JSON"))
        })
        .collect()
}

#[tokio::test]
async fn a_response_says_what_a_chat_says() {
    let server = Server::start();
    let body = json!({ "model": "echo", "input": "Hello", "metadata": { "a": "b" } });
    let response = create(&server, body).await;
    assert_eq!(response["object"], "response");
    assert_eq!(response["status"], "completed");
    assert!(response["id"].as_str().unwrap().starts_with("resp_"));
    let item = &response["output"][0];
    assert_eq!(response["output"].as_array().unwrap().len(), 1);
    assert_eq!((&item["type"], &item["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(item["status"], "completed");
    assert_eq!(item["content"][0]["type"], "output_text");
    assert_eq!(item["content"][0]["text"], "Hello");
    assert_eq!(response["metadata"], json!({ "a": "b" }));
    assert_eq!(response["error"], Value::Null);
    let chat = json!({ "model": "echo", "messages": [{ "role": "user", "content": "Hello" }] });
    let chat = server.post("/v1/chat/completions", &chat).await.ok();
    let (usage, expected) = (&response["usage"], &chat["usage"]);
    assert_eq!(usage["input_tokens"], expected["prompt_tokens"]);
    assert_eq!(usage["output_tokens"], expected["completion_tokens"]);
    assert_eq!(usage["total_tokens"], expected["total_tokens"]);
}

#[tokio::test]
async fn instructions_and_items_become_the_messages_of_a_chat() {
    let server = Server::start();
    let input = json!([
        { "role": "user", "content": "one" },
        { "type": "reasoning", "id": "rs_1", "summary": [],
          "content": [{ "type": "reasoning_text", "text": "hm" }] },
        { "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
          "content": [{ "type": "output_text", "text": "two", "annotations": [],
                        "logprobs": [] }] },
        { "role": "developer", "content": [{ "type": "input_text", "text": "three" }] },
        { "role": "user", "content": [{ "type": "input_text", "text": "four" }] },
    ]);
    let body = json!({ "model": "echo", "input": input, "instructions": "Be brief." });
    let response = create(&server, body).await;
    assert_eq!(response["output"][0]["content"][0]["text"], "four");
    assert_eq!(response["instructions"], "Be brief.");
    let chat = json!({ "model": "echo", "messages": [
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": "one" },
        { "role": "assistant", "content": "two" },
        { "role": "developer", "content": "three" },
        { "role": "user", "content": "four" },
    ] });
    let chat = server.post("/v1/chat/completions", &chat).await.ok();
    assert_eq!(response["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
}

#[tokio::test]
async fn a_stream_tells_everything_in_order() {
    let server = Server::start();
    let reply = server
        .post(RESPONSES, &json!({ "model": "echo", "input": "Hello there", "stream": true }))
        .await;
    let events = named_events(&reply);
    let mut kinds: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    for (index, (name, event)) in events.iter().enumerate() {
        assert_eq!(event["type"], **name);
        assert_eq!(event["sequence_number"], index);
    }
    let deltas = events.iter().filter(|(name, _)| name == "response.output_text.delta");
    let text: String = deltas.map(|(_, event)| event["delta"].as_str().unwrap()).collect();
    assert_eq!(text, "Hello there");
    let (_, first) = &events[0];
    assert_eq!(
        (&first["response"]["status"], &first["response"]["output"]),
        (&json!("in_progress"), &json!([]))
    );
    let (_, last) = events.last().unwrap();
    let response = &last["response"];
    assert_eq!(response["output"][0]["content"][0]["text"], text);
    let kept = server.get(&format!("{RESPONSES}/{}", response["id"].as_str().unwrap())).await;
    assert_eq!(kept.ok(), *response);
}

#[tokio::test]
async fn a_response_goes_on_from_another() {
    let server = Server::start();
    let first = create(
        &server,
        json!({ "model": "echo", "input": "one", "instructions": "Only for now." }),
    )
    .await;
    let second = create(
        &server,
        json!({ "model": "echo", "input": "two", "previous_response_id": first["id"] }),
    )
    .await;
    let counted = json!({ "model": "echo", "input": "two", "previous_response_id": first["id"] });
    let counted = server.post("/v1/responses/input_tokens", &counted).await.ok();
    assert_eq!(counted["object"], "response.input_tokens");
    assert_eq!(counted["input_tokens"], second["usage"]["input_tokens"]);
    let third = create(
        &server,
        json!({ "model": "echo", "input": "three", "previous_response_id": second["id"] }),
    )
    .await;
    assert_eq!(third["previous_response_id"], second["id"]);
    let chat = json!({ "model": "echo", "messages": [
        { "role": "user", "content": "one" }, { "role": "assistant", "content": "one" },
        { "role": "user", "content": "two" }, { "role": "assistant", "content": "two" },
        { "role": "user", "content": "three" },
    ] });
    let chat = server.post("/v1/chat/completions", &chat).await.ok();
    assert_eq!(third["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
    let body = json!({ "model": "echo", "input": "x", "previous_response_id": "resp_none" });
    let reply = server.post(RESPONSES, &body).await;
    check(&reply, (404, &"previous_response_id".into(), "response_not_found"), "unknown");
}

#[tokio::test]
async fn kept_responses_are_shown_listed_and_forgotten() {
    let server = Server::start();
    let input = json!([
        { "role": "user", "content": "a" },
        { "role": "assistant", "content": "b" },
        { "id": "mine", "role": "user", "content": "c" },
    ]);
    let response = create(&server, json!({ "model": "echo", "input": input })).await;
    let path = format!("{RESPONSES}/{}", response["id"].as_str().unwrap());
    assert_eq!(server.get(&path).await.ok(), response);
    let items = server.get(&format!("{path}/input_items?order=asc&limit=2")).await.ok();
    let texts = |page: &Value| -> Vec<Value> {
        page["data"].as_array().unwrap().iter().map(|i| i["content"][0]["text"].clone()).collect()
    };
    assert_eq!((texts(&items), &items["has_more"]), (vec![json!("a"), json!("b")], &json!(true)));
    let after = items["last_id"].as_str().unwrap();
    let rest = server.get(&format!("{path}/input_items?order=asc&after={after}")).await.ok();
    assert_eq!((texts(&rest), &rest["has_more"]), (vec![json!("c")], &json!(false)));
    assert_eq!(rest["first_id"], "mine");
    let latest_first = server.get(&format!("{path}/input_items")).await.ok();
    assert_eq!(texts(&latest_first), ["c", "b", "a"]);
    for (query, param) in [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("order=up", "order"),
        ("include=x", "include"),
    ] {
        let reply = server.get(&format!("{path}/input_items?{query}")).await;
        assert_eq!(reply.status, 400, "{query}");
        assert_eq!(reply.json()["error"]["param"], param);
    }
    let reply = send(&server, "POST", &format!("{path}/cancel")).await;
    check(&reply, (400, &"response_id".into(), "invalid_value"), "cancel");
    let deleted = send(&server, "DELETE", &path).await.ok();
    assert_eq!(deleted, json!({ "id": response["id"], "object": "response", "deleted": true }));
    for (method, path) in [
        ("GET", path.clone()),
        ("DELETE", path.clone()),
        ("GET", format!("{path}/input_items")),
        ("POST", format!("{path}/cancel")),
    ] {
        let reply = send(&server, method, &path).await;
        check(&reply, (404, &"response_id".into(), "response_not_found"), method);
    }
}

#[tokio::test]
async fn store_false_and_the_bounds_keep_nothing() {
    let server = Server::with(Options {
        responses: StoreLimits { max_count: 1, max_bytes: 1 << 20 },
        ..Options::default()
    });
    let path = |response: &Value| format!("{RESPONSES}/{}", response["id"].as_str().unwrap());
    let unkept = create(&server, json!({ "model": "echo", "input": "a", "store": false })).await;
    assert_eq!(unkept["store"], false);
    assert_eq!(server.get(&path(&unkept)).await.status, 404);
    let first = create(&server, json!({ "model": "echo", "input": "a" })).await;
    server.get(&path(&first)).await.ok();
    let second = create(&server, json!({ "model": "echo", "input": "b" })).await;
    server.get(&path(&second)).await.ok();
    let gone = server.get(&path(&first)).await;
    assert_eq!(gone.status, 404);
    assert!(gone.text().contains("keeps at most 1 responses"), "{}", gone.text());
    let off = Server::with(Options {
        responses: StoreLimits { max_count: 0, max_bytes: 0 },
        ..Options::default()
    });
    assert_eq!(create(&off, json!({ "model": "echo", "input": "a" })).await["store"], false);
    let asked = json!({ "model": "echo", "input": "a", "store": true });
    let reply = off.post(RESPONSES, &asked).await;
    check(&reply, (400, &"store".into(), "unsupported_parameter"), "store without a store");
}

#[tokio::test]
async fn cut_off_and_failed_responses_say_so() {
    let server = Server::start();
    let body = json!({ "model": "echo", "input": "Hello", "max_output_tokens": 2 });
    let response = create(&server, body).await;
    assert_eq!(response["status"], "incomplete");
    assert_eq!(response["incomplete_details"], json!({ "reason": "max_output_tokens" }));
    assert_eq!(response["output"][0]["status"], "incomplete");
    assert_eq!(response["output"][0]["content"][0]["text"], "He");
    assert_eq!(response["max_output_tokens"], 2);
    let failed = json!({ "model": "echo", "input": "explode" });
    assert_eq!(server.post(RESPONSES, &failed).await.status, 500);
    let failed = json!({ "model": "echo", "input": "explode", "stream": true });
    let events = named_events(&server.post(RESPONSES, &failed).await);
    let (name, last) = events.last().unwrap();
    assert_eq!(name, "response.failed");
    assert_eq!(last["response"]["status"], "failed");
    assert_eq!(last["response"]["error"]["code"], "server_error");
}

/// The echo says what the models say that call as Qwen and Hermes do.
#[tokio::test]
async fn a_function_is_called_and_answered() {
    let server = Server::start();
    let call = r#"<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>"#;
    let tools = json!([{ "type": "function", "name": "add" }]);
    let body = json!({ "model": "echo", "input": call, "tools": tools });
    let first = create(&server, body.clone()).await;
    let item = &first["output"][0];
    assert_eq!((&item["type"], &item["name"]), (&json!("function_call"), &json!("add")));
    let arguments: Value = serde_json::from_str(item["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({ "a": 1 }));
    assert_eq!(item["status"], "completed");
    let mut streamed = body;
    streamed["stream"] = true.into();
    let events = named_events(&server.post(RESPONSES, &streamed).await);
    let mut kinds: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let output = json!([{ "type": "function_call_output", "call_id": item["call_id"],
                          "output": "one" }]);
    let second = create(
        &server,
        json!({ "model": "echo", "input": output, "tools": tools,
                "previous_response_id": first["id"] }),
    )
    .await;
    let function = json!({ "name": "add", "arguments": item["arguments"] });
    let chat = json!({ "model": "echo", "tools": [{ "type": "function", "function": {
        "name": "add" } }], "messages": [
        { "role": "user", "content": call },
        { "role": "assistant", "tool_calls": [
            { "id": item["call_id"], "type": "function", "function": function }] },
        { "role": "tool", "tool_call_id": item["call_id"], "content": "one" },
    ] });
    let chat = server.post("/v1/chat/completions", &chat).await.ok();
    assert_eq!(second["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
}

#[tokio::test]
async fn one_key_finds_nothing_of_another() {
    let server = Server::with(Options { keys: vec!["ann", "bob"], ..Options::default() });
    let ask = |key: &str, method: &str, path: &str, body: Value| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {key}"))
            .header("content-type", "application/json");
        server.send(request.body(Body::from(body.to_string())).unwrap())
    };
    let secret = json!({ "model": "echo", "input": "secret" });
    let made = ask("ann", "POST", RESPONSES, secret).await.ok();
    let path = format!("{RESPONSES}/{}", made["id"].as_str().unwrap());
    assert_eq!(ask("ann", "GET", &path, Value::Null).await.status, 200);
    for (method, path) in [
        ("GET", path.clone()),
        ("GET", format!("{path}/input_items")),
        ("POST", format!("{path}/cancel")),
        ("DELETE", path.clone()),
    ] {
        assert_eq!(ask("bob", method, &path, Value::Null).await.status, 404, "{method} {path}");
    }
    let next = json!({ "model": "echo", "input": "x", "previous_response_id": made["id"] });
    assert_eq!(ask("bob", "POST", RESPONSES, next.clone()).await.status, 404);
    assert_eq!(ask("ann", "POST", RESPONSES, next).await.status, 200);
}

#[tokio::test]
async fn log_probabilities_come_when_they_are_included() {
    let server = Server::start();
    let body = json!({ "model": "echo", "input": "Hi", "top_logprobs": 2,
                       "include": ["message.output_text.logprobs"] });
    let response = create(&server, body.clone()).await;
    let logprobs = response["output"][0]["content"][0]["logprobs"].as_array().unwrap();
    let tokens: Vec<_> = logprobs.iter().map(|entry| entry["token"].as_str().unwrap()).collect();
    assert_eq!(tokens[..2], ["H", "i"]);
    assert!(logprobs.iter().all(|entry| entry["top_logprobs"].as_array().unwrap().len() == 2));
}

#[tokio::test]
async fn what_is_not_done_is_refused_by_name() {
    let server = Server::start();
    let function = json!({ "type": "function", "name": "f", "parameters": { "type": 1 } });
    let item = |item: Value| json!([item]);
    for (field, value, param) in [
        ("background", json!(true), "background"),
        ("conversation", json!("c"), "conversation"),
        ("truncation", json!("auto"), "truncation"),
        ("max_tool_calls", json!(1), "max_tool_calls"),
        ("prompt", json!({ "id": "p" }), "prompt"),
        ("include", json!(["reasoning.encrypted_content"]), "include[0]"),
        ("temperature", json!(3), "temperature"),
        ("max_output_tokens", json!(0), "max_output_tokens"),
        ("top_logprobs", json!(21), "top_logprobs"),
        ("top_logprobs", json!(2), "top_logprobs"),
        ("stream_options", json!({}), "stream_options"),
        ("text", json!({ "verbosity": "high" }), "text.verbosity"),
        ("text", json!({ "format": { "type": "xml" } }), "text.format.type"),
        ("text", json!({ "format": { "type": "json_schema" } }), "text.format.name"),
        ("reasoning", json!({ "summary": "auto" }), "reasoning.summary"),
        ("metadata", json!({ "a": 1 }), "metadata.a"),
        ("metadata", json!({ "a": "x".repeat(513) }), "metadata.a"),
        ("tools", json!([{ "type": "web_search" }]), "tools[0].type"),
        ("tools", json!([function]), "tools"),
        ("tool_choice", json!("always"), "tool_choice"),
        ("input", json!([]), "input"),
        ("input", json!(""), "input"),
        ("input", json!(7), "input"),
        ("input", item(json!({ "role": "wizard", "content": "x" })), "input[0].role"),
        ("input", item(json!({ "role": "user" })), "input[0].content"),
        ("input", item(json!({ "type": "item_reference", "id": "x" })), "input[0].type"),
        ("input", item(json!({ "type": "function_call", "name": "f" })), "input[0].call_id"),
        (
            "input",
            item(json!({ "role": "user", "content": [{ "type": "input_image" }] })),
            "input[0].content[0].type",
        ),
        ("input", item(json!({ "role": "user", "content": "x", "more": 1 })), "input[0].more"),
        ("input", json!("x".repeat(5000)), "input"),
        ("max_tokens", json!(5), "max_tokens"),
        ("messages", json!([]), "messages"),
        ("n", json!(1), "n"),
    ] {
        let mut body = json!({ "model": "echo", "input": "x" });
        body[field] = value.clone();
        let reply = server.post(RESPONSES, &body).await;
        let what = format!("{field} = {value}");
        assert_eq!(reply.status, 400, "{what}: {}", reply.text());
        let found = reply.json()["error"]["param"].as_str().unwrap_or_default().to_owned();
        assert!(found.starts_with(param), "{what}: {found} is not {param}: {}", reply.text());
    }
    assert_eq!(server.gauges().totals.num_steps, 0);
}

#[tokio::test]
async fn render_shows_what_would_run_and_computes_nothing() {
    let server = Server::start();
    let body = json!({ "model": "echo", "temperature": 0.5, "stop": "x", "max_tokens": 7,
        "messages": [{ "role": "system", "content": "S" }, { "role": "user", "content": "U" }] });
    let rendered = server.post("/v1/chat/completions/render", &body).await.ok();
    let [_, system, user, assistant, ..] = SPECIAL;
    let end = SPECIAL[0];
    assert_eq!(rendered["prompt"], format!("{system}S{end}{user}U{end}{assistant}"));
    let tokenized = server
        .post("/tokenize", &json!({ "model": "echo", "messages": body["messages"] }))
        .await
        .ok();
    assert_eq!(rendered["token_ids"], tokenized["tokens"]);
    let sampling = &rendered["sampling_params"];
    assert_eq!((&sampling["temperature"], &sampling["max_tokens"]), (&json!(0.5), &json!(7)));
    assert_eq!((&sampling["stop"], &sampling["seed"]), (&json!(["x"]), &Value::Null));
    assert_eq!(sampling["stop_token_ids"], json!([256]));
    let body = json!({ "model": "echo", "prompt": ["ab", "c"] });
    let rendered = server.post("/v1/completions/render", &body).await.ok();
    assert_eq!(rendered[0]["prompt"], "ab");
    assert_eq!(rendered[1]["token_ids"], json!([99]));
    assert_eq!(rendered[1]["sampling_params"]["max_tokens"], 16);
    let bad = json!({ "model": "echo", "prompt": "x", "temperature": 9 });
    let reply = server.post("/v1/completions/render", &bad).await;
    check(&reply, (400, &"temperature".into(), "invalid_value"), "render");
    assert_eq!(server.gauges().totals.num_steps, 0);
}
