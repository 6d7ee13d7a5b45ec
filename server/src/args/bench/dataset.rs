//! Flags that say what is asked.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use folio_sim::trace::Format;
use serde_json::{Value, json};

use crate::bench::Backend;
use crate::bench::datasets::{
    Custom, Dataset, GeneratedSharedPrefix, PrefixRepetition, Random, RandomTexts, ShareGpt, Trace,
};

/// Which requests.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Dataset")]
pub(crate) struct DatasetArgs {
    /// Kind of dataset
    #[arg(long, value_enum, default_value_t = DatasetName::Random)]
    pub dataset_name: DatasetName,

    /// Its file, if it has one
    #[arg(long, value_name = "FILE")]
    pub dataset_path: Option<PathBuf>,

    /// Requests to send
    #[arg(long, default_value_t = 1000)]
    pub num_prompts: usize,

    /// What everything random follows from
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Tokens of a prompt, for whichever dataset has such a length
    #[arg(long, value_name = "TOKENS")]
    pub input_len: Option<u32>,

    /// Tokens of an answer, for whichever dataset has such a length
    #[arg(long, value_name = "TOKENS")]
    pub output_len: Option<u32>,

    /// random: tokens of a prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 1024)]
    pub random_input_len: u32,

    /// random: tokens of an answer
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    pub random_output_len: u32,

    /// random: lengths are uniform from (1 - RATIO) to (1 + RATIO) times the above
    #[arg(long, value_name = "RATIO", default_value_t = 0.0)]
    pub random_range_ratio: f64,

    /// random: tokens that all prompts begin with
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    pub random_prefix_len: u32,

    /// random, embeddings: texts in a request
    #[arg(long, value_name = "TEXTS", default_value_t = 1)]
    pub random_batch_size: u32,

    /// random: turns of a conversation, each of which waits for the one before and contains it
    #[arg(long, default_value_t = 1)]
    pub turns: u32,

    /// prefix_repetition: tokens of a prefix
    #[arg(long, value_name = "TOKENS", default_value_t = 256)]
    pub prefix_repetition_prefix_len: u32,

    /// prefix_repetition: tokens after it
    #[arg(long, value_name = "TOKENS", default_value_t = 256)]
    pub prefix_repetition_suffix_len: u32,

    /// prefix_repetition: prefixes
    #[arg(long, value_name = "PREFIXES", default_value_t = 10)]
    pub prefix_repetition_num_prefixes: u32,

    /// prefix_repetition: tokens of an answer
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    pub prefix_repetition_output_len: u32,

    /// generated-shared-prefix: groups that share a system prompt
    #[arg(long, value_name = "GROUPS", default_value_t = 64)]
    pub gsp_num_groups: u32,

    /// generated-shared-prefix: requests of a group
    #[arg(long, value_name = "PROMPTS", default_value_t = 16)]
    pub gsp_prompts_per_group: u32,

    /// generated-shared-prefix: tokens of a system prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 2048)]
    pub gsp_system_prompt_len: u32,

    /// generated-shared-prefix: tokens after it
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    pub gsp_question_len: u32,

    /// generated-shared-prefix: tokens of an answer
    #[arg(long, value_name = "TOKENS", default_value_t = 256)]
    pub gsp_output_len: u32,

    /// sharegpt: tokens of an answer [default: as many as the file's answer has]
    #[arg(long, value_name = "TOKENS")]
    pub sharegpt_output_len: Option<u32>,

    /// custom: tokens of an answer; -1 for what each line's `output_tokens` says
    #[arg(long, value_name = "TOKENS", default_value_t = 256, allow_negative_numbers = true)]
    pub custom_output_len: i64,

    /// Traces: tokens that an id of `hash_ids` stands for [default: what the format has: 512 for
    /// mooncake, 16 for timed_trace and bailian, 64 for weka]
    #[arg(long, value_name = "TOKENS")]
    pub timed_trace_chunk_hash_size: Option<u32>,

    /// Share of the requests, 0 to 1, that ask for embeddings instead
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub embedding_share: f64,

    /// Model for these
    #[arg(long, value_name = "NAME")]
    pub embedding_model: Option<String>,

    /// Tokens of a text of these
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    pub embedding_input_len: u32,
}

/// Kind of dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DatasetName {
    /// Random tokens
    Random,
    /// ShareGPT's JSON file of conversations
    Sharegpt,
    /// JSON lines with `prompt` or `messages`, `output_tokens` and `timestamp`
    Custom,
    /// Few prefixes, many suffixes
    #[value(name = "prefix_repetition", alias = "prefix-repetition")]
    PrefixRepetition,
    /// Groups that share a system prompt
    GeneratedSharedPrefix,
    /// vLLM's JSON lines with timestamps in seconds and `hash_ids` of 16 tokens
    #[value(name = "timed_trace", alias = "timed-trace")]
    TimedTrace,
    /// Mooncake's JSON lines with timestamps in milliseconds and `hash_ids` of 512 tokens
    Mooncake,
    /// Azure's CSV of lengths and dates
    Azure,
    /// ServeGen's CSV of tenants and lengths
    Servegen,
    /// BurstGPT's CSV
    Burstgpt,
    /// Qwen-Bailian's JSON lines
    Bailian,
    /// WEKA's agentic sessions
    Weka,
}

