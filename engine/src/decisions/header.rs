//! What a log is of: the first frame of its file, as JSON.

use serde::{Deserialize, Serialize};

use crate::types::EngineConfig;

/// What a log is of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    /// The program that wrote it, with its version.
    pub program: String,
    /// The policy that decided at first, as on the command line.
    pub policy: String,
    /// The settings of the scheduler and of its pool.
    pub engine: EngineConfig,
    /// The models, in the order of their ids.
    pub models: Vec<LogModel>,
    /// Seconds between 1970 and the zero of the log's times; `None` in a simulation.
    pub unix_origin: Option<f64>,
    /// Whether what happened before is in another file, so that nothing can be replayed.
    pub continues: bool,
    /// What else the policy was given, for whoever makes it anew.
    #[serde(default)]
    pub policy_context: serde_json::Value,
}

/// A model by its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogModel {
    /// What it is served as.
    pub name: String,
}

impl Header {
    /// Of a new log.
    #[must_use]
    pub fn new(policy: &str, engine: EngineConfig, models: &[String]) -> Self {
        Self {
            program: format!("folio {}", env!("CARGO_PKG_VERSION")),
            policy: policy.to_owned(),
            engine,
            models: models.iter().map(|name| LogModel { name: name.clone() }).collect(),
            unix_origin: None,
            continues: false,
            policy_context: serde_json::Value::Null,
        }
    }
}
