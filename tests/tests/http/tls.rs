//! TLS: certificates and their renewal, HTTP/1.1 and HTTP/2 by ALPN.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::Request;
use folio::listen::{Front, Socket};
use folio::tls::{Tls, TlsFiles};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::support::Server;

/// A directory with a certificate and its key, removed when dropped.
struct Files {
    directory: PathBuf,
    files: TlsFiles,
}

impl Files {
    fn new(name: &str) -> (Self, CertificateDer<'static>) {
        let directory =
            std::env::temp_dir().join(format!("folio-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let files = TlsFiles { cert: directory.join("cert.pem"), key: directory.join("key.pem") };
        let files = Self { directory, files };
        let cert = files.renew();
        (files, cert)
    }

    /// Writes another certificate with another key.
    fn renew(&self) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(&self.files.cert, made.cert.pem()).unwrap();
        std::fs::write(&self.files.key, made.signing_key.serialize_pem()).unwrap();
        made.cert.der().clone()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

async fn listen(server: &Server, tls: &Arc<Tls>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = server.app.settings.connections.clone();
    let socket = Socket { listener, limits, tls: Some(Arc::clone(tls)) };
    tokio::spawn(socket.serve(Arc::new(Front::serving(&server.app))));
    address
}

async fn connect(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

async fn get_health(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut seen = String::new();
    while !seen.ends_with('}') {
        let mut buffer = [0; 1024];
        let num = stream.read(&mut buffer).await.unwrap();
        assert!(num > 0, "closed after {seen:?}");
        seen.push_str(std::str::from_utf8(&buffer[..num]).unwrap());
    }
    seen
}

#[tokio::test]
async fn http_1_and_http_2_are_agreed_upon() {
    let server = Server::start();
    let (files, cert) = Files::new("alpn");
    let tls = Arc::new(Tls::load(files.files.clone()).unwrap());
    let address = listen(&server, &tls).await;
    for protocols in [&["http/1.1"][..], &[]] {
        let mut stream = connect(address, &cert, protocols).await.unwrap();
        let answer = get_health(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let stream = connect(address, &cert, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::post("https://localhost/v1/chat/completions")
        .header("content-type", "application/json")
        .body(())
        .unwrap();
    let (response, mut body) = client.send_request(request, false).unwrap();
    let text = r#"{"model":"echo","messages":"over two"}"#;
    body.send_data(Bytes::from_static(text.as_bytes()), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        bytes.extend_from_slice(&data.unwrap());
    }
    assert!(String::from_utf8(bytes).unwrap().contains("over two"));
    connection.abort();
}

#[tokio::test]
async fn a_renewed_certificate_is_for_new_connections() {
    let server = Server::start();
    let (files, first) = Files::new("renewal");
    let tls = Arc::new(Tls::load(files.files.clone()).unwrap());
    let address = listen(&server, &tls).await;
    let mut open = connect(address, &first, &[]).await.unwrap();
    get_health(&mut open).await;
    assert!(!tls.reload_if_changed().unwrap());
    let second = files.renew();
    // Whatever the file system's clock says, the signal has them read.
    tls.reload().unwrap();
    get_health(&mut open).await;
    connect(address, &first, &[]).await.unwrap_err();
    let mut stream = connect(address, &second, &[]).await.unwrap();
    get_health(&mut stream).await;
}

#[tokio::test]
async fn a_change_of_the_files_is_seen_and_a_bad_one_kept_out() {
    let (files, _) = Files::new("change");
    let tls = Tls::load(files.files.clone()).unwrap();
    std::fs::write(&files.files.cert, "no certificate, but of another length").unwrap();
    let error = tls.reload_if_changed().unwrap_err().to_string();
    assert!(error.contains("cert.pem"), "{error}");
    assert!(!tls.reload_if_changed().unwrap(), "said once");
    let server = Server::start();
    let tls = Arc::new(tls);
    let address = listen(&server, &tls).await;
    let cert = files.renew();
    assert!(tls.reload_if_changed().unwrap());
    get_health(&mut connect(address, &cert, &[]).await.unwrap()).await;
    std::fs::remove_file(&files.files.key).unwrap();
    assert!(!tls.reload_if_changed().unwrap(), "gone for the moment");
    get_health(&mut connect(address, &cert, &[]).await.unwrap()).await;
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let (files, _) = Files::new("bad");
    let (other, _) = Files::new("other");
    let load = |cert: &PathBuf, key: &PathBuf| {
        let files = TlsFiles { cert: cert.clone(), key: key.clone() };
        Tls::load(files).unwrap_err().to_string()
    };
    let TlsFiles { cert, key } = &files.files;
    let missing = files.directory.join("missing.pem");
    assert!(load(&missing, key).contains("missing.pem"));
    assert!(load(cert, &missing).contains("missing.pem"));
    let error = load(key, key);
    assert!(error.contains("key.pem: there is no certificate in it"), "{error}");
    let error = load(cert, cert);
    assert!(error.contains("cert.pem"), "{error}");
    let error = load(cert, &other.files.key);
    assert!(error.contains("cert.pem") && error.contains("key.pem"), "{error}");
}

#[tokio::test]
async fn a_client_without_tls_is_turned_away() {
    let server = Server::start();
    let (files, _) = Files::new("plain");
    let tls = Arc::new(Tls::load(files.files.clone()).unwrap());
    let address = listen(&server, &tls).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // An alert or a reset, but no HTTP.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}
