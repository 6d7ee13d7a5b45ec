//! From texts to vectors: one engine request for each text, all submitted together.

use std::sync::Arc;

use folio_engine::types::{
    Choice, Event, EventReceiver, EventSender, FinishReason, MarkReceiver, ModelKind, Request,
    RequestStats, Slo, Task,
};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::client::Client;
use crate::error::ApiError;
use crate::generate::Prompt;
use crate::metrics::{Handed, Meters, Outcome};
use crate::models::ServedModel;
use crate::openai::{EmbeddingRequest, Queueing};
use crate::service::Service;

/// Texts that are ready for the engine.
#[derive(Debug)]
pub struct EmbedJob {
    client: Client,
    model: Arc<ServedModel>,
    requests: Vec<Request>,
    receivers: Vec<EventReceiver>,
    /// Where the marks of the texts arrive, if the request is traced.
    marks: Vec<MarkReceiver>,
    num_tokens: u64,
}

impl EmbedJob {
    /// Tokenises all texts and checks that the model takes them, for `client`.
    pub fn new(
        service: &Service,
        client: &Client,
        request: EmbeddingRequest,
    ) -> Result<Self, ApiError> {
        let model = service.models.find_kind(&request.model, ModelKind::Encoder)?;
        check_dimensions(model, &request)?;
        check_num_texts(service, "input", request.inputs.len())?;
        let inputs = request.inputs.into_iter();
        let prompts = inputs.map(|input| Ok((Prompt::encode(model, input)?, Task::Embed)));
        let prompts = prompts.collect::<Result<Vec<_>, ApiError>>()?;
        Self::of_prompts(service, client, model, prompts, &request.queueing)
    }

    /// The same for texts that are tokens, each with what is to be done with it.
    pub fn of_prompts(
        service: &Service,
        client: &Client,
        model: &Arc<ServedModel>,
        prompts: Vec<(Prompt, Task)>,
        queueing: &Queueing,
    ) -> Result<Self, ApiError> {
        service.check_priority(queueing.priority)?;
        let mut job = Self {
            client: client.clone(),
            model: Arc::clone(model),
            requests: Vec::new(),
            receivers: Vec::new(),
            marks: Vec::new(),
            num_tokens: 0,
        };
        for prompt in prompts {
            job.add(service, prompt, queueing)?;
        }
        Ok(job)
    }

    fn add(
        &mut self,
        service: &Service,
        (prompt, task): (Prompt, Task),
        queueing: &Queueing,
    ) -> Result<(), ApiError> {
        let (path, len) = (prompt.path, prompt.tokens.len());
        let max = self.model.limits.max_model_len;
        if len > max as usize {
            let message = format!(
                "{path} has {len} tokens, special tokens counted, and the model takes at most {max}"
            );
            return Err(ApiError::context_length(path, message));
        }
        let priority = self.client.priority_for(queueing.priority)?;
        let (mut events, receiver) = EventSender::channel(1);
        if self.client.is_traced() {
            let (marking, marks) = events.with_marks();
            events = marking;
            self.marks.push(marks);
        }
        let choice = Choice::new(events);
        let request = Request {
            id: service.engine.next_request_id(),
            model: self.model.id,
            prompt: prompt.tokens,
            task,
            choices: vec![choice],
            priority,
            tenant: self.client.tenant_for(queueing.tenant),
            deadline: service.deadline(&self.client, queueing.timeout)?,
            slo: Slo::default(),
            cache_salt: queueing.cache_salt,
        };
        service
            .engine
            .check(&request)
            .map_err(|refusal| ApiError::from_refusal(&refusal, &path))?;
        self.requests.push(request);
        self.receivers.push(receiver);
        self.num_tokens += len as u64;
        Ok(())
    }

    /// Tokens of all texts together, special tokens counted.
    pub fn num_tokens(&self) -> u64 {
        self.num_tokens
    }

