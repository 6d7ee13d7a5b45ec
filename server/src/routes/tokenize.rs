//! `POST /tokenize` and `POST /detokenize`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use folio_engine::types::TokenId;

use crate::app::App;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::models::ServedModel;
use crate::openai::{
    DetokenizeRequest, DetokenizeResponse, TokenizeInput, TokenizeRequest, TokenizeResponse, parse,
};
use crate::service::{Service, unix_seconds};
use crate::text::{ChatInput, Skip, SpecialTokens};

/// Longest text that is tokenised for show, in bytes.
const MAX_TEXT_BYTES: usize = 2 << 20;

/// Shows the tokens of a text or of a conversation.
pub async fn tokenize(
    State(app): State<Arc<App>>,
    body: JsonBody,
) -> Result<Json<TokenizeResponse>, ApiError> {
    let service = Arc::clone(&app.service);
    let tokenized = app.gate.run(move || tokens_of(&service, &body.bytes)).await;
    tokenized.map(Json)
}

/// Shows the text of tokens.
pub async fn detokenize(
    State(app): State<Arc<App>>,
    body: JsonBody,
) -> Result<Json<DetokenizeResponse>, ApiError> {
    let service = Arc::clone(&app.service);
    let prompt = app.gate.run(move || text_of(&service, &body.bytes)).await?;
    Ok(Json(DetokenizeResponse { prompt }))
}

fn tokens_of(service: &Service, body: &[u8]) -> Result<TokenizeResponse, ApiError> {
    let request = TokenizeRequest::read(parse(body)?)?;
    let model = service.models.find_or_first(request.model.as_deref())?;
    let tokens = encode(model, &request.input)?;
    let tokenizer = model.text.tokenizer();
    let spelling = |&id: &TokenId| tokenizer.token(id).unwrap_or_default();
    Ok(TokenizeResponse {
        count: tokens.len(),
        max_model_len: model.limits.max_model_len,
        token_strs: request.return_token_strs.then(|| tokens.iter().map(spelling).collect()),
        tokens,
    })
}

fn encode(model: &ServedModel, input: &TokenizeInput) -> Result<Vec<TokenId>, ApiError> {
    match input {
        TokenizeInput::Prompt { text, special } => {
            check_length("prompt", text)?;
            let tokens = model.text.tokenizer().encode(text, *special);
            tokens.map_err(|error| ApiError::from_text(&error, "prompt"))
        }
        TokenizeInput::Messages { messages, generation_prompt } => {
            let input = ChatInput {
                messages,
                tools: None,
                documents: None,
                generation_prompt: *generation_prompt,
                kwargs: None,
                now: unix_seconds() as i64,
            };
            let text = model.text.render_chat(&input);
            let text = text.map_err(|error| ApiError::from_text(&error, "messages"))?;
            check_length("messages", &text)?;
            let tokens = model.text.tokenizer().encode(&text, SpecialTokens::Omit);
            tokens.map_err(|error| ApiError::from_text(&error, "messages"))
        }
    }
}

fn check_length(path: &str, text: &str) -> Result<(), ApiError> {
    if text.len() <= MAX_TEXT_BYTES {
        return Ok(());
    }
    let len = text.len();
    let message = format!("{path} has {len} bytes of text, at most {MAX_TEXT_BYTES} are tokenised");
    Err(ApiError::invalid_value(path, message))
}

fn text_of(service: &Service, body: &[u8]) -> Result<String, ApiError> {
    let request = DetokenizeRequest::read(parse(body)?)?;
    let model = service.models.find_or_first(request.model.as_deref())?;
    for (index, &id) in request.tokens.iter().enumerate() {
        model.check_token(|| format!("tokens[{index}]"), id)?;
    }
    Ok(model.text.tokenizer().decode(&request.tokens, Skip::Nothing))
}
