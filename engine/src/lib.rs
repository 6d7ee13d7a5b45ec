//! Folio's engine: from a [`Request`](types::Request) to its [`Event`](types::Event)s.
//!
//! The life of a request: the front end hands it to the [`EngineHandle`]; the engine
//! [`thread`] admits it into the [scheduler](sched::Scheduler), which plans steps; an
//! [executor](exec::Executor) carries each out; the scheduler enters the results and sends the
//! events. Nothing flows upward except events, and no other thread is ever asked anything.

pub mod control;
pub mod core;
pub mod decisions;
pub mod drain;
pub mod exec;
pub mod health;
pub mod live;
pub mod model;
pub mod ops;
mod panics;
pub mod policy_process;
pub mod recovery;
pub mod sched;
pub mod setup;
pub mod thread;
pub mod types;

pub use control::ControlError;
pub use health::EngineHealth;
pub use recovery::Notice;
pub use setup::EngineSetup;
pub use thread::EngineHandle;
