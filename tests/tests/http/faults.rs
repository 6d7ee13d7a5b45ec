//! A step that fails, a step that does not end, an engine that is broken: what clients and probes
//! see, and how the program ends.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use folio::app::serve;
use folio_engine::types::Protection;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::errors::CHAT;
use crate::support::{Options, Server, post, wait_until};

fn say(text: &str) -> Value {
    json!({ "model": "echo", "messages": text })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_step_is_an_error_to_retry_and_what_waits_is_answered() {
    let server = Server::with(Options { max_num_seqs: 1, ..Options::default() });
    server.pace.hold();
    let poison = server.spawn(post(CHAT, &say("panic")));
    server.wait_for("it runs", |gauges| gauges.num_running + gauges.num_waiting == 1).await;
    let waiting = server.spawn(post(CHAT, &say("patience")));
    server.wait_for("both", |gauges| gauges.num_running + gauges.num_waiting == 2).await;
    server.pace.release();
    let reply = poison.await.unwrap();
    assert_eq!(reply.status, 500, "{}", reply.text());
    assert_eq!(reply.headers["x-should-retry"], "true");
    let error = &reply.json()["error"];
    assert_eq!((&error["code"], &error["type"]), (&json!("step_failed"), &json!("server_error")));
    assert!(error["message"].as_str().unwrap().contains("as asked for"), "{error}");
    let answer = waiting.await.unwrap().ok();
    assert_eq!(answer["choices"][0]["message"]["content"], "patience");
    assert_eq!(server.get("/health/ready").await.status, 200);
    server.wait_for_idle().await;
    let metrics = server.get("/metrics").await;
    for (name, value) in [
        ("folio:failed_steps_total", 1),
        ("folio:failed_step_requests_total", 1),
        ("folio:retried_sequences_total", 0),
        ("folio:engine_rebuilds_total", 1),
        ("folio:engine_failed_rebuilds_total", 0),
        ("folio:engine_stalls_total", 0),
        ("folio:engine_ready", 1),
    ] {
        let line = format!("\n{name}{{engine=\"0\",model_name=\"echo\"}} {value}\n");
        assert!(metrics.text().contains(&line), "{line} is not in\n{}", metrics.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_step_does_not_end_is_alive_and_not_ready() {
    let step_timeout = Duration::from_millis(20);
    let protection = Protection { step_timeout, ..Protection::default() };
    let server = Server::with(Options { protection, ..Options::default() });
    let engine = &server.app.service.engine;
    let until = engine.now() + (2 * step_timeout).into();
    wait_until("some idle time", || engine.now() > until).await;
    assert_eq!(server.get("/health/ready").await.status, 200, "idle is not stalled");
    server.pace.hold();
    let running = server.spawn(post(CHAT, &say("hi")));
    wait_until("the step", || server.pace.is_waiting()).await;
    let until = engine.now() + (2 * step_timeout).into();
    wait_until("the timeout", || engine.now() > until).await;
    let reply = server.get("/health/ready").await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.json()["error"]["code"], "engine_stalled");
    assert_eq!(server.get("/health/live").await.status, 200);
    let metrics = server.get("/metrics").await;
    let line = "folio:engine_ready{engine=\"0\",model_name=\"echo\"} 0";
    assert!(metrics.text().contains(line), "{}", metrics.text());
    server.pace.release();
    running.await.unwrap().ok();
    server.wait_for_idle().await;
    assert_eq!(server.get("/health/ready").await.status, 200);
    let metrics = server.get("/metrics").await;
    let line = "folio:engine_stalls_total{engine=\"0\",model_name=\"echo\"} 1";
    assert!(metrics.text().contains(line), "{}", metrics.text());
}

/// Tells the test below that it is the child that it started itself.
const CHILD: &str = "FOLIO_TEST_CHILD_THAT_BREAKS";

/// Starts this test once more, as a program of its own that serves until its engine is broken.
#[test]
fn a_program_whose_engine_is_broken_ends_with_a_failure_after_its_clients_know() {
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        panic!("error: {}", runtime.block_on(serve_until_broken()));
    }
    let name =
        "faults::a_program_whose_engine_is_broken_ends_with_a_failure_after_its_clients_know";
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([name, "--exact", "--nocapture"]).env(CHILD, "1");
    let output = child.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let last_words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("three clients were told, the fourth was refused"),
        "{said}\n{last_words}"
    );
    let expected = "error: the engine failed 3 times within 60 s and has stopped; the last time: \
                    panic: as asked for";
    assert!(last_words.contains(expected), "{last_words}");
}

/// What `folio serve` does, on an engine that three requests break: they arrive over TCP.
async fn serve_until_broken() -> String {
    let server = Server::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(serve(listener, Arc::clone(&server.app)));
    let clients = async {
        for _ in 0..3 {
            let (status, body) = crate::tcp::exchange(address, CHAT, &say("panic")).await;
            assert_eq!(status, 500, "{body}");
        }
        let (status, body) = crate::tcp::exchange(address, CHAT, &say("hi")).await;
        // Too late to be taken, or taken and never begun.
        assert!(body.contains("has stopped") && [500, 503].contains(&status), "{status} {body}");
        #[expect(clippy::print_stdout, reason = "what the parent process reads")]
        {
            println!("three clients were told, the fourth was refused");
        }
    };
    let (failure, ()) = tokio::join!(server.app.service.engine_failed(), clients);
    server.app.lifecycle.drain();
    serving.await.unwrap();
    failure
}
