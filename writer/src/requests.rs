//! What has been asked before: request ids within a window, and how far each producer's stream has come.

use std::collections::{HashMap, VecDeque};

use driftdb_common::error::Error;
use driftdb_common::format::event::{IngestOrigin, RequestId};
use driftdb_common::table::operation::WriteToken;

/// How long request ids are remembered: whichever bound is reached first. Bounds the memory, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// For so many commits.
    pub commits: u64,
    /// For so many milliseconds.
    pub millis: u64,
}

impl Default for Window {
    fn default() -> Self {
        Window { commits: 1_000_000, millis: 24 * 60 * 60 * 1000 }
    }
}

/// Whether a request has been made before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Not within the window.
    Never,
    /// The same request became this commit.
    Before(WriteToken),
    /// Another request with the same id became this commit.
    Otherwise(WriteToken),
}

/// The requests within the window, by id. Ids are of one principal until there are several.
#[derive(Debug)]
pub struct Requests {
    window: Window,
    by_id: HashMap<String, ([u8; 16], WriteToken)>,
    /// Oldest first.
    order: VecDeque<(String, WriteToken)>,
}

impl Requests {
    /// No requests yet.
    pub fn new(window: Window) -> Requests {
        Requests { window, by_id: HashMap::new(), order: VecDeque::new() }
    }

    /// Whether a request has been made before.
    pub fn find(&self, request: &RequestId) -> Asked {
        match self.by_id.get(&request.id) {
            None => Asked::Never,
            Some((fingerprint, token)) if *fingerprint == request.fingerprint => Asked::Before(*token),
            Some((_, token)) => Asked::Otherwise(*token),
        }
    }

    /// Remembers the request that a commit was asked by, and forgets those that have left the window.
    pub fn insert(&mut self, request: RequestId, token: WriteToken) {
        self.order.push_back((request.id.clone(), token));
        self.by_id.insert(request.id, (request.fingerprint, token));
        let Window { commits, millis } = self.window;
        while let Some((id, oldest)) = self.order.front() {
            if oldest.seq.saturating_add(commits) > token.seq
                && oldest.time_ms.saturating_add(millis) > token.time_ms
            {
                break;
            }
            // An id that has been used again since belongs to the later commit.
            if self.by_id.get(id).is_some_and(|(_, at)| at == oldest) {
                self.by_id.remove(id);
            }
            self.order.pop_front();
        }
    }

    /// Forgets the requests of commits after one: they were not made.
    pub fn forget_after(&mut self, seq: u64) {
        while let Some((id, _)) = self.order.pop_back_if(|(_, token)| token.seq > seq) {
            self.by_id.remove(&id);
        }
    }
}

/// Refused operations remembered for each producer.
const REFUSALS_KEPT: usize = 1000;

/// How far a producer's stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The last batch of which an operation was committed.
    pub batch: u64,
    /// The last of its operations that was, from 0.
    pub operation: u32,
    /// Every later operation of the batch was refused, or there is none.
    pub complete: bool,
}

/// An operation of a batch that was refused.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The batch.
    pub batch: u64,
    /// The operation's position in it, from 0.
    pub index: u32,
    /// Why.
    pub error: Error,
}

/// How far each producer's stream has come.
#[derive(Debug, Default)]
pub struct Producers {
    positions: HashMap<String, Position>,
    /// What was refused lately: told again to a new stream, for the acknowledgement may have been lost with the old one.
    refusals: HashMap<String, VecDeque<Refusal>>,
    /// What to go back to where a commit does not become durable: its seq, the producer, the position before.
    undo: VecDeque<(u64, String, Option<Position>)>,
}

impl Producers {
    /// How far a producer's stream has come.
    pub fn position(&self, producer: &str) -> Option<Position> {
        self.positions.get(producer).copied()
    }

