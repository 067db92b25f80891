//! Request ids of recent commits, so that a retried request gets the answer of the first attempt.

use std::collections::{HashMap, VecDeque};

use driftdb_common::format::event::RequestId;
use driftdb_common::table::operation::WriteToken;

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

/// The requests within the window, by id.
#[derive(Debug)]
pub(crate) struct RecentRequests {
    window: RequestWindow,
    by_id: HashMap<String, ([u8; 16], WriteToken)>,
    /// In the order of commits, oldest first.
    order: VecDeque<(String, WriteToken)>,
}

impl RecentRequests {
    /// An empty set.
    pub(crate) fn new(window: RequestWindow) -> RecentRequests {
        RecentRequests { window, by_id: HashMap::new(), order: VecDeque::new() }
    }

    /// Looks up a request by its id and compares the fingerprints.
    pub(crate) fn find(&self, request: &RequestId) -> RequestMatch {
        match self.by_id.get(&request.id) {
            None => RequestMatch::New,
            Some((fingerprint, token)) if *fingerprint == request.fingerprint => {
                RequestMatch::Repeated(*token)
            }
            Some((_, token)) => RequestMatch::Conflicting(*token),
        }
    }

    /// The commit of the request within the window that has this id.
    pub(crate) fn commit_of(&self, id: &str) -> Option<WriteToken> {
        self.by_id.get(id).map(|(_, token)| *token)
    }

    /// Remembers the request of a commit, and removes the requests that have left the window. Commits must
    /// come in order.
    pub(crate) fn insert(&mut self, request: RequestId, token: WriteToken) {
        self.order.push_back((request.id.clone(), token));
        self.by_id.insert(request.id, (request.fingerprint, token));
        let RequestWindow { commits, millis } = self.window;
        while let Some((id, oldest)) = self.order.front() {
            if oldest.seq.saturating_add(commits) > token.seq
                && oldest.time_ms.saturating_add(millis) > token.time_ms
            {
                break;
            }
            // If the id was used again after it left the window, the entry in `by_id` belongs to the later
            // commit.
            if self.by_id.get(id).is_some_and(|(_, at)| at == oldest) {
                self.by_id.remove(id);
            }
            self.order.pop_front();
        }
    }

    /// Removes the requests of commits after `seq`: those commits did not become durable.
    pub(crate) fn remove_after(&mut self, seq: u64) {
        while let Some((id, _)) = self.order.pop_back_if(|(_, token)| token.seq > seq) {
            self.by_id.remove(&id);
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
        assert_eq!((requests.by_id.len(), requests.order.len()), (3, 3));
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
}
