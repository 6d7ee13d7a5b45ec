//! `folio serve`.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use axum::http::HeaderValue;
use folio::app::{App, HttpSettings, serve};
use folio::auth::ApiKeys;
use folio::service::Service;
use folio_engine::types::ModelKind;
use tokio::net::TcpListener;

use crate::args::{HttpArgs, ServeArgs};
use crate::load::{Loaded, load};

/// Serves until a signal says stop: the first lets what runs finish, the second does not.
pub async fn run(args: ServeArgs) -> Result<()> {
    let settings = settings(&args.http)?;
    let keys = ApiKeys::new(args.http.api_key.iter().map(String::as_str));
    check_exposure(&args.http, &keys)?;
    // Bound before anything is loaded: a port in use should not cost a minute to find out.
    let address = SocketAddr::new(args.http.host, args.http.port);
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    let loaded = tokio::task::spawn_blocking(move || load(&args.models, &args.engine)).await??;
    announce(address, &loaded, &keys)?;
    let app = Arc::new(App::new(loaded.service, keys, settings));
    let mut signals = Signals::new()?;
    let server = tokio::spawn(serve(listener, Arc::clone(&app)));
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => return Ok(ended??),
        () = signals.next() => {}
    }
    app.lifecycle.drain();
    let num_active = app.lifecycle.num_active();
    say(&format!("Stopping: {num_active} requests are finishing; a second signal stops at once"))?;
    tokio::select! {
        ended = &mut server => ended??,
        () = signals.next() => say("Stopped with requests unfinished")?,
    }
    Ok(())
}

fn settings(args: &HttpArgs) -> Result<HttpSettings> {
    let origins = args.allowed_origins.iter().filter(|origin| *origin != "*");
    let origins = origins.map(|origin| {
        HeaderValue::from_str(origin).with_context(|| format!("--allowed-origins {origin:?}"))
    });
    Ok(HttpSettings {
        max_body_bytes: usize::try_from(args.max_body_size.0)?,
        allowed_origins: origins.collect::<Result<_>>()?,
        num_readers: std::thread::available_parallelism().map_or(1, usize::from),
    })
}

/// Without a key, other machines are kept out unless the operator says otherwise.
fn check_exposure(args: &HttpArgs, keys: &ApiKeys) -> Result<()> {
    ensure!(args.api_key.iter().all(|key| !key.is_empty()), "--api-key is empty");
    ensure!(
        !keys.is_open() || args.host.is_loopback() || args.allow_unauthenticated,
        "--host {} lets other machines in, but there is no --api-key: give one, or \
         --allow-unauthenticated",
        args.host
    );
    Ok(())
}

fn announce(address: SocketAddr, loaded: &Loaded, keys: &ApiKeys) -> Result<()> {
    for note in &loaded.notes {
        say(&format!("Note: {note}"))?;
    }
    let models = loaded.service.models.all().iter().map(|model| {
        let kind = match model.limits.kind {
            ModelKind::Decoder => "chat",
            ModelKind::Encoder => "embeddings",
        };
        format!("{} ({kind})", model.names.join(" = "))
    });
    say(&format!("Models: {}", models.collect::<Vec<_>>().join(", ")))?;
    say(&format!("Memory: {}", loaded.plan))?;
    say(&format!("Listening on http://{address}"))?;
    say(&format!("Try: {}", example(address, &loaded.service, keys)))
}

/// A command that shows the server at work.
fn example(address: SocketAddr, service: &Service, keys: &ApiKeys) -> String {
    let key = if keys.is_open() { "" } else { " -H 'authorization: Bearer KEY'" };
    let (path, model, field) = match service.models.first_of(ModelKind::Decoder) {
        Some(model) => ("chat/completions", model.name(), "messages"),
        None => match service.models.first_of(ModelKind::Encoder) {
            Some(model) => ("embeddings", model.name(), "input"),
            None => ("models", "", "input"),
        },
    };
    format!(
        "curl -s http://{address}/v1/{path}{key} -H 'content-type: application/json' \
         -d '{{\"model\": \"{model}\", \"{field}\": \"Hello!\"}}'"
    )
}

fn say(line: &str) -> Result<()> {
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
