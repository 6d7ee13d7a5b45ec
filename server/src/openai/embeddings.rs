//! The body of `POST /v1/embeddings`.

use serde_json::Value;

use super::fields::Fields;
use super::generation::{self, Queueing};
use super::inputs::{self, Input};
use crate::error::ApiError;

/// An embedding request whose fields are within their ranges.
#[derive(Clone, Debug)]
pub struct EmbeddingRequest {
    /// Name of the model.
    pub model: String,
    /// Texts, never empty.
    pub inputs: Vec<Input>,
    /// How vectors are written.
    pub encoding: Encoding,
    /// Length of the vectors, when the client insists.
    pub dimensions: Option<u32>,
    /// How the work is queued.
    pub queueing: Queueing,
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// A JSON array of numbers.
    Float,
    /// Base64 of little-endian f32.
    Base64,
}

impl EmbeddingRequest {
    /// Most texts of one request, as in OpenAI's API.
    pub const MAX_INPUTS: usize = 2048;

    /// Reads the body.
    pub fn read(body: Value) -> Result<Self, ApiError> {
        let mut fields = Fields::new("", body)?;
        let model = super::model(&mut fields)?;
        let inputs = inputs::read("input", fields.require("input")?, Self::MAX_INPUTS)?;
        let encoding = match fields.string("encoding_format")?.as_deref() {
            None | Some("float") => Encoding::Float,
            Some("base64") => Encoding::Base64,
            Some(other) => {
                let message = format!("encoding_format = {other:?} must be float or base64");
                return Err(ApiError::invalid_value("encoding_format", message));
            }
        };
        let dimensions = generation::count(&mut fields, "dimensions", 1)?;
        let queueing = generation::read_queueing(&mut fields)?;
        fields.finish()?;
        Ok(Self {
            model,
            inputs,
            encoding,
            dimensions,
            queueing,
        })
    }
}
