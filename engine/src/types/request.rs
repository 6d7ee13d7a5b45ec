//! What the front end sends ([`Request`]) and what it gets back ([`Event`]s, one channel a choice).

use tokio::sync::mpsc;

use super::timeline::MarkSender;
use super::{
    CacheSalt, LogitsProcessor, Mark, MarkKind, MarkReceiver, ModelId, Nanos, PromptLogprob,
    RequestId, SampledToken, SamplingParams, TenantId, TokenGrammar, TokenId,
};

/// One unit of work for the engine; moved in, never shared.
#[derive(Debug)]
pub struct Request {
    /// Unique id.
    pub id: RequestId,
    /// Which loaded model computes it.
    pub model: ModelId,
    /// Prompt tokens, special tokens included; never empty.
    pub prompt: Vec<TokenId>,
    /// Generate or embed.
    pub task: Task,
    /// One for each sample wanted (`n`); exactly one for an embedding or a score.
    pub choices: Vec<Choice>,
    /// Smaller is more urgent; what it does belongs to the policy.
    pub priority: i32,
    /// Whose request it is.
    pub tenant: TenantId,
    /// A request that has not ended by this time is ended with
    /// [`FinishReason::DeadlineExceeded`]; while it waits, before anything is computed for it.
    pub deadline: Option<Nanos>,
    /// What the client expects; only policies look at it.
    pub slo: Slo,
    /// Prefix blocks are shared only between requests of equal salt.
    pub cache_salt: Option<CacheSalt>,
}

/// Times that a client expects, its service-level objectives. `None` where it expects none.
/// Missing one ends nothing: that is what [`Request::deadline`] does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Slo {
    /// From the arrival to the first token.
    pub ttft: Option<Nanos>,
    /// Between two tokens after the first, on average.
    pub tpot: Option<Nanos>,
    /// From the arrival to the last token.
    pub e2el: Option<Nanos>,
}

/// What to do with the prompt.
#[derive(Clone, Debug)]
pub enum Task {
    /// Sample tokens after it. For decoder models.
    Generate(SamplingParams),
    /// Pool it into one vector, as the model's own files say. For encoder models.
    Embed,
    /// Score a pair of texts: an [`Event::Embedding`] of one number. For cross-encoders.
    Score {
        /// Where the tokens of the second type begin, as the tokenizer says: at the second text,
        /// or behind the end where all tokens are of one type.
        second_start: u32,
    },
}

/// One sample of a request: where its events go, what may rewrite its logits, what it may say.
///
/// Dropping the receiver of `events` cancels this choice alone.
pub struct Choice {
    /// Where tokens, the embedding and the end are reported.
    pub events: EventSender,
    /// Run over the row of logits in order, after penalties and bias.
    pub processors: Vec<Box<dyn LogitsProcessor>>,
    /// The shape that its text must have; `None` for any.
    pub grammar: Option<Box<dyn TokenGrammar>>,
}

impl Choice {
    /// A choice that reports to `events`, with nothing done to its logits.
    #[must_use]
    pub fn new(events: EventSender) -> Self {
        Self { events, processors: Vec::new(), grammar: None }
    }
}

impl std::fmt::Debug for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Choice")
            .field("num_processors", &self.processors.len())
            .field("has_grammar", &self.grammar.is_some())
            .finish_non_exhaustive()
    }
}

/// What happens to one choice, in order: [`Event::Started`], the log-probabilities of the prompt
/// where they were asked for, any number of tokens or one embedding, then one
/// [`Event::Finished`]. A choice that ends before its first result has only
/// the last.
#[derive(Clone, Debug)]
pub enum Event {
    /// The first result is known and follows. For front ends that may stop listening before the
    /// end, as after a stop string.
    Started(RequestStats),
    /// How likely the tokens of the prompt were, from the second on. For the first choice of a
    /// request that asks for it.
    PromptLogprobs(Vec<PromptLogprob>),
    /// The next token, a stop token included.
    Token(SampledToken),
    /// The pooled vector, or the one number that is the score of a pair.
    Embedding(Vec<f32>),
    /// Nothing follows.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// How it fared.
        stats: RequestStats,
    },
}

/// Why a choice ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// This stop token was sampled.
    Stop(TokenId),
    /// The grammar is complete: nothing could follow.
    Complete,
    /// `max_tokens` were generated or the model's length was reached.
    Length,
    /// The embedding was delivered.
    Embedded,
    /// The deadline passed, while the request waited or while it ran.
    DeadlineExceeded,
    /// The engine refused it at admission; the text has the numbers.
    Refused(String),
    /// Its own numbers failed; the same request will fail again.
    Failed(String),
    /// A step that computed it failed, through no fault of the request that is known: it may be
    /// sent again.
    StepFailed(String),
}

