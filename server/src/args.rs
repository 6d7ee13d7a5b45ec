//! The command line and the environment: the only place that reads either.
//!
//! Precedence is flag, then environment, then `folio.toml`, then the defaults below. The file
//! says the same things as the flags, so its values simply become the defaults. Flags that vLLM
//! users know keep their names and meaning.

mod file;
mod size;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use folio::locate::HubCache;
use folio_engine::sched::policies;

pub(crate) use size::Bytes;

/// Serves chat and embeddings with continuous batching over one paged KV cache.
#[derive(Debug, Parser)]
#[command(name = "folio", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// File whose keys are the names of the flags [default: folio.toml, if it exists]
    #[arg(long, global = true, env = "FOLIO_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve an OpenAI-compatible API over HTTP
    Serve(Box<ServeArgs>),
    /// Answer a prompt in the terminal
    Generate(Box<GenerateArgs>),
    /// Turn texts into vectors, one JSON line each
    Embed(Box<EmbedArgs>),
}

/// `folio serve`.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Address of the server.
    #[command(flatten)]
    pub http: HttpArgs,
    /// Which models.
    #[command(flatten)]
    pub models: ModelArgs,
    /// How to compute them.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Address, keys and limits of the server.
#[derive(Args, Debug)]
#[command(next_help_heading = "Server")]
pub(crate) struct HttpArgs {
    /// Address to listen on: an IP address, or `localhost`. Without an API key only loopback
    /// addresses are allowed (but see --allow-unauthenticated)
    #[arg(long, env = "FOLIO_HOST", default_value = "127.0.0.1", value_parser = host)]
    pub host: IpAddr,

    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "FOLIO_PORT", default_value_t = 8000)]
    pub port: u16,

    /// Key that clients must send as `Authorization: Bearer KEY`; repeat it, or separate by
    /// commas, for several. Everything but /health needs one
    #[arg(
        long,
        env = "FOLIO_API_KEY",
        value_name = "KEY",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub api_key: Vec<String>,

    /// Serve other machines without asking for a key
    #[arg(long, env = "FOLIO_ALLOW_UNAUTHENTICATED")]
    pub allow_unauthenticated: bool,

    /// Origin whose web pages may use the server (CORS); repeatable [default: any origin,
    /// without credentials]
    #[arg(long, env = "FOLIO_ALLOWED_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    pub allowed_origins: Vec<String>,

    /// Longest request body, in bytes or with a unit such as MiB
    #[arg(long, env = "FOLIO_MAX_BODY_SIZE", value_name = "BYTES", default_value = "32MiB")]
    pub max_body_size: Bytes,
}

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

    /// Number format that a GPU computes in [auto: as the model is stored]
    #[arg(long, env = "FOLIO_DTYPE", value_enum, default_value_t = Dtype::Auto)]
    pub dtype: Dtype,

    /// Where weights come from
    #[arg(long, env = "FOLIO_LOAD_FORMAT", value_enum, default_value_t = LoadFormat::Auto)]
    pub load_format: LoadFormat,
}

