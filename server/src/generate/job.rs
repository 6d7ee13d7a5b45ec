//! A generation that is ready for the engine.

use std::sync::Arc;

use folio_engine::types::{
    Choice, EventReceiver, EventSender, MarkReceiver, Request, SamplingParams, Slo, Task, TokenId,
};

use super::choice::ChoiceReader;
use super::prompt::Prompt;
use super::running::Running;
use crate::client::Client;
use crate::error::ApiError;
use crate::metrics::Handed;
use crate::models::ServedModel;
use crate::openai::{EndOfSequence, Generation, TokenIds};
use crate::service::Service;
use crate::structured::Session;

/// Prompts with everything that is asked of them, checked against model and cache.
#[derive(Debug)]
pub struct Job {
    client: Client,
    model: Arc<ServedModel>,
    generation: Arc<Generation>,
    requests: Vec<Request>,
    receivers: Vec<EventReceiver>,
    /// Where the marks of choices arrive, if the request is traced.
    marks: Vec<MarkReceiver>,
    paths: Vec<String>,
    /// Special tokens that leave their text in the answer.
    shown: Arc<[TokenId]>,
}

impl Job {
    /// Checks whether `model` can do all of this for `client` and makes the requests of it.
    pub fn new(
        service: &Service,
        client: &Client,
        model: Arc<ServedModel>,
        prompts: Vec<Prompt>,
        generation: Generation,
    ) -> Result<Self, ApiError> {
        service.check_priority(generation.queueing.priority)?;
        client.priority_for(generation.queueing.priority)?;
        check_token_ids(&model, &generation)?;
        check_num_choices(service, prompts.len(), generation.num_choices)?;
        let mut job = Self {
            client: client.clone(),
            model,
            generation: Arc::new(generation),
            requests: Vec::new(),
            receivers: Vec::new(),
            marks: Vec::new(),
            paths: Vec::new(),
            shown: Arc::new([]),
        };
        let structure = job.generation.structure.as_ref();
        let session = structure.map(|structure| service.structures.session(&job.model, structure));
        let session = session.transpose()?;
        for prompt in prompts {
            job.add(service, prompt, session.as_ref())?;
        }
        Ok(job)
    }

    fn add(
        &mut self,
        service: &Service,
        prompt: Prompt,
        session: Option<&Session>,
    ) -> Result<(), ApiError> {
        if prompt.tokens.is_empty() {
            let message = format!("{} has no tokens", prompt.path);
            return Err(ApiError::invalid_value(prompt.path, message));
        }
        let params = self.params_for(service, &prompt)?;
        let max_tokens = params.stop.max_tokens;
        let calls = prompt.answer.calls();
        let calls =
            calls.map(|calls| service.structures.session(&self.model, calls)).transpose()?;
        let (choices, receivers): (Vec<_>, Vec<_>) = (0..self.generation.num_choices)
            .map(|_| {
                let (mut events, receiver) = EventSender::channel(max_tokens);
                if self.client.is_traced() {
                    let (marking, marks) = events.with_marks();
                    events = marking;
                    self.marks.push(marks);
                }
                let ends = self.generation.end_of_sequence;
                let text = session.map(|session| session.start(ends));
                let calls = calls.as_ref().map(|session| session.start(ends));
                let grammar = prompt.answer.grammar(text, calls);
                (Choice { grammar, ..Choice::new(events) }, receiver)
            })
            .unzip();
        let queueing = &self.generation.queueing;
        let priority = self.client.priority_for(queueing.priority)?;
        let request = Request {
            id: service.engine.next_request_id(),
            model: self.model.id,
            prompt: prompt.tokens,
            task: Task::Generate(params),
            choices,
            priority,
            tenant: self.client.tenant_for(queueing.tenant),
            deadline: service.deadline(&self.client, queueing.timeout)?,
            slo: Slo::default(),
            cache_salt: queueing.cache_salt,
        };
        service
            .engine
            .check(&request)
            .map_err(|refusal| ApiError::from_refusal(&refusal, &prompt.path))?;
        self.requests.push(request);
        self.receivers.extend(receivers);
        self.paths.push(prompt.path);
        Ok(())
    }

