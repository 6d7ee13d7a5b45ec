//! Requests and results as a log has them, made into what the scheduler takes.

use std::collections::HashMap;
use std::sync::mpsc;

use folio_engine::sched::Sequences;
use folio_engine::sched::decisions::{
    Arrival, Call, Decision, Ending, HostNeed, RowResult, Wanted,
};
use folio_engine::types::{
    Choice, Continuation, EventSender, GrammarError, LogitsProcessor, Nanos, PromptLogprob,
    PromptScores, Request, SampledToken, SamplingParams, SeqResult, SequenceId, StepOutput,
    StepPlan, StopConditions, Task, TokenGrammar, TokenId,
};

/// Stands for whatever token a text was stopped by; no token of a log has this number.
const STOP_TOKEN: TokenId = u32::MAX;

/// What is told to the grammars of sequences that have not ended.
#[derive(Default)]
pub(super) struct Forced {
    grammars: HashMap<SequenceId, mpsc::Sender<Verdict>>,
}

/// How a text ends by its grammar.
enum Verdict {
    Complete,
    Failed(String),
}

impl Forced {
    /// The request that arrived.
    pub(super) fn request(&mut self, arrival: &Arrival) -> Request {
        let mut choices = Vec::new();
        for index in 0..arrival.num_choices {
            let id = SequenceId(arrival.first.0 + u64::from(index));
            let host = match &arrival.wanted {
                Wanted::Pooled => HostNeed::Nothing,
                Wanted::Generation { hosts, .. } => {
                    hosts.get(index as usize).copied().unwrap_or(HostNeed::Nothing)
                }
            };
            choices.push(self.choice(id, host));
        }
        let task = match &arrival.wanted {
            Wanted::Pooled => Task::Embed,
            Wanted::Generation { max_tokens, scores_prompt, .. } => {
                Task::Generate(SamplingParams {
                    stop: StopConditions {
                        max_tokens: *max_tokens,
                        min_tokens: 0,
                        token_ids: vec![STOP_TOKEN],
                    },
                    prompt_logprobs: scores_prompt.then_some(0),
                    ..SamplingParams::default()
                })
            }
        };
        Request {
            id: arrival.request,
            model: arrival.model,
            prompt: arrival.prompt.clone(),
            task,
            choices,
            priority: arrival.priority,
            tenant: arrival.tenant,
            deadline: arrival.deadline,
            slo: arrival.slo,
            cache_salt: arrival.salt,
        }
    }

    fn choice(&mut self, id: SequenceId, host: HostNeed) -> Choice {
        let mut choice = Choice::new(EventSender::discard());
        if matches!(host, HostNeed::Grammar | HostNeed::GrammarAndSampling) {
            let (sender, verdicts) = mpsc::channel();
            self.grammars.insert(id, sender);
            choice.grammar = Some(Box::new(Dictated(verdicts)));
        }
        if matches!(host, HostNeed::Sampling | HostNeed::GrammarAndSampling) {
            choice.processors.push(Box::new(Nothing));
        }
        choice
    }

    /// What the device returned for `plan`, whose commit `call` recorded.
    pub(super) fn output(
        &mut self,
        plan: &StepPlan,
        (results, device_time): (&[RowResult], Nanos),
        call: &Call,
        sequences: &Sequences,
    ) -> StepOutput {
        let ends: HashMap<_, _> = call
            .decisions
            .iter()
            .filter_map(|decision| match decision {
                Decision::Ended { id, end } => Some((*id, end)),
                _ => None,
            })
            .collect();
        let rows = plan.seqs.iter().zip(results);
        let results = rows.map(|(scheduled, result)| {
            self.result(scheduled.id, result, ends.get(&scheduled.id).copied())
        });
        let results = results.collect();
        let prompt_scores = plan.seqs.iter().enumerate().filter_map(|(index, scheduled)| {
            let is_live = sequences.contains(scheduled.id);
            let sequence = is_live.then(|| sequences.get(scheduled.id))?;
            let num = sequence.positions_to_score(&scheduled.positions).len();
            let logprobs = vec![PromptLogprob::default(); num];
            (num > 0).then_some(PromptScores { index, logprobs })
        });
        StepOutput { results, prompt_scores: prompt_scores.collect(), device_time }
    }

    fn result(&mut self, id: SequenceId, result: &RowResult, end: Option<&Ending>) -> SeqResult {
        match result {
            RowResult::Computed => SeqResult::Computed,
            RowResult::Pooled => SeqResult::Embedding(Vec::new()),
            RowResult::Failed(message) => SeqResult::Failed(message.clone()),
            RowResult::Token(token) => {
                let verdict = match end {
                    Some(Ending::Complete) => Some(Verdict::Complete),
                    Some(Ending::Failed(message)) => Some(Verdict::Failed(message.clone())),
                    _ => None,
                };
                if let (Some(verdict), Some(grammar)) = (verdict, self.grammars.get(&id)) {
                    let _ = grammar.send(verdict);
                }
                if end.is_some() {
                    self.grammars.remove(&id);
                }
                let id = if end == Some(&Ending::Stop) { STOP_TOKEN } else { *token };
                SeqResult::Token(SampledToken { id, logprobs: None })
            }
        }
    }
}

/// A grammar that ends texts when it is told to.
struct Dictated(mpsc::Receiver<Verdict>);

impl TokenGrammar for Dictated {
    fn mask(&mut self) -> Result<&[u32], GrammarError> {
        Ok(&[])
    }

    fn accept(&mut self, _: TokenId) -> Result<Continuation, GrammarError> {
        match self.0.try_recv() {
            Ok(Verdict::Complete) => Ok(Continuation::Complete),
            Ok(Verdict::Failed(message)) => Err(GrammarError(message)),
            Err(_) => Ok(Continuation::Open),
        }
    }
}

/// Makes a sequence wait for its latest token, as one that is sampled on the host does.
struct Nothing;

impl LogitsProcessor for Nothing {
    fn process(&mut self, _: &[TokenId], _: &mut [f32]) {}
}
