//! The body of `POST /v1/embeddings`.

use super::fields::Fields;
use super::generation::{self, Queueing};
use super::inputs::{self, Input};
use super::trace::RequestBody;
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
    pub fn read(body: impl Into<RequestBody>) -> Result<Self, ApiError> {
        let mut fields = Fields::new("", body)?;
        let model = super::model(&mut fields)?;
        let inputs = inputs::read(
            "input",
            fields.require_shaped("input", || inputs::shape(Self::MAX_INPUTS))?,
            Self::MAX_INPUTS,
        )?;
        let encodings = [("float", Encoding::Float), ("base64", Encoding::Base64)];
        let encoding = fields.word("encoding_format", &encodings)?.unwrap_or(Encoding::Float);
        let dimensions = generation::count(&mut fields, "dimensions", 1)?;
        let queueing = generation::read_queueing(&mut fields)?;
        fields.finish()?;
        Ok(Self { model, inputs, encoding, dimensions, queueing })
    }
}
