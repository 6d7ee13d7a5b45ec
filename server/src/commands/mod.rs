//! What the program can be told to do.

pub(crate) mod bench;
pub(crate) mod calibrate;
pub(crate) mod capacity;
pub(crate) mod config;
pub(crate) mod embed;
pub(crate) mod explain;
pub(crate) mod generate;
pub(crate) mod profile;
mod reload;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod serve;
pub(crate) mod sim;
pub(crate) mod sweep;
pub(crate) mod timeline;
