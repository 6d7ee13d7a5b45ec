//! Folio's front end.

pub mod error;
pub mod openai;
