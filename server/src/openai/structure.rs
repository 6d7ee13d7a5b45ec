//! What a request says about the shape of the generated text, whichever field said it.

use serde_json::Value;

/// A shape that the generated text must have, and the path of the field that asked for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Structure {
    /// Such as `response_format.json_schema.schema` or `structured_outputs.regex`.
    pub path: String,
    /// The shape.
    pub constraint: Constraint,
}

/// The shape that a text must have.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// JSON that this schema accepts.
    JsonSchema(Value),
    /// A text that this regular expression matches whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A sentence of this grammar, in the dialect of Lark that the `llguidance` crate reads.
    Lark(String),
}
