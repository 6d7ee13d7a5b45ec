//! `folio serve`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::app::{App, HttpSettings, MetricsAccess};
use crate::body::BodyLimits;
use crate::keys::KeyRing;
use crate::kv_events::{KvEventsConfig, Publisher};
use crate::listen::{ConnectionLimits, Front, Socket};
use crate::policy::Policies;
use crate::responses::StoreLimits;
use crate::routes::page::PageMode;
use crate::service::Service;
use crate::telemetry::{self, Tracer};
use anyhow::{Context, Result, anyhow, ensure};
use axum::http::{HeaderValue, Uri};
use folio_engine::sched::KvBatch;
use folio_engine::types::ModelKind;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::reload::{HangUps, KeyFile, Reloadable, key_ring, tls};
use crate::args::{HttpArgs, LimitArgs, Seconds, ServeArgs, TelemetryArgs};
use crate::load::{self, Listeners, Loaded, Scheduling, load_telling};

/// Time for the last words of requests that are cut off.
const CUTTING_TIME: Duration = Duration::from_secs(3);
/// Time that the last spans have to reach the collector.
const FLUSH_TIME: Duration = Duration::from_secs(2);
/// Smallest head that every client of a browser's kind fits in, and that the reader can hold.
const MIN_HEADER_BYTES: u64 = 8 << 10;
/// Smallest decision log that is worth its name.
const MIN_LOG_BYTES: u64 = 1 << 20;

/// Serves until a signal says stop: the first lets what runs finish as long as there is time for
/// it, the second ends at once.
pub(crate) async fn run(args: ServeArgs, policies: &Policies) -> Result<()> {
    start_log(&args.telemetry)?;
    let settings = settings(&args.http)?;
    check_keys(&args.http.access.api_key)?;
    let scheduling = Scheduling::choose(policies, &args.engine)?;
    let key_file = KeyFile::new(&args.http.access);
    let keys = key_ring(&args.http.access, key_file.as_ref(), scheduling.priority_use())?;
    check_exposure(&args.http, &keys)?;
    let tls = tls(&args.http.tls)?;
    // Bound before anything is loaded: a port in use should not cost a minute to find out.
    let address = SocketAddr::new(args.http.host, args.http.port);
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    let mut signals = Signals::new()?;
    let hang_ups = HangUps::new(key_file.is_some() || tls.is_some())?;
    let front = Arc::new(Front::loading());
    let socket = Socket { listener, limits: settings.connections.clone(), tls: tls.clone() };
    let server = tokio::spawn(socket.serve(Arc::clone(&front)));
    say(&format!("Bound to {address}; loading the models"))?;
    let drain_timeout = args.http.drain_timeout.0;
    let kv_events =
        publish(args.telemetry.kv_events_config.as_ref(), args.engine.block_size).await?;
    let decision_log = decision_log(&args.telemetry)?;
    let listeners = Listeners { kv_events, decision_log };
    let loading = move || load_telling(&args.models, &args.engine, scheduling, listeners);
    let loading = tokio::task::spawn_blocking(loading);
    let loaded = tokio::select! {
        loaded = loading => loaded??,
        () = signals.next() => return say("Stopped while loading"),
    };
    let Loaded { mut service, device, plan, notes } = loaded;
    if let Some(endpoint) = &args.telemetry.otlp_traces_endpoint {
        let tracer = Tracer::start(endpoint, &service.metrics);
        service.trace_to(tracer.context("--otlp-traces-endpoint")?);
    }
    let app = Arc::new(App::new(service, keys, settings));
    front.open(&app);
    let scheme = if tls.is_some() { "https" } else { "http" };
    let reloadable = Reloadable { app: Arc::clone(&app), key_file, tls };
    tokio::spawn(reloadable.watch(hang_ups));
    let service = Arc::clone(&app.service);
    tokio::spawn(async move { service.policy.watch_shadow(&service.engine).await });
    announce(
        &format!("{scheme}://{address}"),
        &app,
        &[("Device", device), ("Memory", plan)],
        &notes,
    )?;
    let ended = end(&app, server, signals, drain_timeout).await;
    if let Some(tracer) = app.service.tracer() {
        tracer.flush(FLUSH_TIME).await;
    }
    if let Some(log) = app.service.decisions().cloned() {
        tokio::task::spawn_blocking(move || log.flush(FLUSH_TIME)).await?;
    }
    ended
}

