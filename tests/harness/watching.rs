//! One WatchDrift stream, read by a test, with commits in words.

use bytes::Bytes;
use driftdb::v1;
use driftdb::v1::watch_drift_request::Start;
use driftdb::v1::watch_drift_response::Event;
use tonic::Status;
use tonic::transport::Endpoint;

use super::watcher::{LIMIT, Stream, heartbeat, next};
use super::{Daemon, Reader};

/// An open stream.
#[derive(Debug)]
pub struct Watch {
    pub stream: Stream,
    pub opened: v1::ReadHeader,
    /// The token of the last message that had one.
    pub token: Bytes,
    /// The parts of a commit that has not arrived whole yet.
    pub parts: Vec<v1::Commit>,
}

/// A request for all changes of all tables, with frequent progress.
pub fn everything() -> v1::WatchDriftRequest {
    v1::WatchDriftRequest { heartbeat: heartbeat(100), ..Default::default() }
}

pub fn after(seq: u64) -> v1::WatchDriftRequest {
    v1::WatchDriftRequest { start: Some(Start::AfterSeq(seq)), ..everything() }
}

pub fn resume(token: &Bytes, request: &v1::WatchDriftRequest) -> v1::WatchDriftRequest {
    v1::WatchDriftRequest { start: Some(Start::ResumeToken(token.clone())), ..request.clone() }
}

/// Opens a stream. A refusal may arrive in place of the call's answer or of the first message.
pub async fn watch(reader: &mut Reader, request: v1::WatchDriftRequest) -> Result<Watch, Status> {
    let opening = async {
        let mut stream = reader.watch_drift(request).await?.into_inner();
        let first = stream.message().await?.ok_or_else(|| Status::unknown("the stream is empty"))?;
        let Some(Event::Opened(opened)) = first.event else { panic!("opened must come first: {first:?}") };
        assert!(!first.resume_token.is_empty());
        Ok(Watch { stream, opened, token: first.resume_token, parts: Vec::new() })
    };
    tokio::time::timeout(LIMIT, opening).await.expect("timed out opening the stream")
}

/// Opens a stream over its own connection with small receive windows: the reader soon notices if the test stops reading.
pub async fn narrow(daemon: &Daemon, request: v1::WatchDriftRequest) -> Watch {
    let endpoint = Endpoint::from_shared(daemon.url.clone()).unwrap();
    let endpoint = endpoint.initial_stream_window_size(16 << 10).initial_connection_window_size(64 << 10);
    watch(&mut Reader::new(endpoint.connect().await.unwrap()), request).await.unwrap()
}

/// A change in words.
pub fn words(change: &v1::Change) -> String {
    let kind = match change.kind() {
        v1::ChangeKind::Insert => "insert",
        v1::ChangeKind::Patch => "patch",
        v1::ChangeKind::SoftDelete => "delete",
        v1::ChangeKind::Schema => "schema",
        v1::ChangeKind::Unspecified => panic!("a change without a kind: {change:?}"),
    };
    if change.key.is_empty() {
        return format!("{kind} {}", change.table);
    }
    format!("{kind} {}/{}", change.table, change.key)
}

/// A commit in words.
pub fn told(commit: &v1::Commit) -> String {
    let changes: Vec<String> = commit.changes.iter().map(words).collect();
    format!("{}: {}", commit.seq, changes.join(", "))
}

impl Watch {
    /// The next message.
    pub async fn event(&mut self) -> Event {
        let message = next(&mut self.stream).await;
        let event = message.event.expect("an empty message");
        let is_part = matches!(&event, Event::Commit(commit) if commit.more);
        assert_eq!(
            message.resume_token.is_empty(),
            is_part,
            "every message has a token, except inside a commit"
        );
        if !is_part {
            self.token = message.resume_token;
        }
        event
    }

    /// The next whole commit. Skips other messages.
    pub async fn commit(&mut self) -> v1::Commit {
        loop {
            match self.event().await {
                Event::Commit(commit) if commit.more => self.parts.push(commit),
                Event::Commit(commit) => {
                    self.parts.push(commit);
                    let mut parts = std::mem::take(&mut self.parts).into_iter();
                    let mut whole = parts.next().unwrap();
                    for part in parts {
                        assert_eq!((part.seq, part.time), (whole.seq, whole.time));
                        whole.changes.extend(part.changes);
                        whole.more = part.more;
                    }
                    return whole;
                }
                other => assert!(self.parts.is_empty(), "inside a commit: {other:?}"),
            }
        }
    }

    /// The commits that arrive until the stream has sent everything up to `seq`.
    pub async fn upto(&mut self, seq: u64) -> Vec<v1::Commit> {
        let mut commits: Vec<v1::Commit> = Vec::new();
        loop {
            match self.event().await {
                Event::Commit(mut part) => match commits.last_mut().filter(|last| last.more) {
                    Some(last) => {
                        assert_eq!(last.seq, part.seq, "a part of another commit");
                        last.changes.append(&mut part.changes);
                        last.more = part.more;
                    }
                    None => commits.push(part),
                },
                Event::Progress(header) if header.read_seq >= seq => return commits,
                _ => {}
            }
        }
    }

    /// The same in words.
    pub async fn told(&mut self, seq: u64) -> Vec<String> {
        self.upto(seq).await.iter().map(told).collect()
    }

    /// The rows at the start, up to `rows_done`.
    pub async fn rows(&mut self) -> Vec<(String, v1::Row)> {
        let mut rows = Vec::new();
        loop {
            match self.event().await {
                // A batch without rows is a sign of life.
                Event::Rows(batch) => {
                    rows.extend(batch.rows.into_iter().map(|row| (batch.table.clone(), row)));
                }
                Event::RowsDone(header) => {
                    assert_eq!(header.read_seq, self.opened.read_seq);
                    return rows;
                }
                other => panic!("before rows_done: {other:?}"),
            }
        }
    }

    /// Reads a stream that ends by itself. Returns its last message, if that is a progress.
    pub async fn end(&mut self) -> Result<Option<u64>, Status> {
        let mut progress = None;
        loop {
            let message = tokio::time::timeout(LIMIT, self.stream.message())
                .await
                .expect("timed out waiting for the end of the stream");
            match message?.map(|message| message.event.unwrap()) {
                None => return Ok(progress),
                Some(Event::Progress(header)) => progress = Some(header.read_seq),
                Some(_) => progress = None,
            }
        }
    }
}
