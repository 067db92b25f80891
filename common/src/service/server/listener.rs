//! Where a daemon's connections come from: a TCP socket, or a connector in the same process.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{Error, Reason, Result};
use crate::service::monitor::Monitor;
use crate::service::server::activity::ServerActivity;
use crate::service::server::byte_stream::Connection;
use crate::service::server::security::Security;

/// The source of a daemon's connections, and how they are protected.
#[derive(Debug)]
pub struct Listener {
    source: ConnectionSource,
    security: Arc<Security>,
    activity: Arc<ServerActivity>,
    monitor: Monitor,
    /// Cancelled when the listener is dropped, by the guard.
    gone: CancellationToken,
    _guard: DropGuard,
}

#[derive(Debug)]
enum ConnectionSource {
    /// A TCP socket.
    Tcp(TcpListener),
    /// Connections that a [`MemoryConnector`] opens inside this process.
    Memory(mpsc::Receiver<DuplexStream>),
}

impl Listener {
    /// Listens on a TCP address. If the port is 0, the system chooses a free one. Connections are not protected.
    pub async fn bind(address: SocketAddr) -> Result<Listener> {
        Listener::bind_with(address, Arc::default()).await
    }

    /// Listens on a TCP address, for connections that are protected.
    pub async fn bind_with(address: SocketAddr, security: Arc<Security>) -> Result<Listener> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|e| Error::io(format_args!("cannot listen on {address}"), &e))?;
        Ok(Listener::new(ConnectionSource::Tcp(listener), security, Monitor::default()))
    }

    fn new(source: ConnectionSource, security: Arc<Security>, monitor: Monitor) -> Listener {
        let gone = CancellationToken::new();
        let guard = gone.clone().drop_guard();
        Listener { source, security, activity: Arc::default(), monitor, gone, _guard: guard }
    }

    /// The same, with the monitor of the daemon.
    #[must_use]
    pub fn watched_by(self, monitor: &Monitor) -> Listener {
        Listener { monitor: monitor.clone(), ..self }
    }

    /// Splits a TCP listener into two that share one address, for two servers that follow each other.
    ///
    /// A client that connects between the two waits in the socket's backlog. Fails for a listener inside this process.
    pub fn split(self) -> Result<(Listener, Listener)> {
        let ConnectionSource::Tcp(listener) = self.source else {
            return Err(Error::new(Reason::Internal, "cannot split a listener: it is not a TCP listener"));
        };
        let split = || {
            let first = listener.into_std()?;
            let second = first.try_clone()?;
            Ok((TcpListener::from_std(first)?, TcpListener::from_std(second)?))
        };
        let halves: io::Result<_> = split();
        let (first, second) = halves.map_err(|e| Error::io("cannot split a listener", &e))?;
        // Each server counts its own connections.
        let half = |listener| {
            let source = ConnectionSource::Tcp(listener);
            Listener::new(source, Arc::clone(&self.security), self.monitor.clone())
        };
        Ok((half(first), half(second)))
    }

    /// A listener inside this process, and the connector that opens connections to it.
    pub fn memory() -> (MemoryConnector, Listener) {
        let (sender, receiver) = mpsc::channel(16);
        let source = ConnectionSource::Memory(receiver);
        (MemoryConnector(sender), Listener::new(source, Arc::default(), Monitor::default()))
    }

    /// Waits for the next connection. `None` if no more can come. An error concerns one connection, or the system is short
    /// of something.
    pub(super) async fn accept(&mut self) -> io::Result<Option<(Connection, Option<IpAddr>)>> {
        match &mut self.source {
            ConnectionSource::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Responses are small, and clients wait for them: do not delay them to fill packets.
                stream.set_nodelay(true)?;
                // An IPv4 client of an IPv6 socket is the same client, for limits and for whoever reads its address.
                Ok(Some((Connection::Tcp(stream), Some(peer.ip().to_canonical()))))
            }
            ConnectionSource::Memory(receiver) => {
                Ok(receiver.recv().await.map(|stream| (Connection::Memory(stream), None)))
            }
        }
    }

    /// The TCP address; `None` inside this process.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.source {
            ConnectionSource::Tcp(listener) => listener.local_addr().ok(),
            ConnectionSource::Memory(_) => None,
        }
    }

    /// Cancelled once the listener is dropped: its server gets no new connection any more. A server that follows it at the same
    /// address is ready only then.
    pub fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// What counts the connections and calls of the server.
    pub fn activity(&self) -> &Arc<ServerActivity> {
        &self.activity
    }

    /// The monitor of the daemon.
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// How the connections are protected.
    pub fn security(&self) -> &Arc<Security> {
        &self.security
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
