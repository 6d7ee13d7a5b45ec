//! `/metrics` against counts by hand, and against the names that others read.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::support::{MAX_CHAT_LEN, Options, Server, post, wait_until};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const EMBEDDINGS: &str = "/v1/embeddings";

/// One value of the text format, with its labels.
#[derive(Debug)]
struct Sample {
    labels: BTreeMap<String, String>,
    value: f64,
}

/// What `/metrics` says, by name.
struct Scrape(BTreeMap<String, Vec<Sample>>);

impl Scrape {
    async fn of(server: &Server) -> Self {
        let reply = server.get("/metrics").await;
        assert_eq!(reply.status, 200);
        Self::parse(reply.text())
    }

    fn parse(text: &str) -> Self {
        let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (head, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = head.split_once('{').unwrap_or((head, "}"));
            let labels = labels.strip_suffix('}').expect("the end of the labels");
            let pairs = labels.split("\",").filter(|pair| !pair.is_empty()).map(|pair| {
                let (name, value) = pair.split_once("=\"").expect("a label");
                (name.to_owned(), value.trim_end_matches('"').to_owned())
            });
            let value = value.parse().expect("a number");
            let sample = Sample { labels: pairs.collect(), value };
            samples.entry(name.to_owned()).or_default().push(sample);
        }
        Self(samples)
    }

    /// The one value of `name`, a whole number, whose labels include `labels`.
    #[track_caller]
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let samples = self.0.get(name).unwrap_or_else(|| panic!("{name} is not there"));
        let mut found = samples.iter().filter(|sample| {
            labels
                .iter()
                .all(|&(label, value)| sample.labels.get(label).is_some_and(|v| v == value))
        });
        let value = found.next().unwrap_or_else(|| panic!("no {name} with {labels:?}")).value;
        assert!(found.next().is_none(), "more than one {name} with {labels:?}");
        assert!(value.fract() == 0.0, "{name} with {labels:?} is no whole number: {value}");
        value as u64
    }

    /// The value of `name` for `model`.
    #[track_caller]
    fn of_model(&self, name: &str, model: &str) -> u64 {
        self.value(name, &[("model_name", model)])
    }
}

#[tokio::test]
async fn whoever_reads_vllms_metrics_finds_them() {
    let server = Server::start();
    server.post(CHAT, &json!({ "model": "echo", "messages": "hello" })).await.ok();
    let scrape = Scrape::of(&server).await;
    let list = include_str!("vllm_metrics.txt");
    let mut num_read = 0;
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let (Some(name), Some(labels), Some(reader)) = (words.next(), words.next(), words.next())
        else {
            panic!("not a line of the list: {line}");
        };
        let samples = scrape.0.get(name).unwrap_or_else(|| panic!("{reader} misses {name}"));
        let wanted: BTreeSet<_> = labels.split(',').filter(|label| *label != "-").collect();
        for sample in samples {
            let labels: BTreeSet<_> = sample.labels.keys().map(String::as_str).collect();
            assert!(
                labels.is_superset(&wanted),
                "{name} has {labels:?}, {reader} reads {wanted:?}"
            );
        }
        num_read += 1;
    }
    assert_eq!(num_read, 40);
    // A router takes the first value, which must be that of the model that chats.
    for name in ["vllm:num_requests_running", "vllm:num_requests_waiting"] {
        let labels = &scrape.0[name][0].labels;
        assert_eq!((&*labels["model_name"], &*labels["engine"]), ("echo", "0"));
    }
    let lora = &scrape.0["vllm:lora_requests_info"][0];
    assert_eq!(lora.labels["running_lora_adapters"], "");
    assert!(lora.value > 1.7e9, "the time: {}", lora.value);
}

/// The buckets are part of the name: quantiles of servers are added up bucket by bucket.
#[tokio::test]
async fn buckets_are_vllms() {
    let server = Server::start();
    let text = server.get("/metrics").await.text().to_owned();
    let bounds = |name: &str| {
        let prefix = format!("{name}_bucket{{engine=\"0\",model_name=\"echo\",le=\"");
        let lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
        let bounds = lines.map(|line| line.split('"').next().unwrap().to_owned());
        bounds.collect::<Vec<_>>().join(" ")
    };
    let per_token = "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10 20 40 80";
    let per_request = "0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680";
    let tokens = "1 2 5 10 20 50 100 200 500 1000 2000";
    for (name, expected) in [
        (
            "vllm:time_to_first_token_seconds",
            "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 \
             640 2560",
        ),
        ("vllm:inter_token_latency_seconds", per_token),
        ("vllm:request_time_per_output_token_seconds", per_token),
        ("vllm:e2e_request_latency_seconds", per_request),
        ("vllm:request_decode_time_seconds", per_request),
        ("vllm:request_prompt_tokens", tokens),
        ("vllm:request_max_num_generation_tokens", tokens),
        ("vllm:request_params_n", "1 2 5 10 20"),
        ("vllm:iteration_tokens_total", "1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384"),
    ] {
        assert_eq!(bounds(name), format!("{expected} +Inf"), "{name}");
    }
    assert_eq!(MAX_CHAT_LEN, 4096, "the longest sequence bounds the numbers of tokens");
}

