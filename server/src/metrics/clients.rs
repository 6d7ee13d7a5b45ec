//! What each client costs, by the name of its key.
//!
//! Every name makes series that live as long as the server, so only the first [`MAX_CLIENTS`]
//! names are told apart.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use super::register;
use super::requests::Reason;

/// Most names of clients that are labels.
const MAX_CLIENTS: usize = 100;
/// The label of all others.
const OTHER: &str = "other";

/// Counters of all clients.
#[derive(Debug)]
pub(super) struct ClientMetrics {
    /// Names that are labels. Locked for a look-up at the beginning of a job, never for longer.
    names: Mutex<HashSet<Arc<str>>>,
    requests: IntCounterVec,
    prompt_tokens: IntCounterVec,
    generation_tokens: IntCounterVec,
}

/// Those of one client at one model.
#[derive(Clone, Debug)]
pub(super) struct ClientMeter {
    requests: [IntCounter; Reason::ALL.len()],
    pub(super) prompt_tokens: IntCounter,
    pub(super) generation_tokens: IntCounter,
}

impl ClientMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        Ok(Self {
            names: Mutex::default(),
            requests: counter(
                "folio:client_requests_total",
                "Choices of a client that ended, by reason.",
                &["client", "finished_reason", "model_name"],
            )?,
            prompt_tokens: counter(
                "folio:client_prompt_tokens_total",
                "Prompt tokens that a client sent.",
                &["client", "model_name"],
            )?,
            generation_tokens: counter(
                "folio:client_generation_tokens_total",
                "Tokens that a client got.",
                &["client", "model_name"],
            )?,
        })
    }

    /// The counters of `client` at `model`.
    pub(super) fn of_client(&self, client: &Arc<str>, model: &str) -> ClientMeter {
        let label = self.label(client);
        ClientMeter {
            requests: Reason::ALL
                .map(|reason| self.requests.with_label_values(&[label, reason.as_str(), model])),
            prompt_tokens: self.prompt_tokens.with_label_values(&[label, model]),
            generation_tokens: self.generation_tokens.with_label_values(&[label, model]),
        }
    }

    fn label<'a>(&self, client: &'a Arc<str>) -> &'a str {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.contains(client) {
            return client;
        }
        if names.len() >= MAX_CLIENTS {
            return OTHER;
        }
        names.insert(Arc::clone(client));
        client
    }
}

impl ClientMeter {
    /// A choice ended.
    pub(super) fn count_end(&self, reason: Reason) {
        self.requests[reason as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_the_bound_share_a_label() {
        let metrics = ClientMetrics::new(&Registry::new()).unwrap();
        for number in 0..MAX_CLIENTS + 5 {
            let name: Arc<str> = format!("client-{number}").into();
            metrics.of_client(&name, "echo").prompt_tokens.inc();
        }
        let value = |name: &str| metrics.prompt_tokens.with_label_values(&[name, "echo"]).get();
        assert_eq!((value("client-0"), value("client-99"), value(OTHER)), (1, 1, 5));
        metrics.of_client(&"client-0".into(), "echo").prompt_tokens.inc();
        assert_eq!(value("client-0"), 2);
    }
}
