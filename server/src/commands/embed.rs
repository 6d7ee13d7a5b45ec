//! `folio embed`: texts through the very path that the server takes.

use std::io::{BufRead, Write};

use crate::client::Client;
use crate::embed::EmbedJob;
use crate::openai::EmbeddingRequest;
use crate::policy::Policies;
use anyhow::{Context, Result, ensure};
use folio_engine::types::ModelKind;
use serde::Serialize;
use serde_json::json;

use crate::args::EmbedArgs;
use crate::load::{Scheduling, load};

/// Longest beginning of a text in the table of similarities, in characters.
const MAX_LABEL_CHARS: usize = 32;

/// Prints a vector for each text, or how similar the texts are.
pub(crate) async fn run(args: EmbedArgs, policies: &Policies) -> Result<()> {
    let texts = if args.texts.is_empty() {
        std::io::stdin().lock().lines().collect::<Result<_, _>>()?
    } else {
        args.texts
    };
    ensure!(!texts.is_empty(), "there is no text to embed");
    let (models, engine) = (args.models, args.engine);
    let scheduling = Scheduling::choose(policies, &engine)?;
    let loading = move || load(&models, &engine, scheduling);
    let loaded = tokio::task::spawn_blocking(loading).await??;
    let service = loaded.service;
    let model = service.models.first_of(ModelKind::Encoder);
    let model = model.context("no embedding model is loaded: give --embedding-model")?;
    let mut vectors = Vec::new();
    for texts in texts.chunks(EmbeddingRequest::MAX_INPUTS) {
        let body = json!({ "model": model.name(), "input": texts });
        let request = EmbeddingRequest::read(body)?;
        let job = EmbedJob::new(&service, &Client::anonymous(), request)?;
        vectors.extend(job.run(&service).await?);
    }
    let output = std::io::stdout().lock();
    if args.similarity {
        print_similarities(output, &texts, &vectors)
    } else {
        print_lines(output, &texts, &vectors)
    }
}

/// One line of the output.
#[derive(Serialize)]
struct Line<'a> {
    text: &'a str,
    embedding: &'a [f32],
}

fn print_lines(mut output: impl Write, texts: &[String], vectors: &[Vec<f32>]) -> Result<()> {
    for (text, embedding) in texts.iter().zip(vectors) {
        writeln!(output, "{}", serde_json::to_string(&Line { text, embedding })?)?;
    }
    Ok(())
}

fn print_similarities(
    mut output: impl Write,
    texts: &[String],
    vectors: &[Vec<f32>],
) -> Result<()> {
    for (text, vector) in texts.iter().zip(vectors) {
        for other in vectors {
            write!(output, "{:7.3}", cosine(vector, other))?;
        }
        writeln!(output, "  {}", beginning(text))?;
    }
    Ok(())
}

fn cosine(left: &[f32], right: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
    };
    dot(left, right) / (dot(left, left) * dot(right, right)).sqrt()
}

fn beginning(text: &str) -> String {
    let mut chars = text.chars();
    let label: String = chars.by_ref().take(MAX_LABEL_CHARS).collect();
    if chars.next().is_some() { format!("{label}…") } else { label }
}
