//! A history that goes back is noticed: an older copy that is put back, a copy that is written on, a directory that moves.

#![expect(clippy::disallowed_methods, reason = "these tests move and copy a database as an operator would")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::harness::calls::value_of;
use crate::harness::refusal::refused;
use crate::harness::watching::{Watch, after, resume, watch};
use crate::harness::*;
use driftdb::v1;
use driftdb::v1::watch_drift_response::Event;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// The last commit in the older copy, and the last one that is then lost.
const KEPT: u64 = 6;
const LOST: u64 = 9;

/// A database in `db`, an older copy of it in `older`, and a place for what is moved away.
struct Site {
    dir: tempfile::TempDir,
}

/// What a client still holds of the history that is lost.
struct LostTokens {
    write: v1::WriteToken,
    kept: v1::WriteToken,
    select: v1::SelectRequest,
    watch: v1::WatchDriftRequest,
}

impl Site {
    fn new() -> Site {
        Site { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn db(&self) -> PathBuf {
        self.path("db")
    }

    /// Puts the older copy in the place of the database.
    fn put_back(&self) {
        std::fs::rename(self.db(), self.path("lost")).unwrap();
        std::fs::rename(self.path("older"), self.db()).unwrap();
    }
}

fn row(id: u64, of: &str) -> Vec<v1::Operation> {
    vec![insert("t", format!(r#"{{"id":"k{id:04}","of":"{of}"}}"#))]
}

/// Writes rows up to commit `last`. The row of a commit has its seq.
async fn write_to(writer: &mut Writer, last: u64, of: &str) -> v1::WriteToken {
    loop {
        let status = writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
        let token = apply(writer, row(status.last_seq + 1, of)).await.unwrap();
        if token.seq == last {
            return token;
        }
    }
}

fn freshness(token: v1::WriteToken) -> Option<v1::Freshness> {
    Some(v1::Freshness::from(token))
}

async fn get(reader: &mut Reader, token: v1::WriteToken) -> Result<v1::GetResponse, tonic::Status> {
    let keys = vec!["k0003".to_owned()];
    let request =
        v1::GetRequest { table: "t".into(), keys, freshness: freshness(token), ..Default::default() };
    reader.get(request).await.map(tonic::Response::into_inner)
}

/// The database with the older copy, made while the writer runs or after it has closed, and a reader that has seen what the copy
/// does not have.
async fn lose(site: &Site, closed: bool) -> (Daemon, Daemon, Watch, LostTokens) {
    let mut daemon = Daemon::writer(&site.db());
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    create_table(&mut writer, "large").await.unwrap();
    let large = |id| insert("large", format!(r#"{{"id":"{id}","pad":"{}"}}"#, "x".repeat(200_000)));
    apply(&mut writer, (0..3).map(large).collect()).await.unwrap();
    let kept = write_to(&mut writer, KEPT, "both").await;
    if closed {
        drop(writer);
        assert!(daemon.terminate().await.success());
    }
    database::copy(&site.db(), &site.path("older"));
    if closed {
        daemon = Daemon::writer(&site.db());
    }
    let mut writer = daemon.as_writer().await;
    let write = write_to(&mut writer, LOST, "lost").await;
    let reader_daemon = Daemon::reader(&site.db());
    let mut reader = reader_daemon.as_reader().await;
    assert_eq!(get(&mut reader, write).await.unwrap().header.unwrap().applied_seq, LOST);
    let mut watched = watch(&mut reader, after(KEPT)).await.unwrap();
    watched.upto(LOST).await;
    let request = resume(&watched.token, &after(KEPT));
    let mut select = v1::SelectRequest { table: "large".into(), ..Default::default() };
    let first = reader.select(select.clone()).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert!(!first.resume_token.is_empty());
    select.resume_token = first.resume_token;
    (daemon, reader_daemon, watched, LostTokens { write, kept, select, watch: request })
}

async fn health(daemon: &Daemon) -> ServingStatus {
    let mut client = HealthClient::new(connect(&daemon.url).await);
    let request = HealthCheckRequest { service: "driftdb.v1.ReaderService".into() };
    client.check(request).await.unwrap().into_inner().status()
}

/// Waits until the reader has started over, answers reads again, and has applied commit `seq`.
async fn started_over(reader: &mut Reader, seq: u64) -> v1::ReaderServiceStatusResponse {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = reader.status(v1::ReaderServiceStatusRequest {}).await.unwrap().into_inner();
        // Once a loss is counted, only the next history answers.
        let answer = reader.list_tables(v1::ListTablesRequest::default()).await;
        let applied = answer.map(|answer| answer.into_inner().header.unwrap().applied_seq);
        if status.histories_lost > 0 && applied.as_ref().is_ok_and(|applied| *applied == seq) {
            return status;
        }
        assert!(Instant::now() < deadline, "the reader did not start over: {status:?}, {applied:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Every row, by its key, and whose it is.
async fn rows(reader: &mut Reader) -> Vec<(String, String)> {
    let found = select(reader, v1::SelectRequest { table: "t".into(), ..Default::default() }).await.unwrap();
    let of = |text: &str| value_of(Some(&json(text)))["of"].as_str().unwrap().to_owned();
    found.iter().map(|(key, text)| (key.clone(), of(text))).collect()
}

fn expected(of: &[(std::ops::RangeInclusive<u64>, &str)]) -> Vec<(String, String)> {
    let rows = of
        .iter()
        .flat_map(|(seqs, of)| seqs.clone().map(move |seq| (format!("k{seq:04}"), (*of).to_owned())));
    rows.collect()
}

/// Reads the stream until it ends. No commit may come.
async fn ends_with_epoch_changed(watched: &mut Watch) {
    loop {
        match tokio::time::timeout(Duration::from_secs(60), watched.stream.message()).await.unwrap() {
            Ok(Some(message)) => match message.event.unwrap() {
                Event::Commit(commit) => panic!("a commit after the lost ones: {commit:?}"),
                _ => continue,
            },
            Ok(None) => panic!("the watch ended without an error"),
            Err(status) => {
                refused::<()>(Err(status), Code::FailedPrecondition, "EPOCH_CHANGED");
                return;
            }
        }
    }
}

/// Every token of the lost history is refused.
async fn refuses(reader: &mut Reader, lost: &LostTokens) {
    let code = Code::FailedPrecondition;
    refused(get(reader, lost.write).await, code, "EPOCH_CHANGED").says(&["commit 9"]);
    refused(select(reader, lost.select.clone()).await, code, "EPOCH_CHANGED");
    refused(watch(reader, lost.watch.clone()).await.map(drop), code, "EPOCH_CHANGED");
    let (epoch, incarnation) = (lost.write.epoch, lost.write.incarnation);
    let request = v1::WatchDriftRequest { epoch, incarnation, ..after(LOST) };
    refused(watch(reader, request).await.map(drop), code, "EPOCH_CHANGED");
}

#[tokio::test]
async fn an_older_copy_put_back_is_another_history() {
    let site = Site::new();
    let (mut writer_daemon, reader_daemon, mut watched, lost) = lose(&site, false).await;
    let mut reader = reader_daemon.as_reader().await;
    writer_daemon.kill();
    site.put_back();
    let status = started_over(&mut reader, KEPT).await;
    assert!(status.last_history_lost.contains("commit 9 was seen before"), "{}", status.last_history_lost);
    ends_with_epoch_changed(&mut watched).await;
    refuses(&mut reader, &lost).await;
    assert_eq!(rows(&mut reader).await, expected(&[(4..=KEPT, "both")]));
    assert_eq!(health(&reader_daemon).await, ServingStatus::Serving);
    get(&mut reader, lost.kept).await.unwrap();
    // A fresh reader cannot know whether the writer of the copy is still there: it waits for the commit, and finds no answer.
    let fresh = Daemon::reader(&site.db());
    let mut fresh = fresh.as_reader().await;
    let mut waiting = lost.write.into();
    let wait = Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 });
    waiting = v1::Freshness { wait, ..waiting };
    let request = v1::GetRequest { table: "t".into(), freshness: Some(waiting), ..Default::default() };
    refused(fresh.get(request).await, Code::Unavailable, "REPLICA_BEHIND");

    // The next writer begins another incarnation, which settles it.
    let next = Daemon::writer(&site.db());
    let token = write_to(&mut next.as_writer().await, LOST + 1, "new").await;
    assert_ne!(token.incarnation, lost.write.incarnation);
    for reader in [&mut reader, &mut fresh] {
        get(reader, token).await.unwrap();
        refuses(reader, &lost).await;
        get(reader, lost.kept).await.unwrap();
        assert_eq!(rows(reader).await, expected(&[(4..=KEPT, "both"), (KEPT + 1..=LOST + 1, "new")]));
    }
}

/// The lost history is longer, equally long or shorter than the new one when the reader sees it: the watch never goes on in another.
#[tokio::test]
async fn a_watch_never_continues_in_another_history() {
    for last in [LOST - 1, LOST, LOST + 3] {
        let site = Site::new();
        let (mut writer_daemon, reader_daemon, mut watched, lost) = lose(&site, last == LOST).await;
        let mut reader = reader_daemon.as_reader().await;
        writer_daemon.kill();
        reader_daemon.signal("STOP");
        site.put_back();
        let next = Daemon::writer(&site.db());
        let token = write_to(&mut next.as_writer().await, last, "new").await;
        reader_daemon.signal("CONT");
        ends_with_epoch_changed(&mut watched).await;
        started_over(&mut reader, last).await;
        get(&mut reader, token).await.unwrap();
        refuses(&mut reader, &lost).await;
        let fresh = Daemon::reader(&site.db());
        refuses(&mut fresh.as_reader().await, &lost).await;
        assert_eq!(rows(&mut reader).await, expected(&[(4..=KEPT, "both"), (KEPT + 1..=last, "new")]));
    }
}

/// After a clean close the copy is complete: a reader knows that no later commit of its incarnation exists.
#[tokio::test]
async fn a_closed_copy_refuses_the_tokens_of_later_commits() {
    let site = Site::new();
    let mut daemon = Daemon::writer(&site.db());
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    let kept = write_to(&mut writer, KEPT, "both").await;
    drop(writer);
    assert!(daemon.terminate().await.success());
    let reader_daemon = Daemon::reader(&site.db());
    let mut reader = reader_daemon.as_reader().await;
    get(&mut reader, kept).await.unwrap();
    let later = v1::WriteToken { seq: kept.seq + 1, ..kept };
    refused(get(&mut reader, later).await, Code::FailedPrecondition, "EPOCH_CHANGED");
    // Tokens of versions before lineages are not checked.
    get(&mut reader, v1::WriteToken { incarnation: 0, ..kept }).await.unwrap();
    // Restarts and takeovers continue the history.
    for restart in 1..=3 {
        let mut daemon = Daemon::writer(&site.db());
        let mut writer = daemon.as_writer().await;
        let token = write_to(&mut writer, KEPT + restart, "both").await;
        assert_ne!(token.incarnation, kept.incarnation);
        get(&mut reader, token).await.unwrap();
        get(&mut reader, kept).await.unwrap();
        daemon.kill();
    }
    let status = reader.status(v1::ReaderServiceStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.histories_lost, status.last_history_lost.as_str()), (0, ""));
}

#[tokio::test]
async fn a_live_copy_that_is_written_to_is_another_history() {
    let site = Site::new();
    let daemon = Daemon::writer(&site.db());
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    let before = write_to(&mut writer, KEPT, "both").await;
    database::copy(&site.db(), &site.path("copy"));
    let copy = Daemon::writer(&site.path("copy"));
    let there = write_to(&mut copy.as_writer().await, LOST, "copy").await;
    let here = write_to(&mut writer, LOST, "original").await;
    for (name, own, other) in [("db", here, there), ("copy", there, here)] {
        let reader_daemon = Daemon::reader(&site.path(name));
        let mut reader = reader_daemon.as_reader().await;
        get(&mut reader, own).await.unwrap();
        get(&mut reader, before).await.unwrap();
        refused(get(&mut reader, other).await, Code::FailedPrecondition, "EPOCH_CHANGED");
    }
}

/// Snapshots of both histories have the same names, and almost the same bytes.
#[tokio::test]
async fn files_of_the_same_name_are_not_mixed() {
    let site = Site::new();
    let args = ["--snapshot-events", "4"];
    let mut daemon = Daemon::start("driftdb-writer", &site.db(), &args);
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    write_to(&mut writer, KEPT, "both").await;
    database::copy(&site.db(), &site.path("older"));
    let lost = write_to(&mut writer, LOST, "abcd").await;
    calls::snapshot(&mut writer, "t").await.unwrap();
    let reader_daemon = Daemon::start("driftdb-reader", &site.db(), &["--cache", "0"]);
    let mut reader = reader_daemon.as_reader().await;
    get(&mut reader, lost).await.unwrap();
    assert_eq!(rows(&mut reader).await, expected(&[(2..=KEPT, "both"), (KEPT + 1..=LOST, "abcd")]));
    daemon.kill();
    site.put_back();
    let next = Daemon::start("driftdb-writer", &site.db(), &args);
    let mut writer = next.as_writer().await;
    let token = write_to(&mut writer, LOST, "efgh").await;
    calls::snapshot(&mut writer, "t").await.unwrap();
    started_over(&mut reader, LOST).await;
    get(&mut reader, token).await.unwrap();
    assert_eq!(rows(&mut reader).await, expected(&[(2..=KEPT, "both"), (KEPT + 1..=LOST, "efgh")]));
}

/// The same files at another place are the same history: the reader goes on.
#[tokio::test]
async fn a_newer_copy_of_the_same_history_goes_on() {
    let site = Site::new();
    let mut daemon = Daemon::writer(&site.db());
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    let token = write_to(&mut writer, KEPT, "both").await;
    let reader_daemon = Daemon::reader(&site.db());
    let mut reader = reader_daemon.as_reader().await;
    get(&mut reader, token).await.unwrap();
    drop(writer);
    assert!(daemon.terminate().await.success());
    database::copy(&site.db(), &site.path("older"));
    site.put_back();
    let next = Daemon::writer(&site.db());
    let token = write_to(&mut next.as_writer().await, LOST, "both").await;
    get(&mut reader, token).await.unwrap();
    assert_eq!(rows(&mut reader).await, expected(&[(2..=LOST, "both")]));
    let status = reader.status(v1::ReaderServiceStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.histories_lost, 0);
}

/// The keys of all rows.
async fn keys(data: &Path) -> Vec<String> {
    let reader_daemon = Daemon::reader(data);
    let mut reader = reader_daemon.as_reader().await;
    let found =
        select(&mut reader, v1::SelectRequest { table: "t".into(), ..Default::default() }).await.unwrap();
    found.into_iter().map(|(key, _)| key).collect()
}

#[tokio::test]
async fn a_writer_whose_directory_was_moved_acknowledges_nothing() {
    for place in ["nothing", "another database"] {
        let site = Site::new();
        let mut daemon = Daemon::writer(&site.db());
        let mut writer = daemon.as_writer().await;
        create_table(&mut writer, "t").await.unwrap();
        write_to(&mut writer, KEPT, "both").await;
        std::fs::rename(site.db(), site.path("moved")).unwrap();
        if place != "nothing" {
            database::copy(&site.path("moved"), &site.db());
        }
        let refused = apply(&mut writer, row(99, "lost")).await.expect_err("a row was acknowledged");
        // Nothing was written anywhere, and the answer says so.
        assert_ne!(reason(&refused), "OUTCOME_UNKNOWN", "{place}: {refused}");
        assert!(create_table(&mut writer, "u").await.is_err(), "{place}: a table was acknowledged");
        assert!(!daemon.wait(Duration::from_secs(60)).await.success(), "{place}");
        assert!(!site.path("db/tables/u").exists() && (place != "nothing" || !site.db().exists()), "{place}");
        drop(writer);
        let next = Daemon::writer(&site.path("moved"));
        write_to(&mut next.as_writer().await, KEPT + 1, "both").await;
        let found = keys(&site.path("moved")).await;
        assert_eq!(
            found,
            expected(&[(2..=KEPT + 1, "")]).into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        );
    }
}

/// Without any call, too.
#[tokio::test]
async fn an_idle_writer_notices_that_its_directory_is_gone() {
    let site = Site::new();
    let mut daemon = Daemon::writer(&site.db());
    create_table(&mut daemon.as_writer().await, "t").await.unwrap();
    std::fs::remove_dir_all(site.db()).unwrap();
    assert!(!daemon.wait(Duration::from_secs(60)).await.success());
    assert!(!site.db().exists());
}

/// While the first writer acknowledges as fast as it can, LOCK is removed or replaced, and a second writer opens the database.
#[tokio::test]
async fn two_writers_never_both_acknowledge() {
    for how in ["removed", "replaced", "emptied"] {
        let site = Site::new();
        let mut first = Daemon::writer(&site.db());
        let mut writer = first.as_writer().await;
        create_table(&mut writer, "t").await.unwrap();
        let load = tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for id in 0.. {
                match apply(&mut writer, row(id, "first")).await {
                    Ok(_) => acknowledged.push(format!("k{id:04}")),
                    Err(_) => break,
                }
            }
            acknowledged
        });
        let (lock, away) = (site.path("db/LOCK"), site.path("LOCK"));
        match how {
            "removed" => std::fs::remove_file(&lock).unwrap(),
            "replaced" => {
                std::fs::copy(&lock, &away).unwrap();
                std::fs::rename(&away, &lock).unwrap();
            }
            _ => {
                std::fs::write(&away, "").unwrap();
                std::fs::rename(&away, &lock).unwrap();
            }
        }
        let second = Daemon::try_start("driftdb-writer", &site.db(), &[]);
        let second = second.unwrap_or_else(|error| panic!("{how}: {error}"));
        assert!(!first.wait(Duration::from_secs(60)).await.success(), "{how}");
        let acknowledged = load.await.unwrap();
        apply(&mut second.as_writer().await, row(9999, "second")).await.unwrap();
        let found = keys(&site.db()).await;
        let missing: Vec<_> = acknowledged.iter().filter(|key| !found.contains(key)).collect();
        assert!(missing.is_empty(), "{how}: acknowledged and lost: {missing:?}");
    }
}

#[tokio::test]
async fn no_database_is_made_over_what_is_left_of_another() {
    let site = Site::new();
    let mut daemon = Daemon::writer(&site.db());
    create_table(&mut daemon.as_writer().await, "t").await.unwrap();
    assert!(daemon.terminate().await.success());
    for left in ["HEAD", "lineage.json", "tables"] {
        let copy = site.path(&format!("only {left}"));
        std::fs::create_dir(&copy).unwrap();
        if left == "tables" {
            database::copy(&site.path("db/tables"), &copy.join("tables"));
        } else {
            std::fs::copy(site.db().join(left), copy.join(left)).unwrap();
        }
        let head = std::fs::read(copy.join("HEAD")).ok();
        let error = Daemon::try_start("driftdb-writer", &copy, &[]).unwrap_err();
        assert!(
            error.contains("database.json") && error.contains(left) && error.contains("doctor"),
            "{error}"
        );
        let mut init = std::process::Command::new(binary("driftctl"));
        let output = init.arg("init").arg(&copy).output().unwrap();
        assert!(!output.status.success(), "{left}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("database.json"), "{output:?}");
        assert!(!copy.join("database.json").exists());
        assert_eq!(std::fs::read(copy.join("HEAD")).ok(), head, "{left}");
    }
    // A doctor gives HEAD its database back, and a copy that was completed opens.
    let copy = site.path("only HEAD");
    database::copy(&site.path("db/tables"), &copy.join("tables"));
    let mut doctor = std::process::Command::new(binary("driftctl"));
    let output = doctor.args(["doctor", "--repair", "-d"]).arg(&copy).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let daemon = Daemon::writer(&copy);
    assert_eq!(apply(&mut daemon.as_writer().await, row(1, "copy")).await.unwrap().seq, 2);
}