/// The file of the decision log with its limit, if there is to be one.
fn decision_log(args: &TelemetryArgs) -> Result<Option<(PathBuf, u64)>> {
    let max_bytes = args.decision_log_max_bytes.0;
    ensure!(
        max_bytes >= MIN_LOG_BYTES,
        "--decision-log-max-bytes is {max_bytes} and must be at least {MIN_LOG_BYTES}"
    );
    Ok(args.decision_log.clone().map(|path| (path, max_bytes)))
}

/// Waits for a signal, and stops; or for the engine's end, which is a failure.
async fn end(
    app: &App,
    server: JoinHandle<()>,
    mut signals: Signals,
    drain_timeout: Duration,
) -> Result<()> {
    let failure = tokio::select! {
        () = signals.next() => return stop(app, server, signals, drain_timeout).await,
        failure = app.service.engine_failed() => failure,
    };
    app.lifecycle.drain();
    // Clients read of it before the program ends.
    let _ = tokio::time::timeout(CUTTING_TIME, server).await;
    Err(anyhow!(failure))
}

/// Publishes KV-cache events if `config` says so; the engine sends them into what this returns.
async fn publish(
    config: Option<&KvEventsConfig>,
    block_size: u32,
) -> Result<Option<mpsc::Sender<KvBatch>>> {
    let Some(config) = config.filter(|config| config.is_on()) else { return Ok(None) };
    let publisher = Publisher::bind(config, block_size).await.context("--kv-events-config")?;
    let (batches, receiver) = mpsc::channel(config.max_queue_size);
    tokio::spawn(publisher.run(receiver));
    say(&format!("KV-cache events on {}", config.endpoint))?;
    Ok(Some(batches))
}

/// Takes no more requests and ends when those that run have ended, when their time is over, or at
/// the next signal.
async fn stop(
    app: &App,
    mut server: JoinHandle<()>,
    mut signals: Signals,
    drain_timeout: Duration,
) -> Result<()> {
    app.lifecycle.drain();
    say(&format!(
        "Stopping when all work is done (requests: {}), within {} seconds; a second signal stops \
         at once",
        app.lifecycle.num_active(),
        drain_timeout.as_secs_f64()
    ))?;
    tokio::select! {
        ended = &mut server => return Ok(ended?),
        () = signals.next() => return say("Stopped with requests unfinished"),
        () = tokio::time::sleep(drain_timeout) => {}
    }
    let num_active = app.lifecycle.num_active();
    say(&format!("The time to drain is over: cutting off what runs (requests: {num_active})"))?;
    app.service.cut.cut();
    tokio::select! {
        ended = &mut server => Ok(ended?),
        () = signals.next() => say("Stopped with requests unfinished"),
        () = tokio::time::sleep(CUTTING_TIME) => Ok(()),
    }
}

/// From now on events go to the standard error stream; what the standard output says is for the
/// scripts that start the server.
fn start_log(args: &TelemetryArgs) -> Result<()> {
    let filter = args.log_level.parse().context("--log-level")?;
    let subscriber = telemetry::subscriber(args.log_format.into(), filter, std::io::stderr);
    tracing::subscriber::set_global_default(subscriber).context("the log was started twice")
}

/// Whether [`run`] could start with these settings, and what it would serve.
pub(crate) fn check(args: &ServeArgs, policies: &Policies) -> Result<Vec<String>> {
    let _: tracing_subscriber::EnvFilter =
        args.telemetry.log_level.parse().context("--log-level")?;
    settings(&args.http)?;
    check_keys(&args.http.access.api_key)?;
    let scheduling = Scheduling::choose(policies, &args.engine)?;
    let key_file = KeyFile::new(&args.http.access);
    let keys = key_ring(&args.http.access, key_file.as_ref(), scheduling.priority_use())?;
    tls(&args.http.tls)?;
    decision_log(&args.telemetry)?;
    check_exposure(&args.http, &keys)?;
    load::check(&args.models, &args.engine)
}