#[tokio::test]
async fn tokens_are_those_that_were_asked_for_and_answered() {
    let server = Server::start();
    // Two prompts of 40 and 3 tokens, each with two choices that repeat it and end.
    let long = "x".repeat(40);
    let body = json!({ "model": "echo", "prompt": [long, "abc"], "n": 2, "max_tokens": 50 });
    let usage = server.post(COMPLETIONS, &body).await.ok()["usage"].clone();
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(43), &json!(90)));
    let body = json!({ "model": "sines", "input": ["a", "bc"] });
    let usage = server.post(EMBEDDINGS, &body).await.ok()["usage"].clone();
    assert_eq!(usage["prompt_tokens"], 7);
    server.wait_for_idle().await;
    let scrape = Scrape::of(&server).await;
    let expected = [
        // name, decoder, encoder
        ("vllm:prompt_tokens_total", 43, 7),
        ("vllm:prompt_tokens_cached_total", 0, 0),
        ("vllm:generation_tokens_total", 90, 0),
        ("vllm:request_prompt_tokens_count", 2, 2),
        ("vllm:request_prompt_tokens_sum", 43, 7),
        ("vllm:request_generation_tokens_count", 4, 0),
        ("vllm:request_generation_tokens_sum", 90, 0),
        // The choices of a prompt are equally long here: 41 and 4 with the end.
        ("vllm:request_max_num_generation_tokens_count", 2, 0),
        ("vllm:request_max_num_generation_tokens_sum", 45, 0),
        ("vllm:request_params_n_sum", 4, 2),
        ("vllm:request_params_max_tokens_sum", 100, 0),
        // A gap less than there are tokens, for each choice.
        ("vllm:inter_token_latency_seconds_count", 86, 0),
        ("vllm:request_time_per_output_token_seconds_count", 4, 0),
        ("vllm:time_to_first_token_seconds_count", 4, 0),
        ("vllm:e2e_request_latency_seconds_count", 4, 2),
        ("vllm:request_queue_time_seconds_count", 4, 2),
        ("vllm:request_prefill_time_seconds_count", 4, 2),
        ("vllm:request_inference_time_seconds_count", 4, 2),
        ("vllm:request_decode_time_seconds_count", 4, 0),
    ];
    for (name, of_decoder, of_encoder) in expected {
        let found = (scrape.of_model(name, "echo"), scrape.of_model(name, "sines"));
        assert_eq!(found, (of_decoder, of_encoder), "{name}");
    }
    // Positions: the prompts once and their last token again for each second choice, the
    // embeddings, and each generated token but a choice's last.
    assert_eq!(scrape.of_model("vllm:iteration_tokens_total_sum", "echo"), 43 + 2 + 7 + 86);
    for (client, model, prompt, generated, ended) in
        [("default", "echo", 43, 90, 4), ("default", "sines", 7, 0, 2)]
    {
        let labels = [("client", client), ("model_name", model)];
        assert_eq!(scrape.value("folio:client_prompt_tokens_total", &labels), prompt);
        assert_eq!(scrape.value("folio:client_generation_tokens_total", &labels), generated);
        let labels = [labels[0], labels[1], ("finished_reason", "stop")];
        assert_eq!(scrape.value("folio:client_requests_total", &labels), ended);
    }
}

