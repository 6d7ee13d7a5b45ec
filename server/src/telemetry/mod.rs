//! What a request leaves behind: a line in the log, counts of HTTP requests, a trace.
//!
//! A [`Record`] is begun when the head of a request is here and ends when the last who works on
//! the request lets go of it: with the answer, or with the stream that the answer is. Prompts,
//! answers and keys never enter one. A trace is made in one go from the record, after the request;
//! nothing that a collector does can hold a request up.

mod export;
mod layer;
mod log;
mod record;
mod spans;

pub use export::{Tracer, TracerError, endpoint_url};
pub use layer::observe;
pub use log::{LogFormat, subscriber};
pub use record::{ChoiceFacts, Head, Record, Wish};