fn settings(args: &HttpArgs) -> Result<HttpSettings> {
    Ok(HttpSettings {
        body: body_limits(&args.limits)?,
        connections: connection_limits(&args.limits)?,
        allowed_origins: allowed_origins(&args.allowed_origins)?,
        metrics: if args.access.allow_unauthenticated_metrics {
            MetricsAccess::Open
        } else {
            MetricsAccess::Keys
        },
        responses: StoreLimits {
            max_count: args.max_stored_responses,
            max_bytes: usize::try_from(args.max_stored_response_bytes.0)?,
        },
        page: if args.no_ui { PageMode::Off } else { PageMode::Served },
        ..HttpSettings::default()
    })
}

fn body_limits(args: &LimitArgs) -> Result<BodyLimits> {
    let (max_bytes, max_total) = (args.max_body_size.0, args.max_total_body_size.0);
    ensure!(max_bytes > 0, "--max-body-size is 0 and must be at least 1 byte");
    ensure!(
        max_total >= max_bytes,
        "--max-total-body-size is {max_total} bytes and must be at least --max-body-size, which \
         is {max_bytes}"
    );
    Ok(BodyLimits {
        max_bytes: usize::try_from(max_bytes)?,
        max_total_bytes: usize::try_from(max_total)?,
        timeout: positive("--body-timeout", args.body_timeout)?,
        min_bytes_per_second: args.min_body_rate.0,
    })
}

fn connection_limits(args: &LimitArgs) -> Result<ConnectionLimits> {
    let max_head_bytes = args.max_header_size.0;
    ensure!(
        max_head_bytes >= MIN_HEADER_BYTES,
        "--max-header-size is {max_head_bytes} bytes and must be at least {MIN_HEADER_BYTES}"
    );
    Ok(ConnectionLimits {
        max_connections: args.max_connections as usize,
        head_timeout: positive("--header-timeout", args.header_timeout)?,
        idle_timeout: positive("--keep-alive-timeout", args.keep_alive_timeout)?,
        stall_timeout: positive("--read-timeout", args.read_timeout)?,
        max_head_bytes: usize::try_from(max_head_bytes)?,
        max_streams: args.max_streams_per_connection,
    })
}

fn positive(flag: &str, seconds: Seconds) -> Result<Duration> {
    ensure!(!seconds.0.is_zero(), "{flag} is 0 and must be longer");
    Ok(seconds.0)
}

/// The origins, none for all of them; each as browsers write it.
fn allowed_origins(origins: &[String]) -> Result<Vec<HeaderValue>> {
    if origins == ["*"] {
        return Ok(Vec::new());
    }
    let is_origin = |uri: &Uri, text: &str| {
        let parts = uri.scheme_str().zip(uri.authority());
        parts.is_some_and(|(scheme, authority)| {
            format!("{scheme}://{authority}") == text && !text.contains(['@', '*'])
        })
    };
    let origins = origins.iter().map(|origin| {
        let uri = origin.parse().ok().filter(|uri| is_origin(uri, origin));
        ensure!(
            uri.is_some(),
            "--allowed-origins {origin:?} must be like https://app.example or \
             http://localhost:3000, without a path, or * alone for all"
        );
        Ok(HeaderValue::from_str(origin)?)
    });
    origins.collect()
}

/// Clients could not send a key with white space in it.
fn check_keys(keys: &[String]) -> Result<()> {
    for (key, number) in keys.iter().zip(1..) {
        ensure!(!key.is_empty(), "--api-key: key {number} of {} is empty", keys.len());
        ensure!(
            !key.chars().any(|c| c.is_whitespace() || c.is_control()),
            "--api-key: key {number} of {} has white space or control characters in it",
            keys.len()
        );
    }
    Ok(())
}

