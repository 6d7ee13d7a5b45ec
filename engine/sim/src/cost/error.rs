//! What can be wrong with a cost model's specification or file.

use std::path::PathBuf;

/// What can be wrong with a cost model's specification or file.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// The specification names no kind of cost model.
    #[error(
        "cost model `{spec}`: begins with none of roofline:GPU[:PRECISION], fitted:FILE, \
         table:FILE"
    )]
    Kind {
        /// What was given.
        spec: String,
    },
    /// A part of the specification is not known.
    #[error("cost model `{spec}`: {what} `{value}` is not known; there are {known}")]
    Unknown {
        /// The whole.
        spec: String,
        /// What the part is.
        what: &'static str,
        /// The part.
        value: String,
        /// What it could be.
        known: String,
    },
    /// A value of the specification is out of its range.
    #[error("cost model `{spec}`: {key} = {value} must be {limit}")]
    Value {
        /// The whole.
        spec: String,
        /// Its key.
        key: String,
        /// The value.
        value: String,
        /// What it must be.
        limit: String,
    },
    /// The model's configuration cannot be used.
    #[error("model `{name}`: {message}")]
    Model {
        /// Its name or directory.
        name: String,
        /// Why.
        message: String,
    },
    /// A file of costs cannot be read.
    #[error("{}: {message}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// There are too few measured steps to fit anything.
    #[error("{num_samples} {group} steps were measured, at least {needed} are needed")]
    TooFew {
        /// Which steps.
        group: &'static str,
        /// How many there are.
        num_samples: usize,
        /// How many are needed.
        needed: usize,
    },
}
