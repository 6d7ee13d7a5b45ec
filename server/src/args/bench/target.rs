//! Flags that say which server is measured.

use clap::{Args, ValueEnum};

use crate::bench::Backend;

/// Which server.
#[derive(Args, Debug)]
#[command(next_help_heading = "Server")]
pub(crate) struct TargetArgs {
    /// API to use
    #[arg(long, value_enum, default_value_t = BackendName::Openai)]
    pub backend: BackendName,

    /// URL of the server, as http://127.0.0.1:8000 [default: of --host and --port]
    #[arg(long, value_name = "URL", conflicts_with = "spawn")]
    pub base_url: Option<String>,

    /// Host of the server
    #[arg(long, default_value = "127.0.0.1", conflicts_with = "spawn")]
    pub host: String,

    /// Port of the server
    #[arg(long, default_value_t = 8000, conflicts_with = "spawn")]
    pub port: u16,

    /// Start `folio serve` on a free port, with the flags after `--`, and end it afterwards
    #[arg(long)]
    pub spawn: bool,

    /// Path of the API [default: what --backend says]
    #[arg(long, value_name = "PATH")]
    pub endpoint: Option<String>,

    /// Model to ask [default: the first one that the server lists]
    #[arg(long)]
    pub model: Option<String>,

    /// The model's name in requests, if it is not --model
    #[arg(long, value_name = "NAME")]
    pub served_model_name: Option<String>,

    /// Directory with the model's tokenizer.json, for prompts of known length [default: --model, if
    /// that is a directory or a built-in model]
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<String>,

    /// Header of every request; repeatable
    #[arg(long, value_name = "NAME=VALUE", num_args = 0..)]
    pub header: Vec<String>,

    /// Key for the server
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<String>,

    /// Begins the X-Request-Id of every request
    #[arg(long, value_name = "TEXT")]
    pub request_id_prefix: Option<String>,

    /// Longest time that a request may take before it counts as failed
    #[arg(long, value_name = "SECONDS", default_value_t = 21600)]
    pub request_timeout: u64,

    /// Wait up to this long for the server to become ready
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub ready_check_timeout_sec: u64,
}

/// The API to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendName {
    /// /v1/completions
    Openai,
    /// The same
    Vllm,
    /// /v1/chat/completions
    OpenaiChat,
    /// /v1/embeddings
    OpenaiEmbeddings,
}

impl BackendName {
    /// What the client calls it.
    pub(crate) fn backend(self) -> Backend {
        match self {
            Self::Openai | Self::Vllm => Backend::Completions,
            Self::OpenaiChat => Backend::Chat,
            Self::OpenaiEmbeddings => Backend::Embeddings,
        }
    }
}
