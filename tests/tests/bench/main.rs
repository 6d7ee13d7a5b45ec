//! The benchmark client against a server of scripted delays, on a clock that stands still while
//! anybody works: every latency is known to the microsecond.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a failure here is a failed test; a test's helpers are tests too"
)]

mod compare;
mod datasets;
mod fake;
mod figures;
mod report;
mod verify;
