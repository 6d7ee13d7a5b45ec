//! KV-cache events over ZeroMQ, as vLLM publishes them: routers that know which prefixes are where
//! send a request to the replica that has its beginning.
//!
//! A batch for each step that changed the index goes out on a PUB socket as three frames: topic,
//! number, MessagePack. A ROUTER socket repeats batches from a number on. The engine never waits:
//! when its channel is full a batch is dropped with its number, so that listeners see the gap.

use std::collections::VecDeque;
use std::time::Duration;

use axum::body::Bytes;
use folio_engine::sched::{ContentId, KvBatch, KvEvent};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use zeromq::{PubSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqError, ZmqMessage};

use crate::service::{chance, mix, unix_time};

/// Last frame of a replay: the number −1.
const END_OF_REPLAY: [u8; 8] = [0xff; 8];
/// Longest time that one replay may take.
const REPLAY_TIME: Duration = Duration::from_secs(5);
/// Name of the tier that blocks are in. There is one; routers know it by this name.
const MEDIUM: &str = "GPU";

/// What `--kv-events-config` says, under vLLM's names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KvEventsConfig {
    /// Whether anything is published.
    pub enable_kv_cache_events: bool,
    /// `zmq`, or `null` for nothing.
    pub publisher: String,
    /// Where the PUB socket listens.
    pub endpoint: String,
    /// Where the ROUTER socket listens, if batches are to be repeated.
    pub replay_endpoint: Option<String>,
    /// Batches kept to be repeated.
    pub buffer_steps: usize,
    /// Batches that wait for the sockets at most.
    pub max_queue_size: usize,
    /// First frame of each batch.
    pub topic: String,
}

impl Default for KvEventsConfig {
    fn default() -> Self {
        Self {
            enable_kv_cache_events: false,
            publisher: "zmq".to_owned(),
            // Events hold the tokens of prompts: other machines see them only if they are meant to.
            endpoint: "tcp://127.0.0.1:5557".to_owned(),
            replay_endpoint: None,
            buffer_steps: 10_000,
            max_queue_size: 100_000,
            topic: String::new(),
        }
    }
}

/// What is wrong with the settings of events, or with their addresses.
#[derive(Debug, thiserror::Error)]
pub enum KvEventsError {
    /// Not the JSON of a [`KvEventsConfig`].
    #[error("{0}")]
    Syntax(#[from] serde_json::Error),
    /// A publisher that does not exist.
    #[error("publisher {0:?} must be \"zmq\" or \"null\"")]
    Publisher(String),
    /// A number that must be at least 1.
    #[error("{0} is 0 and must be at least 1")]
    Zero(&'static str),
    /// An address that cannot be listened on.
    #[error("cannot listen on {endpoint}: {error}")]
    Bind {
        /// The address.
        endpoint: String,
        /// Why.
        error: ZmqError,
    },
}

impl std::str::FromStr for KvEventsConfig {
    type Err = KvEventsError;

    fn from_str(text: &str) -> Result<Self, KvEventsError> {
        let config: Self = serde_json::from_str(text)?;
        if !matches!(config.publisher.as_str(), "zmq" | "null") {
            return Err(KvEventsError::Publisher(config.publisher));
        }
        for (name, value) in
            [("buffer_steps", config.buffer_steps), ("max_queue_size", config.max_queue_size)]
        {
            if value == 0 {
                return Err(KvEventsError::Zero(name));
            }
        }
        Ok(config)
    }
}

impl KvEventsConfig {
    /// Whether there is anything to publish.
    pub fn is_on(&self) -> bool {
        self.enable_kv_cache_events && self.publisher == "zmq"
    }
}

/// Publishes what the engine sends.
pub struct Publisher {
    publish: PubSocket,
    replay: Option<RouterSocket>,
    topic: Bytes,
    block_size: u32,
    /// Makes contents of this run differ from those of another.
    key: u64,
    /// Batches that can be repeated, the oldest first.
    kept: VecDeque<(u64, Bytes)>,
    max_kept: usize,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("kept", &self.kept.len()).finish_non_exhaustive()
    }
}

impl Publisher {
    /// Listens where `config` says. Blocks hold `block_size` tokens.
    pub async fn bind(config: &KvEventsConfig, block_size: u32) -> Result<Self, KvEventsError> {
        let mut publish = PubSocket::new();
        bind(&mut publish, &config.endpoint).await?;
        let replay = match &config.replay_endpoint {
            None => None,
            Some(endpoint) => {
                let mut socket = RouterSocket::new();
                bind(&mut socket, endpoint).await?;
                Some(socket)
            }
        };
        Ok(Self {
            publish,
            replay,
            topic: Bytes::from(config.topic.clone()),
            block_size,
            key: chance(),
            kept: VecDeque::new(),
            max_kept: config.buffer_steps,
        })
    }

