//! The open connections of a daemon: how many there may be, and which one gives way to a new one.
//!
//! A connection costs a descriptor and memory before it has asked for anything. So their number is bounded, in total and for
//! one peer address. At the bound a new connection takes the place of one that does nothing: first of the oldest one that has
//! not finished its handshake, then of the one without calls for the longest time. A client that only connects can therefore
//! not shut out those that work. If every connection works, the new one is closed. The number of handshakes in progress has a
//! bound of its own, at which the daemon accepts no more for a moment.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::memory::{MemoryAccount, MemoryBudget, MemoryUse};
use crate::metrics::catalog;
use crate::metrics::samples::Samples;
use crate::service::server::activity::ServerActivity;
use crate::service::server::clients::{Clients, NetworkCalls, network_of};
use crate::service::server::limit_options::ServerLimits;

/// A connection gives way only after this time: an honest client has sent its handshake by then.
const GIVES_WAY_AFTER: Duration = Duration::from_secs(1);

/// How often handshakes are counted again while there are too many.
const HANDSHAKES_CHECK: Duration = Duration::from_millis(10);
/// A younger connection is not stalled.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// What is known of one connection.
#[derive(Debug)]
pub struct ConnectionState {
    /// The memory that its calls hold.
    pub memory: Arc<MemoryAccount>,
    /// Cancelled when the connection must close.
    pub closing: CancellationToken,
    /// Cancelled when the answers that are still being sent must end, because the connection is too old.
    pub ending: CancellationToken,
    /// The clients of the server.
    pub clients: Arc<Clients>,
    /// The calls of all connections from the client's network; `None` inside this process.
    pub network_calls: Option<NetworkCalls>,
    peer: Option<IpAddr>,
    opened_at: Instant,
    is_established: AtomicBool,
    calls: AtomicUsize,
    /// When the last call ended, in milliseconds after `opened_at`.
    last_call_ms: AtomicU64,
    /// The answers that the client had taken when they were last looked at.
    answers_seen: AtomicU64,
    /// The number of connections that are not established, this one included until it is.
    handshakes: Arc<AtomicUsize>,
    activity: Arc<ServerActivity>,
}

impl ConnectionState {
    fn new(
        memory: Arc<MemoryAccount>,
        clients: Arc<Clients>,
        peer: Option<IpAddr>,
        (handshakes, activity): (Arc<AtomicUsize>, Arc<ServerActivity>),
    ) -> ConnectionState {
        handshakes.fetch_add(1, Ordering::Relaxed);
        activity.open_connection();
        ConnectionState {
            memory,
            closing: CancellationToken::new(),
            ending: CancellationToken::new(),
            clients,
            network_calls: None,
            peer,
            opened_at: Instant::now(),
            is_established: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            last_call_ms: AtomicU64::new(0),
            answers_seen: AtomicU64::new(0),
            handshakes,
            activity,
        }
    }

    /// The address of the client; `None` inside this process.
    pub fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// Whether the client has finished its handshake: TLS if there is any, and the HTTP/2 preface and settings.
    pub fn is_established(&self) -> bool {
        self.is_established.load(Ordering::Relaxed)
    }

