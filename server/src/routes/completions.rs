//! `POST /v1/completions`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use folio_engine::types::{ModelKind, TokenId};

use crate::app::App;
use crate::body::JsonBody;
use crate::client::Client;
use crate::error::ApiError;
use crate::generate::{Job, Piece, Prompt, Running, TextToken};
use crate::lifecycle::ActiveWork;
use crate::models::ServedModel;
use crate::openai::{
    CompletionChoice, CompletionLogprobs, CompletionRequest, CompletionResponse, Content, Echo,
    Header, Reply, Usage, UsageChunk, finite_logprob, parse,
};
use crate::service::{HeaderKind, Service};
use crate::sse::{self, ChunkWriter, Chunks};
use crate::text::Skip;

/// What is known once the body is read and found good.
struct Prepared {
    job: Job,
    header: Header,
    reply: Reply,
    shape: Shape,
}

/// What choices look like beside their text.
struct Shape {
    /// Text that leads the choices of each prompt; nothing without `echo`.
    leads: Vec<String>,
    num_choices_per_prompt: usize,
    logprobs: Logprobs,
}

/// Whether log-probabilities are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Logprobs {
    Wanted,
    Unwanted,
}

/// Continues prompts.
pub async fn create(State(app): State<Arc<App>>, body: JsonBody) -> Result<Response, ApiError> {
    let service = Arc::clone(&app.service);
    let JsonBody { bytes, client, work, .. } = body;
    let prepared = app.gate.run(move || prepare(&service, &client, &bytes)).await?;
    let running = prepared.job.start(&app.service)?;
    match prepared.reply {
        Reply::Whole => whole(prepared.header, prepared.shape, running, work).await,
        Reply::Stream(usage) => {
            let writer = CompletionWriter {
                model: Arc::clone(running.model()),
                header: prepared.header,
                shape: prepared.shape,
                usage,
                num_choices: running.num_choices(),
            };
            Ok(sse::respond(writer, usage, running, work))
        }
    }
}

fn prepare(service: &Service, client: &Client, body: &[u8]) -> Result<Prepared, ApiError> {
    let request = CompletionRequest::read(parse(body)?)?;
    let model = service.models.find_kind(&request.model, ModelKind::Decoder)?;
    let mut leads = Vec::new();
    let mut prompts = Vec::new();
    for input in request.prompts {
        let text = match &input.content {
            Content::Text(text) => Some(text.clone()),
            Content::Tokens(_) => None,
        };
        let prompt = Prompt::encode(model, input)?;
        if request.echo == Echo::Prompt {
            let tokenizer = model.text.tokenizer();
            let decode = || tokenizer.decode(&prompt.tokens, Skip::Nothing);
            leads.push(text.unwrap_or_else(decode));
        }
        prompts.push(prompt);
    }
    let shape = Shape {
        leads,
        num_choices_per_prompt: request.generation.num_choices as usize,
        logprobs: match request.generation.params.logprobs {
            Some(_) => Logprobs::Wanted,
            None => Logprobs::Unwanted,
        },
    };
    let header = service.header(HeaderKind::Completion, model, request.model);
    let model = Arc::clone(model);
    Ok(Prepared {
        job: Job::new(service, client, model, prompts, request.generation)?,
        header,
        reply: request.reply,
        shape,
    })
}

async fn whole(
    header: Header,
    shape: Shape,
    mut running: Running,
    work: ActiveWork,
) -> Result<Response, ApiError> {
    let finished = running.collect().await?;
    let choices = finished.into_iter().zip(0..);
    let choices = choices.map(|(choice, index)| CompletionChoice {
        index,
        text: format!("{}{}", shape.lead(index), choice.text),
        logprobs: shape.logprobs(running.model(), &choice.tokens),
        finish_reason: Some(choice.reason),
    });
    let response = CompletionResponse {
        header: &header,
        choices: choices.collect(),
        usage: Some(Some(running.usage())),
    };
    drop(work);
    Ok(Json(response).into_response())
}

impl Shape {
    fn lead(&self, index: u32) -> &str {
        self.leads.get(index as usize / self.num_choices_per_prompt).map_or("", String::as_str)
    }

    fn logprobs(&self, model: &ServedModel, tokens: &[TextToken]) -> Option<CompletionLogprobs> {
        if self.logprobs == Logprobs::Unwanted {
            return None;
        }
        let mut columns = CompletionLogprobs::default();
        for token in tokens {
            let chosen = (token.id, token.logprobs.logprob);
            let spell = |&(id, logprob): &(TokenId, f32)| {
                (legacy_spelling(model, id), finite_logprob(logprob))
            };
            let mut top: BTreeMap<_, _> = token.logprobs.top.iter().map(spell).collect();
            let (spelling, logprob) = spell(&chosen);
            top.insert(spelling.clone(), logprob);
            columns.tokens.push(spelling);
            columns.token_logprobs.push(logprob);
            columns.top_logprobs.push(top);
            columns.text_offset.push(token.offset);
        }
        Some(columns)
    }
}

/// A token's text; if it is only part of a character, its bytes as OpenAI's API spells them.
fn legacy_spelling(model: &ServedModel, id: TokenId) -> String {
    match String::from_utf8(model.text.tokenizer().token_bytes(id)) {
        Ok(text) => text,
        Err(error) => error.as_bytes().iter().fold("bytes:".to_owned(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
            text
        }),
    }
}

/// Writes `text_completion` chunks.
struct CompletionWriter {
    model: Arc<ServedModel>,
    header: Header,
    shape: Shape,
    usage: UsageChunk,
    num_choices: u32,
}

impl CompletionWriter {
    fn push(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>, chunks: &mut Chunks) {
        chunks.push(&CompletionResponse {
            header: &self.header,
            choices,
            usage: (self.usage == UsageChunk::Sent).then_some(usage),
        });
    }
}

impl ChunkWriter for CompletionWriter {
    type Piece = Piece;

    fn begin(&mut self, chunks: &mut Chunks) {
        for index in 0..self.num_choices {
            let lead = self.shape.lead(index);
            if !lead.is_empty() {
                let choice = CompletionChoice {
                    index,
                    text: lead.to_owned(),
                    logprobs: None,
                    finish_reason: None,
                };
                self.push(vec![choice], None, chunks);
            }
        }
    }

    fn piece(&mut self, piece: Piece, chunks: &mut Chunks) {
        let choice = CompletionChoice {
            index: piece.index,
            text: piece.text,
            logprobs: self.shape.logprobs(&self.model, &piece.tokens),
            finish_reason: piece.finish.map(|end| end.reason),
        };
        self.push(vec![choice], None, chunks);
    }

    fn usage(&mut self, usage: Usage, chunks: &mut Chunks) {
        self.push(Vec::new(), Some(usage), chunks);
    }
}
