//! How the next token is chosen: parameters, and the seam for rewriting logits.

use super::TokenId;

/// Everything that shapes one generation. Steps apply in the order of the fields of
/// [`Penalties`], then [`StopConditions::min_tokens`], then those of [`Sampling`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingParams {
    /// Temperature, truncation and seed.
    pub sampling: Sampling,
    /// What pushes single tokens up or down.
    pub penalties: Penalties,
    /// When to end.
    pub stop: StopConditions,
    /// `Some(k)`: report the chosen token's log-probability and the `k` likeliest (0 to 20),
    /// from the log-softmax of the raw logits.
    pub logprobs: Option<u32>,
    /// `Some(k)`: report each prompt token's log-probability after those before it, with the `k`
    /// likeliest, to the first choice. The prompt is computed whole then, whatever the prefix
    /// cache holds of it, and [`StopConditions::max_tokens`] may be 0.
    pub prompt_logprobs: Option<u32>,
}

impl SamplingParams {
    /// Entries of `logit_bias` and of `token_ids` that a GPU keeps for a sequence, each.
    pub const MAX_LISTED: usize = 512;
    /// Different tokens that a GPU counts for the penalties of a sequence.
    pub const MAX_COUNTED: u32 = 16_384;

    /// Whether a GPU can sample this where the logits are; otherwise they come to the host.
    #[must_use]
    pub fn fits_device(&self, prompt_len: u32) -> bool {
        let num_tokens = prompt_len.saturating_add(self.stop.max_tokens);
        self.penalties.logit_bias.len() <= Self::MAX_LISTED
            && self.stop.token_ids.len() <= Self::MAX_LISTED
            && (!self.penalties.use_counts() || num_tokens <= Self::MAX_COUNTED)
    }
}

/// Temperature, truncation and seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; 0 to 2.
    pub temperature: f32,
    /// Keep the `top_k` likeliest; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of likeliest tokens whose mass reaches this; in (0, 1].
    pub top_p: f32,
    /// Drop tokens less likely than this share of the likeliest; in [0, 1].
    pub min_p: f32,
    /// Key of the random stream. Choice `i` of a request uses stream `i` of the same key.
    pub seed: u64,
}

impl Default for Sampling {
    /// Plain sampling from the model's distribution.
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

/// What pushes single tokens up or down before sampling.
#[derive(Clone, Debug, PartialEq)]
pub struct Penalties {
    /// Subtracted once for each time the token was generated; −2 to 2.
    pub frequency: f32,
    /// Subtracted once if the token was generated at all; −2 to 2.
    pub presence: f32,
    /// Divides positive and multiplies negative logits of tokens in the prompt or the
    /// generated text; above 0, 1 is off.
    pub repetition: f32,
    /// Added to single logits, in f32; −100 to 100 each. No token twice.
    pub logit_bias: Vec<(TokenId, f32)>,
}

impl Default for Penalties {
    /// All off.
    fn default() -> Self {
        Self { frequency: 0.0, presence: 0.0, repetition: 1.0, logit_bias: Vec::new() }
    }
}

impl Penalties {
    /// Whether counts of past tokens are needed.
    #[must_use]
    pub fn use_counts(&self) -> bool {
        self.frequency != 0.0 || self.presence != 0.0 || self.repetition_is_on()
    }

    /// Whether the repetition penalty changes anything.
    #[must_use]
    pub fn repetition_is_on(&self) -> bool {
        self.repetition.to_bits() != 1f32.to_bits()
    }
}

/// When a generation ends. Stop strings are the front end's: it sees text, the engine does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopConditions {
    /// End after this many generated tokens; at least 1, or 0 where only
    /// [`SamplingParams::prompt_logprobs`] are wanted.
    pub max_tokens: u32,
    /// Tokens of `token_ids` cannot be sampled before this many were generated.
    pub min_tokens: u32,
    /// Any of these ends the choice. The front end adds the model's end-of-sequence tokens
    /// unless it was told to ignore them.
    pub token_ids: Vec<TokenId>,
}

/// Log-probabilities at one position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenLogprobs {
    /// Natural log-probability of the chosen token under the raw logits.
    pub logprob: f32,
    /// The likeliest tokens, best first, ties by smaller id.
    pub top: Vec<(TokenId, f32)>,
}

/// How likely a token of the prompt was after those before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptLogprob {
    /// Its log-probability and the likeliest tokens at its place.
    pub logprobs: TokenLogprobs,
    /// 1 for the likeliest token; in general one more than the tokens that were likelier.
    pub rank: u32,
}

/// Rewrites the logits of one choice. One instance a choice, so that its state needs no row
/// bookkeeping.
pub trait LogitsProcessor: Send {
    /// Changes `logits` `[V]` in place. `context` holds the prompt and the text so far.
    fn process(&mut self, context: &[TokenId], logits: &mut [f32]);
}
