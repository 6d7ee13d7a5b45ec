//! From the arguments to a running service: find the models, plan the memory, load the weights.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crate::builtin;
use crate::locate::locate;
use crate::models::{Models, ServedModel};
use crate::policy::{Made, MadeShadow, Policies, Seat};
use crate::service::{Service, unix_seconds, unix_time};
use crate::text::TextModel;
use anyhow::{Context, Result, anyhow, bail, ensure};
use folio_engine::decisions::{DecisionLog, Disguise, Header, LogFeed, LogFile, LogLimits};
use folio_engine::exec::{self, Executor, KvCacheSize, MemoryOptions, MemoryPlan, RunnerOptions};
use folio_engine::model::{Embedded, ModelConfig, ModelFiles};
use folio_engine::sched::{KvBatch, Origin, PriorityUse};
use folio_engine::types::{EngineConfig, ModelId, ModelLimits, PrefixCaching};
use folio_engine::{EngineHandle, EngineSetup, Notice};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::args::{EngineArgs, LoadFormat, ModelArgs, hub_cache};
use crate::device::{self, Chosen};
use crate::progress::LoadProgress;

/// A service that is ready, and what there is to say about it.
pub(crate) struct Loaded {
    /// Computes requests.
    pub service: Service,
    /// What computes, in one line.
    pub device: String,
    /// The memory plan, in one line.
    pub plan: String,
    /// What the operator should know about the models.
    pub notes: Vec<String>,
}

/// Files of a model, and the names to serve it under.
struct Source {
    files: ModelFiles,
    names: Vec<String>,
    purpose: Purpose,
}

/// What a model was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// `--model`: whatever it can do.
    Any,
    /// `--embedding-model`.
    Embeddings,
}

/// What is known before anything is loaded.
struct Prepared {
    sources: Vec<Source>,
    configs: Vec<ModelConfig>,
    models: Models,
    engine: EngineConfig,
    options: RunnerOptions,
    device: String,
    notes: Vec<String>,
}

/// How requests are scheduled, ready before anything is loaded.
pub(crate) struct Scheduling {
    policies: Policies,
    made: Made,
    shadow: Option<MadeShadow>,
}

impl Scheduling {
    /// As the arguments say, with one of `policies`.
    pub(crate) fn choose(policies: &Policies, args: &EngineArgs) -> Result<Self> {
        let (origin, block_size) = (Origin::Operator, args.block_size);
        let made = policies.make(&args.scheduling_policy, block_size, origin);
        let made = made.map_err(|error| anyhow!("--scheduling-policy: {}", error.pointed()))?;
        let shadow = args.shadow_policy.as_deref();
        let shadow = shadow.map(|spec| policies.make_shadow(spec, block_size, origin)).transpose();
        let shadow = shadow.map_err(|error| anyhow!("--shadow-policy: {}", error.pointed()))?;
        Ok(Self { policies: policies.clone(), made, shadow })
    }

    /// Whether the policy looks at priorities.
    pub(crate) fn priority_use(&self) -> PriorityUse {
        self.policies.registry().priority_use(&self.made.spec)
    }
}

/// Loads the models and starts the engine.
pub(crate) fn load(
    models: &ModelArgs,
    engine: &EngineArgs,
    scheduling: Scheduling,
) -> Result<Loaded> {
    load_telling(models, engine, scheduling, Listeners::default())
}

/// Who is told what the engine does.
#[derive(Default)]
pub(crate) struct Listeners {
    /// What enters and leaves the prefix cache.
    pub kv_events: Option<mpsc::Sender<KvBatch>>,
    /// File of the decision log, and its limit in bytes.
    pub decision_log: Option<(PathBuf, u64)>,
}

/// [`load`], and tells `listeners` what the engine does.
pub(crate) fn load_telling(
    models: &ModelArgs,
    engine: &EngineArgs,
    scheduling: Scheduling,
    Listeners { kv_events, decision_log }: Listeners,
) -> Result<Loaded> {
    let Prepared { sources, configs, models, engine: config, options, device, mut notes } =
        prepare(models, engine)?;
    let plan = options.plan.to_string();
    let Scheduling { policies, made: Made { spec, policy }, shadow } = scheduling;
    let seat = Seat::new(policies, &spec, shadow.as_ref().map(|shadow| shadow.spec.as_str()));
    let log = decision_log.map(|file| start_log(&file, &spec, &config, &models)).transpose()?;
    let mut setup = EngineSetup::new(config, policy).protection(engine.protection());
    if let Some(shadow) = shadow {
        setup = setup.shadow(shadow.policy);
    }
    let mut decisions = None;
    if let Some((log, feed)) = log {
        setup = setup.decisions(feed);
        decisions = Some(log);
    }
    let (engine_and_thread, said) = start(sources, configs, (setup, options), kv_events)?;
    notes.extend(said);
    let seed = engine.default_seed.map(|seed| seed as u64);
    let mut service = Service::new(engine_and_thread, models, seat, seed)?;
    if let Some(log) = decisions {
        service.log_decisions_to(log);
    }
    let service = service.with_max_timeout(engine.max_request_timeout);
    Ok(Loaded { service, device, plan, notes })
}

