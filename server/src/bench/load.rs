//! A run: requests go out when they are due, whatever becomes of the others.
//!
//! Every request is a task of its own; one loop starts them, and those that wait for the end of
//! another. `--max-concurrency` holds a request back between "released" and "sent": latency from
//! the scheduled time contains that wait, latency from the sent time hides it.

use std::collections::HashMap;
use std::sync::Arc;

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Duration, Instant};

use super::client::{Client, Reply};
use super::pacer::{Pacer, Pacing};
use super::request::{Prompt, Request};
use super::sample::{Class, Sample, Times};
use super::saturation::{Observation, Rule};

/// When a request is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Due {
    /// At this time, in seconds from the start.
    At(f64),
    /// After the end of another.
    After {
        /// Which: one that comes before it.
        index: usize,
        /// Seconds of thinking first.
        think: f64,
    },
}

/// Requests and how they are sent.
#[derive(Clone, Debug)]
pub struct Load {
    /// What is asked.
    pub requests: Arc<[Request]>,
    /// When each is due; as many.
    pub due: Vec<Due>,
    /// Most requests that may be in flight.
    pub max_concurrency: Option<usize>,
    /// What watches the time.
    pub pacing: Pacing,
    /// What turns of a session know of those before.
    pub history: History,
    /// When to give up, if ever.
    pub stop: Option<Rule>,
}

/// What turns of a session know of those before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum History {
    /// Prompts are as the dataset has them.
    #[default]
    AsGiven,
    /// Prompts and answers of earlier turns go before them.
    Grown,
}

/// What came of a load.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// One for each request that was sent, in the order of the dataset.
    pub samples: Vec<Sample>,
    /// Why not all requests were sent, if so.
    pub stopped: Option<String>,
}

