//! How both daemons listen: over TCP, or in memory inside one process; with health, reflection and limits.

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
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::error::{Error, Reason, Result};

/// Streams that one connection may have open.
const STREAMS_PER_CONNECTION: u32 = 4096;
/// How long answers under way may take once a shutdown has begun.
const DRAIN: Duration = Duration::from_secs(10);

/// Where a daemon takes connections from.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// Connections made inside this process by a [`MemoryConnector`].
    Memory(mpsc::Receiver<DuplexStream>),
}

impl Listener {
    /// Listens on a TCP address; port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> Result<Listener> {
        let listener = TcpListener::bind(address).await;
        listener.map(Listener::Tcp).map_err(|e| Error::io(format_args!("cannot listen on {address}"), &e))
    }

    /// Two listeners of one address, for one that serves after the other: what connects in between waits.
    pub fn split(self) -> Result<(Listener, Listener)> {
        let Listener::Tcp(listener) = self else {
            return Err(Error::new(Reason::Internal, "only TCP listeners can be split"));
        };
        let halves = || {
            let first = listener.into_std()?;
            let second = first.try_clone()?;
            Ok((TcpListener::from_std(first)?, TcpListener::from_std(second)?))
        };
        let halves: io::Result<_> = halves();
        let (first, second) = halves.map_err(|e| Error::io("cannot share a listener", &e))?;
        Ok((Listener::Tcp(first), Listener::Tcp(second)))
    }

    /// A listener inside this process, and what connects to it.
    pub fn memory() -> (MemoryConnector, Listener) {
        let (sender, receiver) = mpsc::channel(16);
        (MemoryConnector(sender), Listener::Memory(receiver))
    }

    /// The TCP address listened on.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Memory(_) => None,
        }
    }
}

/// Makes connections to a daemon in this process.
#[derive(Debug, Clone)]
pub struct MemoryConnector(mpsc::Sender<DuplexStream>);

impl MemoryConnector {
    /// A new connection.
    pub async fn connect(&self) -> io::Result<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let gone =
            |_| io::Error::new(io::ErrorKind::ConnectionRefused, "the daemon in this process has stopped");
        self.0.send(theirs).await.map_err(gone)?;
        Ok(ours)
    }
}

/// Serves gRPC until `shutdown` is cancelled: then no new calls, and those under way end within ten seconds.
/// Adds health (`health` answers for the service and for the server as a whole) and reflection.
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
            tracing::warn!("calls still open {DRAIN:?} after the shutdown began were cut");
            Ok(())
        }
    }
}

/// Health answers for service `S`: SERVING, and NOT_SERVING once `shutdown` is cancelled.
pub async fn health<S: NamedService>(shutdown: CancellationToken) -> HealthServer<impl Health> {
    health_while::<S>(watch::channel(true).1, shutdown).await
}

/// As [`health`], and NOT_SERVING too as long as `ready` is false. The server as a whole stays SERVING: it is alive.
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

/// Health answers for service `S` while another process serves it: NOT_SERVING, and no more of it once `over` is cancelled.
pub async fn standby_health<S: NamedService>(over: CancellationToken) -> HealthServer<impl Health> {
    let (mut reporter, server) = tonic_health::server::health_reporter();
    reporter.set_not_serving::<S>().await;
    tokio::spawn(async move {
        over.cancelled().await;
        // Streams end, and ask anew: another server answers them.
        reporter.clear_service_status(S::NAME).await;
    });
    server
}

/// The stream of accepted connections.
struct Incoming(Listener);

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.0 {
            Listener::Tcp(listener) => match listener.poll_accept(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok((stream, _))) => {
                    // Answers are small and awaited: they must not wait for more bytes to join them.
                    let _ = stream.set_nodelay(true);
                    Poll::Ready(Some(Ok(Connection::Tcp(stream))))
                }
                // One connection failed (reset before it was accepted, too many files): the listener goes on.
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "could not accept a connection");
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
