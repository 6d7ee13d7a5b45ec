//! `folio serve`.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use axum::http::{HeaderValue, Uri};
use folio::app::{App, HttpSettings, serve};
use folio::auth::ApiKeys;
use folio::routes::page::PageMode;
use folio::service::Service;
use folio_engine::types::ModelKind;
use tokio::net::TcpListener;

use crate::args::{HttpArgs, ServeArgs};
use crate::load::{Loaded, load};

/// Serves until a signal says stop: the first lets what runs finish, the second does not.
pub(crate) async fn run(args: ServeArgs) -> Result<()> {
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
    say(&format!(
        "Stopping when all work is done (requests: {num_active}); a second signal stops at once"
    ))?;
    tokio::select! {
        ended = &mut server => ended??,
        () = signals.next() => say("Stopped with requests unfinished")?,
    }
    Ok(())
}

fn settings(args: &HttpArgs) -> Result<HttpSettings> {
    ensure!(args.max_body_size.0 > 0, "--max-body-size is 0 and must be at least 1 byte");
    Ok(HttpSettings {
        max_body_bytes: usize::try_from(args.max_body_size.0)?,
        allowed_origins: allowed_origins(&args.allowed_origins)?,
        num_readers: std::thread::available_parallelism().map_or(1, usize::from),
        page: if args.no_ui { PageMode::Off } else { PageMode::Served },
    })
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
fn check_exposure(args: &HttpArgs, keys: &ApiKeys) -> Result<()> {
    check_keys(&args.api_key)?;
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
    say(&format!("Device: {}", loaded.device))?;
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

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::args::{Cli, Command};

    fn check(args: &[&str]) -> Result<HttpSettings> {
        let args = ["folio", "serve"].iter().chain(args).map(OsString::from);
        let Command::Serve(args) = Cli::read(args)?.command else {
            panic!("not serve");
        };
        let keys = ApiKeys::new(args.http.api_key.iter().map(String::as_str));
        check_exposure(&args.http, &keys)?;
        settings(&args.http)
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        for (arg, expected) in [
            ("--max-body-size=0", "--max-body-size"),
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
