//! The simulator from outside: schedules worked out by hand, laws, traces, clusters, results.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]
#![allow(clippy::print_stdout, reason = "the seed of a failing run")]

mod clusters;
mod common;
mod laws;
mod results;
mod schedules;
mod traces;
