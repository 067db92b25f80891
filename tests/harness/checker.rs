//! Checks the guarantees of WatchDrift message by message against the acknowledged writes: ordered, unique, no gaps,
//! whole commits, resumable, truthful progress, correct content.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use driftdb::v1;
use driftdb::v1::document::Body;
use driftdb::v1::watch_drift_response::Event;
use driftdb_common::format::json;
use serde_json::Value;

use super::filter::Filter;
use super::history::{Committed, History, RowChange, Version, millis, timestamp};

/// The guarantee that a stream violated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    Ordered,
    Unique,
    NoGap,
    Whole,
    Resumable,
    Truthful,
    Content,
}

pub struct Violation {
    pub of: Guarantee,
    pub what: String,
}

/// Tests print a violation with `unwrap`.
impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.of, self.what)
    }
}

type Verdict = Result<(), Violation>;

fn broken(of: Guarantee, what: impl Into<String>) -> Verdict {
    Err(Violation { of, what: what.into() })
}

/// Where a stream starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Start {
    /// At the reader's newest commit.
    Now,
    AfterSeq(u64),
    AfterTimeMs(i64),
    /// With the rows at a commit of the reader's choice.
    InitialRows,
    /// With the rows at a given commit.
    InitialRowsAt(u64),
}

impl Start {
    fn has_rows(self) -> bool {
        matches!(self, Start::InitialRows | Start::InitialRowsAt(_))
    }
}

/// How many of each thing a stream sent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counts {
    pub commits: u64,
    pub changes: u64,
    /// Messages that are parts of a commit in several messages.
    pub parts: u64,
    pub rows: u64,
    pub progress: u64,
    pub caught_up: u64,
    pub fell_behind: u64,
}

/// One subscription, over all the streams that it needed.
#[derive(Debug)]
pub struct Checker {
    filter: Filter,
    start: Start,
    /// The stream has sent, or claims to have sent, everything up to this commit.
    position: u64,
    /// The last commit that arrived.
    last: u64,
    came: BTreeSet<u64>,
    /// The parts of a commit that has not arrived whole yet.
    parts: Option<v1::Commit>,
    token: Bytes,
    opened_before: bool,
    /// Whether this stream's first message has arrived.
    opened: bool,
    rows: Option<BTreeMap<(String, String), v1::Row>>,
    pub counts: Counts,
}

/// The commit that the journal must contain before a message can be checked.
pub fn reach(event: &v1::WatchDriftResponse) -> u64 {
    match event.event.as_ref() {
        Some(Event::Opened(header) | Event::RowsDone(header) | Event::Progress(header)) => header.read_seq,
        Some(Event::CaughtUp(header) | Event::FellBehind(header)) => header.read_seq,
        Some(Event::Commit(commit)) => commit.seq,
        Some(Event::Rows(batch)) => batch.rows.iter().map(|row| row.seq).max().unwrap_or(0),
        None => 0,
    }
}

impl Checker {
    pub fn new(filter: Filter, start: Start) -> Checker {
        Checker {
            filter,
            start,
            position: 0,
            last: 0,
            came: BTreeSet::new(),
            parts: None,
            token: Bytes::new(),
            opened_before: false,
            opened: false,
            rows: start.has_rows().then(BTreeMap::new),
            counts: Counts::default(),
        }
    }

    /// The stream has sent everything up to this commit.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether the subscription asked for rows at the start.
    pub fn wants_rows(&self) -> bool {
        self.start.has_rows()
    }

    /// Whether rows at the start are still arriving.
    pub fn in_rows(&self) -> bool {
        self.rows.is_some()
    }

    /// Starts the next stream and returns its request. Drops the parts of a commit that did not arrive whole.
    pub fn request(&mut self) -> v1::WatchDriftRequest {
        use v1::watch_drift_request::Start as Wire;
        self.parts = None;
        self.opened = false;
        let start = match self.start {
            _ if !self.token.is_empty() => Some(Wire::ResumeToken(self.token.clone())),
            Start::Now | Start::InitialRows => None,
            Start::AfterSeq(seq) | Start::InitialRowsAt(seq) => Some(Wire::AfterSeq(seq)),
            Start::AfterTimeMs(ms) => Some(Wire::AfterTime(timestamp(ms))),
        };
        v1::WatchDriftRequest { start, initial_rows: self.start.has_rows(), ..self.filter.request() }
    }

