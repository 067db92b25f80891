//! One connection: HTTP/2 with the server's limits, and the times after which the connection is closed.
//!
//! A connection must finish its TLS handshake, and send the HTTP/2 preface and its settings, soon, or it is closed: until then HTTP/2
//! has no ping that would find a client gone. After that pings find clients that are gone, and a connection without calls is closed after a long
//! time. `connection_age` ends the others, if the operator wants that.

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
use crate::memory::{MemoryPermit, MemoryUse};
use crate::metrics;
use crate::service::log_throttle::LogThrottle;
use crate::service::server::byte_stream::Connection;
use crate::service::server::call::CallService;
use crate::service::server::connection_age::{AgeEvent, ConnectionAge};
use crate::service::server::connection_calls::{CallQueue, RunningConnection};
use crate::service::server::connections::{ConnectionPlace, ConnectionState};
use crate::service::server::handshake::{GreetedConnection, TLS_RECORD, greet};
use crate::service::server::security::Security;
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
/// The bytes and the time after which a connection yields to others. HTTP/2 would otherwise read until the socket is empty, and a client
/// that sends small frames as fast as it can would keep a thread for tens of milliseconds at a time.
const BYTES_PER_TURN: usize = 64 << 10;
const TIME_PER_TURN: Duration = Duration::from_micros(500);
/// Bytes of a request that the client can send before the call reads them.
pub const STREAM_WINDOW: u32 = 256 << 10;

/// How long the calls of a connection go on after the certificate of its client has ceased to count.
const REFUSED_GRACE: Duration = Duration::from_millis(500);
/// How long a handshake may still take once the daemon stops.
const HANDSHAKE_AT_STOP: Duration = Duration::from_secs(1);
/// Lines about clients that use TLS where there is none.
static UNEXPECTED_TLS: LogThrottle = LogThrottle::new();

/// Serves a connection until it ends, gives way, or `stopping` is cancelled and its calls have ended.
pub async fn serve_connection(
    stream: Connection,
    place: ConnectionPlace,
    (services, security): (ServerServices, Arc<Security>),
    stopping: CancellationToken,
) {
    let state = &place.state;
    let tls = security.tls.as_deref();
    let Ok(_memory) = tls.map(|_| reserve_tls(state)).transpose() else { return };
    let mut check = pin!(sleep(HANDSHAKE));
    let greeted = tokio::select! {
        greeted = greet(stream, state.peer(), (tls, security.access.audit())) => greeted,
        () = state.closing.cancelled() => return,
        () = &mut check => {
            tracing::debug!("closed a connection that did not finish its TLS handshake");
            return;
        }
        () = async { stopping.cancelled().await; sleep(HANDSHAKE_AT_STOP).await } => return,
    };
    let Some(GreetedConnection { stream, peer, mut certificate, refused }) = greeted else { return };
    let stream = CountedStream { stream, read: 0, turn: None, state: Arc::clone(state), linger: None };
    let access = Arc::clone(&security.access);
    let calls = CallQueue::default();
    let service = CallService::new(services, (Arc::clone(state), calls.clone()), peer, access);
    let http = server(calls.clone()).serve_connection(TokioIo::new(stream), service.refusing(refused));
    let mut serving = RunningConnection::new(http, calls);
    let mut age = ConnectionAge::new(state.clients.limits());
    let mut refusal = pin!(async {
        match (tls, &mut certificate) {
            (Some(tls), Some(shown)) => tls.until_refused(shown).await,
            _ => std::future::pending().await,
        }
    });
    let mut cut = pin!(sleep(Duration::MAX));
    let (mut is_stopping, mut is_refused) = (false, false);
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
            event = age.next() => match event {
                AgeEvent::Old => serving.http().graceful_shutdown(),
                AgeEvent::GraceOver => state.ending.cancel(),
                AgeEvent::Over => return,
            },
            () = stopping.cancelled(), if !is_stopping => {
                is_stopping = true;
                serving.http().graceful_shutdown();
            }
            why = &mut refusal, if !is_refused => {
                is_refused = true;
                tracing::info!(peer = ?state.peer(), error = why, "ended a connection");
                serving.http().graceful_shutdown();
                cut.as_mut().reset(Instant::now() + REFUSED_GRACE);
            }
            () = &mut cut, if is_refused => return,
        }
    }
}

