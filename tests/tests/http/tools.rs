//! Tools and reasoning in chats: fields, formats, streams.

use serde_json::{Value, json};

use crate::support::{Options, Reply, Server};

const CHAT: &str = "/v1/chat/completions";

/// Knows nothing of tools.
const PLAIN: &str = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\
    <|end|>{% endfor %}<|assistant|>";

/// Thinks, unless it is told not to.
const THINKS: &str = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\
    <|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>\
    {%- if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}\
    {%- if opens is defined %}<think>\n{% endif %}{% endif %}";

/// Takes grades of effort.
const GRADED: &str = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\
    <|end|>{% endfor %}<|system|>effort {{ reasoning_effort }}<|end|><|assistant|>{# </think> #}";

fn with_template(template: &'static str) -> Server {
    Server::with(Options { template, ..Options::default() })
}

fn tools() -> Value {
    let parameters = json!({ "type": "object", "properties": { "city": { "type": "string" } } });
    json!([
        { "type": "function", "function": {
            "name": "get_weather", "description": "The weather.", "parameters": parameters } },
        { "type": "function", "function": { "name": "add", "strict": false } },
    ])
}

fn say(text: &str) -> Value {
    json!({ "model": "echo", "messages": [{ "role": "user", "content": text }], "tools": tools() })
}

fn with(mut body: Value, more: Value) -> Value {
    let Value::Object(more) = more else {
        panic!("an object is needed");
    };
    body.as_object_mut().unwrap().extend(more);
    body
}

/// The message and the finish reason of a whole answer, without ids.
fn message(reply: &Reply) -> (Value, Value) {
    let mut answer = reply.ok();
    let choice = answer["choices"][0].take();
    let mut message = choice["message"].clone();
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        let id = call["id"].take();
        assert!(id.as_str().unwrap().starts_with("call_"), "{id}");
    }
    (message, choice["finish_reason"].clone())
}

/// The message that a stream amounts to, held against the rules of deltas.
fn streamed(chunks: &[Value]) -> (Value, Value) {
    let mut content: Option<String> = None;
    let mut reasoning: Option<String> = None;
    let mut calls: Vec<Value> = Vec::new();
    let mut finish = Value::Null;
    for choice in chunks.iter().filter_map(|chunk| chunk["choices"].get(0)) {
        let delta = &choice["delta"];
        assert!(finish.is_null(), "a chunk after the finish: {choice}");
        finish = choice["finish_reason"].clone();
        let append = |to: &mut Option<String>, text: &Value| {
            if let Some(text) = text.as_str().filter(|text| !text.is_empty()) {
                to.get_or_insert_default().push_str(text);
            }
        };
        append(&mut content, &delta["content"]);
        append(&mut reasoning, &delta["reasoning_content"]);
        assert_eq!(delta["reasoning_content"], delta["reasoning"]);
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            let function = &call["function"];
            if index == calls.len() {
                assert!(call["id"].is_string() && call["type"] == "function", "{call}");
                assert_eq!(function["arguments"], "", "{call}");
                calls.push(json!({ "id": null, "type": "function", "function": function }));
                continue;
            }
            assert_eq!(index, calls.len() - 1, "calls come one after another");
            assert!(call.get("id").is_none() && call.get("type").is_none(), "{call}");
            assert!(function.get("name").is_none(), "{call}");
            let arguments = &mut calls[index]["function"]["arguments"];
            let more = function["arguments"].as_str().unwrap();
            *arguments = format!("{}{more}", arguments.as_str().unwrap()).into();
        }
    }
    let has_other = reasoning.is_some() || !calls.is_empty();
    let content = content.or_else(|| (!has_other).then(String::new));
    let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
    if let Some(reasoning) = reasoning {
        message["reasoning_content"] = reasoning.clone().into();
        message["reasoning"] = reasoning.into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    (message, finish)
}

async fn both(server: &Server, body: Value) -> (Value, Value) {
    let whole = message(&server.post(CHAT, &body).await);
    let stream = server.post(CHAT, &with(body, json!({ "stream": true }))).await;
    assert_eq!(streamed(&stream.chunks()), whole);
    whole
}

