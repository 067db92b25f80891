//! Where a daemon's connections come from: a TCP socket, or a connector in the same process.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::error::{Error, Reason, Result};
use crate::service::server::byte_stream::Connection;

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

    /// Waits for the next connection. `None` if no more can come. An error concerns one connection, or the system is short
    /// of something.
    pub(super) async fn accept(&mut self) -> io::Result<Option<(Connection, Option<IpAddr>)>> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Responses are small, and clients wait for them: do not delay them to fill packets.
                stream.set_nodelay(true)?;
                Ok(Some((Connection::Tcp(stream), Some(peer.ip()))))
            }
            Listener::Memory(receiver) => Ok(receiver.recv().await.map(|s| (Connection::Memory(s), None))),
        }
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
