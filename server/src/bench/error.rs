//! What stops a benchmark before it has a result. Requests that fail are results: see
//! [`Failure`](super::sample::Failure).

use std::fmt::Display;
use std::path::Path;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A flag that makes no sense, alone or beside another.
    #[error("{flag}: {message}")]
    Flag {
        /// Its name, dashes included.
        flag: &'static str,
        /// The value, and what it may be.
        message: String,
    },
    /// A file that cannot be read, written or understood.
    #[error("{path}: {message}")]
    File {
        /// Which.
        path: String,
        /// What is wrong with it, and where.
        message: String,
    },
    /// The server cannot be reached, or does not do what every such server does.
    #[error("{0}")]
    Server(String),
}

impl BenchError {
    /// A flag that makes no sense.
    pub fn flag(flag: &'static str, message: impl Into<String>) -> Self {
        Self::Flag { flag, message: message.into() }
    }

    /// A file that is no good.
    pub fn file(path: &Path, message: impl Display) -> Self {
        Self::File { path: path.display().to_string(), message: message.to_string() }
    }
}
