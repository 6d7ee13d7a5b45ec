//! `folio generate`: one prompt through the very path that the server takes.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Instant;

use crate::client::Client;
use crate::error::ApiError;
use crate::generate::{ChatPlan, Job, Prompt};
use crate::openai::{ChatRequest, CompletionRequest};
use crate::policy::Policies;
use crate::service::Service;
use anyhow::Result;
use folio_engine::types::ModelKind;
use serde_json::{Value, json};

use crate::args::GenerateArgs;
use crate::load::{Scheduling, load};

/// Answers in the terminal, as the text comes.
pub(crate) async fn run(args: GenerateArgs, policies: &Policies) -> Result<()> {
    let prompt_args = args.models;
    let engine = args.engine;
    let scheduling = Scheduling::choose(policies, &engine)?;
    let loading = move || load(&prompt_args, &engine, scheduling);
    let loaded = tokio::task::spawn_blocking(loading).await??;
    let service = Arc::new(loaded.service);
    let body = Wish {
        prompt: args.prompt,
        system: args.system,
        is_raw: args.raw,
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        top_p: args.top_p,
    };
    let job = job(&service, &body)?;
    let begin = Instant::now();
    let mut running = job.start(&service)?;
    let mut output = std::io::stdout();
    while let Some(piece) = running.next().await {
        let piece = piece?;
        output.write_all(piece.text.as_bytes())?;
        output.flush()?;
    }
    writeln!(output)?;
    let usage = running.usage();
    if std::io::stderr().is_terminal() {
        let seconds = begin.elapsed().as_secs_f64();
        let rate = usage.completion_tokens as f64 / seconds.max(1e-9);
        let (prompt, answer) = (usage.prompt_tokens, usage.completion_tokens);
        writeln!(
            std::io::stderr(),
            "[{prompt} prompt tokens, {answer} tokens in {seconds:.2} s, {rate:.1} a second]"
        )?;
    }
    Ok(())
}

/// What the command line asks for.
struct Wish {
    prompt: String,
    system: Option<String>,
    is_raw: bool,
    max_tokens: Option<u32>,
    temperature: f32,
    top_p: f32,
}

/// The same body that a client would send, so that the same checks apply.
fn job(service: &Service, wish: &Wish) -> Result<Job, ApiError> {
    let model = service.models.first_of(ModelKind::Decoder);
    let model = model.ok_or_else(|| ApiError::missing("a model that generates"))?;
    let mut body = json!({
        "model": model.name(),
        "temperature": f64::from(wish.temperature),
        "top_p": f64::from(wish.top_p),
        "max_tokens": wish.max_tokens,
    });
    let (prompt, generation) = if wish.is_raw || model.text.template().is_none() {
        body["prompt"] = wish.prompt.as_str().into();
        let request = CompletionRequest::read(body)?;
        let input = request.prompts.into_iter().next();
        let input = input.ok_or_else(|| ApiError::missing("prompt"))?;
        let mut generation = request.generation;
        generation.max_tokens = wish.max_tokens;
        (Prompt::encode(model, input)?, generation)
    } else {
        let mut messages: Vec<Value> = Vec::new();
        if let Some(system) = &wish.system {
            messages.push(json!({ "role": "system", "content": system }));
        }
        messages.push(json!({ "role": "user", "content": wish.prompt }));
        body["messages"] = messages.into();
        let request = ChatRequest::read(body)?;
        let plan = ChatPlan::new(model, request)?;
        (plan.prompt, plan.generation)
    };
    Job::new(service, &Client::anonymous(), Arc::clone(model), vec![prompt], generation)
}