/// How models are computed and requests are scheduled.
#[derive(Args, Debug)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineArgs {
    /// Where to compute
    #[arg(long, env = "FOLIO_DEVICE", value_enum, default_value_t = Device::Auto)]
    pub device: Device,

    /// Threads that compute [default: one for each core]
    #[arg(long, env = "FOLIO_THREADS")]
    pub threads: Option<usize>,

    /// Most sequences of one model in a step
    #[arg(long, env = "FOLIO_MAX_NUM_SEQS", default_value_t = 64)]
    pub max_num_seqs: u32,

    /// Most tokens in a step, all models together
    #[arg(
        long,
        env = "FOLIO_MAX_NUM_BATCHED_TOKENS",
        value_name = "TOKENS",
        default_value_t = 2048
    )]
    pub max_num_batched_tokens: u32,

    /// Most prompts that are partly computed at the same time
    #[arg(long, env = "FOLIO_MAX_NUM_PARTIAL_PREFILLS", default_value_t = 4)]
    pub max_num_partial_prefills: u32,

    /// Most prompt tokens of one sequence in a step [default: no limit but the step's]
    #[arg(long, env = "FOLIO_LONG_PREFILL_TOKEN_THRESHOLD", value_name = "TOKENS")]
    pub long_prefill_token_threshold: Option<u32>,

    /// Most sequences that may wait; beyond it requests get 429
    #[arg(long, env = "FOLIO_MAX_QUEUED_REQUESTS", default_value_t = 4096)]
    pub max_queued_requests: u32,

    /// Which sequences go first
    #[arg(
        long,
        visible_alias = "policy",
        env = "FOLIO_SCHEDULING_POLICY",
        value_name = "NAME",
        default_value = "fcfs",
        value_parser = PossibleValuesParser::new(policies::NAMES)
    )]
    pub scheduling_policy: String,

    /// Tokens in a block of the KV cache
    #[arg(long, env = "FOLIO_BLOCK_SIZE", value_name = "TOKENS", default_value_t = 16)]
    pub block_size: u32,

    /// Blocks in the KV cache [default: as many as memory allows, within reason]
    #[arg(
        long,
        visible_alias = "num-gpu-blocks-override",
        env = "FOLIO_NUM_BLOCKS",
        conflicts_with = "kv_cache_memory"
    )]
    pub num_blocks: Option<u32>,

    /// Memory for the KV cache, in bytes or with a unit such as GiB
    #[arg(long, env = "FOLIO_KV_CACHE_MEMORY", value_name = "BYTES")]
    pub kv_cache_memory: Option<Bytes>,

    /// Share of the GPU's memory that may be used, what others use included
    #[arg(long, env = "FOLIO_GPU_MEMORY_UTILIZATION", value_name = "SHARE", default_value_t = 0.9)]
    pub gpu_memory_utilization: f32,

    /// Host memory for the KV blocks of preempted sequences, taken where it is faster to bring them
    /// back than to compute them again; 0 for none
    #[arg(long, env = "FOLIO_SWAP_SPACE", value_name = "BYTES", default_value = "4GiB")]
    pub swap_space: Bytes,

    /// Give the same tokens on a GPU whatever else is in a step, at some speed (always so on a CPU)
    #[arg(long, env = "FOLIO_DETERMINISTIC", action = ArgAction::SetTrue)]
    pub deterministic: bool,

    /// Launch every kernel of every step on a GPU instead of replaying captured graphs
    #[arg(long, env = "FOLIO_ENFORCE_EAGER", action = ArgAction::SetTrue)]
    pub enforce_eager: bool,

    /// Do not share the KV cache between requests that begin alike
    #[arg(long, env = "FOLIO_NO_ENABLE_PREFIX_CACHING", action = ArgAction::SetTrue)]
    pub no_enable_prefix_caching: bool,

    /// Seed of the requests that bring none, in order of arrival [default: a new one each start]
    #[arg(long = "seed", env = "FOLIO_SEED", value_name = "SEED", allow_negative_numbers = true)]
    pub default_seed: Option<i64>,
}

/// `folio generate`.
#[derive(Args, Debug)]
pub(crate) struct GenerateArgs {
    /// What to say to the model
    pub prompt: String,

    /// What to tell the model before it
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,

    /// Continue the prompt as it is, without the chat template
    #[arg(long)]
    pub raw: bool,

    /// Most tokens to generate [default: what the context leaves]
    #[arg(long, value_name = "TOKENS")]
    pub max_tokens: Option<u32>,

    /// Randomness: 0 always takes the likeliest token; at most 2
    #[arg(long, default_value_t = 0.0, value_parser = temperature)]
    pub temperature: f32,

    /// Sample from the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 1.0, value_parser = top_p)]
    pub top_p: f32,

    /// Which models.
    #[command(flatten)]
    pub models: ModelArgs,
    /// How to compute them.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// `folio embed`.
#[derive(Args, Debug)]
pub(crate) struct EmbedArgs {
    /// Texts to embed [default: the lines of the standard input]
    pub texts: Vec<String>,

    /// Print how similar the texts are to each other (the cosine) instead of their vectors
    #[arg(long)]
    pub similarity: bool,

    /// Which models.
    #[command(flatten)]
    pub models: ModelArgs,
    /// How to compute them.
    #[command(flatten)]
    pub engine: EngineArgs,
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

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// A GPU if there is one, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// The first NVIDIA GPU.
    Cuda,
}

impl Cli {
    /// Reads the command line, the environment and the file. What is wrong with them, and the
    /// answers to `--help` and `--version`, come as an error to be shown.
    pub(crate) fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let args: Vec<OsString> = args.into_iter().collect();
        let mut command = Self::command();
        if let Some(path) = file::path(command.clone(), &args) {
            command = file::with_defaults(command, &path)?;
        }
        let matches = command.try_get_matches_from_mut(args)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}

/// Where the tools of the Hugging Face hub keep what they download.
pub(crate) fn hub_cache() -> HubCache {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    HubCache {
        hub_cache: variable("HF_HUB_CACHE"),
        hf_home: variable("HF_HOME"),
        cache_home: variable("XDG_CACHE_HOME"),
        home: variable("HOME"),
    }
}

/// An IP address, or the one name that needs no look-up.
fn host(text: &str) -> Result<IpAddr, String> {
    match text {
        "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
        _ => text.parse().map_err(|_| "must be an IP address or localhost".to_owned()),
    }
}

/// What a body's `temperature` may be.
fn temperature(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value| (0.0..=2.0).contains(value));
    value.ok_or_else(|| "must be a number from 0 to 2".to_owned())
}

