//! An OpenAI-compatible server in memory, whose delays are scripted.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::serve::Listener;
use axum::{Json, Router};
use folio::bench::client::{Backend, Client, Settings};
use folio::bench::http::{Dial, Http, Wire};
use folio::bench::load::{Due, History, Load, Run, run};
use folio::bench::{Pacing, Prompt, Request};
use futures_util::FutureExt as _;
use futures_util::stream::unfold;
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::sync::{Semaphore, mpsc};

/// How the server behaves.
#[derive(Clone)]
pub(crate) struct Script {
    /// From the request's turn to its first token.
    pub first: Duration,
    /// Between tokens.
    pub gap: Duration,
    /// Requests that have their turn at the same time.
    pub num_at_once: usize,
    /// Whether it counts tokens.
    pub usage: bool,
    /// Requests, by number, that go wrong, and how.
    pub faults: Vec<(usize, Fault)>,
    /// Whether answers are others when several are being made.
    pub mixes_up: bool,
}

/// What can go wrong.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    /// A refusal with this status.
    Status(u16),
    /// The stream ends after two tokens.
    Cut,
    /// An event that reports an error.
    Event,
    /// No answer, ever.
    Silence,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            gap: Duration::from_millis(20),
            num_at_once: 1000,
            usage: true,
            faults: Vec::new(),
            mixes_up: false,
        }
    }
}

/// The server, and what it has been asked.
pub(crate) struct Server {
    dial: Arc<Dial>,
    state: Arc<Shared>,
}

struct Shared {
    script: Script,
    turns: Arc<Semaphore>,
    asked: Mutex<Vec<(String, Value)>>,
    num_open: Mutex<usize>,
    num_connections: AtomicUsize,
}

struct Connections(mpsc::UnboundedReceiver<DuplexStream>);

impl Listener for Connections {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.recv().await {
            Some(stream) => (stream, ()),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Server {
    pub(crate) fn start(script: Script) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let turns = Arc::new(Semaphore::new(script.num_at_once));
        let state = Arc::new(Shared {
            script,
            turns,
            asked: Mutex::default(),
            num_open: Mutex::default(),
            num_connections: AtomicUsize::new(0),
        });
        let counted = Arc::clone(&state);
        let dial = move || {
            let (sender, counted) = (sender.clone(), Arc::clone(&counted));
            async move {
                counted.num_connections.fetch_add(1, Ordering::Relaxed);
                let (near, far) = tokio::io::duplex(1 << 16);
                sender.send(far).map_err(|_| io::Error::other("no server"))?;
                Ok(Box::new(near) as Box<dyn Wire>)
            }
            .boxed()
        };
        let router = Router::new()
            .route("/v1/completions", post(generate))
            .route("/v1/chat/completions", post(generate))
            .route("/v1/embeddings", post(embed))
            .with_state(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(Connections(receiver), router).await });
        Self { dial: Arc::new(dial), state }
    }

    /// A client of the server.
    pub(crate) fn client(&self, settings: Settings) -> Arc<Client> {
        Arc::new(Client::new(Http::over(Arc::clone(&self.dial)), settings))
    }

    /// Connections that were opened.
    pub(crate) fn num_connections(&self) -> usize {
        self.state.num_connections.load(Ordering::Relaxed)
    }

    /// Paths and bodies of all requests, in the order of their arrival.
    pub(crate) fn asked(&self) -> Vec<(String, Value)> {
        self.state.asked.lock().unwrap().clone()
    }
}

/// Sends `requests` to a server that follows `script`.
pub(crate) async fn sent(script: Script, requests: Vec<Request>, due: Vec<Due>) -> Run {
    let server = Server::start(script);
    let client = server.client(Settings::new(Backend::Completions, "m"));
    run(&client, load(requests, due), &mut |_| {}).await
}

/// A load with no bound.
pub(crate) fn load(requests: Vec<Request>, due: Vec<Due>) -> Load {
    Load {
        requests: requests.into(),
        due,
        max_concurrency: None,
        pacing: Pacing::Timer,
        history: History::AsGiven,
        stop: None,
    }
}

/// `num` requests for `output_len` tokens, each with a prompt of its own.
pub(crate) fn requests(num: u32, output_len: u32) -> Vec<Request> {
    let request = |index| Request::new(Prompt::Ids(vec![index, 7, 7].into()), 3, output_len);
    (0..num).map(request).collect()
}

/// `num` requests that are due `seconds` apart.
pub(crate) fn every(seconds: f64, num: u32) -> Vec<Due> {
    (0..num).map(|index| Due::At(f64::from(index) * seconds)).collect()
}

async fn embed(State(state): State<Arc<Shared>>, Json(body): Json<Value>) -> Response {
    state.asked.lock().unwrap().push(("/v1/embeddings".to_owned(), body.clone()));
    let _turn = state.turns.acquire().await.unwrap();
    tokio::time::sleep(state.script.first).await;
    let texts = body["input"].as_array().unwrap();
    let vector = |text: &Value| {
        let length = text.as_str().unwrap().len() as f64;
        json!({ "object": "embedding", "embedding": [length, 1.0] })
    };
    let data: Vec<Value> = texts.iter().map(vector).collect();
    Json(json!({ "object": "list", "data": data, "usage": { "prompt_tokens": 5 * texts.len() } }))
        .into_response()
}

