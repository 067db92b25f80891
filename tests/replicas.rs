//! Readers of one directory give the same answers about the same commit, however they follow and whatever they went
//! through.

use std::collections::BTreeMap;
use std::process::Command;

use crate::harness::random_writer::{RandomWriter, compare};
use crate::harness::transcript::transcript;
use crate::harness::*;
use driftdb::v1;

/// Small segments and frequent snapshots.
const WRITER: [&str; 4] = ["--segment-bytes", "8192", "--snapshot-events", "60"];

/// The answers of a reader about every table at some commits.
async fn all(
    churn: &RandomWriter,
    reader: &mut Reader,
    moments: &[u64],
) -> BTreeMap<(String, u64), Vec<(String, Vec<u8>)>> {
    churn.wait_for(reader).await;
    let mut told = BTreeMap::new();
    for seq in moments {
        for (table, _) in &churn.tables {
            told.insert((table.clone(), *seq), transcript(reader, table, *seq).await);
        }
    }
    told
}

#[tokio::test]
async fn two_readers_give_the_same_answers_before_and_after_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Daemon::start("driftdb-writer", dir.path(), &WRITER);
    let mut churn = RandomWriter::start(writer.as_writer().await, 11).await;
    // One reader has everything in memory, the other starts from snapshots.
    let mut old = Daemon::reader(dir.path());
    churn.commits(120).await;
    churn.create().await;
    churn.snapshot(0).await;
    let mut young = Daemon::reader(dir.path());
    let mut moments = Vec::new();
    for round in 0..3 {
        churn.commits(60).await;
        let (mut one, mut other) = (old.as_reader().await, young.as_reader().await);
        moments.extend([churn.seq - 50, churn.seq - 3, churn.seq]);
        let before = all(&churn, &mut one, &moments).await;
        assert!(before.values().flatten().any(|(_, told)| told.len() > 1000));
        assert!(before == all(&churn, &mut other, &moments).await, "round {round}: they differ");
        match round {
            0 => churn.snapshot(1).await,
            1 => churn.create().await,
            _ => {}
        }
        // Restarts both in turn, one with SIGTERM and one with SIGKILL.
        if round % 2 == 0 {
            old.kill()
        } else {
            young.kill()
        }
        let anew = if round % 2 == 0 { &mut old } else { &mut young };
        *anew = Daemon::reader(dir.path());
        let (mut one, mut other) = (old.as_reader().await, young.as_reader().await);
        // At this commit the newest table did not exist.
        let (one, other) = (all(&churn, &mut one, &moments).await, all(&churn, &mut other, &moments).await);
        assert!(one == other, "round {round}: the readers differ after a restart");
        assert!(
            before.iter().all(|(at, told)| one.get(at) == Some(told)),
            "round {round}: answers about earlier commits changed"
        );
    }
    compacted(&mut churn, [&mut old, &mut young], dir.path(), &moments).await;
}

/// From the floor on rows stay as they were; both readers refuse reads below it.
async fn compacted(
    churn: &mut RandomWriter,
    [old, young]: [&mut Daemon; 2],
    dir: &std::path::Path,
    moments: &[u64],
) {
    let floor = moments[moments.len() / 2];
    let rows = select_at(&mut old.as_reader().await, "t0", floor).await.unwrap();
    churn.snapshot(0).await;
    churn.compact(0, floor).await;
    churn.commits(30).await;
    let moments: Vec<u64> = moments.iter().copied().chain([floor - 1, floor + 1, churn.seq]).collect();
    let mut compared = 0;
    for restart in [false, true] {
        if restart {
            old.kill();
            young.kill();
            (*old, *young) = (Daemon::reader(dir), Daemon::reader(dir));
        }
        let (mut one, mut other) = (old.as_reader().await, young.as_reader().await);
        compared += compare(churn, [&mut one, &mut other], moments.iter().copied()).await;
        assert_eq!(select_at(&mut one, "t0", floor).await.unwrap(), rows);
        let below = select_at(&mut other, "t0", floor - 1).await.unwrap_err();
        assert_eq!(reason(&below), "BELOW_FLOOR");
    }
    eprintln!("{compared} answers compared");
}

#[tokio::test]
async fn every_follow_mode_follows() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Daemon::start("driftdb-writer", dir.path(), &WRITER);
    let mut churn = RandomWriter::start(writer.as_writer().await, 5).await;
    let ways: [&[&str]; 3] = [
        &["--follow", "auto", "--poll-interval", "30ms"],
        &["--follow", "notify", "--max-lag", "off"],
        &["--follow", "poll", "--poll-interval", "5ms"],
    ];
    let daemons = ways.map(|args| Daemon::start("driftdb-reader", dir.path(), args));
    let mut readers = Vec::new();
    for daemon in &daemons {
        readers.push(daemon.as_reader().await);
    }
    for round in 0..10 {
        if round == 5 {
            churn.create().await;
        }
        churn.commits(20).await;
        let mut seen = Vec::new();
        for reader in &mut readers {
            let freshness = calls::fresh(churn.seq);
            let request = v1::SelectRequest { table: "t0".into(), freshness, ..Default::default() };
            seen.push(select(reader, request).await.unwrap());
        }
        assert!(!seen[0].is_empty() && seen.iter().all(|rows| *rows == seen[0]), "round {round}");
    }
}

#[tokio::test]
async fn a_reader_refuses_invalid_intervals() {
    let dir = tempfile::tempdir().unwrap();
    drop(Daemon::writer(dir.path()));
    let run = |args: &[&str]| {
        let mut command = Command::new(binary("driftdb-reader"));
        let output =
            command.arg("--data").arg(dir.path()).args(["--listen", "127.0.0.1:0"]).args(args).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for args in [
        ["--poll-interval", "0s"],
        ["--poll-interval", "2s"],
        ["--poll-interval", "50"],
        ["--max-lag", "soon"],
        ["--follow", "never"],
    ] {
        let (code, told) = run(&args);
        assert_eq!(code, Some(2), "{args:?}: {told}");
        assert!(told.contains(args[0]), "{told}");
    }
    for args in [["--max-lag", "60ms", "--poll-interval", "50ms"], ["--max-lag", "1s", "--follow", "notify"]]
    {
        let (code, told) = run(&args);
        assert_eq!(code, Some(1), "{args:?}: {told}");
        assert!(told.contains("max-lag"), "{told}");
    }
}
