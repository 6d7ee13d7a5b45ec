//! Files that may change while the server runs: keys, certificates.
//!
//! They are read again on SIGHUP; certificates also when the files change. A file that cannot be
//! used changes nothing, and what is wrong with it is said.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::keys::{self, KeyRing, KeySpec};
use crate::tls::{Tls, TlsFiles};
use anyhow::{Context, Result, ensure};
use folio_engine::sched::PriorityUse;
use tokio::time::MissedTickBehavior;

use super::serve::say;
use crate::args::{AccessArgs, TlsArgs};

/// How often certificates are looked at.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(10);

/// The file of keys.
#[derive(Clone, Debug)]
pub(super) struct KeyFile {
    path: PathBuf,
}

impl KeyFile {
    /// The file that the arguments name, if they do.
    pub(super) fn new(args: &AccessArgs) -> Option<Self> {
        args.api_key_file.clone().map(|path| Self { path })
    }

    /// Reads it; also returns what is to be said about it. A key that sets a priority would be
    /// misunderstood where `priorities` are ignored.
    fn read(&self, priorities: PriorityUse) -> Result<(Vec<KeySpec>, Option<String>)> {
        let path = self.path.display();
        let read = || -> Result<Vec<KeySpec>> {
            let text = std::fs::read_to_string(&self.path)?;
            let specs = keys::parse(&text).map_err(anyhow::Error::msg)?;
            for spec in &specs {
                let is_set = |priority: Option<i32>| priority.is_some_and(|number| number != 0);
                ensure!(
                    priorities == PriorityUse::Read
                        || !(is_set(spec.priority) || is_set(spec.most_urgent)),
                    "key {:?} sets a priority, which changes nothing without \
                     --scheduling-policy priority",
                    spec.name
                );
            }
            Ok(specs)
        };
        let specs = read().with_context(|| format!("--api-key-file {path}"))?;
        let warning = is_exposed(&self.path).then(|| {
            format!("Warning: others may read or change {path}; chmod 600 would keep them out")
        });
        Ok((specs, warning))
    }
}

/// Whether users beside the owner and the group may read it, or beside the owner change it.
#[cfg(unix)]
fn is_exposed(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(path);
    metadata.is_ok_and(|metadata| metadata.permissions().mode() & 0o026 != 0)
}

#[cfg(not(unix))]
fn is_exposed(_: &Path) -> bool {
    false
}

/// The keys of the command line and of the file.
pub(super) fn key_ring(
    args: &AccessArgs,
    file: Option<&KeyFile>,
    priorities: PriorityUse,
) -> Result<KeyRing> {
    let keys = KeyRing::new(args.api_key.iter().map(String::as_str)).context("--api-key")?;
    let Some(file) = file else {
        return Ok(keys);
    };
    let (specs, warning) = file.read(priorities)?;
    if let Some(warning) = warning {
        say(&warning)?;
    }
    keys.with_file(&specs).with_context(|| format!("--api-key-file {}", file.path.display()))
}

/// The certificate and key that the arguments name, if they do.
pub(super) fn tls(args: &TlsArgs) -> Result<Option<Arc<Tls>>> {
    match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => {
            let files = TlsFiles { cert: cert.clone(), key: key.clone() };
            Ok(Some(Arc::new(Tls::load(files).context("--tls-cert, --tls-key")?)))
        }
        _ => Ok(None),
    }
}

/// What can be read again.
pub(super) struct Reloadable {
    /// Who holds the keys.
    pub(super) app: Arc<App>,
    /// Where they come from.
    pub(super) key_file: Option<KeyFile>,
    /// Certificate and key.
    pub(super) tls: Option<Arc<Tls>>,
}

impl Reloadable {
    /// Waits for reasons to read the files again, for ever.
    pub(super) async fn watch(self, mut hang_ups: HangUps) -> Result<()> {
        let mut ticks = tokio::time::interval(CERTIFICATE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = hang_ups.next() => self.reload()?,
                _ = ticks.tick() => if let Some(tls) = &self.tls {
                    tell("certificate", tls.reload_if_changed().map_err(Into::into))?;
                },
            }
        }
    }

    fn reload(&self) -> Result<()> {
        if let Some(file) = &self.key_file {
            tell("keys", self.reload_keys(file))?;
        }
        match &self.tls {
            Some(tls) => tell("certificate", tls.reload().map(|()| true).map_err(Into::into)),
            None => Ok(()),
        }
    }

    fn reload_keys(&self, file: &KeyFile) -> Result<bool> {
        let (specs, warning) = file.read(self.app.service.policy.priority_use())?;
        self.app.keys.replace(&specs)?;
        if let Some(warning) = warning {
            say(&warning)?;
        }
        Ok(true)
    }
}

/// Says what came of reading a file again, if anything did.
fn tell(what: &str, outcome: Result<bool>) -> Result<()> {
    match outcome {
        Ok(true) => say(&format!("Read again: {what}")),
        Ok(false) => Ok(()),
        Err(error) => say(&format!("Kept the {what} as before: {error:#}")),
    }
}

/// SIGHUP. It is left alone where there is nothing to read again, so that the server ends with its
/// terminal.
pub(super) struct HangUps {
    #[cfg(unix)]
    signal: Option<tokio::signal::unix::Signal>,
}

impl HangUps {
    /// Takes the signal, if it is wanted.
    #[cfg(unix)]
    pub(super) fn new(is_wanted: bool) -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let signal = is_wanted.then(|| signal(SignalKind::hangup())).transpose()?;
        Ok(Self { signal })
    }

    /// There is no such signal.
    #[cfg(not(unix))]
    pub(super) fn new(_: bool) -> Result<Self> {
        Ok(Self {})
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        if let Some(signal) = &mut self.signal
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}
