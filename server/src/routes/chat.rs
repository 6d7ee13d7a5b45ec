//! `POST /v1/chat/completions`.

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
use crate::generate::{ChatAnswer, ChatDelta, ChatJob, ChatPart, ChatStream, TextToken};
use crate::lifecycle::ActiveWork;
use crate::models::ServedModel;
use crate::openai::{
    CalledFunction, ChatChoice, ChatChunk, ChatChunkChoice, ChatLogprobs, ChatMessage, ChatRequest,
    ChatResponse, Delta, FunctionDelta, Header, MessageToolCall, Output, ReasoningText, Reply,
    TokenIds, TokenLogprob, TokenNames, ToolCallDelta, TopLogprob, Usage, UsageChunk,
    finite_logprob, parse,
};
use crate::service::{HeaderKind, Service};
use crate::sse::{self, ChunkWriter, Chunks};

/// What is known once the body is read and found good.
struct Prepared {
    job: ChatJob,
    header: Header,
    reply: Reply,
    logprobs: Logprobs,
    output: Output,
}

/// Whether log-probabilities are wanted, and what they call a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Logprobs {
    Wanted(TokenNames),
    Unwanted,
}

/// Answers a conversation.
pub async fn create(State(app): State<Arc<App>>, body: JsonBody) -> Result<Response, ApiError> {
    let service = Arc::clone(&app.service);
    let JsonBody { bytes, client, work, .. } = body;
    let prepared = app.gate.run(move || prepare(&service, &client, &bytes)).await?;
    let running = prepared.job.start(&app.service)?;
    match prepared.reply {
        Reply::Whole => {
            let shown = (prepared.logprobs, prepared.output);
            whole(prepared.header, shown, running, work).await
        }
        Reply::Stream(usage) => {
            let writer = ChatWriter {
                model: Arc::clone(running.model()),
                header: prepared.header,
                logprobs: prepared.logprobs,
                output: prepared.output,
                prompt_token_ids: prompt_token_ids(prepared.output, &running),
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
    let kind = match request.reply {
        Reply::Whole => HeaderKind::Chat,
        Reply::Stream(_) => HeaderKind::ChatChunk,
    };
    let logprobs = match request.generation.params.logprobs {
        Some(_) => Logprobs::Wanted(request.generation.output.token_names),
        None => Logprobs::Unwanted,
    };
    let header = service.header(kind, model, request.model.clone());
    let (reply, output) = (request.reply, request.generation.output);
    let job = ChatJob::new(service, client, model, request)?;
    Ok(Prepared { job, header, reply, logprobs, output })
}

async fn whole(
    header: Header,
    shown: (Logprobs, Output),
    mut running: ChatStream,
    work: ActiveWork,
) -> Result<Response, ApiError> {
    let answers = running.collect().await?;
    let choices = answers.into_iter().zip(0..);
    let choices = choices
        .map(|(answer, index)| chat_choice(running.model(), shown, (index, answer)))
        .collect();
    let usage = running.usage();
    let prompt_logprobs = shown.1.prompt_logprobs.zip(running.prompt());
    let prompt_logprobs = prompt_logprobs
        .map(|(num_top, report)| logprobs::by_token_id(running.model(), report, num_top));
    let prompt_token_ids = prompt_token_ids(shown.1, &running);
    let response = ChatResponse { header, choices, usage, prompt_logprobs, prompt_token_ids };
    drop(work);
    Ok(Json(response).into_response())
}

fn chat_choice(
    model: &ServedModel,
    (logprobs, output): (Logprobs, Output),
    (index, answer): (u32, ChatAnswer),
) -> ChatChoice {
    let calls = answer.calls.into_iter().map(|call| MessageToolCall {
        id: call.id,
        kind: "function",
        function: CalledFunction { name: call.name, arguments: call.arguments },
    });
    ChatChoice {
        index,
        message: ChatMessage {
            role: "assistant",
            content: answer.content,
            refusal: None,
            reasoning: ReasoningText::new(answer.reasoning),
            tool_calls: calls.collect(),
        },
        logprobs: chat_logprobs(model, logprobs, &answer.tokens),
        finish_reason: answer.reason,
        stop_reason: answer.stop_reason,
        token_ids: token_ids(output, &answer.tokens),
    }
}

fn prompt_token_ids(output: Output, running: &ChatStream) -> Option<Vec<TokenId>> {
    let report = running.prompt().filter(|_| output.token_ids == TokenIds::Returned);
    report.map(|report| report.tokens.clone())
}

fn token_ids(output: Output, tokens: &[TextToken]) -> Option<Vec<TokenId>> {
    let is_wanted = output.token_ids == TokenIds::Returned;
    is_wanted.then(|| tokens.iter().map(|token| token.id).collect())
}

fn chat_logprobs(
    model: &ServedModel,
    logprobs: Logprobs,
    tokens: &[TextToken],
) -> Option<ChatLogprobs> {
    let Logprobs::Wanted(names) = logprobs else { return None };
    let tokenizer = model.text.tokenizer();
    let describe = |id, logprob| TopLogprob {
        token: names.name(id, || tokenizer.token_text(id)),
        logprob: finite_logprob(logprob),
        bytes: tokenizer.token_bytes(id),
    };
    let entry = |token: &TextToken| {
        let logprobs = token.logprobs.as_ref()?;
        let top = logprobs.top.iter();
        Some(TokenLogprob {
            chosen: describe(token.id, logprobs.logprob),
            top_logprobs: top.map(|&(id, logprob)| describe(id, logprob)).collect(),
        })
    };
    Some(ChatLogprobs { content: tokens.iter().filter_map(entry).collect(), refusal: None })
}

/// Writes `chat.completion.chunk`s.
struct ChatWriter {
    model: Arc<ServedModel>,
    header: Header,
    logprobs: Logprobs,
    output: Output,
    /// Sent once.
    prompt_token_ids: Option<Vec<TokenId>>,
    usage: UsageChunk,
    num_choices: u32,
}

impl ChatWriter {
    fn push(&mut self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>, chunks: &mut Chunks) {
        chunks.push(&ChatChunk {
            header: &self.header,
            choices,
            // As in OpenAI's API: null in all chunks but the last when it was asked for.
            usage: (self.usage == UsageChunk::Sent).then_some(usage),
            prompt_token_ids: self.prompt_token_ids.take(),
        });
    }
}

impl ChunkWriter for ChatWriter {
    type Piece = ChatDelta;

    fn begin(&mut self, chunks: &mut Chunks) {
        for index in 0..self.num_choices {
            let choice = ChatChunkChoice {
                index,
                delta: Delta {
                    role: Some("assistant"),
                    content: Some(String::new()),
                    ..Delta::default()
                },
                ..ChatChunkChoice::default()
            };
            self.push(vec![choice], None, chunks);
        }
    }

    /// One chunk for each part. The tokens go with the first.
    fn piece(&mut self, delta: ChatDelta, chunks: &mut Chunks) {
        let ChatDelta { index, parts, tokens, end, stop_reason } = delta;
        let mut deltas: Vec<Delta> = parts.into_iter().map(wire_delta).collect();
        if deltas.is_empty() && !tokens.is_empty() {
            deltas.push(Delta { content: Some(String::new()), ..Delta::default() });
        }
        let mut tokens = tokens.as_slice();
        for delta in deltas {
            let choice = ChatChunkChoice {
                index,
                delta,
                logprobs: chat_logprobs(&self.model, self.logprobs, tokens),
                token_ids: token_ids(self.output, tokens),
                ..ChatChunkChoice::default()
            };
            self.push(vec![choice], None, chunks);
            tokens = &[];
        }
        if let Some(end) = end {
            let choice = ChatChunkChoice {
                index,
                finish_reason: Some(end.reason),
                stop_reason,
                ..ChatChunkChoice::default()
            };
            self.push(vec![choice], None, chunks);
        }
    }

    fn usage(&mut self, usage: Usage, chunks: &mut Chunks) {
        self.push(Vec::new(), Some(usage), chunks);
    }
}

/// A part as a chunk says it.
fn wire_delta(part: ChatPart) -> Delta {
    let empty = Delta::default();
    match part {
        ChatPart::Content(text) => Delta { content: Some(text), ..empty },
        ChatPart::Reasoning(text) => Delta { reasoning: ReasoningText::new(Some(text)), ..empty },
        ChatPart::CallStart(start) => {
            let function = FunctionDelta { name: Some(start.name), arguments: String::new() };
            let (index, id, kind) = (start.index, Some(start.id), Some("function"));
            Delta { tool_calls: vec![ToolCallDelta { index, id, kind, function }], ..empty }
        }
        ChatPart::CallArguments(index, arguments) => {
            let function = FunctionDelta { name: None, arguments };
            let call = ToolCallDelta { index, id: None, kind: None, function };
            Delta { tool_calls: vec![call], ..empty }
        }
    }
}
