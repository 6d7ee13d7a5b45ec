//! `expr:` policies: an order of service written as an expression over features of requests.
//!
//! A spec is `expr: RANK[, RANK]`, then parts behind semicolons: `limit:`, `victim:`, ... Each is
//! parsed and type-checked once, into a small tree that is evaluated for every rank. A value that
//! does not exist (0/0) makes everything computed from it not exist; a request without a rank goes
//! last, which is counted, and said once.

mod features;
mod lexer;
mod parser;
mod policy;
mod tree;

#[cfg(test)]
mod tests;

/// What it does, for a list of policies.
pub(super) const HELP: &str = "smallest value of an expression first, such as \
    'expr: uncached - 200*waited_s; victim: computed'; see docs/policies.md";

pub use features::{Feature, Staleness};
pub(super) use policy::{make, reads_priority};
