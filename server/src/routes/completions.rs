//! `POST /v1/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use folio_engine::types::{ModelKind, TokenId};

use super::logprobs;
use crate::app::App;
use crate::body::JsonBody;
use crate::client::Client;
use crate::error::ApiError;
use crate::generate::{Finished, Job, Piece, Prompt, PromptReport, Running, TextToken};
use crate::lifecycle::ActiveWork;
use crate::models::ServedModel;
use crate::openai::{
    CompletionChoice, CompletionLogprobs, CompletionRequest, CompletionResponse, Content, Echo,
    Generation, Header, Reply, TokenIds, Usage, UsageChunk, parse,
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
    generation: Generation,
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
    let options = request.prompt_options;
    let mut leads = Vec::new();
    let mut prompts = Vec::new();
    for input in request.prompts {
        let text = match &input.content {
            Content::Text(text) if options.truncation.is_none() => Some(text.clone()),
            Content::Text(_) | Content::Tokens(_) => None,
        };
        let prompt = Prompt::encode_with(model, input, options)?;
        if request.echo == Echo::Prompt {
            let tokenizer = model.text.tokenizer();
            let decode = || tokenizer.decode(&prompt.tokens, Skip::Nothing);
            leads.push(text.unwrap_or_else(decode));
        }
        prompts.push(prompt);
    }
    let shape = Shape { leads, generation: request.generation.clone() };
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
    let response = tokio::task::spawn_blocking(move || {
        let choices = finished.into_iter().zip(0..);
        let choices = choices.map(|(choice, index)| shape.choice(&running, index, choice));
        let response = CompletionResponse {
            header: &header,
            choices: choices.collect(),
            usage: Some(Some(running.usage())),
        };
        Json(response).into_response()
    });
    let response = response.await;
    drop(work);
    response
        .map_err(|error| ApiError::internal(format!("the answer could not be written: {error}")))
}

impl Shape {
    fn lead(&self, index: u32) -> &str {
        let prompt = index / self.generation.num_choices.max(1);
        self.leads.get(prompt as usize).map_or("", String::as_str)
    }

    /// A whole choice.
    fn choice(&self, running: &Running, index: u32, choice: Finished) -> CompletionChoice {
        let (model, report) = (running.model(), running.prompt(index));
        let mut logprobs = report.and_then(|report| self.prompt_columns(model, report, index));
        if let Some(rest) = self.columns(model, &choice.tokens, index) {
            logprobs::append(logprobs.get_or_insert_default(), rest);
        }
        let output = self.generation.output;
        let prompt_logprobs = output.prompt_logprobs.zip(report);
        CompletionChoice {
            text: format!("{}{}", self.lead(index), choice.text),
            logprobs,
            finish_reason: Some(choice.reason),
            stop_reason: choice.stop_reason,
            prompt_logprobs: prompt_logprobs
                .map(|(num_top, report)| logprobs::by_token_id(model, report, num_top)),
            prompt_token_ids: report.and_then(|report| self.prompt_token_ids(report)),
            token_ids: self.token_ids(&choice.tokens),
            ..CompletionChoice::empty(index)
        }
    }

    /// Log-probabilities of tokens of a choice's text, when they were asked for.
    fn columns(
        &self,
        model: &ServedModel,
        tokens: &[TextToken],
        index: u32,
    ) -> Option<CompletionLogprobs> {
        self.generation.params.logprobs?;
        let names = self.generation.output.token_names;
        Some(logprobs::columns((model, names), tokens, self.lead(index).chars().count()))
    }

    /// Log-probabilities of the prompt that leads a choice, when they were asked for.
    fn prompt_columns(
        &self,
        model: &ServedModel,
        report: &PromptReport,
        index: u32,
    ) -> Option<CompletionLogprobs> {
        let num_top = self.generation.params.logprobs.filter(|_| !self.leads.is_empty())?;
        let names = self.generation.output.token_names;
        Some(logprobs::prompt_columns((model, names), report, self.lead(index), num_top))
    }

    fn prompt_token_ids(&self, report: &PromptReport) -> Option<Vec<TokenId>> {
        let is_wanted = self.generation.output.token_ids == TokenIds::Returned;
        is_wanted.then(|| report.tokens.clone())
    }

    fn token_ids(&self, tokens: &[TextToken]) -> Option<Vec<TokenId>> {
        let is_wanted = self.generation.output.token_ids == TokenIds::Returned;
        is_wanted.then(|| tokens.iter().map(|token| token.id).collect())
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

    /// A prompt that leads its choices without more to say about it comes at once.
    fn begin(&mut self, chunks: &mut Chunks) {
        if self.shape.generation.params.logprobs.is_some() {
            return;
        }
        for index in 0..self.num_choices {
            let lead = self.shape.lead(index);
            if !lead.is_empty() {
                let text = lead.to_owned();
                self.push(
                    vec![CompletionChoice { text, ..CompletionChoice::empty(index) }],
                    None,
                    chunks,
                );
            }
        }
    }

    fn piece(&mut self, piece: Piece, chunks: &mut Chunks) {
        let (index, shape, model) = (piece.index, &self.shape, &self.model);
        let prompt = piece.prompt.as_deref();
        let prompt_token_ids = prompt.and_then(|report| shape.prompt_token_ids(report));
        let mut choice = CompletionChoice {
            text: piece.text,
            logprobs: shape.columns(model, &piece.tokens, index),
            finish_reason: piece.finish.map(|end| end.reason),
            stop_reason: piece.stop_reason,
            token_ids: shape.token_ids(&piece.tokens),
            ..CompletionChoice::empty(index)
        };
        let lead = prompt.and_then(|report| shape.prompt_columns(model, report, index));
        if let Some(columns) = lead {
            let lead = CompletionChoice {
                text: shape.lead(index).to_owned(),
                logprobs: Some(columns),
                prompt_token_ids,
                ..CompletionChoice::empty(index)
            };
            self.push(vec![lead], None, chunks);
        } else {
            choice.prompt_token_ids = prompt_token_ids;
        }
        let is_news = !choice.text.is_empty()
            || choice.finish_reason.is_some()
            || choice.prompt_token_ids.is_some();
        if is_news {
            self.push(vec![choice], None, chunks);
        }
    }

    fn usage(&mut self, usage: Usage, chunks: &mut Chunks) {
        self.push(Vec::new(), Some(usage), chunks);
    }
}
