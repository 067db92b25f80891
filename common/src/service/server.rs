//! The gRPC server of both daemons: listeners over TCP or in memory, health, reflection and connection limits.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::error::{Error, Reason, Result};

/// Maximum number of open HTTP/2 streams per connection.
const STREAMS_PER_CONNECTION: u32 = 4096;
/// How long calls in progress may run after a shutdown began.
pub const DRAIN: Duration = Duration::from_secs(10);

/// The stream of messages with which an RPC responds.
pub type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The source of a daemon's connections.
#[derive(Debug)]
pub enum Listener {
    /// A TCP socket.
    Tcp(TcpListener),
    /// Connections that a [`MemoryConnector`] opens inside this process.
    Memory(mpsc::Receiver<DuplexStream>),
}

impl Listener {
    /// Listens on a TCP address. If the port is 0, the system chooses a free one.
    pub async fn bind(address: SocketAddr) -> Result<Listener> {
        let listener = TcpListener::bind(address).await;
        listener.map(Listener::Tcp).map_err(|e| Error::io(format_args!("cannot listen on {address}"), &e))
    }

    /// Splits a TCP listener into two that share one address, for two servers that follow each other.
    ///
    /// A client that connects between the two waits in the socket's backlog. Fails for a [`Listener::Memory`].
    pub fn split(self) -> Result<(Listener, Listener)> {
        let Listener::Tcp(listener) = self else {
            return Err(Error::new(Reason::Internal, "cannot split a listener: it is not a TCP listener"));
        };
        let split = || {
            let first = listener.into_std()?;
            let second = first.try_clone()?;
            Ok((TcpListener::from_std(first)?, TcpListener::from_std(second)?))
        };
        let halves: io::Result<_> = split();
        let (first, second) = halves.map_err(|e| Error::io("cannot split a listener", &e))?;
        Ok((Listener::Tcp(first), Listener::Tcp(second)))
    }

    /// A listener inside this process, and the connector that opens connections to it.
    pub fn memory() -> (MemoryConnector, Listener) {
        let (sender, receiver) = mpsc::channel(16);
        (MemoryConnector(sender), Listener::Memory(receiver))
    }

    /// The TCP address; `None` for a [`Listener::Memory`].
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Memory(_) => None,
        }
    }
}

/// Opens connections to a daemon in this process.
#[derive(Debug, Clone)]
pub struct MemoryConnector(mpsc::Sender<DuplexStream>);

impl MemoryConnector {
    /// Opens a connection. Fails with `ConnectionRefused` if the daemon has stopped.
    pub async fn connect(&self) -> io::Result<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let gone =
            |_| io::Error::new(io::ErrorKind::ConnectionRefused, "the daemon in this process has stopped");
        self.0.send(theirs).await.map_err(gone)?;
        Ok(ours)
    }
}

/// Serves gRPC, health and reflection until `shutdown` is cancelled.
///
/// After that the server takes no new call, and cuts calls that are still open after 10 seconds.
pub async fn serve<H: Health>(
    listener: Listener,
    routes: RoutesBuilder,
    health: HealthServer<H>,
    shutdown: CancellationToken,
) -> Result<()> {
    let internal = |e: &dyn std::fmt::Display| Error::new(Reason::Internal, format!("gRPC server: {e}"));
    let reflection =
        |bytes| tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(bytes);
    let descriptors =
        |bytes| reflection(bytes).register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let mut routes = routes;
    routes.add_service(health);
    routes.add_service(descriptors(driftdb::FILE_DESCRIPTOR_SET).build_v1().map_err(|e| internal(&e))?);
    routes.add_service(descriptors(driftdb::FILE_DESCRIPTOR_SET).build_v1alpha().map_err(|e| internal(&e))?);
    let router = Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .http2_max_pending_accept_reset_streams(Some(64))
        .add_routes(routes.routes());
    let stop = shutdown.clone();
    let serving =
        router.serve_with_incoming_shutdown(Incoming(listener), async move { stop.cancelled().await });
    let drained = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served.map_err(|e| internal(&e)),
        () = drained => {
            tracing::warn!("cut the calls that were still open {DRAIN:?} after the shutdown began");
            Ok(())
        }
    }
}

/// The health service of a daemon that serves `S`: SERVING until `shutdown` is cancelled, then NOT_SERVING.
pub async fn health<S: NamedService>(shutdown: CancellationToken) -> HealthServer<impl Health> {
    health_while::<S>(watch::channel(true).1, shutdown).await
}

/// Like [`health`], but also NOT_SERVING while `ready` is false. The server as a whole (the empty service name) stays
/// SERVING, because the process is alive.
pub async fn health_while<S: NamedService>(
    mut ready: watch::Receiver<bool>,
    shutdown: CancellationToken,
) -> HealthServer<impl Health> {
    let (reporter, server) = tonic_health::server::health_reporter();
    let report = async move |serving: bool| match serving {
        true => reporter.set_serving::<S>().await,
        false => reporter.set_not_serving::<S>().await,
    };
    let now = *ready.borrow_and_update();
    report(now).await;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return report(false).await,
                Ok(()) = ready.changed() => {
                    let now = *ready.borrow_and_update();
                    report(now).await;
                }
            }
        }
    });
    server
}

/// The health service of a daemon that waits to serve `S`: NOT_SERVING until `over` is cancelled, then unknown.
pub async fn standby_health<S: NamedService>(over: CancellationToken) -> HealthServer<impl Health> {
    let (mut reporter, server) = tonic_health::server::health_reporter();
    reporter.set_not_serving::<S>().await;
    tokio::spawn(async move {
        over.cancelled().await;
        // This ends the clients' Watch streams: the clients call again and reach the server that took over.
        reporter.clear_service_status(S::NAME).await;
    });
    server
}

/// Accepted connections, as a stream.
struct Incoming(Listener);

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.0 {
            Listener::Tcp(listener) => match listener.poll_accept(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok((stream, _))) => {
                    // Responses are small, and clients wait for them: do not delay them to fill packets.
                    let _ = stream.set_nodelay(true);
                    Poll::Ready(Some(Ok(Connection::Tcp(stream))))
                }
                // Only this connection failed (reset before it was accepted, or too many open files).
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            },
            Listener::Memory(receiver) => {
                receiver.poll_recv(cx).map(|s| s.map(|s| Ok(Connection::Memory(s))))
            }
        }
    }
}

/// An accepted connection.
enum Connection {
    Tcp(TcpStream),
    Memory(DuplexStream),
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Connection::Memory(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Connection::Memory(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Connection::Memory(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self, Connection::Tcp(_))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Connection::Memory(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Connection::Memory(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
