//! The accept loop: from a socket to requests, with a bound on everything a client can hold.
//!
//! A connection is one task. It counts against the limit from the moment it is accepted, so that
//! a slow TLS handshake holds a place like a slow request does. What a client may hold open, and
//! for how long, is watched by `watch`; who answers is said by [`Front`].

mod answer;
mod front;
mod request;
mod watch;

pub use front::Front;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch as channel};
use tokio::task::JoinSet;

use crate::tls::Tls;

use self::answer::Answer;
use self::request::Lingering;
use self::watch::{InFlight, Verdict, Watch, WatchedIo};

/// Time that open connections have to end by themselves once all work is done.
const CLOSING_TIME: Duration = Duration::from_secs(2);
/// Time that a connection has to end by itself once its own time is over.
const PARTING_TIME: Duration = Duration::from_secs(1);
/// Pause after an error that the next `accept` would meet again, such as no file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections beyond the limit that are told so; those beyond these are closed without a word.
const MAX_REFUSALS: usize = 64;
/// Streams of one HTTP/2 connection that the client reset before they were accepted.
const MAX_PENDING_RESETS: usize = 20;
/// Streams of one HTTP/2 connection that the server reset for the client's errors.
const MAX_ERROR_RESETS: usize = 64;
/// Bytes of one HTTP/2 stream that wait for the client's window.
const MAX_SEND_BYTES: usize = 128 << 10;

/// What one connection, and all of them together, may hold.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Connections that are open at the same time.
    pub max_connections: usize,
    /// Time from the opening of a connection, or the first byte of a request, to the end of the
    /// request's head. The TLS handshake has as much again.
    pub head_timeout: Duration,
    /// How long a connection without a request is kept.
    pub idle_timeout: Duration,
    /// How long a client may read nothing of an answer that is there.
    pub stall_timeout: Duration,
    /// Bytes of a request's head; over HTTP/1 at least 8192.
    pub max_head_bytes: usize,
    /// Requests at the same time on one HTTP/2 connection.
    pub max_streams: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(120),
            max_head_bytes: 64 << 10,
            max_streams: 256,
        }
    }
}

/// Where connections come from.
#[derive(Debug)]
pub struct Socket {
    /// Accepts them.
    pub listener: TcpListener,
    /// What they may hold.
    pub limits: ConnectionLimits,
    /// How they are encrypted, if they are.
    pub tls: Option<Arc<Tls>>,
}

/// What the tasks of all connections share.
struct Shared {
    front: Arc<Front>,
    limits: ConnectionLimits,
    tls: Option<Arc<Tls>>,
    builder: Builder<TokioExecutor>,
    /// Turns true when connections should end.
    is_closing: channel::Sender<bool>,
}

impl Socket {
    /// Serves `front` until it says that all is drained. Connections that are still open then,
    /// idle or stuck, get a moment for the last bytes.
    pub async fn serve(self, front: Arc<Front>) {
        let (is_closing, _) = channel::channel(false);
        let shared = Arc::new(Shared {
            builder: builder(&self.limits),
            limits: self.limits,
            tls: self.tls,
            front: Arc::clone(&front),
            is_closing,
        });
        let places = Arc::new(Semaphore::new(
            shared.limits.max_connections.clamp(1, Semaphore::MAX_PERMITS),
        ));
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        let mut connections = JoinSet::new();
        let mut drained = pin!(front.drained());
        loop {
            let accepted = tokio::select! {
                () = &mut drained => break,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !is_of_one_connection(&error) {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            };
            let shared = Arc::clone(&shared);
            if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                connections.spawn(shared.connection(stream, peer, (place, Place::Regular)));
            } else if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
                connections.spawn(shared.connection(stream, peer, (place, Place::Refusal)));
            }
        }
        drop(self.listener);
        shared.is_closing.send_replace(true);
        let all_closed = async { while connections.join_next().await.is_some() {} };
        // What is open after that is cut off with the set.
        let _ = tokio::time::timeout(CLOSING_TIME, all_closed).await;
    }
}

/// Which kind of place a connection has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Its requests are served.
    Regular,
    /// There are too many connections: it is told so.
    Refusal,
}

impl Shared {
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        (permit, place): (OwnedSemaphorePermit, Place),
    ) {
        // Small events must not wait for more to send; a failure costs only latency.
        let _ = stream.set_nodelay(true);
        match &self.tls {
            None => self.requests(stream, peer, place).await,
            Some(tls) => {
                let handshake = tls.acceptor().accept(stream);
                let stream = tokio::time::timeout(self.limits.head_timeout, handshake).await;
                if let Ok(Ok(stream)) = stream {
                    self.requests(stream, peer, place).await;
                }
            }
        }
        drop(permit);
    }

    /// Serves the requests of one connection until it ends or its time is over.
    async fn requests<S>(&self, stream: S, peer: SocketAddr, place: Place)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let watch = Arc::new(Watch::new(&self.limits));
        let io = TokioIo::new(WatchedIo::new(stream, Arc::clone(&watch)));
        let (front, watch_of_requests) = (Arc::clone(&self.front), Arc::clone(&watch));
        let service = service_fn(move |request: Request<Incoming>| {
            let in_flight = watch_of_requests.enter(request.version());
            respond(Arc::clone(&front), request, (peer, place), in_flight)
        });
        let mut connection = pin!(self.builder.serve_connection(io, service));
        let mut is_closing = self.is_closing.subscribe();
        let mut ticks = tokio::time::interval(watch.tick());
        loop {
            tokio::select! {
                _ = connection.as_mut() => return,
                // The sender lives as long as `self`.
                () = async { drop(is_closing.wait_for(|closing| *closing).await) } => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                    return;
                }
                _ = ticks.tick() => if watch.verdict() == Verdict::Over {
                    connection.as_mut().graceful_shutdown();
                    let _ = tokio::time::timeout(PARTING_TIME, connection).await;
                    return;
                }
            }
        }
    }
}

async fn respond(
    front: Arc<Front>,
    request: Request<Incoming>,
    (peer, place): (SocketAddr, Place),
    in_flight: InFlight,
) -> Result<Response<Answer>, Infallible> {
    let mut request = request.map(|incoming| Body::new(Lingering::new(incoming)));
    request.extensions_mut().insert(ConnectInfo(peer));
    let response = match place {
        Place::Regular => front.answer(request).await?,
        Place::Refusal => front.refuse(request).await?,
    };
    Ok(response.map(|body| Answer::new(body, in_flight)))
}

fn builder(limits: &ConnectionLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Watched here, where waiting for a request and waiting for its end are told apart.
        .header_read_timeout(None)
        .max_buf_size(limits.max_head_bytes.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .max_send_buf_size(MAX_SEND_BYTES)
        .keep_alive_interval(limits.idle_timeout)
        .keep_alive_timeout(limits.head_timeout);
    builder
}

/// Whether an error of `accept` is about the connection that came, not about the listener.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
    )
}
