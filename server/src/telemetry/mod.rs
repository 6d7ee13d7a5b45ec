//! What a request leaves behind: a line in the log, counts of HTTP requests.
//!
//! A [`Record`] is begun when the head of a request is here and ends when the last who works on
//! the request lets go of it: with the answer, or with the stream that the answer is. Prompts,
//! answers and keys never enter one.

mod layer;
mod record;

pub use layer::observe;
pub use record::{ChoiceFacts, Head, Record};
