//! The HTTP server of the monitor, on a port of its own: `/metrics`, and for probes `/healthz`, `/readyz` and `/activez`.
//!
//! It is not the gRPC server: a scrape must work while that one is full, and must not take from what clients have. Its own bounds
//! are small: few connections (`places`), short headers, short times. It has neither TLS nor authentication, so it listens on loopback
//! unless the operator says otherwise. Probes decide whether the daemon lives on, so scrapes never take the last places, and a scrape
//! that hangs delays no probe.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::metrics::ExpositionFormat;
use crate::service::log_throttle::LogThrottle;
use crate::service::monitor::places::{MonitorPlace, Places};
use crate::service::monitor::state::{DaemonPhase, Monitor};

/// The time in which the headers of a request must arrive, and in which a connection that is told to end must.
const REQUEST: Duration = Duration::from_secs(limits::METRICS_REQUEST_SECS);
/// The age at which a connection is told to end.
const AGE: Duration = Duration::from_secs(limits::METRICS_CONNECTION_SECS);
/// How long nothing is accepted after the system refused a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// The most headers of a request.
const HEADERS: usize = 64;
/// The type of answers in words.
const TEXT: &str = "text/plain; charset=utf-8";

/// What all connections share.
#[derive(Clone)]
struct ScrapeServer {
    monitor: Monitor,
    /// The scrapes that may be asked for together, so that others have places, too.
    scrapes: Arc<Semaphore>,
    /// One scrape at a time: further ones wait.
    scrape_turn: Arc<Semaphore>,
    /// One check at a time. It does not wait for a scrape, which may wait for the lock that the check is about.
    check_turn: Arc<Semaphore>,
}

/// Serves until `shutdown` is cancelled.
pub(super) async fn serve(listener: TcpListener, monitor: Monitor, shutdown: CancellationToken) {
    let server = ScrapeServer {
        monitor,
        scrapes: Arc::new(Semaphore::new(limits::METRICS_SCRAPES)),
        scrape_turn: Arc::new(Semaphore::new(1)),
        check_turn: Arc::new(Semaphore::new(1)),
    };
    let places = Arc::new(Places::default());
    let failures = LogThrottle::new();
    while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                // If no connection gives way, this one is closed: a scraper tries again.
                let Some(place) = places.enter(peer.ip()) else { continue };
                let (server, shutdown) = (server.clone(), shutdown.clone());
                tokio::spawn(async move { server.serve_connection(stream, &place, shutdown).await });
            }
            Err(error) => {
                if let Some(left_out) = failures.pass() {
                    tracing::warn!(%error, left_out, "cannot accept a connection for metrics");
                }
                sleep(PAUSE).await;
            }
        }
    }
}

impl ScrapeServer {
    async fn serve_connection(&self, stream: TcpStream, place: &MonitorPlace, shutdown: CancellationToken) {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(REQUEST)
            .max_buf_size(limits::METRICS_REQUEST_BYTES)
            .max_headers(HEADERS);
        let service = service_fn(async |request| {
            let _busy = place.work();
            self.answer(request).await
        });
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection for metrics failed");
                }
                return;
            }
            () = place.given_away() => return,
            () = sleep(AGE) => {}
            () = shutdown.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        // If it does not end, it is cut.
        let _ = timeout(REQUEST, connection).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<String>, Infallible> {
        let is_known = ["/metrics", "/healthz", "/readyz", "/activez"].contains(&request.uri().path());
        if !is_known {
            let text = "not found: this port has /metrics, /healthz, /readyz and /activez\n";
            return Ok(response(StatusCode::NOT_FOUND, TEXT, text.to_owned()));
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let text = "method not allowed: use GET\n".to_owned();
            return Ok(response(StatusCode::METHOD_NOT_ALLOWED, TEXT, text));
        }
        let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
        Ok(match request.uri().path() {
            "/readyz" => self.phase_as(DaemonPhase::is_ready),
            "/activez" => self.phase_as(DaemonPhase::is_active),
            "/healthz" => self.health().await,
            _ => self.scrape(ExpositionFormat::accepted(accept)).await,
        })
    }

    /// 200 if the phase is a good one.
    fn phase_as(&self, is_good: impl Fn(&DaemonPhase) -> bool) -> Response<String> {
        let phase = self.monitor.phase();
        let code = if is_good(&phase) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        response(code, TEXT, format!("{phase}\n"))
    }

    async fn health(&self) -> Response<String> {
        let monitor = self.monitor.clone();
        match run(&self.check_turn, move || monitor.check_alive()).await {
            Some(Ok(())) => response(StatusCode::OK, TEXT, "alive\n".to_owned()),
            Some(Err(error)) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{error}\n")),
            None => failed(),
        }
    }

    async fn scrape(&self, format: ExpositionFormat) -> Response<String> {
        let Ok(_scrape) = self.scrapes.try_acquire() else {
            let text = "too many scrapes at the same time: try again later\n".to_owned();
            return response(StatusCode::SERVICE_UNAVAILABLE, TEXT, text);
        };
        let monitor = self.monitor.clone();
        match run(&self.scrape_turn, move || monitor.scrape(format)).await {
            Some(text) => response(StatusCode::OK, format.content_type(), text),
            None => failed(),
        }
    }
}

/// Runs what may block, when it is its turn. The turn lasts until the work ends, also if nobody waits for it any more.
async fn run<T: Send + 'static>(
    turn: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let turn = Arc::clone(turn).acquire_owned().await.ok()?;
    let done = tokio::task::spawn_blocking(move || {
        let done = work();
        drop(turn);
        done
    });
    done.await.inspect_err(|error| tracing::error!(%error, "a scrape failed")).ok()
}

fn failed() -> Response<String> {
    response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the scrape failed: the log says why\n".to_owned())
}

fn response(code: StatusCode, content_type: &'static str, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
