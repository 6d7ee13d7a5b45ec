//! Folio's front end.

pub mod builtin;
pub mod locate;
pub mod text;