fn call(name: &str, arguments: &str) -> Value {
    let function = json!({ "name": name, "arguments": arguments });
    json!({ "id": null, "type": "function", "function": function })
}

const WEATHER: &str =
    "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Zürich\"}}\n</tool_call>";

#[tokio::test]
async fn calls_are_taken_out_of_the_text() {
    let server = Server::start();
    let (message, finish) = both(&server, say(WEATHER)).await;
    assert_eq!(
        message,
        json!({ "role": "assistant", "content": null, "refusal": null,
                "tool_calls": [call("get_weather", "{\"city\": \"Zürich\"}")] })
    );
    assert_eq!(finish, "tool_calls");
    let add = "<tool_call>{\"name\": \"add\"}</tool_call>";
    let (message, _) = both(&server, say(&format!("Wait.\n{WEATHER}\n{add}"))).await;
    assert_eq!(message["content"], "Wait.");
    let calls = json!([call("get_weather", "{\"city\": \"Zürich\"}"), call("add", "{}")]);
    assert_eq!(message["tool_calls"], calls);
}

#[tokio::test]
async fn ids_of_calls_differ() {
    let server = Server::start();
    let body = with(say(&format!("{WEATHER}{WEATHER}")), json!({ "n": 2 }));
    let answer = server.post(CHAT, &body).await.ok();
    let mut ids = Vec::new();
    for choice in answer["choices"].as_array().unwrap() {
        for call in choice["message"]["tool_calls"].as_array().unwrap() {
            ids.push(call["id"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(ids.len(), 4);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

/// Mistral's templates refuse ids of any other form.
#[tokio::test]
async fn ids_are_short_where_the_format_wants_them_short() {
    let server = with_template(
        "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>\
         {% endfor %}<|assistant|>{# tools: [TOOL_CALLS] #}",
    );
    let text = "[TOOL_CALLS]add[ARGS]{}[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {}}]";
    let answer = server.post(CHAT, &say(text)).await.ok();
    let calls = answer["choices"][0]["message"]["tool_calls"].as_array().unwrap().clone();
    let ids: Vec<_> = calls.iter().map(|call| call["id"].as_str().unwrap()).collect();
    assert!(ids.len() == 2 && ids[0] != ids[1], "{ids:?}");
    for id in ids {
        assert!(id.len() == 9 && id.chars().all(|c| c.is_ascii_alphanumeric()), "{id}");
    }
}

#[tokio::test]
async fn a_text_that_is_no_call_is_content_with_its_marks() {
    let server = Server::start();
    for text in ["<tool_call> is a tag", "<tool_call>{\"name\": 1}</tool_call>", "a </tool_call>"] {
        let (message, finish) = both(&server, say(text)).await;
        assert_eq!((&message["content"], &finish), (&text.into(), &"stop".into()));
        assert!(message.get("tool_calls").is_none());
    }
}

#[tokio::test]
async fn without_tools_nothing_is_parsed() {
    let server = Server::start();
    for more in [json!({ "tools": null }), json!({ "tools": [] }), json!({ "tool_choice": "none" })]
    {
        let (message, finish) = both(&server, with(say("{\"name\": \"add\"}"), more)).await;
        assert_eq!(
            (message["content"].as_str(), finish),
            (Some("{\"name\": \"add\"}"), "stop".into())
        );
    }
    // The prompt shows tools only where they may be called.
    let len = |reply: Reply| reply.ok()["usage"]["prompt_tokens"].as_u64().unwrap();
    let shown = len(server.post(CHAT, &say("x")).await);
    let hidden = len(server.post(CHAT, &with(say("x"), json!({ "tool_choice": "none" }))).await);
    let none = len(server.post(CHAT, &with(say("x"), json!({ "tools": null }))).await);
    assert!(hidden == none && shown > none + 100, "{hidden} {none} {shown}");
}

#[tokio::test]
async fn one_call_where_only_one_is_wanted() {
    let server = Server::start();
    let body = with(say(&format!("{WEATHER}{WEATHER}")), json!({ "parallel_tool_calls": false }));
    let (message, finish) = both(&server, body).await;
    assert_eq!(message["tool_calls"].as_array().unwrap().len(), 1);
    assert_eq!(finish, "tool_calls");
}

#[tokio::test]
async fn a_call_that_is_cut_off_says_length() {
    let server = Server::start();
    let body = with(say(WEATHER), json!({ "max_tokens": 52 }));
    let (message, finish) = both(&server, body).await;
    let arguments = message["tool_calls"][0]["function"]["arguments"].as_str().unwrap();
    assert!("{\"city\": \"Zürich\"}".starts_with(arguments) && arguments.len() > 1, "{arguments}");
    assert_eq!(finish, "length");
}

#[tokio::test]
async fn log_probabilities_cover_all_tokens() {
    let server = Server::start();
    let body = with(say(&format!("Hm.\n{WEATHER}")), json!({ "logprobs": true }));
    let whole = server.post(CHAT, &body).await.ok();
    let all = whole["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(all.len() as u64, whole["usage"]["completion_tokens"].as_u64().unwrap());
    let chunks = server.post(CHAT, &with(body, json!({ "stream": true }))).await.chunks();
    let entries = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array().cloned());
    assert_eq!(entries.flatten().collect::<Vec<_>>(), all);
}

#[tokio::test]
async fn a_round_trip_goes_through_the_template() {
    let server = Server::start();
    let answer = server.post(CHAT, &say(WEATHER)).await.ok();
    let message = answer["choices"][0]["message"].clone();
    let id = message["tool_calls"][0]["id"].clone();
    // As the answer came, its null fields included.
    let messages = json!([
        { "role": "user", "content": "Weather?" }, message,
        { "role": "tool", "tool_call_id": id, "content": "sunny" },
        { "role": "user", "content": "Thanks." },
    ]);
    let body = json!({ "model": "echo", "messages": messages, "tools": tools() });
    let (message, finish) = both(&server, body).await;
    assert_eq!((message["content"].as_str(), finish), (Some("Thanks."), "stop".into()));
}

#[tokio::test]
async fn reasoning_is_a_field_of_its_own() {
    let server = with_template(THINKS);
    let thought = "<think>\nHm, é.\n</think>\n\nYes.";
    let body = with(say(thought), json!({ "tools": null }));
    let (message, finish) = both(&server, body.clone()).await;
    assert_eq!(message["content"], "Yes.");
    assert_eq!(message["reasoning_content"], "Hm, é.");
    assert_eq!(finish, "stop");
    // <think>, \n, six letters of seven bytes, \n, </think>.
    let usage = server.post(CHAT, &body).await.ok()["usage"].clone();
    assert_eq!(usage["completion_tokens_details"], json!({ "reasoning_tokens": 11 }));
    let hidden = with(body, json!({ "include_reasoning": false }));
    let (message, _) = both(&server, hidden.clone()).await;
    assert_eq!(message, json!({ "role": "assistant", "content": "Yes.", "refusal": null }));
    assert_eq!(server.post(CHAT, &hidden).await.ok()["usage"], usage);
}

#[tokio::test]
async fn a_block_that_the_prompt_opened_is_reasoning_from_the_start() {
    let server = with_template(THINKS);
    let opened = json!({ "tools": null, "chat_template_kwargs": { "opens": true } });
    let (message, _) = both(&server, with(say("Hm.</think>Yes."), opened.clone())).await;
    assert_eq!(message["reasoning"], "Hm.");
    assert_eq!(message["content"], "Yes.");
    let body = with(with(say("Hm, long"), opened), json!({ "max_tokens": 4 }));
    let (message, finish) = both(&server, body.clone()).await;
    assert_eq!(message["reasoning"], "Hm, ");
    assert_eq!((&message["content"], finish), (&Value::Null, "length".into()));
    let usage = server.post(CHAT, &body).await.ok()["usage"].clone();
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 4);
}

#[tokio::test]
async fn effort_reaches_a_template_that_takes_it_and_no_other() {
    let prompt_tokens = |reply: &Reply| reply.ok()["usage"]["prompt_tokens"].as_u64().unwrap();
    let ask = |effort: &str| with(say("x"), json!({ "tools": null, "reasoning_effort": effort }));
    let graded = with_template(GRADED);
    let low = prompt_tokens(&graded.post(CHAT, &ask("low")).await);
    assert_eq!(prompt_tokens(&graded.post(CHAT, &ask("medium")).await), low + 3);
    let switched = with_template(THINKS);
    let on = prompt_tokens(&switched.post(CHAT, &ask("medium")).await);
    assert_eq!(prompt_tokens(&switched.post(CHAT, &ask("none")).await), on + 2);
    for (server, effort) in [(&switched, "high"), (&Server::start(), "low")] {
        let reply = server.post(CHAT, &ask(effort)).await;
        assert_eq!(reply.status, 400, "{effort}");
        assert_eq!(reply.json()["error"]["param"], "reasoning_effort");
    }
    let both = with(ask("none"), json!({ "chat_template_kwargs": { "enable_thinking": true } }));
    assert_eq!(switched.post(CHAT, &both).await.status, 400);
}

#[tokio::test]
async fn fields_that_change_nothing_are_refused() {
    let server = with_template(PLAIN);
    let reply = server.post(CHAT, &say("x")).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &"tools".into()));
    let kwargs = json!({ "tools": null, "chat_template_kwargs": { "colour": "red" } });
    let reply = server.post(CHAT, &with(say("x"), kwargs)).await;
    assert_eq!(reply.json()["error"]["param"], "chat_template_kwargs.colour");
    let kwargs = json!({ "tools": null, "chat_template_kwargs": { "enable_thinking": false } });
    server.post(CHAT, &with(say("x"), kwargs)).await.ok();
}

#[tokio::test]
async fn bad_tools_are_refused_by_name() {
    let server = Server::start();
    let function = |function: Value| json!([{ "type": "function", "function": function }]);
    let named = |name: &str| json!({ "type": "function", "function": { "name": name } });
    let allowed = |mode: &str, name: &str| {
        let inner = json!({ "mode": mode, "tools": [named(name)] });
        json!({ "type": "allowed_tools", "allowed_tools": inner })
    };
    let (value, kind) = ("invalid_value", "invalid_type");
    let missing = "missing_required_parameter";
    let many: Vec<Value> = (0..129).map(|at| named(&format!("f{at}"))).collect();
    let big = json!({ "name": "f", "description": "x".repeat(70_000) });
    for (more, param, code) in [
        (json!({ "tools": {} }), "tools", kind),
        (json!({ "tools": many }), "tools", value),
        (json!({ "tools": ["f"] }), "tools[0]", kind),
        (json!({ "tools": [{ "function": { "name": "f" } }] }), "tools[0].type", missing),
        (json!({ "tools": [{ "type": "custom" }] }), "tools[0].type", "unsupported_parameter"),
        (json!({ "tools": [{ "type": "function" }] }), "tools[0].function", missing),
        (json!({ "tools": function(json!({})) }), "tools[0].function.name", missing),
        (json!({ "tools": function(json!({ "name": "" })) }), "tools[0].function.name", value),
        (json!({ "tools": function(json!({ "name": "a b" })) }), "tools[0].function.name", value),
        (
            json!({ "tools": function(json!({ "name": "x".repeat(65) })) }),
            "tools[0].function.name",
            value,
        ),
        (json!({ "tools": [named("f"), named("f")] }), "tools[1].function.name", value),
        (
            json!({ "tools": function(json!({ "name": "f", "parameters": [] })) }),
            "tools[0].function.parameters",
            kind,
        ),
        (
            json!({ "tools": function(json!({ "name": "f", "parameters": { "type": "array" } })) }),
            "tools[0].function.parameters.type",
            value,
        ),
        (json!({ "tools": function(big) }), "tools[0].function.parameters", value),
        (
            json!({ "tools": function(json!({ "name": "f", "colour": 1 })) }),
            "tools[0].function.colour",
            "unknown_parameter",
        ),
        (json!({ "tool_choice": "any" }), "tool_choice", value),
        (json!({ "tool_choice": 1 }), "tool_choice", kind),
        (json!({ "tool_choice": {} }), "tool_choice.type", missing),
        (json!({ "tool_choice": { "type": "x" } }), "tool_choice.type", value),
        (json!({ "tool_choice": named("g") }), "tool_choice.function.name", value),
        (json!({ "tool_choice": { "type": "function" } }), "tool_choice.function", missing),
        (
            json!({ "tool_choice": allowed("auto", "g") }),
            "tool_choice.allowed_tools.tools[0].function.name",
            value,
        ),
        (json!({ "tool_choice": allowed("none", "add") }), "tool_choice.allowed_tools.mode", value),
        (json!({ "tools": null, "tool_choice": "required" }), "tool_choice", value),
        (json!({ "tools": [], "parallel_tool_calls": false }), "parallel_tool_calls", value),
        (json!({ "reasoning_effort": "huge" }), "reasoning_effort", value),
        (json!({ "include_reasoning": 1 }), "include_reasoning", kind),
    ] {
        for stream in [false, true] {
            let body = with(with(say("x"), more.clone()), json!({ "stream": stream }));
            let reply = server.post(CHAT, &body).await;
            let error = &reply.json()["error"];
            let found = (reply.status.as_u16(), &error["param"], &error["code"]);
            assert_eq!(found, (400, &param.into(), &code.into()), "{more}: {error}");
        }
    }
    assert_eq!(server.gauges().totals.num_steps, 0);
    server.post(CHAT, &with(say("x"), json!({ "tool_choice": allowed("auto", "add") }))).await.ok();
}

/// What the model wants to say makes no difference where a call is required: the fake model then
/// writes what ends soon, a text that wants to go on writes that.
#[tokio::test]
async fn a_required_call_fits_whatever_the_model_wants() {
    let server = Server::start();
    let city = json!({ "type": "string", "enum": ["Bern", "Genève", "Zürich"] });
    let weather = json!({ "type": "function", "function": { "name": "get_weather",
        "description": "::= a colon or two", "parameters": {
            "type": "object", "required": ["city", "days"], "additionalProperties": false,
            "properties": { "city": city, "days": { "type": "integer", "minimum": 1,
                                                    "maximum": 7, "not": { "const": 3 } } } } } });
    let time = json!({ "type": "function", "function": { "name": "get_time" } });
    let named = json!({ "type": "function", "function": { "name": "get_weather" } });
    for said in ["no", "forever", "bytes:500", WEATHER, "<tool_call>\n{\"name\": \"get_time\", "] {
        for (choice, finish) in [(json!("required"), "tool_calls"), (named.clone(), "stop")] {
            let body = json!({
                "model": "echo", "messages": [{ "role": "user", "content": said }], "seed": 3,
                "tools": [weather, time], "tool_choice": choice, "max_tokens": 1500,
            });
            let (message, end) = both(&server, body).await;
            assert_eq!((&message["content"], end), (&Value::Null, finish.into()), "{said}");
            for call in message["tool_calls"].as_array().unwrap() {
                let function = &call["function"];
                let arguments: Value =
                    serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
                if function["name"] == "get_time" {
                    assert_eq!((&arguments, &choice), (&json!({}), &json!("required")));
                    continue;
                }
                assert_eq!(function["name"], "get_weather");
                assert_eq!(arguments.as_object().unwrap().len(), 2, "{said}: {arguments}");
                assert!(
                    ["Bern", "Genève", "Zürich"].contains(&arguments["city"].as_str().unwrap())
                );
                assert!((1..=7).contains(&arguments["days"].as_i64().unwrap()), "{arguments}");
            }
        }
    }
    server.wait_for_idle().await;
}

#[tokio::test]
async fn what_cannot_be_enforced_is_refused_where_it_must_be() {
    let server = Server::start();
    let tool = |strict: bool| {
        let parameters = json!({ "type": "object", "properties": {
            "x": { "type": "array", "items": { "type": "integer" }, "uniqueItems": true } } });
        json!([{ "type": "function", "function": {
            "name": "f", "strict": strict, "parameters": parameters } }])
    };
    let ask = |strict| with(say("x"), json!({ "tools": tool(strict), "tool_choice": "required" }));
    server.post(CHAT, &ask(false)).await.ok();
    let reply = server.post(CHAT, &ask(true)).await;
    assert_eq!(reply.status, 400);
    let error = &reply.json()["error"];
    assert!(error["param"].as_str().unwrap().starts_with("tool_choice"), "{error}");
    assert!(error["message"].as_str().unwrap().contains("uniqueItems"), "{error}");
}

/// The mark is one token here, so strict tools and shapes hold for calls that need not come.
#[tokio::test]
async fn calls_that_need_not_come_fit_where_a_tool_is_strict() {
    let server = Server::start();
    let parameters = json!({ "type": "object", "required": ["n"], "additionalProperties": false,
                             "properties": { "n": { "type": "integer", "maximum": 9 } } });
    let tools = json!([{ "type": "function", "function": {
        "name": "count", "strict": true, "parameters": parameters } }]);
    let ask = |text: &str| with(say(text), json!({ "tools": tools, "max_tokens": 300 }));
    let (message, finish) = both(&server, ask("No call, {\"n\": \"many\"}")).await;
    assert_eq!(message["content"], "No call, {\"n\": \"many\"}");
    assert_eq!(finish, "stop");
    let wrong =
        "Hm. <tool_call>\n{\"name\": \"count\", \"arguments\": {\"n\": \"many\", \"x\": 1}}";
    let (message, finish) = both(&server, ask(wrong)).await;
    assert_eq!((&message["content"], finish), (&"Hm.".into(), "tool_calls".into()));
    let arguments = message["tool_calls"][0]["function"]["arguments"].as_str().unwrap();
    let arguments: Value = serde_json::from_str(arguments).unwrap();
    assert!(arguments["n"].is_i64() && arguments.as_object().unwrap().len() == 1, "{arguments}");
}

#[tokio::test]
async fn an_answer_of_a_shape_or_a_call() {
    let server = Server::start();
    let shape = json!({ "response_format": { "type": "json_object" } });
    let (message, _) = both(&server, with(say("{\"a\": 1}"), shape.clone())).await;
    assert_eq!(message["content"], "{\"a\": 1}");
    let (message, finish) = both(&server, with(say(WEATHER), shape.clone())).await;
    assert_eq!(message["tool_calls"][0]["function"]["name"], "get_weather");
    assert_eq!(finish, "tool_calls");
    let forced = with(with(say("x"), shape), json!({ "tool_choice": "required" }));
    let reply = server.post(CHAT, &forced).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &"tools".into()));
}