    /// Checks the next message of the stream.
    pub fn take(&mut self, history: &History, message: v1::WatchDriftResponse) -> Verdict {
        let Some(event) = message.event else { return broken(Guarantee::Content, "an empty message") };
        if self.opened == matches!(event, Event::Opened(_)) {
            return broken(
                Guarantee::Content,
                format!("`opened` must be the first message, and only the first: {event:?}"),
            );
        }
        if self.parts.is_some() && !matches!(event, Event::Commit(_)) {
            return broken(Guarantee::Whole, format!("{event:?} arrived inside a commit"));
        }
        let is_part = matches!(&event, Event::Commit(commit) if commit.more);
        if is_part != message.resume_token.is_empty() {
            let what = format!(
                "a token of {} bytes; the message is a part of a commit: {is_part}",
                message.resume_token.len()
            );
            return broken(Guarantee::Resumable, what);
        }
        match event {
            Event::Opened(header) => self.open(history, &header)?,
            Event::Rows(batch) => self.rows(batch)?,
            Event::RowsDone(header) => self.rows_done(history, &header)?,
            Event::Commit(commit) => self.commit(history, commit)?,
            Event::Progress(header) => {
                self.counts.progress += 1;
                self.claim(history, header.read_seq, "progress")?;
            }
            Event::CaughtUp(header) => {
                self.counts.caught_up += 1;
                self.claim(history, header.read_seq, "caught_up")?;
            }
            Event::FellBehind(header) => {
                self.counts.fell_behind += 1;
                self.claim(history, header.read_seq, "fell_behind")?;
            }
        }
        if !message.resume_token.is_empty() {
            self.token = message.resume_token;
        }
        Ok(())
    }

    fn open(&mut self, history: &History, header: &v1::ReadHeader) -> Verdict {
        self.opened = true;
        let seq = header.read_seq;
        if self.opened_before {
            if seq < self.last || self.rows.is_some() && seq != self.position {
                let what = format!("resumed at {seq}, but the stream had reached {}", self.position);
                return broken(Guarantee::Resumable, what);
            }
            return match self.rows {
                Some(_) => Ok(()),
                None => self.claim(history, seq, "opened"),
            };
        }
        self.opened_before = true;
        let expected = match self.start {
            Start::Now | Start::InitialRows => seq,
            Start::AfterSeq(seq) | Start::InitialRowsAt(seq) => seq,
            Start::AfterTimeMs(ms) => history.seq_at(ms),
        };
        if seq != expected {
            return broken(Guarantee::Content, format!("starts at {seq} instead of {expected}"));
        }
        self.position = seq;
        Ok(())
    }

    fn rows(&mut self, batch: v1::RowBatch) -> Verdict {
        let Some(rows) = &mut self.rows else {
            return broken(Guarantee::Content, "rows that were not requested, or after rows_done");
        };
        for row in batch.rows {
            self.counts.rows += 1;
            let key = (batch.table.clone(), row.key.clone());
            if rows.insert(key, row).is_some() {
                return broken(Guarantee::Unique, "a row was sent twice");
            }
        }
        Ok(())
    }

    fn rows_done(&mut self, history: &History, header: &v1::ReadHeader) -> Verdict {
        let Some(mut found) = self.rows.take() else {
            return broken(Guarantee::Content, "rows_done without a request for rows, or a second time");
        };
        if header.read_seq != self.position {
            let what = format!("rows at {}, but the stream started at {}", header.read_seq, self.position);
            return broken(Guarantee::Resumable, what);
        }
        let mut expected = history.rows(self.position);
        expected.retain(|(table, key), (id, row)| self.filter.takes_row(table, key, id, row));
        for ((table, key), (_, row)) in expected {
            let Some(came) = found.remove(&(table.to_string(), key.clone())) else {
                return broken(Guarantee::NoGap, format!("the row {table}/{key} is missing"));
            };
            let same = came.seq == row.seq && millis(came.time.as_ref()) == row.time_ms;
            if !same || !self.is_same(came.document.as_ref(), Some(&row.document)) {
                return broken(Guarantee::Content, format!("expected {row:?}, got {came:?}"));
            }
        }
        match found.pop_first() {
            Some((row, _)) => broken(Guarantee::Content, format!("unexpected row {row:?}")),
            None => Ok(()),
        }
    }

    fn commit(&mut self, history: &History, mut part: v1::Commit) -> Verdict {
        let seq = part.seq;
        if self.rows.is_some() {
            return broken(Guarantee::Content, format!("commit {seq} was sent before rows_done"));
        }
        self.counts.parts += u64::from(part.more || self.parts.is_some());
        if let Some(mut whole) = self.parts.take() {
            let same = (whole.seq, &whole.time, &whole.reason) == (seq, &part.time, &part.reason);
            if !same {
                let what = format!("commit {} is incomplete, but commit {seq} was sent", whole.seq);
                return broken(Guarantee::Whole, what);
            }
            if part.changes.is_empty() {
                return broken(Guarantee::Content, format!("a part of commit {seq} has no changes"));
            }
            whole.changes.append(&mut part.changes);
            whole.more = part.more;
            part = whole;
        } else {
            self.begins(history, seq)?;
        }
        if part.more {
            self.parts = Some(part);
            return Ok(());
        }
        let Some(known) = history.commit(seq) else {
            return broken(Guarantee::Content, format!("commit {seq} was never acknowledged"));
        };
        self.is_whole(known, &part)?;
        self.counts.commits += 1;
        self.counts.changes += part.changes.len() as u64;
        self.came.insert(seq);
        (self.position, self.last) = (seq, seq);
        Ok(())
    }