    /// Takes in the origin of a commit.
    pub fn advance(&mut self, origin: IngestOrigin, seq: u64) {
        let IngestOrigin { producer, batch, operation, ends } = origin;
        let position = Position { batch, operation, complete: ends };
        let prior = self.positions.insert(producer.clone(), position);
        self.undo.push_back((seq, producer, prior));
    }

    /// A producer's batch has been gone through to its end, whether or not any of its operations was committed; what
    /// was refused may rest on commit `seq`, the newest.
    pub fn complete(&mut self, producer: &str, batch: u64, seq: u64) {
        let prior = self.positions.get(producer).copied();
        let position = match prior {
            Some(position) if position.batch > batch => return,
            Some(position) if position.batch == batch => Position { complete: true, ..position },
            _ => Position { batch, operation: 0, complete: true },
        };
        self.positions.insert(producer.to_owned(), position);
        self.undo.push_back((seq, producer.to_owned(), prior));
    }

    /// Remembers what was refused of a producer's batch.
    pub fn refuse(&mut self, producer: &str, batch: u64, refused: &[Refusal]) {
        if refused.is_empty() {
            return;
        }
        let kept = self.refusals.entry(producer.to_owned()).or_default();
        // A batch that did not become durable is gone through anew.
        kept.retain(|refusal| refusal.batch != batch);
        kept.extend(refused.iter().cloned());
        kept.drain(..kept.len().saturating_sub(REFUSALS_KEPT));
    }

    /// What was refused lately of a producer's batches, up to one.
    pub fn refusals(&self, producer: &str, upto: u64) -> Vec<Refusal> {
        let kept = self.refusals.get(producer).into_iter().flatten();
        kept.filter(|refusal| refusal.batch <= upto).cloned().collect()
    }

    /// Commits up to this one are durable.
    pub fn settle(&mut self, seq: u64) {
        while self.undo.pop_front_if(|(at, ..)| *at <= seq).is_some() {}
    }

    /// Commits after this one were not made.
    pub fn go_back_to(&mut self, seq: u64) {
        while let Some((_, producer, prior)) = self.undo.pop_back_if(|(at, ..)| *at > seq) {
            match prior {
                Some(prior) => _ = self.positions.insert(producer, prior),
                None => _ = self.positions.remove(&producer),
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
    fn a_request_is_known_within_the_window_only() {
        let mut requests = Requests::new(Window { commits: 3, millis: u64::MAX });
        for seq in 1..=3 {
            requests.insert(request(&format!("r{seq}"), 1), token(seq));
        }
        assert_eq!(requests.find(&request("r1", 1)), Asked::Before(token(1)));
        assert_eq!(requests.find(&request("r1", 2)), Asked::Otherwise(token(1)));
        requests.insert(request("r4", 1), token(4));
        assert_eq!(requests.find(&request("r1", 1)), Asked::Never);
        assert_eq!((requests.by_id.len(), requests.order.len()), (3, 3));
    }

    #[test]
    fn time_bounds_the_window_as_well() {
        let mut requests = Requests::new(Window { commits: u64::MAX, millis: 2000 });
        requests.insert(request("a", 1), token(1));
        requests.insert(request("b", 1), token(3));
        assert_eq!(requests.find(&request("a", 1)), Asked::Never);
        assert_eq!(requests.find(&request("b", 1)), Asked::Before(token(3)));
    }

    #[test]
    fn what_did_not_become_durable_is_forgotten() {
        let mut requests = Requests::new(Window::default());
        requests.insert(request("a", 1), token(1));
        requests.insert(request("b", 1), token(2));
        requests.forget_after(1);
        assert_eq!(requests.find(&request("b", 1)), Asked::Never);
        let mut producers = Producers::default();
        let origin = |batch| IngestOrigin { producer: "p".into(), batch, operation: 0, ends: false };
        producers.advance(origin(1), 1);
        producers.settle(1);
        producers.advance(origin(2), 2);
        producers.advance(origin(3), 3);
        producers.go_back_to(1);
        assert_eq!(producers.position("p").map(|position| position.batch), Some(1));
    }
}
