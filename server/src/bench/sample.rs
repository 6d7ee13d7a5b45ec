//! What became of one request.

use std::fmt::Display;

use serde::Serialize;

/// One request of a run, ended well or not.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Its place in the dataset.
    pub index: usize,
    /// What it asked for.
    pub class: Class,
    /// When what happened.
    pub times: Times,
    /// When each chunk with tokens came, in seconds from the start of the run.
    pub chunks: Vec<f64>,
    /// How much went in and came out.
    pub tokens: Tokens,
    /// The answer's text.
    pub text: String,
    /// The answer's vectors, one after the other; kept only where they will be compared.
    pub vectors: Vec<f32>,
    /// Why the server says that it ended.
    pub finish_reason: Option<String>,
    /// What went wrong, if anything did.
    pub failure: Option<Failure>,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Tokens.
    #[default]
    Generation,
    /// Vectors.
    Embeddings,
}

impl Class {
    /// Its name in files and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Generation => "generation",
            Self::Embeddings => "embeddings",
        }
    }
}

/// Moments of a request, in seconds from the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// It was due.
    pub scheduled: f64,
    /// The client got to it: what lies between is the client's own lag.
    pub released: f64,
    /// It was sent: what lies between is the wait for `--max-concurrency`.
    pub sent: f64,
    /// The first chunk with a token came.
    pub first: Option<f64>,
    /// The last token, the vectors or the failure came.
    pub last: f64,
}

/// Counts of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of the prompt.
    pub input: u32,
    /// Of the answer.
    pub output: u32,
    /// Of the prompt, those that the server says it had cached.
    pub cached: u32,
    /// Texts embedded.
    pub num_texts: u32,
    /// Who counted.
    pub counted_by: CountedBy,
}

/// Who counted the tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CountedBy {
    /// The server, in `usage`.
    Server,
    /// The client: chunks for the answer, the dataset for the prompt. A server that bundles tokens
    /// looks slower than it is.
    #[default]
    Client,
}

/// What went wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Of which kind, such as `http 429`: errors are counted by it.
    pub kind: String,
    /// In full.
    pub text: String,
}

impl Failure {
    /// A failure of `kind`, with what there is to say about it, cut to a readable length.
    pub fn new(kind: impl Into<String>, text: impl Display) -> Self {
        const MAX_CHARS: usize = 2000;
        let text = text.to_string().chars().take(MAX_CHARS).collect();
        Self { kind: kind.into(), text }
    }
}

impl Sample {
    /// Whether the answer came to its end.
    pub fn is_success(&self) -> bool {
        self.failure.is_none()
    }

    /// Seconds from sending to the first token.
    pub fn ttft(&self) -> Option<f64> {
        self.times.first.map(|first| first - self.times.sent)
    }

    /// Seconds from when it was due to the first token.
    pub fn ttft_sched(&self) -> Option<f64> {
        self.times.first.map(|first| first - self.times.scheduled)
    }

    /// Seconds a token after the first; `None` for fewer than two tokens.
    pub fn tpot(&self) -> Option<f64> {
        let span = self.times.last - self.times.first?;
        (self.tokens.output > 1).then(|| span / f64::from(self.tokens.output - 1))
    }

    /// Seconds from sending to the end.
    pub fn e2el(&self) -> f64 {
        self.times.last - self.times.sent
    }

    /// Seconds from when it was due to the end.
    pub fn e2el_sched(&self) -> f64 {
        self.times.last - self.times.scheduled
    }

    /// Seconds from when it was due until it was sent.
    pub fn queue(&self) -> f64 {
        self.times.sent - self.times.scheduled
    }

    /// Seconds between chunks, in order.
    pub fn gaps(&self) -> impl Iterator<Item = f64> + '_ {
        self.chunks.windows(2).map(|pair| pair[1] - pair[0])
    }

    /// The longest of the gaps.
    pub fn stall(&self) -> Option<f64> {
        self.gaps().reduce(f64::max)
    }

    /// Seconds a token of the answer, the wait for the first included.
    pub fn norm_latency(&self) -> Option<f64> {
        (self.tokens.output > 0).then(|| self.e2el() / f64::from(self.tokens.output))
    }
}