    /// Publishes until the engine is gone.
    pub async fn run(mut self, mut batches: mpsc::Receiver<KvBatch>) {
        loop {
            tokio::select! {
                batch = batches.recv() => match batch {
                    Some(batch) => self.publish(&batch).await,
                    None => return,
                },
                asked = asked(&mut self.replay) => {
                    if let Some(asked) = asked {
                        // Whoever asks and does not read must not hold up the others.
                        let _ = tokio::time::timeout(REPLAY_TIME, self.repeat(&asked)).await;
                    }
                }
            }
        }
    }

    async fn publish(&mut self, batch: &KvBatch) {
        let payload = Bytes::from(encode(&batch.events, self.block_size, self.key));
        if self.kept.len() == self.max_kept {
            self.kept.pop_front();
        }
        self.kept.push_back((batch.number, payload.clone()));
        let frames = [self.topic.clone(), number(batch.number), payload];
        if let Ok(message) = ZmqMessage::try_from(frames.to_vec()) {
            // A listener that is gone or too slow has lost it, and sees so by the number.
            let _ = self.publish.send(message).await;
        }
    }

    /// Answers `[who, empty, number]` with all kept batches from that number on.
    async fn repeat(&mut self, asked: &ZmqMessage) {
        let frames = asked.iter().collect::<Vec<_>>();
        let [who, .., first] = frames.as_slice() else { return };
        let Ok(first) = <[u8; 8]>::try_from(first.as_ref()) else { return };
        let first = u64::from_be_bytes(first);
        let kept = self.kept.iter().filter(|(number, _)| *number >= first);
        let answers = kept.map(|(sequence, payload)| (number(*sequence), payload.clone()));
        let end = (Bytes::from_static(&END_OF_REPLAY), Bytes::new());
        let answers: Vec<_> = answers.chain([end]).collect();
        for (number, payload) in answers {
            let frames = vec![(*who).clone(), Bytes::new(), number, payload];
            let Ok(message) = ZmqMessage::try_from(frames) else { return };
            if let Some(replay) = &mut self.replay
                && replay.send(message).await.is_err()
            {
                return; // whoever asked is gone
            }
        }
    }
}

async fn bind(socket: &mut impl Socket, endpoint: &str) -> Result<(), KvEventsError> {
    // ZeroMQ's way to say all addresses.
    let address = endpoint.replace("://*:", "://0.0.0.0:");
    let bound = socket.bind(&address).await;
    bound.map(drop).map_err(|error| KvEventsError::Bind { endpoint: endpoint.to_owned(), error })
}

/// The next question for a replay; never, where nobody can ask.
async fn asked(replay: &mut Option<RouterSocket>) -> Option<ZmqMessage> {
    match replay {
        Some(socket) => socket.recv().await.ok(),
        None => std::future::pending().await,
    }
}

fn number(value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

/// A batch as vLLM's Python reads it: `[seconds, [event, …], rank]`, each event an array that
/// begins with its name.
fn encode(events: &[KvEvent], block_size: u32, key: u64) -> Vec<u8> {
    let hash = |content: &ContentId| mix(key ^ content);
    let hashes = |contents: &[ContentId]| contents.iter().map(hash).collect::<Vec<_>>();
    let events: Vec<_> = events
        .iter()
        .map(|event| match event {
            KvEvent::Stored { parent, contents, tokens } => Wire::Stored((
                "BlockStored",
                hashes(contents),
                parent.as_ref().map(hash),
                tokens,
                block_size,
                None,
                MEDIUM,
            )),
            KvEvent::Removed { contents } => {
                Wire::Removed(("BlockRemoved", hashes(contents), MEDIUM))
            }
            KvEvent::Cleared => Wire::Cleared(("AllBlocksCleared",)),
        })
        .collect();
    // Arrays of numbers and texts can always be written.
    rmp_serde::to_vec(&(unix_time().as_secs_f64(), events, 0u32)).unwrap_or_default()
}

/// Name, hashes, parent, tokens, block size, LoRA, tier.
type Stored<'a> = (&'static str, Vec<u64>, Option<u64>, &'a [u32], u32, Option<u32>, &'static str);

/// An event on the wire.
#[derive(Serialize)]
#[serde(untagged)]
enum Wire<'a> {
    Stored(Stored<'a>),
    Removed((&'static str, Vec<u64>, &'static str)),
    Cleared((&'static str,)),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_vllms_and_strict() {
        let text = r#"{"enable_kv_cache_events": true, "endpoint": "tcp://*:1", "topic": "kv"}"#;
        let config: KvEventsConfig = text.parse().unwrap();
        assert!(config.is_on() && config.buffer_steps == 10_000 && config.topic == "kv");
        for (text, expected) in [
            ("{", "EOF"),
            (r#"{"endpont": "x"}"#, "endpont"),
            (r#"{"publisher": "nats"}"#, "\"nats\""),
            (r#"{"buffer_steps": 0}"#, "buffer_steps"),
        ] {
            let error = text.parse::<KvEventsConfig>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(!"{}".parse::<KvEventsConfig>().unwrap().is_on());
    }
}
