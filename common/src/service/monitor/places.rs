//! The places of the monitor's connections: who connects at the bound takes the place of a connection that does nothing.
//!
//! A supervisor ends a daemon whose probes fail. So nobody may keep probes out by holding connections: an idle connection gives way, the
//! oldest one of whoever has the most, and one network has half of the places.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::service::server::network_of;

/// The open connections.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<OpenPlaces>);

#[derive(Debug, Default)]
struct OpenPlaces {
    next_id: u64,
    /// In the order in which they came.
    by_id: BTreeMap<u64, Arc<OpenPlace>>,
}

#[derive(Debug)]
struct OpenPlace {
    network: IpAddr,
    /// Requests that are being answered.
    requests: AtomicUsize,
    given_away: CancellationToken,
}

/// The place of a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct MonitorPlace {
    places: Arc<Places>,
    id: u64,
    open: Arc<OpenPlace>,
}

/// A request that is being answered, until it is dropped.
pub(super) struct Busy<'a>(&'a OpenPlace);

impl Places {
    /// A place for a connection from an address; `None` if all have work.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<MonitorPlace> {
        let network = network_of(peer);
        let mut places = self.0.lock();
        let own = places.by_id.values().filter(|open| open.network == network).count();
        if own >= limits::METRICS_CONNECTIONS_OF_NETWORK {
            places.give_away(|open| open.network == network)?;
        } else if places.by_id.len() >= limits::METRICS_CONNECTIONS {
            places.give_away(|_| true)?;
        }
        let id = places.next_id;
        places.next_id += 1;
        let open = Arc::new(OpenPlace {
            network,
            requests: AtomicUsize::new(0),
            given_away: CancellationToken::new(),
        });
        places.by_id.insert(id, Arc::clone(&open));
        Some(MonitorPlace { places: Arc::clone(self), id, open })
    }
}

impl OpenPlaces {
    /// Closes the oldest idle connection among some, of the network with the most. `None` if all have work.
    fn give_away(&mut self, is_meant: impl Fn(&OpenPlace) -> bool) -> Option<()> {
        let mut by_network = BTreeMap::<IpAddr, usize>::new();
        for open in self.by_id.values() {
            *by_network.entry(open.network).or_default() += 1;
        }
        let idle = |open: &OpenPlace| open.requests.load(Ordering::Acquire) == 0;
        let candidates = self.by_id.iter().filter(|(_, open)| is_meant(open) && idle(open)).rev();
        // Of equal ones `max_by_key` takes the last: the oldest.
        let chosen = candidates.max_by_key(|(_, open)| by_network.get(&open.network).copied())?;
        let id = *chosen.0;
        self.by_id.remove(&id)?.given_away.cancel();
        Some(())
    }
}

impl MonitorPlace {
    /// A request comes, and is answered until the returned value is dropped.
    pub(super) fn work(&self) -> Busy<'_> {
        self.open.requests.fetch_add(1, Ordering::AcqRel);
        Busy(&self.open)
    }

    /// Waits until the connection must close, because its place is taken.
    pub(super) async fn given_away(&self) {
        self.open.given_away.cancelled().await;
    }
}

impl Drop for MonitorPlace {
    fn drop(&mut self) {
        self.places.0.lock().by_id.remove(&self.id);
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_given_away(place: &MonitorPlace) -> bool {
        place.open.given_away.is_cancelled()
    }

    fn enter(places: &Arc<Places>, last: u8) -> Option<MonitorPlace> {
        places.enter(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn one_address_takes_places_only_from_itself() {
        let places = Arc::new(Places::default());
        let others: Vec<MonitorPlace> = (1..=8).map(|last| enter(&places, last).unwrap()).collect();
        let mut own = Vec::new();
        for n in 0..100 {
            own.push(enter(&places, 200).unwrap());
            // The oldest one has given way.
            let left = own.iter().filter(|place| !is_given_away(place)).count();
            assert_eq!(left, (n + 1).min(limits::METRICS_CONNECTIONS_OF_NETWORK));
        }
        assert!(own.iter().take(92).all(is_given_away) && !others.iter().any(is_given_away));
        // All places are taken: the one with the most gives way to somebody new.
        let _new = enter(&places, 201).unwrap();
        assert!(is_given_away(&own[92]) && !others.iter().any(is_given_away));
    }

    #[test]
    fn a_connection_with_work_keeps_its_place() {
        let places = Arc::new(Places::default());
        let all: Vec<MonitorPlace> = (1..=16).map(|last| enter(&places, last).unwrap()).collect();
        let mut work: Vec<Busy<'_>> = all.iter().map(MonitorPlace::work).collect();
        assert!(enter(&places, 100).is_none());
        drop(work.remove(5));
        let new = enter(&places, 100).unwrap();
        assert!(is_given_away(&all[5]) && all.iter().filter(|place| is_given_away(place)).count() == 1);
        drop(new);
        enter(&places, 101).unwrap();
    }
}
