//! Where requests come from: made up, or read from files.
//!
//! Everything follows from the seed. Prompts that are made up share no more than the dataset says;
//! those of a warm-up share nothing with it. Neighbour: [`vocabulary`] turns lengths into prompts.

mod conversations;
mod lines;
mod made;
mod trace;
pub mod vocabulary;

use std::path::PathBuf;

use rand::SeedableRng as _;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

pub use conversations::ShareGpt;
pub use lines::Custom;
pub use made::{GeneratedSharedPrefix, PrefixRepetition, Random, RandomTexts};
pub use trace::Trace;
pub use vocabulary::{Form, Vocabulary};

use super::error::BenchError;
use super::request::{Prompt, Request};

/// A kind of dataset and what it needs to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Dataset {
    /// Random tokens.
    Random(Random),
    /// Random texts to embed.
    RandomTexts(RandomTexts),
    /// Few prefixes, many suffixes, as vLLM makes them.
    PrefixRepetition(PrefixRepetition),
    /// Groups that share a system prompt, as SGLang makes them.
    GeneratedSharedPrefix(GeneratedSharedPrefix),
    /// Conversations in a JSON file.
    ShareGpt(PathBuf, ShareGpt),
    /// Prompts in a file of JSON lines.
    Custom(PathBuf, Custom),
    /// Requests of a real service: lengths, times and shared prefixes.
    Trace(PathBuf, Trace),
}

/// Makes requests.
#[derive(Debug)]
pub struct Maker {
    /// How many.
    pub num_prompts: usize,
    /// What everything follows from.
    pub seed: u64,
    /// What prompts are made of.
    pub vocabulary: Vocabulary,
    /// What the server's API takes.
    pub form: Form,
}

/// Requests, and what the user should know about them.
pub type Made = (Vec<Request>, Vec<String>);

impl Maker {
    /// The requests of `dataset`.
    ///
    /// # Errors
    /// [`BenchError`] for lengths that cannot be, and files that cannot be read.
    pub fn make(&self, dataset: &Dataset) -> Result<Made, BenchError> {
        if self.num_prompts == 0 {
            return Err(BenchError::flag("--num-prompts", "0: must be at least 1"));
        }
        let (requests, mut notes) = match dataset {
            Dataset::Random(random) => (random.make(self)?, Vec::new()),
            Dataset::RandomTexts(random) => (random.make(self)?, Vec::new()),
            Dataset::PrefixRepetition(prefixes) => (prefixes.make(self)?, Vec::new()),
            Dataset::GeneratedSharedPrefix(groups) => (groups.make(self)?, Vec::new()),
            Dataset::ShareGpt(path, options) => options.read(path, self)?,
            Dataset::Custom(path, options) => options.read(path, self)?,
            Dataset::Trace(path, options) => options.read(path, self)?,
        };
        notes.extend(self.vocabulary.note(self.form));
        Ok((requests, notes))
    }

    /// `num` requests as long as the first of `requests`, which share no prefix with them: they
    /// warm the server up, not its prefix cache.
    pub fn warmups(&self, num: usize, requests: &[Request]) -> Vec<Request> {
        let mut random = self.random(b"warm-up");
        let unlike = |request: &Request| {
            let mut request = request.clone();
            request.prompt = match &request.prompt {
                Prompt::Texts(texts) => {
                    let len = (request.input_len as usize / texts.len().max(1)).max(1);
                    let text = |_: &String| self.vocabulary.random_text(&mut random, len);
                    Prompt::Texts(texts.iter().map(text).collect())
                }
                Prompt::Ids(_) => {
                    let len = request.input_len as usize;
                    Prompt::Ids(self.vocabulary.random_ids(&mut random, len).into())
                }
                Prompt::Text(_) | Prompt::Messages(_) => {
                    let len = request.input_len as usize;
                    Prompt::Text(self.vocabulary.random_text(&mut random, len).into())
                }
            };
            request
        };
        requests.iter().cycle().take(num).map(unlike).collect()
    }

    /// `requests` with a `share` (0 to 1) of them, chosen at random, replaced by texts to embed.
    ///
    /// # Errors
    /// [`BenchError::Flag`] for a share that is none.
    pub fn mix(
        &self,
        mut requests: Vec<Request>,
        share: f64,
        texts: &RandomTexts,
    ) -> Result<Vec<Request>, BenchError> {
        if !(0.0..=1.0).contains(&share) {
            let message = format!("{share}: must be from 0 to 1");
            return Err(BenchError::flag("--embedding-share", message));
        }
        let num = (requests.len() as f64 * share).round() as usize;
        let maker = Self { vocabulary: self.vocabulary.clone(), num_prompts: num.max(1), ..*self };
        let texts = texts.make(&maker)?;
        let chosen = index::sample(&mut self.random(b"mixing"), requests.len(), num);
        for (at, text) in chosen.into_iter().zip(texts) {
            let timestamp = requests[at].timestamp;
            requests[at] = Request { timestamp, ..text };
        }
        Ok(requests)
    }

    /// Random numbers for one `purpose`, of at most 24 bytes, that do not depend on any other.
    fn random(&self, purpose: &[u8]) -> ChaCha8Rng {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        let len = purpose.len().min(24);
        seed[8..8 + len].copy_from_slice(&purpose[..len]);
        ChaCha8Rng::from_seed(seed)
    }
}