#[tokio::test]
async fn clients_are_told_apart_by_the_names_of_their_keys() {
    let file = "[[key]]\nname = \"search\"\nkey = \"sk-of-the-search-team\"\n\
                [[key]]\nname = \"batch\"\nkey = \"sk-of-nightly-batches\"\n";
    let server = Server::with(Options { key_file: Some(file), ..Options::default() });
    for (key, said) in [("sk-of-the-search-team", "hello"), ("sk-of-nightly-batches", "hi")] {
        let mut request = post(CHAT, &json!({ "model": "echo", "messages": said }));
        let value = format!("Bearer {key}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
        server.send(request).await.ok();
    }
    let service = &server.app.service;
    let text = service.metrics.render(&service.engine, &service.policy).unwrap();
    let scrape = Scrape::parse(&text);
    // The text and its end, once each.
    for (client, generated) in [("search", 6), ("batch", 3)] {
        let labels = [("client", client), ("model_name", "echo")];
        assert_eq!(scrape.value("folio:client_generation_tokens_total", &labels), generated);
    }
    assert!(!text.contains("sk-of"), "a key is in\n{text}");
}

#[tokio::test]
async fn a_prompt_seen_before_counts_as_cached() {
    let server = Server::start();
    let prompt = "0123456789abcdef".repeat(4);
    for _ in 0..2 {
        let body = json!({ "model": "echo", "prompt": prompt, "max_tokens": 1 });
        server.post(COMPLETIONS, &body).await.ok();
    }
    server.wait_for_idle().await;
    let scrape = Scrape::of(&server).await;
    // The block with the last token is always computed.
    assert_eq!(scrape.of_model("vllm:prompt_tokens_total", "echo"), 128);
    assert_eq!(scrape.of_model("vllm:prompt_tokens_cached_total", "echo"), 48);
    assert_eq!(scrape.of_model("vllm:prefix_cache_hits_total", "echo"), 48);
    assert_eq!(scrape.of_model("vllm:prefix_cache_queries_total", "echo"), 128);
    let length = [("model_name", "echo"), ("finished_reason", "length")];
    assert_eq!(scrape.value("vllm:request_success_total", &length), 2);
}

#[tokio::test]
async fn who_runs_and_who_waits_is_told_by_model_and_reason() {
    let server = Server::start();
    server.pace.hold();
    let chat = json!({ "model": "echo", "messages": "forever", "n": 3 });
    let mut chat = Box::pin(server.post(CHAT, &chat));
    while !server.pace.is_waiting() {
        assert!(futures_util::poll!(&mut chat).is_pending());
        tokio::task::yield_now().await;
    }
    // The first choice computes the prompt; the others wait for it. What comes now waits in the
    // inbox until the step ends.
    let texts = json!({ "model": "sines", "input": ["a", "b"] });
    let mut texts = Box::pin(server.post(EMBEDDINGS, &texts));
    while server.gauges().num_waiting < 4 {
        assert!(futures_util::poll!(&mut texts).is_pending());
        tokio::task::yield_now().await;
    }
    let scrape = Scrape::of(&server).await;
    let name = "vllm:num_requests_waiting";
    assert_eq!((scrape.of_model(name, "echo"), scrape.of_model(name, "sines")), (2, 2));
    let name = "vllm:num_requests_running";
    assert_eq!((scrape.of_model(name, "echo"), scrape.of_model(name, "sines")), (1, 0));
    let reasons = |model: &str| {
        ["capacity", "deferred"].map(|reason| {
            let labels = [("model_name", model), ("reason", reason)];
            scrape.value("vllm:num_requests_waiting_by_reason", &labels)
        })
    };
    assert_eq!((reasons("echo"), reasons("sines")), ([0, 2], [2, 0]));
    assert!(scrape.0["vllm:kv_cache_usage_perc"][0].value > 0.0);
    drop((chat, texts));
    server.pace.release();
    server.wait_for_idle().await;
    let scrape = Scrape::of(&server).await;
    for model in ["echo", "sines"] {
        assert_eq!(scrape.of_model("vllm:num_requests_waiting", model), 0, "{model}");
        assert_eq!(scrape.of_model("vllm:num_requests_running", model), 0, "{model}");
    }
}

#[tokio::test]
async fn what_is_aborted_or_fails_counts_too() {
    let server = Server::start();
    let ended = |scrape: &Scrape, model: &str, reason: &str| {
        let labels = [("model_name", model), ("finished_reason", reason)];
        scrape.value("vllm:request_success_total", &labels)
    };
    let scrape = Scrape::of(&server).await;
    for reason in ["stop", "length", "abort", "error"] {
        assert_eq!(ended(&scrape, "echo", reason), 0, "there from the start: {reason}");
    }
    let body = json!({ "model": "echo", "messages": "explode", "n": 2 });
    assert_eq!(server.post(CHAT, &body).await.status, 500);
    server.pace.hold();
    for (path, body) in [
        (CHAT, json!({ "model": "echo", "messages": "forever", "n": 3 })),
        (EMBEDDINGS, json!({ "model": "sines", "input": ["a", "b"] })),
    ] {
        let mut request = Box::pin(server.post(path, &body));
        while !server.pace.is_waiting() {
            assert!(futures_util::poll!(&mut request).is_pending());
            tokio::task::yield_now().await;
        }
        drop(request);
        server.pace.allow(1);
        server.wait_for_idle().await;
    }
    let scrape = Scrape::of(&server).await;
    assert_eq!(ended(&scrape, "echo", "error"), 2);
    assert_eq!(ended(&scrape, "echo", "abort"), 3);
    assert_eq!(ended(&scrape, "sines", "abort"), 2);
    assert_eq!(ended(&scrape, "echo", "stop"), 0);
    // The steps in flight when nobody wanted their results any more.
    let wasted = server.gauges().totals.num_wasted_tokens;
    assert_eq!(scrape.of_model("folio:wasted_tokens_total", "echo"), wasted);
}

#[tokio::test]
async fn http_requests_count_by_route_and_status_class() {
    let server = Server::with(Options { keys: vec!["sk-1"], ..Options::default() });
    let body = json!({ "model": "echo", "messages": "hi" });
    assert_eq!(server.post(CHAT, &body).await.status, 401);
    server.get("/health").await.ok();
    let mut request = post(CHAT, &json!({ "model": "gpt-4o", "messages": "hi" }));
    request.headers_mut().insert("authorization", "Bearer sk-1".parse().unwrap());
    assert_eq!(server.send(request).await.status, 404);
    let mut request = post("/v1/chat/complétions", &body);
    request.headers_mut().insert("authorization", "Bearer sk-1".parse().unwrap());
    assert_eq!(server.send(request).await.status, 404);
    let reply = server
        .app
        .service
        .metrics
        .render(&server.app.service.engine, &server.app.service.policy)
        .unwrap();
    let scrape = Scrape::parse(&reply);
    let count = |handler: &str, method: &str, status: &str| {
        let labels = [("handler", handler), ("method", method), ("status", status)];
        scrape.value("http_requests_total", &labels)
    };
    assert_eq!(count(CHAT, "POST", "4xx"), 2);
    assert_eq!(count("/health", "GET", "2xx"), 1);
    assert_eq!(count("none", "POST", "4xx"), 1);
    let code = |code: &str| scrape.value("folio:errors_total", &[("code", code)]);
    assert_eq!((code("invalid_api_key"), code("model_not_found")), (1, 1));
    assert_eq!(code("unknown_url"), 1);
    let durations = [("handler", CHAT), ("method", "POST")];
    assert_eq!(scrape.value("http_request_duration_seconds_count", &durations), 2);
}

/// A stream counts when its last byte is out, not when its head is.
#[tokio::test]
async fn a_stream_counts_when_it_ends() {
    let server = Server::start();
    let body = json!({ "model": "echo", "messages": "hi", "stream": true });
    let response = {
        use tower::ServiceExt;
        server.router.clone().oneshot(post(CHAT, &body)).await.unwrap()
    };
    assert_eq!(response.status(), 200);
    let counted = || {
        let service = &server.app.service;
        let text = service.metrics.render(&service.engine, &service.policy).unwrap();
        Scrape::parse(&text).0.contains_key("http_requests_total")
    };
    assert!(!counted());
    {
        use http_body_util::BodyExt;
        response.into_body().collect().await.unwrap();
    }
    wait_until("the end to count", counted).await;
}

/// Names of metrics in a query language, as far as this server has any.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c: char| !is_part(c));
    let is_ours = |word: &&str| {
        ["vllm:", "folio:", "http_request"].iter().any(|start| word.starts_with(start))
    };
    words.filter(is_ours).collect()
}