    /// The vectors, in the order of the texts. Dropping the future cancels what is left.
    pub async fn run(self, service: &Service) -> Result<Vec<Vec<f32>>, ApiError> {
        let lens = self.requests.iter().map(|request| request.prompt.len() as u64);
        let handed = Handed {
            prompt_lens: lens.collect(),
            num_choices: 1,
            marks: self.marks,
            ..Handed::default()
        };
        let now = service.engine.now();
        let overdue = service.overdue(&self.requests);
        service.submit(&self.client, self.requests, "input")?;
        let (metrics, model) = (&service.metrics, self.model.name());
        let mut meters = Meters::start(metrics, &self.client, model, handed, now);
        let mut vectors = vec![Vec::new(); self.receivers.len()];
        let receivers = self.receivers.into_iter().zip(&mut vectors).enumerate();
        let mut pending: FuturesUnordered<_> = receivers
            .map(
                |(index, (receiver, place))| async move { (index, receive(receiver, place).await) },
            )
            .collect();
        loop {
            let next = tokio::select! {
                biased;
                next = pending.next() => next,
                () = overdue.wait() => {
                    let error = ApiError::overdue();
                    meters.fail(error.note());
                    return Err(error);
                }
            };
            let Some((index, received)) = next else { break };
            match received {
                Ok(stats) => meters.end(index, Outcome::Embedded(stats, service.engine.now())),
                Err(error) => {
                    meters.fail(error.note());
                    return Err(error);
                }
            }
        }
        drop(pending);
        Ok(vectors)
    }
}

/// Waits for one vector.
async fn receive(
    mut receiver: EventReceiver,
    vector: &mut Vec<f32>,
) -> Result<RequestStats, ApiError> {
    loop {
        match receiver.recv().await {
            Some(Event::Started(_)) => {}
            Some(Event::Embedding(values)) => *vector = values,
            Some(Event::Finished { reason, stats }) => {
                return check_end(reason, &stats, vector).map(|()| stats);
            }
            Some(Event::Token(_) | Event::PromptLogprobs(_)) => {
                return Err(ApiError::internal("a token where a vector was expected"));
            }
            None => return Err(ApiError::engine_stopped()),
        }
    }
}

fn check_end(reason: FinishReason, stats: &RequestStats, vector: &[f32]) -> Result<(), ApiError> {
    match reason {
        FinishReason::Embedded if vector.is_empty() => {
            Err(ApiError::internal("the engine delivered no vector"))
        }
        FinishReason::Embedded if vector.iter().any(|value| !value.is_finite()) => {
            Err(ApiError::internal("the vector has values that are not finite"))
        }
        FinishReason::Embedded => Ok(()),
        FinishReason::DeadlineExceeded => Err(ApiError::deadline_exceeded(stats)),
        FinishReason::StepFailed(message) => Err(ApiError::step_failed(message)),
        FinishReason::Refused(message) | FinishReason::Failed(message) => {
            Err(ApiError::internal(message))
        }
        FinishReason::Stop(_) | FinishReason::Complete | FinishReason::Length => {
            Err(ApiError::internal("an embedding ended as a generation"))
        }
    }
}

/// A request whose texts could never wait together must not be told to come back.
pub(crate) fn check_num_texts(
    service: &Service,
    path: &str,
    num_texts: usize,
) -> Result<(), ApiError> {
    let limit = service.engine.config().max_queued_requests as usize;
    if num_texts <= limit {
        return Ok(());
    }
    let message = format!("{path} has {num_texts} items, this server queues at most {limit}");
    Err(ApiError::invalid_value(path, message))
}

fn check_dimensions(model: &ServedModel, request: &EmbeddingRequest) -> Result<(), ApiError> {
    match request.dimensions {
        Some(dimensions) if dimensions != model.hidden_size => {
            let message = format!(
                "dimensions = {dimensions}: the vectors of {} have {} and cannot be shortened",
                request.model, model.hidden_size
            );
            Err(ApiError::unsupported("dimensions", message))
        }
        _ => Ok(()),
    }
}
