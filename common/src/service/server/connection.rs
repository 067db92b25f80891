//! One connection: HTTP/2 with the server's limits, and the times after which the connection is closed.
//!
//! A connection must send the HTTP/2 preface and its settings soon, or it is closed: until then HTTP/2 has no ping that would
//! find a client gone. After that pings find clients that are gone, and a connection without calls is closed after a long
//! time.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::service::server::byte_stream::Connection;
use crate::service::server::call::CallService;
use crate::service::server::connection_calls::{CallQueue, RunningConnection};
use crate::service::server::connections::{ConnectionPlace, ConnectionState};
use crate::service::server::services::ServerServices;

/// The bytes of the HTTP/2 preface and of the header of the SETTINGS frame that follows it.
const HANDSHAKE_BYTES: usize = 24 + 9;
/// The time in which a connection must finish its handshake.
const HANDSHAKE: Duration = Duration::from_secs(limits::HANDSHAKE_SECS);
/// How long a connection that was closed in order still receives. If it were closed with bytes unread, the system would reset
/// it, and a client could lose an answer, or take a call that was never begun for one whose outcome is unknown.
const LINGER: Duration = Duration::from_secs(1);
/// The time after which a connection without calls is closed.
const IDLE: Duration = Duration::from_secs(limits::IDLE_SECS);
/// Bytes of a request that the client can send before the call reads them.
pub const STREAM_WINDOW: u32 = 256 << 10;

/// Serves a connection until it ends, gives way, or `stopping` is cancelled and its calls have ended.
pub async fn serve_connection(
    stream: Connection,
    place: ConnectionPlace,
    services: ServerServices,
    stopping: CancellationToken,
) {
    let state = &place.state;
    let stream = TokioIo::new(CountedStream { stream, read: 0, state: Arc::clone(state), linger: None });
    let calls = CallQueue::default();
    let service = CallService::new(services, Arc::clone(state), calls.clone());
    let http = server(calls.clone()).serve_connection(stream, service);
    let mut serving = RunningConnection::new(http, calls);
    let mut check = pin!(sleep(HANDSHAKE));
    let mut is_stopping = false;
    loop {
        tokio::select! {
            ended = &mut serving => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection failed");
                }
                return;
            }
            () = state.closing.cancelled() => return,
            () = &mut check => {
                if !state.is_established() {
                    tracing::debug!("closed a connection that sent no HTTP/2 preface and settings");
                    return;
                }
                if state.idle_time().is_some_and(|idle| idle >= IDLE) {
                    serving.http().graceful_shutdown();
                }
                check.as_mut().reset(Instant::now() + IDLE / 4);
            }
            () = stopping.cancelled(), if !is_stopping => {
                is_stopping = true;
                serving.http().graceful_shutdown();
            }
        }
    }
}

fn server(calls: CallQueue) -> http2::Builder<CallQueue> {
    let mut server = http2::Builder::new(calls);
    server
        .timer(TokioTimer::new())
        // No gRPC client reads the date.
        .auto_date_header(false)
        .max_concurrent_streams(limits::CALLS_PER_CONNECTION)
        .max_header_list_size(limits::HEADER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(4 << 20)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_pending_accept_reset_streams(Some(64));
    server
}

/// The bytes of a connection, counted until the handshake has come.
struct CountedStream {
    stream: Connection,
    read: usize,
    state: Arc<ConnectionState>,
    /// Set once nothing more is sent.
    linger: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for CountedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read >= HANDSHAKE_BYTES {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.read += buf.filled().len() - before;
        if self.read >= HANDSHAKE_BYTES {
            self.state.establish();
        }
        polled
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.linger = Some(Box::pin(sleep(LINGER)));
        }
        // Looked at first: a client that goes on sending must not keep the connection.
        if self.linger.as_mut().is_some_and(|linger| linger.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Ok(()));
        }
        let mut unwanted = [0; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut unwanted);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                // The client has closed its side, or the connection is broken.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