async fn generate(State(state): State<Arc<Shared>>, uri: Uri, Json(body): Json<Value>) -> Response {
    let number = {
        let mut asked = state.asked.lock().unwrap();
        asked.push((uri.path().to_owned(), body.clone()));
        asked.len() - 1
    };
    let fault = state.script.faults.iter().find(|(at, _)| *at == number).map(|(_, fault)| *fault);
    match fault {
        Some(Fault::Status(status)) => {
            let status = StatusCode::from_u16(status).unwrap();
            return (status, format!("refused {number}")).into_response();
        }
        Some(Fault::Silence) => std::future::pending().await,
        _ => {}
    }
    let answer = Answer::new(state, uri.path().contains("chat"), &body, fault);
    Body::from_stream(unfold(answer, |mut answer| async {
        let event = answer.next().await?;
        Some((Ok::<_, io::Error>(format!("data: {event}\n\n")), answer))
    }))
    .into_response()
}

/// An answer in the making.
struct Answer {
    state: Arc<Shared>,
    is_chat: bool,
    fault: Option<Fault>,
    salt: u64,
    num_tokens: u64,
    num_done: u64,
    stage: Stage,
    turn: Option<tokio::sync::OwnedSemaphorePermit>,
}

#[derive(PartialEq)]
enum Stage {
    Opening,
    Tokens,
    Closing,
    Usage,
    Done,
    Over,
}

impl Drop for Answer {
    fn drop(&mut self) {
        *self.state.num_open.lock().unwrap() -= 1;
    }
}

impl Answer {
    fn new(state: Arc<Shared>, is_chat: bool, body: &Value, fault: Option<Fault>) -> Self {
        *state.num_open.lock().unwrap() += 1;
        let max = body["max_tokens"].as_u64().or(body["max_completion_tokens"].as_u64());
        let salt = body["prompt"].as_array().map_or(0, |ids| ids[0].as_u64().unwrap());
        Self {
            state,
            is_chat,
            fault,
            salt,
            num_tokens: max.unwrap(),
            num_done: 0,
            stage: Stage::Opening,
            turn: None,
        }
    }

    async fn next(&mut self) -> Option<String> {
        match self.stage {
            Stage::Opening => {
                self.stage = Stage::Tokens;
                if self.is_chat {
                    // Before anything is computed, as some servers do.
                    let delta = json!({ "role": "assistant", "content": "" });
                    return Some(
                        json!({ "choices": [{ "index": 0, "delta": delta }] }).to_string(),
                    );
                }
                Box::pin(self.next()).await
            }
            Stage::Tokens => self.token().await,
            Stage::Closing => {
                self.stage = if self.state.script.usage { Stage::Usage } else { Stage::Done };
                Some(self.choice("", Some("length")).to_string())
            }
            Stage::Usage => {
                self.stage = Stage::Done;
                let usage = json!({ "prompt_tokens": 3, "completion_tokens": self.num_done });
                Some(json!({ "choices": [], "usage": usage }).to_string())
            }
            Stage::Done => {
                self.stage = Stage::Over;
                Some("[DONE]".to_owned())
            }
            Stage::Over => None,
        }
    }

    async fn token(&mut self) -> Option<String> {
        match self.fault {
            Some(Fault::Cut) if self.num_done == 2 => return None,
            Some(Fault::Event) if self.num_done == 2 => {
                self.fault = Some(Fault::Cut);
                return Some(json!({ "error": { "message": "lost" } }).to_string());
            }
            _ => {}
        }
        if self.turn.is_none() {
            let turns = Arc::clone(&self.state.turns);
            self.turn = Some(turns.acquire_owned().await.unwrap());
            tokio::time::sleep(self.state.script.first).await;
        } else {
            tokio::time::sleep(self.state.script.gap).await;
        }
        self.num_done += 1;
        let is_crowded = *self.state.num_open.lock().unwrap() > 1;
        let wrong = u64::from(self.state.script.mixes_up && is_crowded && self.num_done > 1);
        let text = format!("{} ", self.salt * 31 + self.num_done + wrong);
        if self.num_done == self.num_tokens {
            self.turn = None;
            self.stage = Stage::Closing;
        }
        Some(self.choice(&text, None).to_string())
    }

    fn choice(&self, text: &str, finish_reason: Option<&str>) -> Value {
        let mut choice = json!({ "index": 0, "finish_reason": finish_reason });
        match (self.is_chat, finish_reason) {
            (true, Some(_)) => choice["delta"] = json!({}),
            (true, None) => choice["delta"] = json!({ "content": text }),
            (false, _) => choice["text"] = text.into(),
        }
        json!({ "choices": [choice] })
    }
}