impl DatasetName {
    /// How its file is written down, if it is a trace.
    pub(crate) fn trace(self) -> Option<Format> {
        match self {
            Self::TimedTrace => Some(Format::TimedTrace),
            Self::Mooncake => Some(Format::Mooncake),
            Self::Azure => Some(Format::Azure),
            Self::Servegen => Some(Format::ServeGen),
            Self::Burstgpt => Some(Format::BurstGpt),
            Self::Bailian => Some(Format::Bailian),
            Self::Weka => Some(Format::Weka),
            _ => None,
        }
    }
}

impl DatasetArgs {
    /// The dataset for `backend`.
    ///
    /// # Errors
    /// What is missing or too much.
    pub(crate) fn dataset(&self, backend: Backend) -> Result<Dataset, String> {
        if backend == Backend::Embeddings {
            return match self.dataset_name {
                _ if self.dataset_path.is_some() => {
                    Err("embeddings are of made-up texts: --dataset-path is not read".to_owned())
                }
                DatasetName::Random => Ok(Dataset::RandomTexts(RandomTexts {
                    input_len: self.input_len.unwrap_or(self.random_input_len),
                    ..self.texts(self.random_batch_size)
                })),
                _ => Err("embeddings take --dataset-name random".to_owned()),
            };
        }
        if let (Some(format), Some(path)) = (self.dataset_name.trace(), &self.dataset_path) {
            let prefix_block = self.timed_trace_chunk_hash_size;
            return Ok(Dataset::Trace(path.clone(), Trace { format, prefix_block }));
        }
        match (self.dataset_name, &self.dataset_path) {
            (DatasetName::Sharegpt, Some(path)) => {
                let output_len = self.output_len.or(self.sharegpt_output_len);
                Ok(Dataset::ShareGpt(path.clone(), ShareGpt { output_len }))
            }
            (DatasetName::Custom, Some(path)) => {
                let output_len = self.output_len.or(u32::try_from(self.custom_output_len).ok());
                Ok(Dataset::Custom(path.clone(), Custom { output_len }))
            }
            (name, None)
                if name.trace().is_some()
                    || matches!(name, DatasetName::Sharegpt | DatasetName::Custom) =>
            {
                Err("--dataset-path is missing".to_owned())
            }
            (_, Some(path)) => {
                Err(format!("--dataset-path {}: this dataset has no file", path.display()))
            }
            (name, None) => Ok(self.made(name)),
        }
    }

    /// What result files say of it: where two differ, their figures do not compare.
    pub(crate) fn describe(&self, backend: Backend) -> Value {
        let name = self.dataset_name.to_possible_value();
        let dataset = self.dataset(backend).ok();
        json!({
            "name": name.map(|name| name.get_name().to_owned()),
            "seed": self.seed,
            "parameters": dataset.map(|dataset| format!("{dataset:?}")),
            "embedding_share": self.embedding_share,
        })
    }

    /// Texts to embed beside the requests of the dataset.
    pub(crate) fn texts(&self, batch_size: u32) -> RandomTexts {
        let (input_len, range_ratio) = (self.embedding_input_len, self.random_range_ratio);
        RandomTexts { input_len, range_ratio, batch_size }
    }

    fn made(&self, name: DatasetName) -> Dataset {
        let output_len = |own| self.output_len.unwrap_or(own);
        match name {
            DatasetName::PrefixRepetition => Dataset::PrefixRepetition(PrefixRepetition {
                prefix_len: self.prefix_repetition_prefix_len,
                suffix_len: self.prefix_repetition_suffix_len,
                num_prefixes: self.prefix_repetition_num_prefixes,
                output_len: output_len(self.prefix_repetition_output_len),
            }),
            DatasetName::GeneratedSharedPrefix => {
                Dataset::GeneratedSharedPrefix(GeneratedSharedPrefix {
                    num_groups: self.gsp_num_groups,
                    prompts_per_group: self.gsp_prompts_per_group,
                    system_prompt_len: self.gsp_system_prompt_len,
                    question_len: self.gsp_question_len,
                    output_len: output_len(self.gsp_output_len),
                })
            }
            _ => Dataset::Random(Random {
                input_len: self.input_len.unwrap_or(self.random_input_len),
                output_len: output_len(self.random_output_len),
                range_ratio: self.random_range_ratio,
                prefix_len: self.random_prefix_len,
                turns: self.turns,
            }),
        }
    }
}
