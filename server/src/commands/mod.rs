//! What the program can be told to do.

pub mod embed;
pub mod generate;
pub mod serve;
