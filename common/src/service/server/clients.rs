//! Who calls, for limits: what each client has begun, and what all have together.
//!
//! A client is a principal, or an address if nobody has to prove who he is. The addresses of one IPv6 network of 64 bits count as
//! one: whoever has one of them usually has all. What is kept of a client is forgotten as soon as it makes no difference, and
//! the number of clients has a bound, so that a client with many addresses cannot fill the memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, Reason, Result};
use crate::limits;
use crate::metrics;
use crate::service::server::limit_options::ServerLimits;

/// The time in which a client that was silent may use what it has saved.
const BURST: Duration = Duration::from_secs(1);
/// How long a refused caller should wait if nothing tells more.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Between two searches for clients that can be forgotten, this many are added.
const SWEEP_EVERY: usize = 1024;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClientId {
    /// A principal, by its name.
    Principal(Arc<str>),
    /// An address, or the first one of its network.
    Network(IpAddr),
    /// A caller inside this process. It has no limit.
    Local,
}

impl ClientId {
    /// The client at an address, as long as nothing else is known of it.
    pub fn at(address: Option<IpAddr>) -> ClientId {
        address.map_or(ClientId::Local, |address| ClientId::Network(network_of(address)))
    }

    fn describe(&self) -> String {
        match self {
            ClientId::Principal(name) => format!("principal {name:?}"),
            ClientId::Network(IpAddr::V4(address)) => format!("address {address}"),
            ClientId::Network(IpAddr::V6(address)) => format!("network {address}/64"),
            ClientId::Local => "this process".to_owned(),
        }
    }
}

/// The network that an address counts for: itself, or the first 64 bits in IPv6.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// The clients of a server.
#[derive(Debug)]
pub struct Clients {
    limits: ServerLimits,
    calls: AtomicUsize,
    known: Mutex<KnownClients>,
}

#[derive(Debug, Default)]
struct KnownClients {
    by_id: HashMap<ClientId, ClientState>,
    added: usize,
}

/// What counts of one client.
#[derive(Debug)]
struct ClientState {
    watches: usize,
    /// Its calls so far are spread evenly up to this time.
    calls_until: Instant,
}

impl ClientState {
    fn counts(&self, now: Instant) -> bool {
        self.watches > 0 || self.calls_until > now
    }
}

/// The open calls of one network.
pub type NetworkCalls = Arc<AtomicUsize>;

/// An open call, until it is dropped.
#[derive(Debug)]
pub struct CallPlace {
    clients: Arc<Clients>,
    network: Option<NetworkCalls>,
}

