//! The decision log: all calls of the scheduler in a file, small enough to be left on.
//!
//! A file is a line of text with the version, a header in JSON, and frames of calls, each frame
//! with its length and a checksum, so that one that was cut off can be read to its last whole
//! frame. Texts are not in it: of each full block there is a keyed hash of all up to its end
//! ([`Disguise`]), which is what decides who shares blocks with whom. The engine never waits for
//! the disk: see [`DecisionLog`].

mod decode;
mod disguise;
mod encode;
mod file;
mod header;
mod read;
mod wire;
mod writer;

pub use disguise::Disguise;
pub use file::{LogFile, LogLimits};
pub use header::{Header, LogModel};
pub use read::{Entry, LogError, LogReader};
pub use writer::{DecisionLog, LogFeed, LogNotice};
