//! Tests of the client with daemons that fail and connections that break.

mod feed;
mod stubs;
mod watches;

use std::time::{Duration, Instant};

use tonic::{Code, Status};

use super::reasons::is_standby;
use super::*;
use crate::v1;
use stubs::{Act, StubScript};

/// An address where nothing listens.
const UNUSED: &str = "127.0.0.1:1";

fn options() -> ClientOptions {
    ClientOptions { connections: 1, ..ClientOptions::default() }
}

fn code_and_reason(status: &Status) -> (Code, Option<String>) {
    (status.code(), reason(status))
}

fn failed_with<T>(code: Code, reason: &str) -> Result<T, (Code, Option<String>)> {
    Err((code, Some(reason.to_owned())))
}

#[tokio::test]
async fn a_write_with_a_lost_response_is_retried_and_executed_once() {
    let script = StubScript::new(&[Act::Cut, Act::Cut, Act::Answer]);
    let client = Client::with(options(), [stubs::writer(&script).await], [""; 0]);
    let written = client.apply(vec![v1::Operation::delete("t", "k")]).await.unwrap();
    assert_eq!((written.token.seq, written.replayed), (1, true));
    let ids = script.asked.lock().unwrap().clone();
    assert!(ids.len() == 3 && ids.iter().all(|id| *id == ids[0] && id.len() == 38), "{ids:?}");
    // The next write has another id.
    assert_eq!(client.delete("t", "k").await.unwrap().seq, 4);
}

#[tokio::test]
#[ignore = "slow"]
async fn only_the_retry_timeout_limits_how_often_a_write_is_tried() {
    let mut acts = vec![Act::Fail(Code::Unavailable, "WRITER_STOPPED"); 25];
    acts.push(Act::Answer);
    let script = StubScript::new(&acts);
    let options = ClientOptions { retry_timeout: Duration::from_secs(120), ..options() };
    let client = Client::with(options, [stubs::writer(&script).await], [""; 0]);
    assert_eq!(client.insert("t", "{}").await.unwrap().seq, 1);
    assert_eq!(script.times_asked(), 26);
}

