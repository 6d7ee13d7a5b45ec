//! The production scheduler under a virtual clock: what a policy would have done.
//!
//! A [`Workload`] says who asks for what and when; [`simulate`] runs it through the
//! [`Scheduler`](folio_engine::sched::Scheduler) that serves, with a cost model for a device; an
//! [`Outcome`] says how everybody fared. Same inputs, same outcome, to the bit.

#![forbid(unsafe_code)]

mod arrivals;
pub mod calibrate;
pub mod capacity;
pub mod cluster;
pub mod cost;
pub mod executor;
pub mod experiment;
pub mod explain;
pub mod gaps;
mod history;
pub mod instance;
pub mod lengths;
pub mod metrics;
pub mod options;
pub mod outcome;
pub mod plot;
pub mod profile;
pub mod prompt;
pub mod replay;
pub mod report;
pub mod result;
mod run;
pub mod series;
pub mod statistics;
pub mod synthetic;
pub mod table;
pub mod timeline;
pub mod trace;
mod window;
pub mod workload;

pub use cluster::Cluster;
pub use executor::SimExecutor;
pub use lengths::KnownLengths;
pub use metrics::{Metric, Spread};
pub use options::{Detail, FrontEnd, Hooks, Host, Options, Overlap, SimError};
pub use outcome::{Outcome, RequestOutcome};
pub use result::Description;
pub use run::{simulate, simulate_cluster};
pub use workload::{After, ReadTally, Record, Slo, TraceError, Workload};
