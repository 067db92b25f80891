//! Request ids of recent commits, so that a retried request gets the answer of the first attempt.
//!
//! There can be a million, and this is under the admission lock, so no insertion may cost what the number of them is: they stand
//! in chunks in the order of commits, and many small tables, each of which grows alone, find them by a hash of the id. One
//! large map took a quarter of a second to grow at a million ids, for which every write waited, and three times the memory.

use std::collections::VecDeque;

use driftdb_common::format::event::RequestId;
use driftdb_common::table::operation::WriteToken;
use hashbrown::HashTable;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// The number of tables.
const TABLES: usize = 256;
/// The number of requests in one chunk.
const CHUNK: usize = 4096;

/// How long request ids are remembered. The bound that is reached first counts. The window also bounds the
/// memory used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestWindow {
    /// The number of commits for which an id is remembered.
    pub commits: u64,
    /// The time for which an id is remembered, in milliseconds.
    pub millis: u64,
}

impl Default for RequestWindow {
    fn default() -> Self {
        RequestWindow { commits: 1_000_000, millis: 24 * 60 * 60 * 1000 }
    }
}

/// What is known about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestMatch {
    /// No request within the window has this id.
    New,
    /// The same request was committed before, as this commit.
    Repeated(WriteToken),
    /// A different request with the same id was committed before, as this commit.
    Conflicting(WriteToken),
}

/// A request of a commit.
#[derive(Debug, Clone, Copy)]
struct Remembered {
    id: IdHash,
    fingerprint: [u8; 16],
    token: WriteToken,
}

/// The hash of an id. Its seed is random, so that nobody can choose two ids that have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct IdHash {
    high: u64,
    low: u64,
}

/// The requests within the window.
#[derive(Debug)]
pub(crate) struct RecentRequests {
    window: RequestWindow,
    seed: u64,
    queue: RequestQueue,
    /// The numbers that requests have in `queue`, by the hash of their ids.
    tables: Vec<HashTable<u64>>,
}

impl RecentRequests {
    /// An empty set.
    pub(crate) fn new(window: RequestWindow) -> RecentRequests {
        RecentRequests {
            window,
            seed: Uuid::new_v4().as_u64_pair().1,
            queue: RequestQueue::default(),
            tables: (0..TABLES).map(|_| HashTable::new()).collect(),
        }
    }

    /// Looks up a request by its id and compares the fingerprints.
    pub(crate) fn find(&self, request: &RequestId) -> RequestMatch {
        match self.remembered(&request.id) {
            None => RequestMatch::New,
            Some(known) if known.fingerprint == request.fingerprint => RequestMatch::Repeated(known.token),
            Some(known) => RequestMatch::Conflicting(known.token),
        }
    }

    /// The commit of the request within the window that has this id.
    pub(crate) fn commit_of(&self, id: &str) -> Option<WriteToken> {
        self.remembered(id).map(|known| known.token)
    }

    fn remembered(&self, id: &str) -> Option<&Remembered> {
        let id = self.hash(id);
        let table = self.tables.get(table_of(id))?;
        let number = table.find(id.low, |number| self.queue.has(*number, id))?;
        self.queue.get(*number)
    }

    /// Remembers the request of a commit, and removes the requests that have left the window. Commits must
    /// come in order.
    pub(crate) fn insert(&mut self, request: RequestId, token: WriteToken) {
        let id = self.hash(&request.id);
        // An id may be used again after it has left the window: the later commit counts.
        self.forget(id, |queue, number| queue.has(number, id));
        let number = self.queue.push(Remembered { id, fingerprint: request.fingerprint, token });
        if let Some(table) = self.tables.get_mut(table_of(id)) {
            let queue = &self.queue;
            table.insert_unique(id.low, number, |number| queue.get(*number).map_or(0, |known| known.id.low));
        }
        let RequestWindow { commits, millis } = self.window;
        while let Some((number, oldest)) = self.queue.front() {
            if oldest.token.seq.saturating_add(commits) > token.seq
                && oldest.token.time_ms.saturating_add(millis) > token.time_ms
            {
                break;
            }
            self.forget(oldest.id, |_, known| known == number);
            self.queue.pop_front();
        }
    }

    /// Removes the requests of commits after `seq`: those commits did not become durable.
    pub(crate) fn remove_after(&mut self, seq: u64) {
        while let Some((number, newest)) = self.queue.back()
            && newest.token.seq > seq
        {
            self.forget(newest.id, |_, known| known == number);
            self.queue.pop_back();
        }
    }

    fn hash(&self, id: &str) -> IdHash {
        let hash = xxh3_128_with_seed(id.as_bytes(), self.seed);
        let halves = [hash >> 64, hash & u128::from(u64::MAX)];
        let [high, low] = halves.map(|half| u64::try_from(half).unwrap_or(u64::MAX));
        IdHash { high, low }
    }

    /// Removes a request from the tables, if its number is one of those asked for.
    fn forget(&mut self, id: IdHash, is_meant: impl Fn(&RequestQueue, u64) -> bool) {
        let queue = &self.queue;
        if let Some(table) = self.tables.get_mut(table_of(id))
            && let Ok(entry) = table.find_entry(id.low, |number| is_meant(queue, *number))
        {
            entry.remove();
        }
    }
}

/// The table of a hash. The other half of the hash chooses the place within the table.
fn table_of(id: IdHash) -> usize {
    usize::try_from(id.high % TABLES as u64).unwrap_or(0)
}

