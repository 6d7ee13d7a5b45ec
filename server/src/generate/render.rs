//! What a job would hand to the engine, for people.

use std::collections::BTreeMap;

use folio_engine::types::{Request, SamplingParams, Task};

use super::job::Job;
use crate::openai::{EndOfSequence, Rendered, RenderedSampling};
use crate::text::Skip;

impl Job {
    /// Each prompt with its settings as they were settled. `name` is the client's for the model.
    pub fn render(&self, name: &str) -> Vec<Rendered> {
        let tokenizer = self.model().text.tokenizer();
        let render = |request: &Request| {
            let Task::Generate(params) = &request.task else {
                return None;
            };
            Some(Rendered {
                model: name.to_owned(),
                prompt: tokenizer.decode(&request.prompt, Skip::Nothing),
                token_ids: request.prompt.clone(),
                sampling_params: self.settings(params),
                priority: request.priority,
            })
        };
        self.requests().iter().filter_map(render).collect()
    }

    /// Tokens of all prompts together.
    pub fn num_prompt_tokens(&self) -> u64 {
        self.requests().iter().map(|request| request.prompt.len() as u64).sum()
    }

    fn settings(&self, params: &SamplingParams) -> RenderedSampling {
        let generation = self.generation();
        let bias = params.penalties.logit_bias.iter();
        RenderedSampling {
            n: generation.num_choices,
            temperature: params.sampling.temperature,
            top_k: params.sampling.top_k,
            top_p: params.sampling.top_p,
            min_p: params.sampling.min_p,
            seed: generation.seed.map(|seed| seed as i64),
            frequency_penalty: params.penalties.frequency,
            presence_penalty: params.penalties.presence,
            repetition_penalty: params.penalties.repetition,
            logit_bias: bias.map(|(id, bias)| (id.to_string(), *bias)).collect::<BTreeMap<_, _>>(),
            max_tokens: params.stop.max_tokens,
            min_tokens: params.stop.min_tokens,
            stop: generation.stop.clone(),
            stop_token_ids: params.stop.token_ids.clone(),
            ignore_eos: generation.end_of_sequence == EndOfSequence::Ignored,
            logprobs: params.logprobs,
        }
    }
}