impl Drop for CallPlace {
    fn drop(&mut self) {
        self.clients.calls.fetch_sub(1, Ordering::Relaxed);
        if let Some(network) = &self.network {
            network.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A watch that counts for its client, until it is dropped.
#[derive(Debug)]
pub struct WatchPlace {
    clients: Arc<Clients>,
    client: ClientId,
}

impl Drop for WatchPlace {
    fn drop(&mut self) {
        let mut known = self.clients.known.lock();
        if let Entry::Occupied(mut entry) = known.by_id.entry(self.client.clone()) {
            entry.get_mut().watches -= 1;
            if !entry.get().counts(Instant::now()) {
                entry.remove();
            }
        }
    }
}

impl Clients {
    /// No clients.
    pub fn new(limits: ServerLimits) -> Arc<Clients> {
        Arc::new(Clients { limits, calls: AtomicUsize::new(0), known: Mutex::default() })
    }

    /// The number of open calls.
    pub fn open_calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// The limits.
    pub fn limits(&self) -> &ServerLimits {
        &self.limits
    }

    /// Counts a call that is open from now on, for the server and for the caller's network.
    ///
    /// # Errors
    /// `OVERLOADED`, with a retry delay, if the server or the network has as many as it may.
    pub fn begin_call(self: &Arc<Self>, network: Option<NetworkCalls>) -> Result<CallPlace> {
        let open = self.calls.fetch_add(1, Ordering::Relaxed);
        let of_network = network.as_ref().map_or(0, |calls| calls.fetch_add(1, Ordering::Relaxed));
        let place = CallPlace { clients: Arc::clone(self), network };
        let (metric, whose, open, limit) = if of_network >= limits::CALLS_OF_ADDRESS {
            ("calls_of_address", " of this address", of_network, limits::CALLS_OF_ADDRESS)
        } else if open >= limits::CALLS {
            ("calls", "", open, limits::CALLS)
        } else {
            return Ok(place);
        };
        metrics::count_refused(metric);
        let message = format!("too many calls{whose}: {open} are open, the limit is {limit}; retry later");
        Err(Error::new(Reason::Overloaded, message).retry_after(RETRY_AFTER))
    }

    /// Counts a call for its client's rate.
    ///
    /// # Errors
    /// `OVERLOADED`, with the time after which the client may call again.
    pub fn count_call(&self, client: &ClientId, now: Instant) -> Result<()> {
        let Some(rate) = self.limits.calls_per_second.filter(|_| *client != ClientId::Local) else {
            return Ok(());
        };
        let mut known = self.known.lock();
        let state = known.state(client, now)?;
        let each = Duration::from_secs(1) / rate.get();
        let until = state.calls_until.max(now) + each;
        let ahead = until.duration_since(now);
        // The first call of a client always passes, however low the rate is.
        if ahead <= BURST.max(each) {
            state.calls_until = until;
            return Ok(());
        }
        metrics::count_refused("calls_per_second");
        let message =
            format!("too many calls of {}: the limit is {rate} in a second; retry later", client.describe());
        Err(Error::new(Reason::Overloaded, message).retry_after(ahead - BURST.max(each)))
    }

    /// Counts a watch for its client.
    ///
    /// # Errors
    /// `OVERLOADED`, with a retry delay, if the client has as many as it may.
    pub fn begin_watch(self: &Arc<Self>, client: &ClientId) -> Result<WatchPlace> {
        let mut known = self.known.lock();
        let state = known.state(client, Instant::now())?;
        let limit = self.limits.watches_per_client;
        if state.watches >= limit && *client != ClientId::Local {
            metrics::count_refused("watches_per_client");
            let message = format!(
                "too many watches of {}: it has {}, the limit is {limit}; end others first, or ask another reader",
                client.describe(),
                state.watches
            );
            return Err(Error::new(Reason::Overloaded, message).retry_after(RETRY_AFTER));
        }
        state.watches += 1;
        Ok(WatchPlace { clients: Arc::clone(self), client: client.clone() })
    }
}

impl KnownClients {
    /// What counts of a client. Forgets others now and then.
    fn state(&mut self, client: &ClientId, now: Instant) -> Result<&mut ClientState> {
        if !self.by_id.contains_key(client) {
            self.added += 1;
            if self.added >= SWEEP_EVERY {
                self.added = 0;
                self.by_id.retain(|_, state| state.counts(now));
            }
            if self.by_id.len() >= limits::CLIENTS {
                metrics::count_refused("clients");
                let message = format!(
                    "too many clients: {} are known, the limit is {}; retry later",
                    self.by_id.len(),
                    limits::CLIENTS
                );
                return Err(Error::new(Reason::Overloaded, message).retry_after(RETRY_AFTER));
            }
        }
        Ok(self.by_id.entry(client.clone()).or_insert(ClientState { watches: 0, calls_until: now }))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn clients(limits: ServerLimits) -> Arc<Clients> {
        Clients::new(limits)
    }

    fn address(last: u8) -> ClientId {
        ClientId::at(Some([10, 0, 0, last].into()))
    }

    #[test]
    fn a_client_may_begin_its_calls_of_a_second_at_once_and_then_waits() {
        let clients =
            clients(ServerLimits { calls_per_second: NonZeroU32::new(4), ..ServerLimits::default() });
        let start = Instant::now();
        let call = |client: &ClientId, ms| clients.count_call(client, start + Duration::from_millis(ms));
        for _ in 0..4 {
            call(&address(1), 0).unwrap();
        }
        let refused = call(&address(1), 0).unwrap_err();
        assert_eq!(
            (refused.reason(), refused.retry_delay()),
            (Reason::Overloaded, Some(Duration::from_millis(250)))
        );
        // Others have calls of their own, and after the delay so has this one.
        call(&address(2), 0).unwrap();
        assert!(call(&address(1), 249).is_err());
        call(&address(1), 250).unwrap();
        assert!(call(&address(1), 250).is_err());
        for _ in 0..4 {
            call(&address(1), 5000).unwrap();
        }
        assert!(call(&address(1), 5000).is_err());
        for _ in 0..100 {
            call(&ClientId::Local, 0).unwrap();
        }
    }

    #[test]
    fn what_makes_no_difference_is_forgotten() {
        let clients =
            clients(ServerLimits { calls_per_second: NonZeroU32::new(1), ..ServerLimits::default() });
        let mut now = Instant::now();
        let watching = clients.begin_watch(&ClientId::Principal("app".into())).unwrap();
        for n in 0..100_000_u32 {
            let address = IpAddr::V4(n.to_be_bytes().into());
            clients.count_call(&ClientId::at(Some(address)), now).unwrap();
            now += Duration::from_micros(100);
        }
        assert!(clients.known.lock().by_id.len() < 12_000);
        assert!(clients.known.lock().by_id.contains_key(&watching.client));
    }

    #[test]
    fn a_network_leaves_calls_for_others() {
        let clients = clients(ServerLimits::default());
        let (one, other) = (NetworkCalls::default(), NetworkCalls::default());
        let begin = |network: &NetworkCalls| clients.begin_call(Some(Arc::clone(network)));
        let mut open: Vec<_> = (0..limits::CALLS_OF_ADDRESS).map(|_| begin(&one).unwrap()).collect();
        assert_eq!(begin(&one).unwrap_err().retry_delay(), Some(RETRY_AFTER));
        let more: Vec<_> = std::iter::from_fn(|| begin(&other).ok()).collect();
        assert_eq!(open.len() + more.len(), limits::CALLS);
        open.pop();
        begin(&one).unwrap();
        drop((open, more));
        assert_eq!(clients.calls.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn watches_count_by_client() {
        let clients = clients(ServerLimits { watches_per_client: 2, ..ServerLimits::default() });
        let mut open: Vec<_> = (0..2).map(|_| clients.begin_watch(&address(1)).unwrap()).collect();
        assert_eq!(clients.begin_watch(&address(1)).unwrap_err().reason(), Reason::Overloaded);
        clients.begin_watch(&address(2)).unwrap();
        open.pop();
        clients.begin_watch(&address(1)).unwrap();
        open.clear();
        assert!(clients.known.lock().by_id.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let at = |text: &str| ClientId::at(Some(text.parse().unwrap()));
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
    }
}