#[tokio::test]
async fn a_caller_can_choose_the_request_id() {
    let script = StubScript::new(&[Act::Fail(Code::Unavailable, "WRITER_STOPPED"), Act::Answer]);
    let client = Client::with(options(), [stubs::writer(&script).await], [""; 0]);
    let options = Some(v1::CommitOptions { request_id: "mine".into(), ..Default::default() });
    let request = v1::CreateTableRequest { options, ..Default::default() };
    assert_eq!(client.create_table(request).await.unwrap().seq, 1);
    assert_eq!(*script.asked.lock().unwrap(), [r#""mine""#, r#""mine""#]);
}

#[tokio::test]
async fn a_write_without_an_id_is_never_retried() {
    for act in [Act::Cut, Act::Fail(Code::Unknown, "OUTCOME_UNKNOWN")] {
        let script = StubScript::new(&[act]);
        let options = ClientOptions { request_ids: false, ..options() };
        let client = Client::with(options, [stubs::writer(&script).await], [""; 0]);
        let failed = client.insert("t", "{}").await.map_err(|s| code_and_reason(&s));
        assert_eq!(failed, failed_with(Code::Unknown, "OUTCOME_UNKNOWN"));
        assert_eq!(script.times_asked(), 1);
    }
}

#[tokio::test]
async fn a_job_that_reported_progress_is_not_restarted() {
    // Before the first report it may be a write.
    let script = StubScript::new(&[Act::Cut, Act::CutAfter(0), Act::CutAfter(1)]);
    let client = Client::with(options(), [stubs::writer(&script).await], [""; 0]);
    let failed = client.execute("VERIFY", &[]).await.map(drop).map_err(|s| code_and_reason(&s));
    assert_eq!(failed, failed_with(Code::Unknown, "OUTCOME_UNKNOWN"));
    assert_eq!(script.times_asked(), 3);
}

#[tokio::test]
async fn a_writer_that_never_responds_is_abandoned() {
    // Like a stopped process: it accepts connections and reads nothing.
    let stopped = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let writes = StubScript::new(&[Act::Answer]);
    let writers = [stopped.local_addr().unwrap().to_string(), stubs::writer(&writes).await];
    let client = || Client::with(options(), writers.clone(), [""; 0]);
    let (one, other) = (client(), client());
    let (written, found) = tokio::join!(one.insert("t", "{}"), other.writer_status());
    assert_eq!(written.map(|token| token.epoch).map_err(|s| code_and_reason(&s)), Ok(7));
    assert!(found.is_ok(), "{found:?}");
}

#[tokio::test]
async fn an_unsent_write_goes_to_the_next_writer() {
    let script = StubScript::new(&[Act::Answer]);
    let options = ClientOptions { request_ids: false, ..options() };
    let client = Client::with(options, [UNUSED.to_owned(), stubs::writer(&script).await], [""; 0]);
    assert_eq!(client.put("t", "{}").await.unwrap().seq, 1);
    let executed = client.execute("SNAPSHOT t", &[]).await.unwrap();
    assert_eq!((executed.token.unwrap().seq, executed.messages), (2, vec!["done".to_owned()]));
}

#[tokio::test]
async fn a_rejected_write_is_not_retried_and_an_overloaded_writer_is_retried() {
    let script = StubScript::new(&[
        Act::Fail(Code::AlreadyExists, "ROW_EXISTS"),
        Act::Fail(Code::ResourceExhausted, "OVERLOADED"),
        Act::Answer,
    ]);
    let options = ClientOptions { request_ids: false, ..options() };
    let client = Client::with(options, [stubs::writer(&script).await], [""; 0]);
    let failed = client.insert("t", "{}").await.map_err(|s| code_and_reason(&s));
    assert_eq!(failed, failed_with(Code::AlreadyExists, "ROW_EXISTS"));
    assert_eq!(script.times_asked(), 1);
    assert_eq!(client.insert("t", "{}").await.unwrap().seq, 3);
}

#[tokio::test]
async fn retries_end_and_an_unknown_outcome_is_reported() {
    let options = ClientOptions { retry_timeout: Duration::from_millis(200), ..options() };
    let began = Instant::now();
    let client = Client::with(options.clone(), [UNUSED], [UNUSED]);
    assert_eq!(
        client.insert("t", "{}").await.map_err(|s| code_and_reason(&s)),
        failed_with(Code::Unavailable, "UNREACHABLE")
    );
    assert_eq!(
        client.get("t", "k").await.map_err(|s| code_and_reason(&s)),
        failed_with(Code::Unavailable, "UNREACHABLE")
    );
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());

    // The first try may have been executed, whatever the later ones report.
    let script = StubScript::new(&[Act::Cut, Act::Fail(Code::ResourceExhausted, "OVERLOADED")]);
    let client = Client::with(options, [stubs::writer(&script).await], [""; 0]);
    let failed = client.insert("t", "{}").await.unwrap_err();
    assert_eq!(code_and_reason(&failed), (Code::Unknown, Some("OUTCOME_UNKNOWN".into())));
    assert!(failed.message().contains("broke before the response"), "{failed:?}");
}

#[tokio::test]
async fn a_client_reads_its_own_writes() {
    let (writes, reads) = (StubScript::new(&[Act::Answer]), StubScript::new(&[Act::Answer]));
    let writers = [stubs::writer(&writes).await];
    let client = Client::with(options(), writers, [stubs::reader(&reads).await]);
    client.get("t", "1").await.unwrap();
    client.clone().insert("t", "{}").await.unwrap();
    // An older write does not replace a newer one.
    client.wrote(v1::WriteToken { seq: 0, epoch: 7, incarnation: 0, time: None });
    let row = client.get("t", "1").await.unwrap().unwrap();
    assert_eq!(row.json(), Some(r#"{"id":"1"}"#));
    let keys = ["1", "2", "3", "4", "5"].map(str::to_owned).to_vec();
    let request = v1::GetRequest { keys: keys.clone(), ..Default::default() };
    let rows = client.get_rows(request).await.unwrap().rows;
    assert_eq!(rows.into_iter().map(|row| row.key).collect::<Vec<_>>(), keys);
    client.forget();
    client.get("t", "1").await.unwrap();
    let fresh = "(Some((1, 7)), None)";
    // Rows of several responses have the same point in time.
    let pinned = "(Some((1, 7)), Some(Seq(5)))";
    let none = "(None, None)";
    assert_eq!(*reads.asked.lock().unwrap(), [none, fresh, fresh, pinned, pinned, none]);
}

#[tokio::test]
async fn the_next_reader_is_asked_if_one_is_unreachable_or_behind() {
    let down = Act::Fail(Code::Unavailable, "SHUTTING_DOWN");
    let behind = Act::Fail(Code::Unavailable, "REPLICA_BEHIND");
    let floor = Act::Fail(Code::OutOfRange, "BELOW_FLOOR");
    for (readers, expected) in [
        (vec![], failed_with(Code::Unavailable, "UNREACHABLE")),
        (vec![Act::Answer], Ok(())),
        (vec![Act::Cut, Act::Answer], Ok(())),
        (vec![down.clone(), behind.clone(), Act::Answer], Ok(())),
        (vec![behind, down], failed_with(Code::Unavailable, "REPLICA_BEHIND")),
        // A rejection by one reader is final.
        (vec![floor, Act::Answer], failed_with(Code::OutOfRange, "BELOW_FLOOR")),
    ] {
        let mut addresses = vec![UNUSED.to_owned()];
        for act in &readers {
            addresses.push(stubs::reader(&StubScript::new(std::slice::from_ref(act))).await);
        }
        let client = || Client::with(options(), [""; 0], &addresses);
        let got = client().get("t", "1").await.map(drop).map_err(|s| code_and_reason(&s));
        assert_eq!(got, expected, "{readers:?}");
        let selected = client().select(v1::SelectRequest::default()).await.map(drop);
        assert_eq!(selected.map_err(|s| code_and_reason(&s)), expected, "{readers:?}");
    }
}

#[tokio::test]
async fn a_broken_connection_is_reopened() {
    let script = StubScript::new(&[Act::Answer, Act::Cut, Act::Answer]);
    let client = Client::with(options(), [""; 0], [stubs::reader(&script).await]);
    client.get("t", "1").await.unwrap();
    client.get("t", "1").await.unwrap();
    assert_eq!(script.times_asked(), 3);
}

fn answers(script: &StubScript) -> String {
    script.asked.lock().unwrap().concat()
}

#[tokio::test]
async fn rows_continue_at_another_reader_after_a_broken_connection() {
    let first = StubScript::new(&[Act::CutAfter(3), Act::Answer]);
    let second = StubScript::new(&[Act::CutAfter(2), Act::Fail(Code::Unavailable, "SHUTTING_DOWN")]);
    let readers = [stubs::reader(&first).await, stubs::reader(&second).await];
    let client = Client::with(options(), [""; 0], readers);
    let mut rows = client.select(v1::SelectRequest::default()).await.unwrap();
    let mut keys = String::new();
    while let Some(row) = rows.next().await.unwrap() {
        keys += &row.key;
    }
    assert_eq!((keys.as_str(), rows.count(), rows.header().read_seq), ("123456789", 9, 5));
    assert_eq!((answers(&first), answers(&second)), ("05".into(), "3".into()));

    let all = client.select(v1::SelectRequest::default()).await.unwrap().collect().await.unwrap();
    assert_eq!(all.len(), 9);
}

#[tokio::test]
async fn reads_rotate_over_the_readers_that_respond() {
    let scripts = [
        StubScript::new(&[Act::Answer]),
        StubScript::new(&[Act::Fail(Code::Unavailable, "REPLICA_BEHIND"), Act::Answer]),
        StubScript::new(&[Act::Answer]),
    ];
    let mut readers = vec![UNUSED.to_owned()];
    for script in &scripts {
        readers.push(stubs::reader(script).await);
    }
    let client = Client::with(options(), [""; 0], readers);
    for _ in 0..24 {
        client.select(v1::SelectRequest::default()).await.unwrap();
    }
    let [one, behind, other] = scripts.map(|script| script.times_asked());
    assert_eq!((one + other, behind), (24, 1), "a reader that was behind is set aside");
    assert!(one >= 6 && other >= 6, "{one} {other}");
}

#[tokio::test]
async fn no_reader_returns_an_older_state_than_another() {
    let changed = Act::Fail(Code::FailedPrecondition, "EPOCH_CHANGED");
    let first = StubScript::new(&[Act::Answer, Act::Answer, changed, Act::Answer]);
    let second = StubScript::new(&[Act::Answer]);
    let readers = [stubs::reader(&first).await, stubs::reader(&second).await];
    let client = Client::with(options(), [""; 0], readers);
    for _ in 0..4 {
        client.get("t", "1").await.unwrap();
    }
    let (none, seen) = ("(None, None)".to_owned(), "(Some((5, 0)), None)".to_owned());
    // A restore is reported once; then the new history is read.
    let failed = client.get("t", "1").await.map(drop).map_err(|s| code_and_reason(&s));
    assert_eq!(failed, failed_with(Code::FailedPrecondition, "EPOCH_CHANGED"));
    client.get("t", "1").await.unwrap();
    assert_eq!(*first.asked.lock().unwrap(), [none.clone(), seen.clone(), seen.clone()]);
    assert_eq!(*second.asked.lock().unwrap(), [seen.clone(), seen.clone(), none.clone()]);

    // The write is newer than the read.
    client.wrote(v1::WriteToken { seq: 9, epoch: 0, incarnation: 0, time: None });
    client.get("t", "1").await.unwrap();
    assert_eq!(first.asked.lock().unwrap().last().unwrap(), "(Some((9, 0)), None)");
    client.forget();
    client.get("t", "1").await.unwrap();
    assert_eq!(*second.asked.lock().unwrap().last().unwrap(), none);
    // Remaining keys are read at any reader that has reached their point in time.
    let keys = ["1", "2", "3"].map(str::to_owned).to_vec();
    client.get_rows(v1::GetRequest { keys, ..Default::default() }).await.unwrap();
    assert_eq!(second.asked.lock().unwrap().last().unwrap(), "(Some((5, 0)), Some(Seq(5)))");
}

fn standby() -> Act {
    Act::Fail(Code::Unavailable, "STANDBY")
}

#[tokio::test]
async fn a_write_finds_the_active_writer() {
    let (waits, writes) = (StubScript::new(&[standby()]), StubScript::new(&[Act::Answer]));
    let writers = [UNUSED.to_owned(), stubs::writer(&waits).await, stubs::writer(&writes).await];
    // Also without request ids: a standby executes nothing.
    let options = ClientOptions { request_ids: false, ..options() };
    let client = Client::with(options.clone(), &writers, [""; 0]);
    client.insert("t", "{}").await.unwrap();
    client.insert("t", "{}").await.unwrap();
    assert_eq!((waits.times_asked(), writes.times_asked()), (1, 2));

    // Connecting is not enough to find the active writer.
    let client = Client::with(options, &writers, [""; 0]);
    let mut writer = client.writer().await.unwrap();
    let _ = writer.apply(v1::ApplyRequest::default()).await.unwrap();
    client.writer_status().await.unwrap();
    assert_eq!((waits.times_asked(), writes.times_asked()), (2, 5));
    assert_eq!(client.writers().count(), 3);
    let mut standing_by = client.writer_at(1).await.unwrap();
    let failed = standing_by.status(v1::WriterServiceStatusRequest {}).await.unwrap_err();
    assert!(is_standby(&failed));
}

#[tokio::test]
async fn calls_wait_for_a_takeover() {
    let down = Act::Fail(Code::Unavailable, "WRITER_STOPPED");
    let old = StubScript::new(&[Act::Answer, down]);
    let new = StubScript::new(&[standby(), standby(), standby(), Act::Answer]);
    let client = Client::with(options(), [stubs::writer(&old).await, stubs::writer(&new).await], [""; 0]);
    client.insert("t", "{}").await.unwrap();
    client.insert("t", "{}").await.unwrap();
    assert_eq!(new.times_asked(), 4);

    let new = StubScript::new(&[standby(), standby(), Act::Answer]);
    let client = Client::with(options(), [UNUSED.to_owned(), stubs::writer(&new).await], [""; 0]);
    client.writer().await.unwrap();
    assert_eq!(new.times_asked(), 3);

    // After the timeout, the last known error is returned.
    let options = ClientOptions { retry_timeout: Duration::from_millis(100), ..options() };
    let idle = stubs::writer(&StubScript::new(&[standby()])).await;
    let client = Client::with(options, [idle, UNUSED.to_owned()], [""; 0]);
    let failed = client.writer().await.map(drop).map_err(|s| code_and_reason(&s));
    assert_eq!(failed, failed_with(Code::Unavailable, "STANDBY"));
    let failed = client.writer_status().await.map(drop).map_err(|s| code_and_reason(&s));
    assert_eq!(failed, failed_with(Code::Unavailable, "STANDBY"));
    assert!(client.insert("t", "{}").await.is_err());
}

#[test]
fn calls_can_run_on_other_tasks() {
    fn sendable<T: Send>(_: T) {}
    let client = Client::new([UNUSED], [UNUSED]);
    sendable(client.insert("t", "{}"));
    sendable(client.apply(vec![]));
    sendable(client.execute("", &[]));
    sendable(client.get("t", "k"));
    sendable(client.query(v1::ReaderServiceExecuteRequest::default()));
    sendable(client.history(v1::HistoryRequest::default()));
    sendable(async { client.watch(v1::WatchDriftRequest::default()).next().await });
    sendable(async { client.select(v1::SelectRequest::default()).await?.collect().await });
}
