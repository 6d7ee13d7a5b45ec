//! Structured output: from a schema, a regular expression or a grammar to the tokens that may
//! come next.
//!
//! [`Compiler`] checks a constraint against the limits of `limits`, compiles it with `llguidance`
//! over the model's [`Vocabulary`] on a thread of its own, and keeps the result; each choice takes
//! its own state from there and hands it to the engine as a `TokenGrammar`. No constraint, however
//! hostile, costs more than a bounded time and memory, and none takes down more than its request.

mod cache;
mod compile;
mod compiler;
mod grammar;
mod lark;
mod limits;
mod patterns;
mod schema;
mod vocabulary;

#[cfg(test)]
mod tests;

pub use compiler::Compiler;
pub use grammar::{Compiled, ConstrainedText, Session};
pub use limits::Limits;
pub(crate) use schema::{UNENFORCEABLE, exact};
pub use vocabulary::Vocabulary;
