//! Folio's front end: an HTTP server and a command line over the engine.
//!
//! The life of a request: [`app`] checks who asks; a route reads its body with [`openai`];
//! [`text`] makes tokens of it; [`generate`] or [`embed`] hands them to the engine and reads the
//! events; [`sse`] or a plain answer carries the text back. Nothing here sees a tensor, a block
//! or a sequence.

#![forbid(unsafe_code)]

pub mod app;
mod args;
pub mod bench;
pub mod body;
pub mod builtin;
pub mod client;
mod commands;
mod device;
pub mod embed;
pub mod error;
pub mod gate;
pub mod generate;
pub mod keys;
pub mod kv_events;
pub mod lifecycle;
pub mod listen;
pub mod live;
mod load;
pub mod locate;
pub mod metrics;
pub mod models;
pub mod openai;
pub mod openapi;
pub mod policy;
pub mod program;
mod progress;
pub mod responses;
pub mod routes;
pub mod score;
pub mod service;
pub mod sse;
pub mod structured;
pub mod telemetry;
pub mod text;
pub mod tls;
pub mod tools;