/// After some traffic, every metric that the dashboard and the alerts ask for is there.
#[tokio::test]
async fn the_dashboard_and_the_alerts_ask_for_what_there_is() {
    let server = Server::start();
    server.post(CHAT, &json!({ "model": "echo", "messages": "hi" })).await.ok();
    server.post(CHAT, &json!({ "model": "gpt-4o", "messages": "hi" })).await;
    let scrape = Scrape::of(&server).await;
    let dashboard = include_str!("../../../server/deploy/grafana/folio.json");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut num_queries = 0;
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let metrics = metrics_in(query);
            assert!(!metrics.is_empty(), "{query}");
            for metric in metrics {
                assert!(scrape.0.contains_key(metric), "{}: {metric}", panel["title"]);
            }
            num_queries += 1;
        }
    }
    assert!(num_queries > 30, "{num_queries}");
    let rules = include_str!("../../../server/deploy/prometheus/rules.yml");
    let alerts = rules.matches("- alert: ").count();
    assert_eq!(alerts, rules.matches("          note: ").count(), "each alert has a note");
    for line in rules.lines().filter(|line| !line.contains("note: ")) {
        for metric in metrics_in(line) {
            assert!(scrape.0.contains_key(metric), "{metric} in {line}");
        }
    }
    for metric in rules.lines().filter(|line| line.contains("note: ")).flat_map(metrics_in) {
        let is_there =
            scrape.0.contains_key(metric) || scrape.0.contains_key(&format!("{metric}_count"));
        assert!(is_there, "{metric}");
    }
}

/// Whoever meets a metric of ours can look it up.
#[tokio::test]
async fn every_metric_of_our_own_is_described() {
    let server = Server::start();
    let page = include_str!("../../../docs/observability.md");
    let text = server.get("/metrics").await.text().to_owned();
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE folio:"));
    let names: Vec<_> = names.filter_map(|line| line.split(' ').next()).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(page.contains(&format!("`folio:{name}`")), "folio:{name} is not described");
    }
}