/// Begins the decision log of an engine that is about to start: its clock begins now.
fn start_log(
    (path, max_bytes): &(PathBuf, u64),
    spec: &str,
    config: &EngineConfig,
    models: &Models,
) -> Result<(DecisionLog, LogFeed)> {
    let names: Vec<_> = models.all().iter().map(|model| model.name().to_owned()).collect();
    let mut header = Header::new(spec, config.clone(), &names);
    header.unix_origin = Some(unix_time().as_secs_f64());
    let limits = LogLimits { max_bytes: Some(*max_bytes) };
    let file = LogFile::create(path, header, Disguise::secret(config), limits);
    let file = file.with_context(|| format!("--decision-log {}", path.display()))?;
    let (log, feed, _thread) = DecisionLog::start(file, |notice| tracing::warn!("{notice}"))?;
    Ok((log, feed))
}

/// The models and the device of [`load`], without an engine around them.
pub(crate) struct Bare {
    /// Computes steps.
    pub executor: Box<dyn Executor>,
    /// The engine that would serve with it.
    pub engine: EngineConfig,
    /// The first model's name, and what changes with its files.
    pub model: (String, String),
    /// What computes, in one line.
    pub device: String,
}

/// Loads the models onto the device that the flags say, to be measured.
pub(crate) fn load_bare(models: &ModelArgs, engine: &EngineArgs) -> Result<Bare> {
    let prepared = prepare(models, engine)?;
    let files = prepared.sources.into_iter().map(|source| source.files);
    let loaded = files.zip(prepared.configs).collect();
    let progress = LoadProgress::new();
    let executor = exec::load(loaded, &prepared.options, &mut |loaded| progress.show(loaded))?;
    progress.finish();
    let first = prepared.models.all().first().context("no model was given")?;
    let model = (first.name().to_owned(), first.fingerprint.clone());
    let engine = prepared.engine.validated()?;
    Ok(Bare { executor, engine, model, device: prepared.device })
}

/// Whether [`load`] could work, without the weights: what it would load, and where.
pub(crate) fn check(models: &ModelArgs, engine: &EngineArgs) -> Result<Vec<String>> {
    let prepared = prepare(models, engine)?;
    prepared.engine.validated()?;
    let mut lines: Vec<_> = prepared.notes.iter().map(|note| format!("Note: {note}")).collect();
    lines.push(format!("Models: {}", prepared.models.describe()));
    lines.push(format!("Device: {}", prepared.device));
    lines.push(format!("Memory: {}", prepared.options.plan));
    Ok(lines)
}

/// Finds the models and plans the memory.
fn prepare(models: &ModelArgs, engine: &EngineArgs) -> Result<Prepared> {
    let sources = sources(models)?;
    let template = models.chat_template.as_deref().map(read_template);
    let template = template.transpose()?;
    let mut configs = Vec::new();
    let mut served = Vec::new();
    let mut notes = Vec::new();
    for (source, id) in sources.iter().zip(0..) {
        let max_len = models.max_model_len.filter(|_| id == 0);
        let config = match models.load_format {
            LoadFormat::Auto => ModelConfig::read(&source.files, max_len)?,
            LoadFormat::Dummy => ModelConfig::read_dummy(&source.files, max_len)?,
        };
        check_purpose(source, &config)?;
        notes.extend(config.notes().iter().cloned());
        let template = template.as_deref().filter(|_| id == 0);
        let mut model = served_model(source, &config, (ModelId(id), template))?;
        if id == 0 {
            model.text = with_formats(model.text, models)?;
        }
        served.push(model);
        configs.push(config);
    }
    let device = device::choose(engine, models.dtype, &configs)?;
    let mut plan = MemoryPlan::new(&configs, &memory_options(engine, &device)?)?;
    if let Some(swap) = device::swap(&device.options, &configs, &plan, engine.swap_space.0)? {
        plan.num_host_blocks = swap.num_host_blocks;
        notes.push(swap.to_string());
    }
    let config = engine_config(engine, &configs, &plan);
    notes.extend(device.notes);
    let models = Models::new(served, unix_seconds())
        .context("--served-model-name, --served-embedding-model-name")?;
    let options = RunnerOptions { device: device.options, plan };
    Ok(Prepared { sources, configs, models, engine: config, options, device: device.line, notes })
}