/// The requests in the order of their commits, each with a number that never changes.
#[derive(Debug, Default)]
struct RequestQueue {
    /// All but the last are full.
    chunks: VecDeque<Vec<Remembered>>,
    /// The number of the first request of the first chunk.
    base: u64,
    /// How many of the first chunk have been removed.
    removed: usize,
}

impl RequestQueue {
    fn get(&self, number: u64) -> Option<&Remembered> {
        let at = usize::try_from(number.checked_sub(self.base)?).ok()?;
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)
    }

    fn has(&self, number: u64, id: IdHash) -> bool {
        self.get(number).is_some_and(|known| known.id == id)
    }

    /// The number after the newest.
    fn end(&self) -> u64 {
        let full = self.chunks.len().saturating_sub(1) * CHUNK;
        self.base + (full + self.chunks.back().map_or(0, Vec::len)) as u64
    }

    fn front(&self) -> Option<(u64, Remembered)> {
        let number = self.base + self.removed as u64;
        self.get(number).map(|request| (number, *request))
    }

    fn back(&self) -> Option<(u64, Remembered)> {
        let number = self.end().checked_sub(1).filter(|number| *number >= self.base + self.removed as u64)?;
        self.get(number).map(|request| (number, *request))
    }

    fn push(&mut self, request: Remembered) -> u64 {
        let number = self.end();
        match self.chunks.back_mut().filter(|chunk| chunk.len() < CHUNK) {
            Some(chunk) => chunk.push(request),
            None => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(request);
                self.chunks.push_back(chunk);
            }
        }
        number
    }

    fn pop_front(&mut self) {
        self.removed += 1;
        if self.removed == CHUNK {
            self.chunks.pop_front();
            self.base += CHUNK as u64;
            self.removed = 0;
        }
    }

    fn pop_back(&mut self) {
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.pop();
            if chunk.is_empty() {
                self.chunks.pop_back();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str, fingerprint: u8) -> RequestId {
        RequestId { id: id.into(), fingerprint: [fingerprint; 16] }
    }

    fn token(seq: u64) -> WriteToken {
        WriteToken { seq, time_ms: seq * 1000 }
    }

    #[test]
    fn a_request_is_found_within_the_window_only() {
        let mut requests = RecentRequests::new(RequestWindow { commits: 3, millis: u64::MAX });
        for seq in 1..=3 {
            requests.insert(request(&format!("r{seq}"), 1), token(seq));
        }
        assert_eq!(requests.find(&request("r1", 1)), RequestMatch::Repeated(token(1)));
        assert_eq!(requests.find(&request("r1", 2)), RequestMatch::Conflicting(token(1)));
        assert_eq!((requests.commit_of("r2"), requests.commit_of("r4")), (Some(token(2)), None));
        requests.insert(request("r4", 1), token(4));
        assert_eq!(requests.find(&request("r1", 1)), RequestMatch::New);
        assert_eq!(requests.find(&request("r4", 1)), RequestMatch::Repeated(token(4)));
    }

    #[test]
    fn the_window_is_bounded_by_time_too() {
        let mut requests = RecentRequests::new(RequestWindow { commits: u64::MAX, millis: 2000 });
        requests.insert(request("a", 1), token(1));
        requests.insert(request("b", 1), token(3));
        assert_eq!(requests.find(&request("a", 1)), RequestMatch::New);
        assert_eq!(requests.find(&request("b", 1)), RequestMatch::Repeated(token(3)));
    }

    #[test]
    fn requests_of_commits_that_did_not_become_durable_are_removed() {
        let mut requests = RecentRequests::new(RequestWindow::default());
        requests.insert(request("a", 1), token(1));
        requests.insert(request("b", 1), token(2));
        requests.remove_after(1);
        assert_eq!(requests.find(&request("a", 1)), RequestMatch::Repeated(token(1)));
        assert_eq!(requests.find(&request("b", 1)), RequestMatch::New);
    }

    /// Random insertions, repeats of old ids and roll-backs, with windows that are left soon, against a plain list.
    #[test]
    fn requests_are_found_as_in_a_plain_list() {
        for seed in 0..6u64 {
            let window = RequestWindow { commits: 1 + seed * 2_000, millis: 5_000_000 + seed * 1_000_000 };
            let mut requests = RecentRequests::new(window);
            // In the order of commits; what has left the window is removed.
            let mut model: VecDeque<(RequestId, WriteToken)> = VecDeque::new();
            let mut state = seed + 1;
            let mut random = |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let mut seq = 0;
            for step in 0..15_000u64 {
                if random(500) == 0 {
                    seq -= random(3).min(seq);
                    requests.remove_after(seq);
                    model.retain(|(_, at)| at.seq <= seq);
                }
                let id = request(&random(15_000).to_string(), u8::from(random(2) == 1));
                let known = model.iter().rev().find(|(known, _)| known.id == id.id);
                let expected = match known {
                    None => RequestMatch::New,
                    Some((known, at)) if known.fingerprint == id.fingerprint => RequestMatch::Repeated(*at),
                    Some((_, at)) => RequestMatch::Conflicting(*at),
                };
                assert_eq!(requests.find(&id), expected, "seed {seed}, step {step}, {id:?}");
                if expected == RequestMatch::New {
                    seq += 1;
                    requests.insert(id.clone(), token(seq));
                    model.push_back((id, token(seq)));
                    let left = |at: &WriteToken| {
                        at.seq + window.commits <= seq || at.time_ms + window.millis <= seq * 1000
                    };
                    while model.front().is_some_and(|(_, at)| left(at)) {
                        model.pop_front();
                    }
                }
            }
        }
    }
}
