//! Tests of watches with readers that fail, fall silent and break off at any position.

use std::time::Duration;

use tonic::Code;

use super::feed::NOW;
use super::stubs::{self, Act, StubScript};
use super::{UNUSED, code_and_reason, failed_with, options};
use crate::client::{Client, WatchEvent, Watcher};
use crate::v1;

/// A short text for an event: `5 bcd` is commit 5 with its changes.
fn word(event: WatchEvent) -> String {
    match event {
        WatchEvent::Opened(header) => format!("opened {}", header.read_seq),
        WatchEvent::Rows(batch) => batch.rows.into_iter().map(|row| row.key).collect(),
        WatchEvent::RowsDone(header) => format!("rows done {}", header.read_seq),
        WatchEvent::Commit(commit) => {
            let keys: String = commit.changes.into_iter().map(|change| change.key).collect();
            format!("{} {keys}", commit.seq)
        }
        WatchEvent::Progress(header) => format!("progress {}", header.read_seq),
        WatchEvent::CaughtUp(_) => "caught up".into(),
        WatchEvent::FellBehind(_) => "fell behind".into(),
        WatchEvent::Interrupted(_) => "interrupted".into(),
        WatchEvent::Resumed(_) => "resumed".into(),
    }
}

const COMMITS: [&str; 5] = ["4 a", "5 bcd", "caught up", "7 e", "progress 8"];

async fn readers(scripts: &[std::sync::Arc<StubScript>]) -> Client {
    let mut addresses = Vec::new();
    for script in scripts {
        addresses.push(stubs::reader(script).await);
    }
    Client::with(options(), [""; 0], addresses)
}

/// All events up to the end of the history, without those about breaks.
async fn all(watch: &mut Watcher) -> Vec<String> {
    let mut words = Vec::new();
    while words.last().is_none_or(|last: &String| !last.starts_with("progress")) {
        let event = watch.next().await.unwrap().unwrap();
        if !matches!(event, WatchEvent::Interrupted(_) | WatchEvent::Resumed(_)) {
            words.push(word(event));
        }
    }
    words
}

fn with_rows() -> Vec<&'static str> {
    [vec!["opened 3", "r1", "r2", "rows done 3"], COMMITS.to_vec()].concat()
}