/// Sends `load` and waits for all answers. `progress` sees each request as it ends.
pub async fn run(client: &Arc<Client>, load: Load, progress: &mut dyn FnMut(&Sample)) -> Run {
    let (ended, mut endings) = mpsc::unbounded_channel();
    let mut sender = Sender::new(Arc::clone(client), &load, ended);
    let mut run = Run::default();
    let mut rule = load.stop;
    let mut pacer = Some(Pacer::start(sender.first_due(&load.due), sender.origin, load.pacing));
    while sender.num_open > 0 || pacer.is_some() {
        let next = async {
            match &mut pacer {
                Some(pacer) => pacer.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ending = endings.recv() => {
                let Some(ending) = ending else { break };
                sender.num_open -= 1;
                let Some(sample) = ending else { continue };
                progress(&sample);
                let seen = Observation::of(&sample, sender.num_open);
                if let Some(why) = rule.as_mut().and_then(|rule| rule.observe(seen)) {
                    pacer = None;
                    sender.stop();
                    run.stopped = Some(why);
                }
                sender.go_on(&sample);
                run.samples.push(sample);
            }
            due = next => match due {
                Some(index) => {
                    let Due::At(scheduled) = load.due[index] else { continue };
                    sender.start(index, scheduled);
                }
                None => pacer = None,
            },
        }
    }
    run.samples.sort_by_key(|sample| sample.index);
    run
}

/// Starts requests and knows which wait for which.
struct Sender {
    client: Arc<Client>,
    requests: Arc<[Request]>,
    /// Bodies that can be known before the start, so that sending costs little.
    bodies: Vec<Option<Bytes>>,
    origin: Instant,
    permits: Option<Arc<Semaphore>>,
    /// `None` for a request that was not sent after all.
    ended: mpsc::UnboundedSender<Option<Sample>>,
    num_open: usize,
    /// By the one that they wait for.
    waiting: HashMap<usize, Vec<(usize, f64)>>,
    history: History,
    /// What was said, by session.
    said: HashMap<u32, Vec<Value>>,
}

impl Sender {
    fn new(client: Arc<Client>, load: &Load, ended: mpsc::UnboundedSender<Option<Sample>>) -> Self {
        let body = |(index, request): (usize, &Request)| match (load.history, request) {
            (History::Grown, Request { session: Some(_), .. }) => None,
            (_, request) => Some(client.body(index, request, &[])),
        };
        let bodies = load.requests.iter().enumerate().map(body).collect();
        let mut waiting: HashMap<usize, Vec<(usize, f64)>> = HashMap::new();
        for (waits, due) in load.due.iter().enumerate() {
            if let Due::After { index, think } = *due {
                waiting.entry(index).or_default().push((waits, think));
            }
        }
        Self {
            client,
            requests: Arc::clone(&load.requests),
            bodies,
            origin: Instant::now(),
            permits: load.max_concurrency.map(|max| Arc::new(Semaphore::new(max))),
            ended,
            num_open: 0,
            waiting,
            history: load.history,
            said: HashMap::new(),
        }
    }

    /// Those that wait for no other, in the order of their times.
    fn first_due(&self, due: &[Due]) -> Vec<(f64, usize)> {
        let timed = due.iter().take(self.requests.len()).enumerate();
        let mut times: Vec<(f64, usize)> = timed
            .filter_map(|(index, due)| match due {
                Due::At(time) => Some((*time, index)),
                Due::After { .. } => None,
            })
            .collect();
        times.sort_by(|left, right| left.0.total_cmp(&right.0).then(left.1.cmp(&right.1)));
        times
    }

    /// Starts a request that is due at `scheduled`, which may be a little ahead.
    fn start(&mut self, index: usize, scheduled: f64) {
        let request = &self.requests[index];
        let said = request.session.and_then(|session| self.said.get(&session));
        let history = said.map_or(&[][..], Vec::as_slice);
        let body = self.bodies[index].take();
        let body = body.unwrap_or_else(|| self.client.body(index, request, history));
        let task = Task {
            client: Arc::clone(&self.client),
            requests: Arc::clone(&self.requests),
            index,
            body,
            origin: self.origin,
            scheduled,
            permits: self.permits.clone(),
        };
        let ended = self.ended.clone();
        self.num_open += 1;
        tokio::spawn(async move {
            let sample = task.run().await;
            // Nobody listens when the run was given up.
            let _ = ended.send(sample);
        });
    }

    /// Starts what waited for `sample`.
    fn go_on(&mut self, sample: &Sample) {
        let request = &self.requests[sample.index];
        if self.history == History::Grown
            && let Some(session) = request.session
        {
            let said = self.said.entry(session).or_default();
            if let Prompt::Text(text) = &request.prompt {
                said.push(json!({ "role": "user", "content": text.as_ref() }));
            }
            said.push(json!({ "role": "assistant", "content": sample.text }));
        }
        for (index, think) in self.waiting.remove(&sample.index).unwrap_or_default() {
            self.start(index, sample.times.last + think);
        }
    }

    /// Sends nothing more.
    fn stop(&mut self) {
        self.waiting.clear();
        if let Some(permits) = &self.permits {
            permits.close();
        }
    }
}

/// One request on its way.
struct Task {
    client: Arc<Client>,
    requests: Arc<[Request]>,
    index: usize,
    body: Bytes,
    origin: Instant,
    scheduled: f64,
    permits: Option<Arc<Semaphore>>,
}

impl Task {
    async fn run(self) -> Option<Sample> {
        let due = self.origin + Duration::from_secs_f64(self.scheduled.max(0.0));
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
        }
        let since = |moment: Instant| (moment - self.origin).as_secs_f64();
        let released = since(Instant::now());
        let _permit = match &self.permits {
            Some(permits) => Some(permits.acquire().await.ok()?),
            None => None,
        };
        let sent = since(Instant::now());
        let request = &self.requests[self.index];
        let reply = self.client.send(self.index, request, self.body).await;
        let Reply { chunks, last, tokens, text, vectors, finish_reason, failure } = reply;
        let chunks: Vec<f64> = chunks.into_iter().map(since).collect();
        Some(Sample {
            index: self.index,
            class: if request.is_embedding() { Class::Embeddings } else { Class::Generation },
            times: Times {
                scheduled: self.scheduled,
                released,
                sent,
                first: chunks.first().copied(),
                last: since(last),
            },
            chunks,
            tokens,
            text,
            vectors,
            finish_reason,
            failure,
        })
    }
}
