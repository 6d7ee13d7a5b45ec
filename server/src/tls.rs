//! TLS: a certificate with its key from two PEM files, and new ones in their place when they are
//! renewed. Connections that are open keep what they began with.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};

/// Protocols in the order of preference, as ALPN names them.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where certificate and key are.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate, then those that lead from it to an authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why certificate and key cannot be used; names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is no PEM.
    #[error("{}: {message}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The files do not belong together, or hold what the library does not take.
    #[error("{} with {}: {error}", files.cert.display(), files.key.display())]
    Pair {
        /// Which ones.
        files: Box<TlsFiles>,
        /// What the library says.
        error: rustls::Error,
    },
    /// The library was built without what it needs.
    #[error("TLS cannot be set up: {0}")]
    Library(rustls::Error),
}

/// What the accept loop needs for TLS.
pub struct Tls {
    files: TlsFiles,
    acceptor: TlsAcceptor,
    current: Arc<Current>,
    /// How the files were when they were last looked at.
    stamp: Mutex<Option<Stamp>>,
}

/// The certificate that new connections get.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

/// Changes when a file does.
type Stamp = [(SystemTime, u64); 2];

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read, holds no certificate or key, or they do not belong together.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let stamp = stamp(&files);
        let key = certified_key(&files, &provider)?;
        let current = Arc::new(Current(ArcSwap::from_pointee(key)));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Library)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self { files, acceptor, current, stamp: Mutex::new(stamp) })
    }

    /// Reads the files again, for connections from now on. After an error the certificate stays.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn reload(&self) -> Result<(), TlsError> {
        *self.stamp.lock().unwrap_or_else(PoisonError::into_inner) = stamp(&self.files);
        let key = certified_key(&self.files, self.acceptor.config().crypto_provider())?;
        self.current.0.store(Arc::new(key));
        Ok(())
    }

    /// Reads the files again if one has changed since the last time; returns whether it did. A
    /// file that is gone for the moment counts as unchanged.
    ///
    /// # Errors
    /// As [`load`](Self::load), once for each change.
    pub fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let before = *self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        match stamp(&self.files) {
            Some(now) if Some(now) != before => self.reload().map(|()| true),
            _ => Ok(false),
        }
    }

    /// Makes connections of sockets.
    pub(crate) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }
}

fn certified_key(files: &TlsFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let fail = |path: &Path, message: String| TlsError::File { path: path.to_owned(), message };
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect)
        .map_err(|error| fail(&files.cert, error.to_string()))?;
    if chain.is_empty() {
        return Err(fail(&files.cert, "there is no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| fail(&files.key, error.to_string()))?;
    CertifiedKey::from_der(chain, key, provider)
        .map_err(|error| TlsError::Pair { files: Box::new(files.clone()), error })
}

fn stamp(files: &TlsFiles) -> Option<Stamp> {
    let of = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    Some([of(&files.cert)?, of(&files.key)?])
}