    /// The sampling parameters with their lengths settled and the model's end tokens added.
    fn params_for(&self, service: &Service, prompt: &Prompt) -> Result<SamplingParams, ApiError> {
        let generation = &self.generation;
        let mut params = generation.params.clone();
        params.sampling.seed = generation.seed.unwrap_or_else(|| service.next_seed());
        params.stop.max_tokens = match generation.max_tokens {
            Some(max_tokens) => max_tokens,
            None => room_after(service, &self.model, prompt)?,
        };
        let (min, max) = (params.stop.min_tokens, params.stop.max_tokens);
        if min > max {
            let field = generation.max_tokens_field;
            let message = format!("min_tokens = {min} must be at most {field} = {max}");
            return Err(ApiError::invalid_value("min_tokens", message));
        }
        if generation.end_of_sequence == EndOfSequence::Stops {
            params.stop.token_ids.extend(&self.model.end_tokens);
        }
        params.stop.token_ids.sort_unstable();
        params.stop.token_ids.dedup();
        Ok(params)
    }

    /// Shows these special tokens in the answer's text, for a parser to find.
    pub fn show(&mut self, tokens: Vec<TokenId>) {
        self.shown = tokens.into();
    }

    /// The model that it is for.
    pub(super) fn model(&self) -> &Arc<ServedModel> {
        &self.model
    }

    /// What was asked.
    pub(super) fn generation(&self) -> &Generation {
        &self.generation
    }

    /// What the engine would get.
    pub(super) fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// Hands the requests to the engine: all, or none with an error.
    pub fn start(self, service: &Arc<Service>) -> Result<Running, ApiError> {
        let lens = self.requests.iter().map(|request| request.prompt.len() as u64);
        let sampling = &self.generation.params.sampling;
        let handed = Handed {
            prompt_lens: lens.collect(),
            max_tokens: self.requests.iter().filter_map(max_tokens).collect(),
            num_choices: self.generation.num_choices,
            sampling: Some((sampling.temperature, sampling.top_p)),
            marks: self.marks,
        };
        let asked = self.generation.params.prompt_logprobs;
        let shows_prompts =
            asked.is_some() || self.generation.output.token_ids == TokenIds::Returned;
        let prompts = self.requests.iter().filter(|_| shows_prompts);
        let prompts = prompts.map(|request| request.prompt.clone()).collect();
        let overdue = service.overdue(&self.requests);
        service.submit(&self.client, self.requests, first(&self.paths))?;
        let readers = self.receivers.into_iter().enumerate().map(|(index, receiver)| {
            ChoiceReader::new(&self.model, &self.generation, &self.shown, (index as u32, receiver))
        });
        let model = Arc::clone(&self.model);
        let running = Running::new(service, self.client, model, readers.collect(), handed);
        Ok(running.with_prompts(prompts, asked).until(overdue))
    }
}

fn max_tokens(request: &Request) -> Option<u32> {
    match &request.task {
        Task::Generate(params) => Some(params.stop.max_tokens),
        Task::Embed | Task::Score { .. } => None,
    }
}

fn first(paths: &[String]) -> &str {
    paths.first().map_or("prompt", String::as_str)
}

/// Tokens that model and cache have room for after the prompt.
fn room_after(service: &Service, model: &ServedModel, prompt: &Prompt) -> Result<u32, ApiError> {
    let len = prompt.tokens.len() as u64;
    let context = model.limits.max_model_len;
    let cache = service.engine.config().kv_capacity_tokens();
    let total = context.min(cache);
    match u64::from(total).checked_sub(len) {
        Some(room) if room > 0 => Ok(room as u32),
        _ => {
            let what =
                if cache < context { "the KV cache holds" } else { "the model's context is" };
            let path = &prompt.path;
            let message = format!(
                "{path} has {len} tokens and {what} {total}: nothing is left for the answer"
            );
            Err(ApiError::context_length(path, message))
        }
    }
}

/// A job whose choices could never wait together must not be told to come back.
fn check_num_choices(service: &Service, num_prompts: usize, n: u32) -> Result<(), ApiError> {
    let limit = service.engine.config().max_queued_requests;
    if num_prompts as u64 * u64::from(n) <= u64::from(limit) {
        return Ok(());
    }
    let message = format!(
        "{num_prompts} prompts with n = {n} choices each: this server queues at most {limit}"
    );
    Err(ApiError::invalid_value("n", message))
}

fn check_token_ids(model: &ServedModel, generation: &Generation) -> Result<(), ApiError> {
    for (index, &id) in generation.params.stop.token_ids.iter().enumerate() {
        model.check_token(|| format!("stop_token_ids[{index}]"), id)?;
    }
    for &(id, _) in &generation.params.penalties.logit_bias {
        model.check_token(|| format!("logit_bias.{id}"), id)?;
    }
    Ok(())
}
