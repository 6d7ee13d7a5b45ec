//! The HTTP interface as clients see it: over the real router, and over TCP.
//!
//! Scheduler, paged memory and engine thread are the real ones; only the arithmetic is replaced,
//! by an executor whose every answer can be foretold.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in what it shares with others"
)]

mod access;
mod api_table;
mod chat;
mod completions;
mod deadlines;
mod embeddings;
mod errors;
mod fake;
mod faults;
mod fields;
mod keys;
mod limits;
mod metrics;
mod openapi;
mod page;
mod policy;
mod prompt_logprobs;
mod queue;
mod responses;
mod scoring;
mod structured;
mod support;
mod tcp;
mod tls;
mod tools;
mod tracing;
