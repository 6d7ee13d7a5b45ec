//! The production scheduler under a virtual clock: what a policy would have done.

#![forbid(unsafe_code)]

pub mod plot;
pub mod statistics;