#[tokio::test]
async fn a_shape_holds_after_the_reasoning() {
    let server = with_template(THINKS);
    let shape = json!({ "tools": null, "max_tokens": 200,
                        "response_format": { "type": "json_object" } });
    let (message, finish) = both(&server, with(say("<think>Hm.</think>\n{\"a\": 1}"), shape)).await;
    assert_eq!(message["reasoning"], "Hm.");
    assert_eq!((message["content"].as_str(), finish), (Some("{\"a\": 1}"), "stop".into()));
    let opened = json!({ "tools": null, "max_tokens": 200,
                         "response_format": { "type": "json_object" },
                         "chat_template_kwargs": { "opens": true } });
    let (message, finish) = both(&server, with(say("No.</think>{\"b\": 2}"), opened)).await;
    assert_eq!(message["reasoning"], "No.");
    assert_eq!((message["content"].as_str(), finish), (Some("{\"b\": 2}"), "stop".into()));
    // Told not to think, it cannot.
    let off = json!({ "tools": null, "max_tokens": 200,
                      "response_format": { "type": "json_object" },
                      "chat_template_kwargs": { "enable_thinking": false } });
    let (message, finish) = both(&server, with(say("<think>Hm.</think>{\"c\": 3}"), off)).await;
    assert!(message.get("reasoning").is_none(), "{message}");
    let content: Value = serde_json::from_str(message["content"].as_str().unwrap()).unwrap();
    assert_eq!((content.is_object(), finish), (true, "stop".into()));
}