    /// The client has finished its handshake, or has left.
    pub fn establish(&self) {
        if !self.is_established.swap(true, Ordering::Relaxed) {
            self.handshakes.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A call begins.
    pub fn begin_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.activity.begin_call();
    }

    /// A call ends.
    pub fn end_call(&self) {
        let now = u64::try_from(self.opened_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_call_ms.store(now, Ordering::Relaxed);
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }

    /// How long no call has been open; `None` while one is.
    pub fn idle_time(&self) -> Option<Duration> {
        let last = Duration::from_millis(self.last_call_ms.load(Ordering::Relaxed));
        (self.calls.load(Ordering::Relaxed) == 0).then(|| self.opened_at.elapsed().saturating_sub(last))
    }

    /// How soon the connection gives way, the greatest first; `None` if it does not.
    fn gives_way(&self) -> Option<(bool, Duration)> {
        let idle = self.idle_time()?;
        (idle >= GIVES_WAY_AFTER && !self.closing.is_cancelled()).then(|| (!self.is_established(), idle))
    }

    /// Whether the client holds `least` bytes of answers or more, and has taken less than that since the last look.
    fn is_stalled(&self, least: u64) -> bool {
        let taken = self.memory.answers_taken();
        let before = self.answers_seen.swap(taken, Ordering::Relaxed);
        let held = self.memory.answers_held();
        held >= least && self.opened_at.elapsed() >= STALLED_AFTER && taken.saturating_sub(before) < held
    }
}

/// The open connections.
#[derive(Debug)]
pub struct Connections {
    budget: Arc<MemoryBudget>,
    limit: usize,
    clients: Arc<Clients>,
    /// The number of connections that are not established.
    handshakes: Arc<AtomicUsize>,
    activity: Arc<ServerActivity>,
    open: Mutex<OpenConnections>,
}

#[derive(Debug, Default)]
struct OpenConnections {
    next_id: u64,
    by_id: HashMap<u64, Arc<ConnectionState>>,
    /// By the network that an address counts for.
    by_network: HashMap<IpAddr, OpenNetwork>,
}

/// What one network has open.
#[derive(Debug, Default)]
struct OpenNetwork {
    connections: usize,
    calls: NetworkCalls,
}

impl OpenConnections {
    /// Asks a connection to close, of a network if one is named. Returns whether one gives way.
    fn make_room(&self, network: Option<IpAddr>) -> bool {
        let of = |state: &ConnectionState| network.is_none() || state.peer.map(network_of) == network;
        let candidates = self.by_id.values().filter(|state| of(state));
        let candidates = candidates.filter_map(|state| Some((state.gives_way()?, state)));
        match candidates.max_by_key(|(order, _)| *order) {
            Some((_, state)) => {
                state.closing.cancel();
                true
            }
            None => false,
        }
    }
}

/// A place among the open connections, until it is dropped.
#[derive(Debug)]
pub struct ConnectionPlace {
    connections: Arc<Connections>,
    id: u64,
    /// The connection.
    pub state: Arc<ConnectionState>,
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.state.establish();
        self.connections.activity.close_connection();
        let mut open = self.connections.open.lock();
        open.by_id.remove(&self.id);
        if let Some(network) = self.state.peer.map(network_of)
            && let Some(of_network) = open.by_network.get_mut(&network)
        {
            of_network.connections -= 1;
            if of_network.connections == 0 {
                open.by_network.remove(&network);
            }
        }
    }
}

impl Connections {
    /// No connections, and room for `limit` of them. They and their calls are counted.
    pub fn new(
        budget: Arc<MemoryBudget>,
        limit: usize,
        limits: ServerLimits,
        activity: Arc<ServerActivity>,
    ) -> Arc<Connections> {
        let (clients, handshakes) = (Clients::new(limits), Arc::default());
        Arc::new(Connections { budget, limit, clients, handshakes, activity, open: Mutex::default() })
    }

    /// The most connections of one network.
    fn network_limit(&self) -> usize {
        (self.limit * limits::CONNECTIONS_OF_ADDRESS_PERCENT / 100).max(1)
    }