/// The models that were asked for; the built-in ones when none was.
fn sources(args: &ModelArgs) -> Result<Vec<Source>> {
    check_names("--served-model-name", &args.served_model_name)?;
    check_names("--served-embedding-model-name", &args.served_embedding_model_name)?;
    let mut sources = Vec::new();
    if let Some(model) = &args.model {
        sources.push(source(model, &args.served_model_name, Purpose::Any)?);
    }
    if let Some(model) = &args.embedding_model {
        let names = &args.served_embedding_model_name;
        sources.push(source(model, names, Purpose::Embeddings)?);
    }
    if sources.is_empty() {
        sources.push(built_in(builtin::chat(), &args.served_model_name, Purpose::Any));
        let names = &args.served_embedding_model_name;
        sources.push(built_in(builtin::embedding(), names, Purpose::Embeddings));
        return Ok(sources);
    }
    ensure!(
        args.model.is_some() || args.served_model_name.is_empty(),
        "--served-model-name is given, but no --model"
    );
    ensure!(
        args.embedding_model.is_some() || args.served_embedding_model_name.is_empty(),
        "--served-embedding-model-name is given, but no --embedding-model"
    );
    Ok(sources)
}

/// Refuses an embedding model that would generate: it would be the one that chats go to.
fn check_purpose(source: &Source, config: &ModelConfig) -> Result<()> {
    let is_encoder = config.limits().kind.is_encoder();
    ensure!(
        source.purpose == Purpose::Any || is_encoder,
        "--embedding-model {}: it is a decoder, which generates and does not embed; load it with \
         --model, or give the directory of an encoder",
        source.files.label()
    );
    Ok(())
}

fn check_names(flag: &str, names: &[String]) -> Result<()> {
    for (index, name) in names.iter().enumerate() {
        ensure!(!name.trim().is_empty(), "{flag}: name {} of {} is empty", index + 1, names.len());
        ensure!(names.iter().take(index).all(|one| one != name), "{flag}: {name} is given twice");
    }
    Ok(())
}

fn source(model: &str, names: &[String], purpose: Purpose) -> Result<Source> {
    let directory = locate(model, &hub_cache())?;
    let path = Path::new(model);
    let own_name = if path.is_dir() {
        let absolute = path.canonicalize()?;
        let name = absolute.file_name().unwrap_or(absolute.as_os_str());
        name.to_string_lossy().into_owned()
    } else {
        model.to_owned()
    };
    let files = ModelFiles::Directory(directory);
    Ok(Source { files, names: names_or(names, own_name), purpose })
}

fn built_in(model: &'static Embedded, names: &[String], purpose: Purpose) -> Source {
    let names = names_or(names, model.name.to_owned());
    Source { files: ModelFiles::Embedded(model), names, purpose }
}

fn names_or(names: &[String], own_name: String) -> Vec<String> {
    if names.is_empty() { vec![own_name] } else { names.to_vec() }
}

fn read_template(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("--chat-template {}", path.display()))
}

fn served_model(
    source: &Source,
    config: &ModelConfig,
    (id, template): (ModelId, Option<&str>),
) -> Result<ServedModel> {
    let files = &source.files;
    let read = |name: &str| {
        let content = files.read(name);
        let content = content.map_err(|error| crate::text::Error::ModelFile {
            file: name.to_owned(),
            message: error.to_string(),
        })?;
        Ok(content.map(Cow::into_owned))
    };
    let text = TextModel::load(&files.label(), &read, template)
        .with_context(|| format!("model {}", files.label()))?;
    Ok(ServedModel {
        id,
        names: source.names.clone(),
        limits: config.limits(),
        text,
        end_tokens: config.eos_token_ids().to_vec(),
        hidden_size: config.hidden_size(),
        fingerprint: fingerprint(files, config)?,
    })
}