/// How a choice fared, for usage and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestStats {
    /// When the engine admitted it.
    pub arrival: Nanos,
    /// When it was first part of a step, if it ever was.
    pub first_scheduled: Option<Nanos>,
    /// When its first token (or embedding) was known, if it ever was.
    pub first_token: Option<Nanos>,
    /// When its latest token (or embedding) was known; `None` as long as there is but the first.
    pub last_token: Option<Nanos>,
    /// Prompt tokens taken from the prefix cache at first admission.
    pub num_cached_tokens: u32,
    /// How often its blocks were taken away.
    pub num_preemptions: u32,
    /// How often it was put back after a failure of the engine; at most 1.
    pub num_retries: u32,
    /// How long it was expected to wait when it was submitted.
    pub expected_wait: Nanos,
}

/// Receiving end of a choice's events.
pub type EventReceiver = mpsc::Receiver<Event>;

/// Sending end of a choice's events. Never waits: the channel holds all that a choice can send.
#[derive(Clone, Debug)]
pub struct EventSender {
    sink: Sink,
    marks: Option<MarkSender>,
}

/// Where events go.
#[derive(Clone, Debug)]
enum Sink {
    /// To the one who waits for them.
    Channel(mpsc::Sender<Event>),
    /// Of each of many requests only its end is of interest.
    Ends(std::sync::mpsc::Sender<Ended>, RequestId),
    /// Nowhere.
    Discard,
}

/// How a request ended, told by [`EventSender::ends`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which one.
    pub request: RequestId,
    /// Why.
    pub reason: FinishReason,
    /// How it fared.
    pub stats: RequestStats,
}

/// Whether anybody still listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The event is in the channel.
    Delivered,
    /// The receiver is gone, or its channel is smaller than it must be.
    Gone,
}

impl EventSender {
    /// A channel for a choice that yields at most `max_tokens` tokens (or one embedding), with
    /// room for what comes before them and for its end. Capacity is a bound, not an allocation.
    #[must_use]
    pub fn channel(max_tokens: u32) -> (Self, EventReceiver) {
        let (sender, receiver) = mpsc::channel(max_tokens as usize + 4);
        (Self { sink: Sink::Channel(sender), marks: None }, receiver)
    }

    /// The same sender, which from now on also records when what happens to the choice.
    #[must_use]
    pub fn with_marks(self) -> (Self, MarkReceiver) {
        let (marks, receiver) = MarkSender::channel();
        (Self { marks: Some(marks), ..self }, receiver)
    }

    /// A sender whose events nobody reads and that never counts as cancelled: for simulation.
    #[must_use]
    pub fn discard() -> Self {
        Self { sink: Sink::Discard, marks: None }
    }

    /// A sender that tells `ends` how `request` ended and drops all else, and that never counts
    /// as cancelled: for simulation, where many requests share a channel. What is in it is at most
    /// one message a request.
    #[must_use]
    pub fn ends(ends: std::sync::mpsc::Sender<Ended>, request: RequestId) -> Self {
        Self { sink: Sink::Ends(ends, request), marks: None }
    }

    /// Puts `event` into the channel.
    #[inline]
    pub fn send(&self, event: Event) -> Delivery {
        match (&self.sink, event) {
            (Sink::Channel(sender), event) => match sender.try_send(event) {
                Ok(()) => Delivery::Delivered,
                Err(_) => Delivery::Gone,
            },
            (Sink::Ends(sender, request), Event::Finished { reason, stats }) => {
                let _ = sender.send(Ended { request: *request, reason, stats });
                Delivery::Delivered
            }
            (Sink::Ends(..) | Sink::Discard, _) => Delivery::Delivered,
        }
    }

    /// Records that something happened to the choice, if anybody wants to know.
    #[inline]
    pub fn mark(&self, at: Nanos, kind: MarkKind) {
        if let Some(marks) = &self.marks {
            marks.send(Mark { at, kind });
        }
    }

    /// Whether there is a receiver that can be dropped.
    #[must_use]
    pub fn can_close(&self) -> bool {
        matches!(self.sink, Sink::Channel(_))
    }

    /// Whether the receiver was dropped: the choice is cancelled.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(&self.sink, Sink::Channel(sender) if sender.is_closed())
    }
}
