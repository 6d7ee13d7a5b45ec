//! One file for each family of addresses: read, run, write.

pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod live;
mod logprobs;
pub mod models;
pub mod openapi;
pub mod page;
pub mod policy;
pub mod render;
pub mod rerank;
pub mod responses;
pub mod score;
pub mod status;
pub mod tokenize;
