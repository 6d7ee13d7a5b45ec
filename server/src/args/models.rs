//! Flags that say which models to load.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Which models to load, and their names.
#[derive(Args, Debug)]
#[command(next_help_heading = "Models")]
pub(crate) struct ModelArgs {
    /// Model to load, for chats or for embeddings: a directory in Hugging Face layout, or the id
    /// of one in the local cache [default: the built-in folio-tiny and folio-tiny-e5]
    #[arg(long, env = "FOLIO_MODEL", value_name = "DIR|ID")]
    pub model: Option<String>,

    /// Embedding model (an encoder) to load beside it, which shares the engine
    #[arg(long, env = "FOLIO_EMBEDDING_MODEL", value_name = "DIR|ID")]
    pub embedding_model: Option<String>,

    /// Name that clients use for the model; repeatable [default: the id, or the directory's name]
    #[arg(long, env = "FOLIO_SERVED_MODEL_NAME", value_name = "NAME", value_delimiter = ',')]
    pub served_model_name: Vec<String>,

    /// Name that clients use for the embedding model; repeatable
    #[arg(
        long,
        env = "FOLIO_SERVED_EMBEDDING_MODEL_NAME",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub served_embedding_model_name: Vec<String>,

    /// Longest sequence of the model in tokens, prompt and answer together [default: as the model
    /// says]
    #[arg(long, env = "FOLIO_MAX_MODEL_LEN", value_name = "TOKENS")]
    pub max_model_len: Option<u32>,

    /// File with a Jinja chat template to use instead of the model's own
    #[arg(long, env = "FOLIO_CHAT_TEMPLATE", value_name = "FILE")]
    pub chat_template: Option<PathBuf>,

    /// How the model writes tool calls: hermes (also called qwen3), llama3_json, mistral, none;
    /// auto looks at its chat template
    #[arg(long, env = "FOLIO_TOOL_CALL_PARSER", value_name = "NAME", default_value = "auto")]
    pub tool_call_parser: String,

    /// Refuse to start unless the model can call tools of its own will; it may wherever its format
    /// is known
    #[arg(long, env = "FOLIO_ENABLE_AUTO_TOOL_CHOICE")]
    pub enable_auto_tool_choice: bool,

    /// How the model marks its reasoning: think (also called qwen3 and deepseek_r1), mistral,
    /// none; auto looks at its chat template
    #[arg(long, env = "FOLIO_REASONING_PARSER", value_name = "NAME", default_value = "auto")]
    pub reasoning_parser: String,

    /// Number format that a GPU computes in [auto: as the model is stored]
    #[arg(long, env = "FOLIO_DTYPE", value_enum, default_value_t = Dtype::Auto)]
    pub dtype: Dtype,

    /// Where weights come from
    #[arg(long, env = "FOLIO_LOAD_FORMAT", value_enum, default_value_t = LoadFormat::Auto)]
    pub load_format: LoadFormat,
}

/// Number format that a GPU computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    /// As the model is stored; half precision for one in single precision.
    Auto,
    /// The upper half of single precision.
    Bfloat16,
    /// IEEE half precision.
    Float16,
}

impl Dtype {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Bfloat16 => "bfloat16",
            Self::Float16 => "float16",
        }
    }
}

/// Where weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadFormat {
    /// The model's files.
    Auto,
    /// Made up: answers mean nothing, and take as long as real ones.
    Dummy,
}