/// Without a key, other machines are kept out unless the operator says otherwise.
fn check_exposure(args: &HttpArgs, keys: &KeyRing) -> Result<()> {
    ensure!(
        !keys.is_open() || args.host.is_loopback() || args.access.allow_unauthenticated,
        "--host {} lets other machines in, but there is no --api-key or --api-key-file: give \
         one, or --allow-unauthenticated",
        args.host
    );
    Ok(())
}

fn announce(origin: &str, app: &App, facts: &[(&str, String)], notes: &[String]) -> Result<()> {
    for note in notes {
        say(&format!("Note: {note}"))?;
    }
    say(&format!("Models: {}", app.service.models.describe()))?;
    for (name, fact) in facts {
        say(&format!("{name}: {fact}"))?;
    }
    say(&format!("Listening on {origin}"))?;
    say(&format!("Try: {}", example(origin, &app.service, &app.keys)))
}

/// A command that shows the server at work.
fn example(origin: &str, service: &Service, keys: &KeyRing) -> String {
    let key = if keys.is_open() { "" } else { " -H 'authorization: Bearer KEY'" };
    let (path, model, field) = match service.models.first_of(ModelKind::Decoder) {
        Some(model) => ("chat/completions", model.name(), "messages"),
        None => match service.models.first_of(ModelKind::Encoder) {
            Some(model) => ("embeddings", model.name(), "input"),
            None => ("models", "", "input"),
        },
    };
    format!(
        "curl -s {origin}/v1/{path}{key} -H 'content-type: application/json' \
         -d '{{\"model\": \"{model}\", \"{field}\": \"Hello!\"}}'"
    )
}

pub(super) fn say(line: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    Ok(output.flush()?)
}

/// Ctrl-C and, where there is one, the polite signal of service managers.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?,
        })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = self.terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use folio_engine::sched::{PriorityUse, Registry};

    use super::*;
    use crate::args::{Cli, Command};

    fn check(args: &[&str]) -> Result<HttpSettings> {
        let args = ["folio", "serve"].iter().chain(args).map(OsString::from);
        let Command::Serve(args) = Cli::read(args, &Registry::builtin())?.command else {
            panic!("not serve");
        };
        check_keys(&args.http.access.api_key)?;
        let key_file = KeyFile::new(&args.http.access);
        let keys = key_ring(&args.http.access, key_file.as_ref(), PriorityUse::Read)?;
        check_exposure(&args.http, &keys)?;
        settings(&args.http)
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        for (arg, expected) in [
            ("--max-body-size=0", "--max-body-size"),
            ("--max-body-size=2GiB", "--max-total-body-size"),
            ("--max-header-size=4KiB", "at least 8192"),
            ("--max-connections=0", "--max-connections"),
            ("--header-timeout=0", "--header-timeout"),
            ("--body-timeout=-1", "--body-timeout"),
            ("--drain-timeout=soon", "--drain-timeout"),
            ("--api-key=", "key 1 of 1 is empty"),
            ("--api-key=a,b c", "key 2 of 2 has white space"),
            ("--api-key=a\n", "white space"),
            ("--allowed-origins=app.example", "https://app.example"),
            ("--allowed-origins=https://app.example/", "without a path"),
            ("--allowed-origins=https://app.example/x", "without a path"),
            ("--allowed-origins=nonsense", "\"nonsense\""),
            ("--allowed-origins=", "\"\""),
            ("--allowed-origins=*,https://app.example", "* alone"),
            ("--host=0.0.0.0", "--allow-unauthenticated"),
        ] {
            let error = check(&[arg]).unwrap_err().to_string();
            assert!(error.contains(expected), "{arg}: {error}");
        }
    }

    #[test]
    fn origins_are_taken_as_browsers_write_them() {
        let origins = ["https://app.example", "http://localhost:3000", "http://[::1]:8080"];
        let settings = check(&["--allowed-origins", &origins.join(",")]).unwrap();
        assert_eq!(settings.allowed_origins, origins);
        assert!(check(&["--allowed-origins=*"]).unwrap().allowed_origins.is_empty());
        check(&["--api-key=sk-1,sk-2", "--host=0.0.0.0"]).unwrap();
    }
}
