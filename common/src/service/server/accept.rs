//! Takes connections from a listener and serves each on its own task, within the bounds of the process.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::memory::{MemoryBudget, MemoryUse};
use crate::metrics;
use crate::service::log_throttle::LogThrottle;
use crate::service::server::byte_stream::Connection;
use crate::service::server::connection::serve_connection;
use crate::service::server::connections::Connections;
use crate::service::server::descriptors;
use crate::service::server::listener::Listener;
use crate::service::server::resources::ServerResources;
use crate::service::server::security::Security;
use crate::service::server::services::ServerServices;

/// How long nothing is accepted after the system refused a connection, because it is short of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a listener that stops takes connections at most.
const TAKE_WAITING: Duration = Duration::from_millis(500);
/// If none comes for this long, none waits.
const NONE_WAITS: Duration = Duration::from_millis(5);
/// How often connections that do not take their answers are looked for, if answers lack memory.
const STALL_CHECK: Duration = Duration::from_secs(10);

/// Accepts and serves connections.
pub struct Acceptor {
    services: ServerServices,
    security: Arc<Security>,
    budget: Arc<MemoryBudget>,
    connections: Arc<Connections>,
    /// The next connection is accepted after this time.
    paused_until: Instant,
    /// How often answers had lacked memory at the last check for stalled connections.
    answers_lacked: u64,
    accept_errors: LogThrottle,
    turned_away: LogThrottle,
}

/// The number of connections whose TLS takes half of the memory for requests.
fn connections_with_tls(budget: &MemoryBudget) -> usize {
    let share = budget.usage().into_iter().find(|usage| usage.of == MemoryUse::Requests);
    let bytes = share.map_or(0, |share| share.limit_bytes / 2);
    usize::try_from(bytes / limits::TLS_CONNECTION_BYTES).unwrap_or(usize::MAX)
}

impl Acceptor {
    /// Serves `services` with `resources`.
    pub fn new(services: ServerServices, resources: ServerResources, listener: &Listener) -> Acceptor {
        let ServerResources { memory: budget, limits } = resources;
        let security = Arc::clone(listener.security());
        let mut limit = descriptors::connections();
        if security.tls.is_some() {
            limit = limit.min(connections_with_tls(&budget));
        }
        Acceptor {
            services,
            security,
            connections: Connections::new(
                Arc::clone(&budget),
                limit,
                limits,
                Arc::clone(listener.activity()),
            ),
            budget,
            paused_until: Instant::now(),
            answers_lacked: 0,
            accept_errors: LogThrottle::new(),
            turned_away: LogThrottle::new(),
        }
    }

    /// The open connections.
    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// Accepts connections until `stopping` is cancelled, then waits for the open ones. Dropping the future cuts them.
    pub async fn run(mut self, mut listener: Listener, stopping: CancellationToken) {
        let mut tasks = JoinSet::new();
        // Connections are told to end only once there is no listener any more.
        let ending = CancellationToken::new();
        let mut stall_check = interval(STALL_CHECK);
        stall_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let paused_until = self.paused_until;
            let connections = Arc::clone(&self.connections);
            let accept = async {
                sleep_until(paused_until).await;
                connections.wait_for_handshakes().await;
                listener.accept().await
            };
            tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                Some(_) = tasks.join_next() => {}
                _ = stall_check.tick() => self.close_stalled(),
                accepted = accept => match accepted {
                    Ok(Some((stream, peer))) => self.start(stream, peer, &ending, &mut tasks),
                    Ok(None) => break,
                    Err(error) => self.accept_failed(&error),
                },
            }
        }
        self.take_waiting(&mut listener, &ending, &mut tasks).await;
        // The system refuses new connections from now on, instead of keeping them waiting.
        drop(listener);
        ending.cancel();
        while tasks.join_next().await.is_some() {}
    }

    /// Takes the connections that the system has opened already. It would reset them with the listener, and a client could not know that
    /// its call was never begun.
    async fn take_waiting(
        &self,
        listener: &mut Listener,
        ending: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) {
        let began = Instant::now();
        while began.elapsed() < TAKE_WAITING
            && let Ok(Ok(Some((stream, peer)))) = timeout(NONE_WAITS, listener.accept()).await
        {
            self.start(stream, peer, ending, tasks);
        }
    }

    fn start(
        &self,
        stream: Connection,
        peer: Option<IpAddr>,
        ending: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) {
        match self.connections.admit(peer) {
            Some(place) => {
                let served = (self.services.clone(), Arc::clone(&self.security));
                tasks.spawn(serve_connection(stream, place, served, ending.clone()));
            }
            None => {
                metrics::count_refused("connections");
                if let Some(left_out) = self.turned_away.pass() {
                    tracing::warn!(?peer, left_out, "closed a new connection: too many are open");
                }
            }
        }
    }

    /// Pauses if the system is short of something: the same error would come back at once.
    fn accept_failed(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, InvalidInput, NotConnected};
        let concerns_one =
            [ConnectionAborted, ConnectionReset, InvalidInput, NotConnected].contains(&error.kind());
        if !concerns_one {
            self.paused_until = Instant::now() + PAUSE;
            self.connections.make_room();
        }
        if let Some(left_out) = self.accept_errors.pass() {
            tracing::warn!(%error, left_out, "cannot accept a connection");
        }
    }

    /// While answers lack memory, closes the connections that hold much of it and do not take what they hold.
    fn close_stalled(&mut self) {
        let so_far = self.budget.answers_lacked();
        let lacked = so_far > self.answers_lacked;
        self.answers_lacked = so_far;
        if !lacked {
            return;
        }
        let closed = self.connections.close_stalled();
        if closed > 0 {
            tracing::warn!(
                connections = closed,
                "closed connections that did not take their answers while others lacked memory"
            );
        }
    }
}