/// The model's text side with the formats of answers that the operator named.
fn with_formats(text: TextModel, args: &ModelArgs) -> Result<TextModel> {
    let formats = text.formats();
    let formats = formats.with_names(&args.tool_call_parser, &args.reasoning_parser)?;
    ensure!(
        formats.tools.is_some() || !args.enable_auto_tool_choice,
        "--enable-auto-tool-choice: the model's chat template shows no tools, or calls in a format \
         that is not known; name one with --tool-call-parser"
    );
    Ok(text.with_formats(formats))
}

/// Changes with the program's version, the model's configuration and the size of its weights.
fn fingerprint(files: &ModelFiles, config: &ModelConfig) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    for name in ["config.json", "generation_config.json", "tokenizer.json"] {
        if let Some(content) = files.read(name)? {
            hash.update(name);
            hash.update(content.len().to_le_bytes());
            hash.update(&content);
        }
    }
    for name in ["model.safetensors", "model.safetensors.index.json"] {
        hash.update(files.num_bytes(name)?.unwrap_or(0).to_le_bytes());
    }
    hash.update(config.weights_bytes().to_le_bytes());
    let digest = hash.finalize();
    let number = digest.iter().take(6).fold(0u64, |number, &byte| number << 8 | u64::from(byte));
    Ok(format!("fp_{number:012x}"))
}

fn memory_options(engine: &EngineArgs, device: &Chosen) -> Result<MemoryOptions> {
    let kv_cache = match (engine.num_blocks, engine.kv_cache_memory) {
        (Some(_), Some(_)) => bail!("give --num-blocks or --kv-cache-memory, not both"),
        (Some(0), None) => bail!("--num-blocks must be at least 1"),
        // One more block than asked for: the scratch block holds no tokens.
        (Some(blocks), None) => KvCacheSize::Blocks(blocks.saturating_add(1)),
        (None, Some(bytes)) => KvCacheSize::Bytes(bytes.0),
        (None, None) => KvCacheSize::Auto,
    };
    Ok(MemoryOptions {
        block_size: engine.block_size,
        max_num_seqs: engine.max_num_seqs,
        max_num_batched_tokens: engine.max_num_batched_tokens,
        kv_cache,
        layout: device.options.layout(),
        available_bytes: device.available_bytes,
    })
}

fn engine_config(engine: &EngineArgs, configs: &[ModelConfig], plan: &MemoryPlan) -> EngineConfig {
    let limits: Vec<ModelLimits> = configs.iter().map(ModelConfig::limits).collect();
    EngineConfig {
        models: limits,
        block_size: engine.block_size,
        num_blocks: plan.num_blocks(),
        max_num_seqs: engine.max_num_seqs,
        max_num_batched_tokens: engine.max_num_batched_tokens,
        max_num_partial_prefills: engine.max_num_partial_prefills,
        long_prefill_token_threshold: engine.long_prefill_token_threshold,
        max_queued_requests: engine.max_queued_requests,
        prefix_caching: if engine.no_enable_prefix_caching {
            PrefixCaching::Off
        } else {
            PrefixCaching::On
        },
        num_host_blocks: plan.num_host_blocks,
    }
}

/// A running engine, and the thread that it runs on.
type EngineAndThread = (EngineHandle, JoinHandle<()>);

/// Loads the weights on the engine's own thread, with a bar in the terminal. Also returns what the
/// executor has to say.
fn start(
    sources: Vec<Source>,
    configs: Vec<ModelConfig>,
    (mut setup, options): (EngineSetup, RunnerOptions),
    kv_events: Option<mpsc::Sender<KvBatch>>,
) -> Result<(EngineAndThread, Vec<String>)> {
    let files = sources.into_iter().map(|source| source.files);
    let models: Vec<_> = files.zip(configs).collect();
    let (sender, notes) = std::sync::mpsc::channel();
    // Runs again after a failure, when what was loaded before is gone.
    let build = move || {
        let progress = LoadProgress::new();
        let mut show = |progress_of_load: exec::Progress<'_>| {
            progress.show(progress_of_load);
        };
        let executor = exec::load(models.clone(), &options, &mut show)?;
        progress.finish();
        // Received below, once this has returned.
        let _ = sender.send(executor.notes().to_vec());
        Ok(executor)
    };
    if let Some(batches) = kv_events {
        setup = setup.kv_events(batches);
    }
    let engine = setup.on_notice(log).spawn(build)?;
    Ok((engine, notes.recv().unwrap_or_default()))
}

/// Tells the operator what failed.
fn log(notice: &Notice<'_>) {
    if let Notice::Rebuilt { .. } = notice {
        tracing::warn!("{notice}");
    } else {
        tracing::error!("{notice}");
    }
}