fn asked(script: &StubScript) -> Vec<String> {
    let starts = script.asked.lock().unwrap().clone();
    starts.iter().map(|asked| asked.trim_matches('"').split(' ').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_broken_connection_neither_loses_nor_repeats_commits() {
    let mut watches = tokio::task::JoinSet::new();
    for initial_rows in [false, true] {
        for (first, second) in (0..12).flat_map(|first| [0, 1, 2, 4].map(|second| (first, second))) {
            watches.spawn(async move {
                let acts = [Act::CutAfter(first), Act::EndAfter(second), Act::Cut, Act::Answer];
                let client = readers(&[StubScript::new(&acts)]).await;
                let request = v1::WatchDriftRequest { initial_rows, ..Default::default() };
                let expected =
                    if initial_rows { with_rows() } else { [vec!["opened 3"], COMMITS.to_vec()].concat() };
                assert_eq!(all(&mut client.watch(request)).await, expected, "{first} {second}");
            });
        }
    }
    watches.join_all().await;
}

#[tokio::test]
async fn a_watch_resumes_at_the_next_reader_and_reports_it_once() {
    let down = Act::Fail(Code::Unavailable, "SHUTTING_DOWN");
    let busy = Act::Fail(Code::ResourceExhausted, "OVERLOADED");
    let behind = Act::Fail(Code::Unavailable, "REPLICA_BEHIND");
    // The commit with several parts breaks off after its first part.
    let scripts = [
        StubScript::new(&[Act::CutAfter(3), down.clone()]),
        StubScript::new(&[behind, busy, down, Act::Answer]),
    ];
    let client = readers(&scripts).await;
    let mut watch = client.watch(v1::WatchDriftRequest::default());
    let mut words = Vec::new();
    while words.last().is_none_or(|last| last != "7 e") {
        words.push(word(watch.next().await.unwrap().unwrap()));
    }
    assert_eq!(words, ["opened 3", "4 a", "interrupted", "resumed", "5 bcd", "caught up", "7 e"]);
    assert_eq!(asked(&scripts[1]), ["4"; 4]);
    assert_eq!(watch.token().map(|token| &token[..]), Some(&b"9"[..]));

    // Another watch can resume from the token.
    let client = readers(&[StubScript::new(&[Act::Answer])]).await;
    let start = watch.token().cloned().map(v1::watch_drift_request::Start::ResumeToken);
    let mut watch = client.watch(v1::WatchDriftRequest { start, ..Default::default() });
    assert_eq!(all(&mut watch).await, ["opened 3", "progress 8"]);
}

/// What a watch has shown, no later read may take back: with several readers, each of them must have it.
#[tokio::test]
async fn what_a_watch_has_delivered_is_in_the_reads_after_it() {
    let scripts = [StubScript::new(&[Act::Answer]), StubScript::new(&[Act::Answer])];
    let client = readers(&scripts).await;
    let mut watch = client.watch(v1::WatchDriftRequest::default());
    while word(watch.next().await.unwrap().unwrap()) != "7 e" {}
    client.get("t", "1").await.unwrap();
    let asked: Vec<String> = scripts.iter().flat_map(|script| script.asked.lock().unwrap().clone()).collect();
    assert!(asked.iter().any(|asked| asked.contains("Some((7, ")), "{asked:?}");
}

#[tokio::test]
async fn a_start_of_now_does_not_move_after_a_break() {
    let script = StubScript::new(&[Act::Cut, Act::CutAfter(1), Act::Answer]);
    let client = readers(std::slice::from_ref(&script)).await;
    let mut watch = client.watch(v1::WatchDriftRequest::default());
    assert!(watch.token().is_none());
    assert_eq!(all(&mut watch).await.len(), 1 + COMMITS.len());
    assert_eq!(asked(&script), ["now", "now", &NOW.to_string()]);
    assert!(script.asked.lock().unwrap()[0].ends_with(" 10.0\""), "the watch requests a heartbeat");
}

#[tokio::test]
async fn a_silent_reader_is_abandoned() {
    let script = StubScript::new(&[Act::SilentAfter(2), Act::Answer]);
    let client = readers(std::slice::from_ref(&script)).await;
    let heartbeat = prost_types::Duration { seconds: 0, nanos: 100_000_000 };
    let request = v1::WatchDriftRequest { heartbeat: Some(heartbeat), ..Default::default() };
    let mut watch = client.watch(request);
    assert_eq!(all(&mut watch).await, [vec!["opened 3"], COMMITS.to_vec()].concat());
    assert_eq!(asked(&script), ["now", "4"]);
}

#[tokio::test]
async fn a_rejected_watch_ends() {
    for (code, reason) in [
        (Code::FailedPrecondition, "EPOCH_CHANGED"),
        (Code::OutOfRange, "BELOW_FLOOR"),
        (Code::InvalidArgument, "FILTER_MISMATCH"),
        (Code::NotFound, "TABLE_NOT_FOUND"),
    ] {
        let client = readers(&[StubScript::new(&[Act::CutAfter(2), Act::Fail(code, reason)])]).await;
        let mut watch = client.watch(v1::WatchDriftRequest::default());
        let failed = loop {
            match watch.next().await {
                Ok(event) => assert!(event.is_some()),
                Err(status) => break Err::<(), _>(code_and_reason(&status)),
            }
        };
        assert_eq!(failed, failed_with(code, reason));
        assert!(watch.next().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_watch_can_have_a_retry_timeout() {
    let client = Client::with(options(), [""; 0], [UNUSED]);
    let mut watch = client.watch(v1::WatchDriftRequest::default()).retry_timeout(Duration::from_millis(100));
    assert!(matches!(watch.next().await, Ok(Some(WatchEvent::Interrupted(_)))));
    assert_eq!(
        watch.next().await.map(drop).map_err(|s| code_and_reason(&s)),
        failed_with(Code::Unavailable, "UNREACHABLE")
    );

    // By default there is no limit, and a reader can appear at any time.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = Client::with(options(), [""; 0], [address.to_string()]);
    let mut watch = client.watch(v1::WatchDriftRequest::default());
    assert!(matches!(watch.next().await, Ok(Some(WatchEvent::Interrupted(_)))));
    // Cancelled calls lose nothing.
    for _ in 0..20 {
        let given_up = tokio::time::timeout(Duration::from_millis(5), watch.next()).await;
        assert!(given_up.is_err(), "{given_up:?}");
    }
    stubs::reader_at(&StubScript::new(&[Act::Answer]), address).await;
    assert_eq!(all(&mut watch).await, [vec!["opened 3"], COMMITS.to_vec()].concat());
}

#[tokio::test]
async fn a_slow_opening_survives_cancelled_calls() {
    const LATE: Duration = Duration::from_millis(1500);
    let next = async |watch: &mut Watcher| {
        for _ in 0..200 {
            if let Ok(next) = tokio::time::timeout(Duration::from_millis(100), watch.next()).await {
                return next;
            }
        }
        panic!("no event arrived");
    };
    let script = StubScript::new(&[Act::Late(LATE, &Act::Answer)]);
    let client = readers(std::slice::from_ref(&script)).await;
    let mut watch = client.watch(v1::WatchDriftRequest::default());
    assert_eq!(word(next(&mut watch).await.unwrap().unwrap()), "opened 3");
    assert_eq!(all(&mut watch).await, COMMITS);
    assert_eq!(asked(&script), ["now"], "the stream is requested once");

    // Also if the opening fails.
    const REFUSED: Act = Act::Fail(Code::NotFound, "TABLE_NOT_FOUND");
    let script = StubScript::new(&[Act::Late(LATE, &REFUSED)]);
    let client = readers(std::slice::from_ref(&script)).await;
    let mut watch = client.watch(v1::WatchDriftRequest::default());
    let failed = next(&mut watch).await.map(drop).map_err(|s| code_and_reason(&s));
    assert_eq!(failed, failed_with(Code::NotFound, "TABLE_NOT_FOUND"));
    assert_eq!(asked(&script), ["now"]);
}

#[tokio::test]
async fn a_watch_with_an_end_stops_there() {
    for acts in [
        vec![Act::Answer],
        // The stream ends early without an error; ends where it should; breaks after everything was delivered.
        vec![Act::EndAfter(2), Act::EndAfter(5), Act::Answer],
        vec![Act::CutAfter(6), Act::Answer],
    ] {
        let client = readers(&[StubScript::new(&acts)]).await;
        let mut watch = client.watch(v1::WatchDriftRequest { until_seq: 7, ..Default::default() });
        let mut words = Vec::new();
        while let Some(event) = watch.next().await.unwrap() {
            words.push(word(event));
        }
        words.retain(|word| !["interrupted", "resumed", "progress 8"].contains(&word.as_str()));
        assert_eq!(words, ["opened 3", "4 a", "5 bcd", "caught up", "7 e"], "{acts:?}");
    }
}