/// What a body's `top_p` may be.
fn top_p(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value| *value > 0.0 && *value <= 1.0);
    value.ok_or_else(|| "must be a number above 0 and at most 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Cli, String> {
        let args = ["folio"].iter().chain(args).map(OsString::from);
        Cli::read(args).map_err(|error| error.to_string())
    }

    fn serve(args: &[&str]) -> ServeArgs {
        match read(args).unwrap().command {
            Command::Serve(serve) => *serve,
            other => panic!("not serve: {other:?}"),
        }
    }

    /// A `folio.toml` with `text` in it, removed when dropped.
    struct ConfigFile(PathBuf);

    impl ConfigFile {
        fn new(name: &str, text: &str) -> Self {
            let file = format!("folio-args-{}-{name}.toml", std::process::id());
            let path = std::env::temp_dir().join(file);
            std::fs::write(&path, text).unwrap();
            Self(path)
        }

        fn path(&self) -> &str {
            self.0.to_str().unwrap()
        }
    }

    impl Drop for ConfigFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn the_command_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_keep_vllms_names() {
        let args = serve(&[
            "serve",
            "--model=/models/a",
            "--served-model-name=a",
            "--served-model-name=b",
            "--host=localhost",
            "--port=9000",
            "--num-gpu-blocks-override=100",
            "--max-num-seqs=8",
            "--no-enable-prefix-caching",
            "--scheduling-policy=priority",
            "--seed=-3",
        ]);
        assert_eq!(args.models.served_model_name, ["a", "b"]);
        assert_eq!(args.http.host, IpAddr::from([127, 0, 0, 1]));
        assert_eq!(args.http.port, 9000);
        assert_eq!(args.engine.num_blocks, Some(100));
        assert_eq!(args.engine.max_num_seqs, 8);
        assert!(args.engine.no_enable_prefix_caching);
        assert_eq!(args.engine.scheduling_policy, "priority");
        assert_eq!(args.engine.default_seed, Some(-3));
        assert_eq!(args.http.max_body_size, Bytes(32 << 20));
    }

    #[test]
    fn the_file_gives_defaults_and_flags_go_before_it() {
        let text = "port = 9001\nmax-num-seqs = 5\nserved-model-name = [\"x\", \"y\"]\n\
                    no-enable-prefix-caching = true\nkv-cache-memory = \"1GiB\"\n";
        let file = ConfigFile::new("defaults", text);
        let args = serve(&["serve", "--config", file.path(), "--port", "9002"]);
        assert_eq!(args.http.port, 9002);
        assert_eq!(args.engine.max_num_seqs, 5);
        assert_eq!(args.models.served_model_name, ["x", "y"]);
        assert!(args.engine.no_enable_prefix_caching);
        assert_eq!(args.engine.kv_cache_memory, Some(Bytes(1 << 30)));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        for (name, text, expected) in [
            ("unknown", "prot = 1\n", "prot"),
            ("table", "[serve]\nport = 1\n", "serve"),
            ("syntax", "port =\n", "line 1"),
            ("value", "port = \"many\"\n", "many"),
            ("config", "config = \"other.toml\"\n", "config"),
            ("nested", "served-model-name = [[\"x\"]]\n", "served-model-name"),
        ] {
            let file = ConfigFile::new(name, text);
            let error = read(&["serve", "--config", file.path()]).unwrap_err();
            assert!(error.contains(expected), "{name}: {error}");
        }
        let error = read(&["serve", "--config", "/no/such/file.toml"]).unwrap_err();
        assert!(error.contains("/no/such/file.toml"), "{error}");
    }

    #[test]
    fn bad_flags_are_refused_with_the_limit() {
        for (args, expected) in [
            (vec!["serve", "--port=70000"], "65535"),
            (vec!["serve", "--host=example.com"], "IP address"),
            (vec!["serve", "--scheduling-policy=lottery"], "fcfs"),
            (vec!["serve", "--max-body-size=1TB"], "MiB"),
            (vec!["serve", "--num-blocks=5", "--kv-cache-memory=1GiB"], "cannot be used"),
            (vec!["generate", "hi", "--temperature=nan"], "from 0 to 2"),
            (vec!["generate", "hi", "--temperature=inf"], "from 0 to 2"),
            (vec!["generate", "hi", "--temperature=-0.1"], "from 0 to 2"),
            (vec!["generate", "hi", "--top-p=NaN"], "above 0 and at most 1"),
            (vec!["generate", "hi", "--top-p=0"], "above 0 and at most 1"),
            (vec!["generate"], "PROMPT"),
            (vec!["bench"], "bench"),
        ] {
            let error = read(&args).unwrap_err();
            assert!(error.contains(expected), "{args:?}: {error}");
        }
    }
}