/// Reserves what TLS takes for one connection.
fn reserve_tls(state: &ConnectionState) -> Result<MemoryPermit, ()> {
    let reserved = state.memory.reserve(MemoryUse::Requests, limits::TLS_CONNECTION_BYTES);
    reserved.map_err(|error| tracing::debug!(%error, "closed a new connection"))
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
        .max_pending_accept_reset_streams(Some(limits::PENDING_RESETS));
    server
}

/// The bytes of a connection, counted until the handshake has come.
struct CountedStream {
    stream: Connection,
    read: usize,
    /// The bytes of the present turn, and when it began; `None` between turns.
    turn: Option<(usize, Instant)>,
    state: Arc<ConnectionState>,
    /// Set once nothing more is sent.
    linger: Option<Pin<Box<Sleep>>>,
}

fn count_sent(written: &Poll<io::Result<usize>>) {
    if let Poll::Ready(Ok(bytes)) = written {
        metrics::SENT_BYTES.increment(*bytes as u64);
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (bytes, began) = *self.turn.get_or_insert_with(|| (0, Instant::now()));
        if bytes >= BYTES_PER_TURN || (bytes > 0 && began.elapsed() >= TIME_PER_TURN) {
            self.turn = None;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        self.turn = polled.is_ready().then_some((bytes + read, began));
        metrics::RECEIVED_BYTES.increment(read as u64);
        if self.read < HANDSHAKE_BYTES {
            if self.read == 0
                && buf.filled().get(before) == Some(&TLS_RECORD)
                && let Some(left_out) = UNEXPECTED_TLS.pass()
            {
                tracing::warn!(peer = ?self.state.peer(), left_out, "a client uses TLS, and this daemon does not");
            }
            self.read += read;
            if self.read >= HANDSHAKE_BYTES {
                self.state.establish();
            }
        }
        polled
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        count_sent(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        count_sent(&written);
        written
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::memory::MemoryBudget;
    use crate::service::server::connections::Connections;
    use crate::service::server::limit_options::ServerLimits;

    const SENT: usize = 1 << 20;

    /// A connection on which much has come.
    async fn loaded() -> (Box<dyn std::any::Any>, CountedStream) {
        let (mut client, server) = tokio::io::duplex(SENT);
        client.write_all(&vec![0; SENT]).await.unwrap();
        let connections =
            Connections::new(MemoryBudget::new(1 << 20), 1, ServerLimits::default(), Arc::default());
        let place = connections.admit(None).unwrap();
        let (stream, state) = (Connection::Memory(server), Arc::clone(&place.state));
        (Box::new((client, place)), CountedStream { stream, read: 0, turn: None, state, linger: None })
    }

    /// Reads some bytes; `None` at the end of a turn.
    fn read_some(stream: &mut CountedStream) -> Option<usize> {
        let mut context = Context::from_waker(Waker::noop());
        let mut bytes = [0; 8 << 10];
        let mut buf = ReadBuf::new(&mut bytes);
        match Pin::new(stream).poll_read(&mut context, &mut buf) {
            Poll::Ready(result) => {
                result.unwrap();
                Some(buf.filled().len())
            }
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn a_connection_that_has_much_to_read_lets_others_have_their_turn() {
        let (_held, mut stream) = loaded().await;
        let (mut turns, mut turn, mut read) = (0, 0, 0);
        while read < SENT {
            match read_some(&mut stream) {
                Some(bytes) => {
                    (read, turn) = (read + bytes, turn + bytes);
                    assert!(turn <= BYTES_PER_TURN + (8 << 10), "{turn} bytes without a pause");
                }
                // Everything is there: only the turn is over, or that of this task.
                None => {
                    (turns, turn) = (turns + 1, 0);
                    tokio::task::yield_now().await;
                }
            }
        }
        assert!(turns >= SENT / BYTES_PER_TURN - 1 && stream.state.is_established());
    }

    /// A few bytes can be a lot of work.
    #[tokio::test]
    async fn a_turn_that_takes_long_ends_before_its_bytes() {
        let (_held, mut stream) = loaded().await;
        for _ in 0..3 {
            assert!(read_some(&mut stream).is_some());
            sleep(2 * TIME_PER_TURN).await;
            assert!(read_some(&mut stream).is_none());
        }
    }
}
