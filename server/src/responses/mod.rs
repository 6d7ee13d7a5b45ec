//! `/v1/responses`: what a response is, how it grows, and where it is kept.
//!
//! `openai::ResponsesRequest` makes a chat of a request; `Builder` makes output items and events of
//! the chat's deltas, for whole and streamed answers alike; `Store` keeps finished responses.

mod builder;
mod events;
mod object;
mod store;

pub use builder::Builder;
pub use events::{Event, EventFrame, ItemPlace, Place};
pub use object::{
    Deleted, FailureDetails, Fixed, IncompleteDetails, InputItems, InputTokens, InputTokensDetails,
    IsStored, OutputItem, OutputPart, OutputTokensDetails, Progress, Response, ResponseUsage,
    Status,
};
pub use store::{Kept, Store, StoreLimits};