    /// Checks that a commit is the next one due.
    fn begins(&self, history: &History, seq: u64) -> Verdict {
        if self.came.contains(&seq) {
            return broken(Guarantee::Unique, format!("commit {seq} was sent twice"));
        }
        if seq <= self.position {
            let what = format!("commit {seq} was sent after {}", self.position);
            return broken(Guarantee::Ordered, what);
        }
        match self.first_missing(history, seq - 1) {
            Some(missing) => broken(Guarantee::NoGap, format!("commit {missing} is missing before {seq}")),
            None => Ok(()),
        }
    }

    fn first_missing(&self, history: &History, upto: u64) -> Option<u64> {
        history.between(self.position, upto).find(|commit| self.filter.wants(commit)).map(|commit| commit.seq)
    }

    /// Checks the stream's claim that it has sent everything up to a commit.
    fn claim(&mut self, history: &History, seq: u64, by: &str) -> Verdict {
        if self.rows.is_some() {
            // Before `rows_done` the stream cannot claim progress.
            return broken(Guarantee::Truthful, format!("{by} before rows_done"));
        }
        if seq < self.position {
            return broken(Guarantee::Truthful, format!("{by} went back from {} to {seq}", self.position));
        }
        if let Some(missing) = self.first_missing(history, seq) {
            return broken(
                Guarantee::Truthful,
                format!("{by} claims {seq}, but commit {missing} was not sent"),
            );
        }
        self.position = seq;
        Ok(())
    }

    /// Checks that a commit has the content that was written.
    fn is_whole(&self, known: &Arc<Committed>, found: &v1::Commit) -> Verdict {
        let seq = known.seq;
        let expected = self.filter.of(known);
        if expected.is_empty() {
            return broken(Guarantee::Content, format!("unexpected commit {seq}"));
        }
        let named = (millis(found.time.as_ref()), found.reason.as_str());
        if named != (known.time_ms, &known.reason) {
            return broken(Guarantee::Content, format!("commit {seq} has another time or reason: {named:?}"));
        }
        if expected.len() != found.changes.len() {
            let what = format!("{} of {} changes of commit {seq}", found.changes.len(), expected.len());
            return broken(Guarantee::Whole, what);
        }
        for (expected, found) in expected.into_iter().zip(&found.changes) {
            self.is_change(expected, found).map_err(|what| Violation {
                of: Guarantee::Content,
                what: format!("commit {seq}: {what}: expected {expected:?}, got {found:?}"),
            })?;
        }
        Ok(())
    }

    fn is_change(&self, expected: &RowChange, found: &v1::Change) -> Result<(), &'static str> {
        if (&*expected.table, &expected.key) != (&found.table, &found.key) {
            return Err("another row");
        }
        if expected.kind != found.kind() {
            return Err("another kind");
        }
        if !self.is_same(found.payload.as_ref(), expected.payload.as_ref()) {
            return Err("another payload");
        }
        let image = |wanted: bool, row: &Option<Version>| {
            row.as_ref().filter(|_| wanted).map(|row| row.document.clone())
        };
        if !self.is_same(found.before.as_ref(), image(self.filter.before, &expected.before).as_ref()) {
            return Err("another row before");
        }
        if !self.is_same(found.after.as_ref(), image(self.filter.after, &expected.after).as_ref()) {
            return Err("another row after");
        }
        Ok(())
    }

    fn is_same(&self, found: Option<&v1::Document>, expected: Option<&Arc<Value>>) -> bool {
        let body = found.and_then(|document| document.body.as_ref());
        let text = match (body, self.filter.msgpack) {
            (None, _) => return found.is_none() && expected.is_none(),
            (Some(Body::Json(text)), false) => text.clone(),
            (Some(Body::Msgpack(bytes)), true) => match json::from_msgpack(bytes) {
                Ok(text) => text,
                Err(_) => return false,
            },
            _ => return false,
        };
        let value = serde_json::from_str::<Value>(&text).ok();
        value.is_some() && value.as_ref() == expected.map(|expected| &**expected)
    }
}
