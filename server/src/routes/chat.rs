//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use folio_engine::types::ModelKind;

use crate::app::App;
use crate::body::JsonBody;
use crate::client::Client;
use crate::error::ApiError;
use crate::generate::{Finished, Job, Piece, Prompt, Running, TextToken};
use crate::lifecycle::ActiveWork;
use crate::models::ServedModel;
use crate::openai::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatLogprobs, ChatMessage, ChatRequest, ChatResponse,
    Delta, Header, Reply, TokenLogprob, TopLogprob, Usage, UsageChunk, finite_logprob, parse,
};
use crate::service::{HeaderKind, Service};
use crate::sse::{self, ChunkWriter, Chunks};

/// What is known once the body is read and found good.
struct Prepared {
    job: Job,
    header: Header,
    reply: Reply,
    logprobs: Logprobs,
}

/// Whether log-probabilities are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Logprobs {
    Wanted,
    Unwanted,
}

/// Answers a conversation.
pub async fn create(State(app): State<Arc<App>>, body: JsonBody) -> Result<Response, ApiError> {
    let service = Arc::clone(&app.service);
    let JsonBody { bytes, client, work, .. } = body;
    let prepared = app.gate.run(move || prepare(&service, &client, &bytes)).await?;
    let running = prepared.job.start(&app.service)?;
    match prepared.reply {
        Reply::Whole => whole(prepared.header, prepared.logprobs, running, work).await,
        Reply::Stream(usage) => {
            let writer = ChatWriter {
                model: Arc::clone(running.model()),
                header: prepared.header,
                logprobs: prepared.logprobs,
                usage,
                num_choices: running.num_choices(),
            };
            Ok(sse::respond(writer, usage, running, work))
        }
    }
}

fn prepare(service: &Service, client: &Client, body: &[u8]) -> Result<Prepared, ApiError> {
    let request = ChatRequest::read(parse(body)?)?;
    let model = service.models.find_kind(&request.model, ModelKind::Decoder)?;
    let prompt = Prompt::chat(model, &request)?;
    let kind = match request.reply {
        Reply::Whole => HeaderKind::Chat,
        Reply::Stream(_) => HeaderKind::ChatChunk,
    };
    let logprobs = match request.generation.params.logprobs {
        Some(_) => Logprobs::Wanted,
        None => Logprobs::Unwanted,
    };
    let header = service.header(kind, model, request.model);
    let model = Arc::clone(model);
    Ok(Prepared {
        job: Job::new(service, client, model, vec![prompt], request.generation)?,
        header,
        reply: request.reply,
        logprobs,
    })
}

async fn whole(
    header: Header,
    logprobs: Logprobs,
    mut running: Running,
    work: ActiveWork,
) -> Result<Response, ApiError> {
    let finished = running.collect().await?;
    let choices = finished.into_iter().zip(0..);
    let choices = choices
        .map(|(choice, index)| chat_choice(running.model(), logprobs, (index, choice)))
        .collect();
    let usage = running.usage();
    let response = ChatResponse { header, choices, usage };
    drop(work);
    Ok(Json(response).into_response())
}

fn chat_choice(
    model: &ServedModel,
    logprobs: Logprobs,
    (index, choice): (u32, Finished),
) -> ChatChoice {
    ChatChoice {
        index,
        message: ChatMessage { role: "assistant", content: choice.text, refusal: None },
        logprobs: chat_logprobs(model, logprobs, &choice.tokens),
        finish_reason: choice.reason,
    }
}

fn chat_logprobs(
    model: &ServedModel,
    logprobs: Logprobs,
    tokens: &[TextToken],
) -> Option<ChatLogprobs> {
    let describe = |id, logprob| TopLogprob {
        token: model.text.tokenizer().token_text(id),
        logprob: finite_logprob(logprob),
        bytes: model.text.tokenizer().token_bytes(id),
    };
    let entry = |token: &TextToken| TokenLogprob {
        chosen: describe(token.id, token.logprobs.logprob),
        top_logprobs: token
            .logprobs
            .top
            .iter()
            .map(|&(id, logprob)| describe(id, logprob))
            .collect(),
    };
    (logprobs == Logprobs::Wanted)
        .then(|| ChatLogprobs { content: tokens.iter().map(entry).collect(), refusal: None })
}

/// Writes `chat.completion.chunk`s.
struct ChatWriter {
    model: Arc<ServedModel>,
    header: Header,
    logprobs: Logprobs,
    usage: UsageChunk,
    num_choices: u32,
}

impl ChatWriter {
    fn push(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>, chunks: &mut Chunks) {
        chunks.push(&ChatChunk {
            header: &self.header,
            choices,
            // As in OpenAI's API: null in all chunks but the last when it was asked for.
            usage: (self.usage == UsageChunk::Sent).then_some(usage),
        });
    }
}

impl ChunkWriter for ChatWriter {
    fn begin(&mut self, chunks: &mut Chunks) {
        for index in 0..self.num_choices {
            let choice = ChatChunkChoice {
                index,
                delta: Delta { role: Some("assistant"), content: Some(String::new()) },
                logprobs: None,
                finish_reason: None,
            };
            self.push(vec![choice], None, chunks);
        }
    }

    fn piece(&mut self, piece: Piece, chunks: &mut Chunks) {
        let index = piece.index;
        if !piece.text.is_empty() || !piece.tokens.is_empty() {
            let choice = ChatChunkChoice {
                index,
                delta: Delta { role: None, content: Some(piece.text) },
                logprobs: chat_logprobs(&self.model, self.logprobs, &piece.tokens),
                finish_reason: None,
            };
            self.push(vec![choice], None, chunks);
        }
        if let Some(end) = piece.finish {
            let choice = ChatChunkChoice {
                index,
                delta: Delta::default(),
                logprobs: None,
                finish_reason: Some(end.reason),
            };
            self.push(vec![choice], None, chunks);
        }
    }

    fn usage(&mut self, usage: Usage, chunks: &mut Chunks) {
        self.push(Vec::new(), Some(usage), chunks);
    }
}
