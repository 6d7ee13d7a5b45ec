//! One file for each family of addresses: read, run, write.

pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod live;
pub mod models;
pub mod openapi;
pub mod page;
pub mod render;
pub mod responses;
pub mod status;
pub mod tokenize;
