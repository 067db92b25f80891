//! The messages that stub readers send to a watch: a short history, the same at each reader.

use bytes::Bytes;

use crate::v1;
use v1::watch_drift_request::Start;
use v1::watch_drift_response::Event;

/// The seq after which a watch without a start begins.
pub(super) const NOW: u64 = 3;

/// A request as tests see it: its start and its heartbeat.
pub(super) fn asked(request: &v1::WatchDriftRequest) -> String {
    let start = match &request.start {
        None => "now".to_owned(),
        Some(Start::ResumeToken(token)) => String::from_utf8(token.to_vec()).unwrap(),
        other => format!("{other:?}"),
    };
    let heartbeat = request.heartbeat.unwrap();
    format!("{start} {}.{}", heartbeat.seconds, heartbeat.nanos)
}

fn at(read_seq: u64) -> v1::ReadHeader {
    v1::ReadHeader { read_seq, ..Default::default() }
}

fn part(seq: u64, key: &str, more: bool) -> Event {
    let change = v1::Change { key: key.to_owned(), ..Default::default() };
    Event::Commit(v1::Commit { seq, changes: vec![change], more, ..Default::default() })
}

fn rows(key: &str) -> Event {
    let row = v1::Row { key: key.to_owned(), ..Default::default() };
    Event::Rows(v1::RowBatch { table: "t".to_owned(), rows: vec![row] })
}

/// All messages. Commit 5 has several parts.
fn history() -> Vec<Event> {
    vec![
        rows("r1"),
        rows("r2"),
        Event::RowsDone(at(NOW)),
        part(4, "a", false),
        part(5, "b", true),
        part(5, "c", true),
        part(5, "d", false),
        Event::CaughtUp(at(5)),
        part(7, "e", false),
        Event::Progress(at(8)),
    ]
}

/// The messages of a response. A token is the number of messages of the history before it.
pub(super) fn messages(request: &v1::WatchDriftRequest) -> Vec<v1::WatchDriftResponse> {
    let after = match &request.start {
        Some(Start::ResumeToken(token)) => std::str::from_utf8(token).unwrap().parse().unwrap(),
        _ if request.initial_rows => 0,
        _ => 3,
    };
    let message = |event: Event, place: usize| {
        let inside = matches!(&event, Event::Commit(commit) if commit.more);
        let token = if inside { String::new() } else { place.to_string() };
        v1::WatchDriftResponse { event: Some(event), resume_token: Bytes::from(token) }
    };
    let mut messages = vec![message(Event::Opened(at(NOW)), after)];
    let history = history().into_iter().enumerate().skip(after);
    messages.extend(history.map(|(place, event)| message(event, place + 1)));
    messages
}