    /// A place for a new connection of a peer; `None` if there is none.
    pub fn admit(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<ConnectionPlace> {
        let mut open = self.open.lock();
        let network = peer.map(network_of);
        let of_network = network.and_then(|network| open.by_network.get(&network));
        let of_network = of_network.map_or(0, |open| open.connections);
        if of_network >= self.network_limit() {
            if !open.make_room(network) {
                return None;
            }
        } else if open.by_id.len() >= self.limit && !open.make_room(None) {
            return None;
        }
        // Connections that were asked to close still hold their descriptors: do not run ahead of them by far.
        if open.by_id.len() >= self.limit + self.limit / 8 {
            return None;
        }
        let id = open.next_id;
        open.next_id += 1;
        let account = MemoryAccount::new(Arc::clone(&self.budget));
        let (clients, handshakes) = (Arc::clone(&self.clients), Arc::clone(&self.handshakes));
        let mut state =
            ConnectionState::new(account, clients, peer, (handshakes, Arc::clone(&self.activity)));
        if let Some(network) = network {
            let of_network = open.by_network.entry(network).or_default();
            of_network.connections += 1;
            state.network_calls = Some(Arc::clone(&of_network.calls));
        }
        let state = Arc::new(state);
        open.by_id.insert(id, Arc::clone(&state));
        Some(ConnectionPlace { connections: Arc::clone(self), id, state })
    }

    /// Reads the metrics of connections, calls and the memory of requests.
    pub fn sample(&self, samples: &mut Samples) {
        samples.set(&catalog::CONNECTIONS, self.activity.connections());
        samples.set(&catalog::CONNECTIONS_LIMIT, self.limit);
        samples.set(&catalog::CALLS, self.clients.open_calls());
        for usage in self.budget.usage() {
            let name = usage.of.name();
            samples.set_with(&catalog::REQUEST_MEMORY, &[name], usage.bytes);
            samples.set_with(&catalog::REQUEST_MEMORY_LIMIT, &[name], usage.limit_bytes);
            samples.set_with(&catalog::REFUSED, &[&format!("memory_{name}")], usage.refused);
        }
    }

    /// Closes a connection that does nothing, if there is one.
    pub fn make_room(&self) {
        self.open.lock().make_room(None);
    }

    /// Waits until there are few enough handshakes for one more. Closes those that take longer than an honest client needs.
    pub async fn wait_for_handshakes(&self) {
        while self.handshakes.load(Ordering::Relaxed) >= limits::HANDSHAKES {
            {
                let open = self.open.lock();
                let silent = open
                    .by_id
                    .values()
                    .filter(|state| !state.is_established() && state.opened_at.elapsed() >= GIVES_WAY_AFTER);
                silent.for_each(|state| state.closing.cancel());
            }
            tokio::time::sleep(HANDSHAKES_CHECK).await;
        }
    }

    /// Closes connections whose clients hold many answers and do not take them. Returns how many.
    pub fn close_stalled(&self) -> usize {
        let share = self.budget.usage().into_iter().find(|usage| usage.of == MemoryUse::Answers);
        let least = share.map_or(u64::MAX, |share| share.limit_bytes / 16);
        let open = self.open.lock();
        let stalled = open.by_id.values().filter(|state| state.is_stalled(least));
        stalled.map(|state| state.closing.cancel()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_room_for(limit: usize) -> Arc<Connections> {
        Connections::new(MemoryBudget::new(1 << 20), limit, ServerLimits::default(), Arc::default())
    }

    fn full(limit: usize) -> (Arc<Connections>, Vec<ConnectionPlace>) {
        let connections = with_room_for(limit);
        let places = (0..limit).map(|i| connections.admit(Some([10, 0, 0, u8::try_from(i).unwrap()].into())));
        let places = places.map(Option::unwrap).collect();
        (connections, places)
    }

    #[test]
    fn connections_and_calls_are_counted() {
        let (connections, mut places) = full(2);
        places[0].state.begin_call();
        let state = connections.activity.to_wire();
        assert_eq!((state.connections, state.calls), (2, 1));
        places[0].state.end_call();
        places.clear();
        let state = connections.activity.to_wire();
        assert_eq!((state.connections, state.calls), (0, 1));
    }

    #[test]
    fn an_address_cannot_take_every_place() {
        let connections = with_room_for(8);
        let (one, other) = (Some(IpAddr::from([10, 0, 0, 1])), Some(IpAddr::from([10, 0, 0, 2])));
        let mut places: Vec<_> = (0..6).map(|_| connections.admit(one).unwrap()).collect();
        assert!(connections.admit(one).is_none());
        places.push(connections.admit(other).unwrap());
        places.remove(0);
        assert!(connections.admit(one).is_some());
    }

    #[tokio::test]
    async fn handshakes_have_a_bound_and_slow_ones_give_way() {
        let (connections, mut places) = full(1);
        places.clear();
        let connections =
            Connections { limit: 2 * limits::HANDSHAKES, ..Arc::into_inner(connections).unwrap() };
        let connections = Arc::new(connections);
        let is_open = async || {
            let wait = tokio::time::timeout(HANDSHAKES_CHECK / 2, connections.wait_for_handshakes());
            wait.await.is_ok()
        };
        places.extend((1..limits::HANDSHAKES).map(|_| connections.admit(None).unwrap()));
        assert!(is_open().await);
        places.push(connections.admit(None).unwrap());
        assert!(!is_open().await);
        // One is finished, or one has left.
        places[0].state.establish();
        assert!(is_open().await);
        places.push(connections.admit(None).unwrap());
        assert!(!is_open().await);
        places.pop();
        assert!(is_open().await);
        places.push(connections.admit(None).unwrap());
        assert!(places.iter().all(|place| !place.state.closing.is_cancelled()));
        tokio::time::sleep(GIVES_WAY_AFTER).await;
        assert!(!is_open().await);
        let given_way = places.iter().filter(|place| place.state.closing.is_cancelled()).count();
        assert_eq!(given_way, limits::HANDSHAKES);
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_share_its_places() {
        let connections = with_room_for(8);
        let at = |text: String| Some(text.parse::<IpAddr>().unwrap());
        let places: Vec<_> =
            (0..6).map(|n| connections.admit(at(format!("2001:db8::{n:x}"))).unwrap()).collect();
        assert!(connections.admit(at("2001:db8::ff".to_owned())).is_none());
        assert!(connections.admit(at("2001:db8:0:1::1".to_owned())).is_some());
        drop(places);
        assert!(connections.admit(at("2001:db8::ff".to_owned())).is_some());
    }

    #[test]
    fn a_connection_that_works_does_not_give_way() {
        let (connections, mut places) = full(4);
        assert!(connections.admit(None).is_none());
        // Nobody gives way in the first second.
        for place in &mut places {
            place.state.begin_call();
        }
        std::thread::sleep(GIVES_WAY_AFTER);
        assert!(connections.admit(None).is_none());
        let (idle, silent) = (&places[1].state, &places[2].state);
        idle.establish();
        assert_eq!(connections.handshakes.load(Ordering::Relaxed), 3);
        idle.calls.store(0, Ordering::Relaxed);
        silent.calls.store(0, Ordering::Relaxed);
        connections.make_room();
        assert_eq!((idle.closing.is_cancelled(), silent.closing.is_cancelled()), (false, true));
        connections.make_room();
        assert!(idle.closing.is_cancelled());
    }
}
