//! Nothing is reported as damaged that is not, and what fails for one table does not stop the others.

#![expect(clippy::disallowed_methods, reason = "this test puts a file in the way of a snapshot")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::harness::calls::compact;
use crate::harness::condition::Random;
use crate::harness::refusal::refused;
use crate::harness::*;
use driftdb::v1;
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(60);

async fn status(writer: &mut Writer) -> v1::WriterServiceStatusResponse {
    writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner()
}

async fn verify_deep(writer: &mut Writer) {
    let request = v1::VerifyRequest { deep: true, ..Default::default() };
    let mut answers = writer.verify(request).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
}

/// The floor of `c` lies at a commit of `kept`, whose time no table has any more once `kept` is compacted.
#[tokio::test]
async fn a_floor_at_a_commit_of_a_compacted_table_is_no_damage() {
    let mut cluster = Cluster::start().await;
    cluster.create("c").await;
    cluster.create("kept").await;
    apply(&mut cluster.writer, vec![put("c", r#"{"id":"a"}"#)]).await.unwrap();
    for n in 0..10 {
        apply(&mut cluster.writer, vec![put("kept", format!(r#"{{"id":"k{n}"}}"#))]).await.unwrap();
    }
    for (table, before, floor) in [("c", 8, 8), ("kept", 12, 12), ("c", 10, 8), ("c", 12, 12), ("c", 11, 12)]
    {
        let info = compact(&mut cluster.writer, table, at_seq(before), false).await.unwrap();
        assert_eq!(info.floor_seq, floor, "{table} before {before}");
    }
    verify_deep(&mut cluster.writer).await;
}

/// Random commits of three tables, compacted in any order, at any commit.
#[tokio::test]
async fn compactions_of_several_tables_in_any_order_succeed() {
    const TABLES: [&str; 3] = ["a", "b", "c"];
    for seed in [3, 17, 99, 2026] {
        let mut random = Random(seed);
        let mut below = |n: u64| (random.next() >> 33) % n;
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::start("driftdb-writer", dir.path(), &["--snapshot-events", "7"]);
        let mut writer = daemon.as_writer().await;
        let mut created = BTreeMap::new();
        let (mut rows, mut states, mut last) = (BTreeMap::<(&str, String), u64>::new(), vec![], 0);
        states.push(rows.clone());
        let mut floors = BTreeMap::new();
        for step in 0..120u64 {
            match below(5) {
                0 if created.len() < TABLES.len() => {
                    let table = TABLES[created.len()];
                    last = create_table(&mut writer, table).await.unwrap().seq;
                    created.insert(table, last);
                    states.push(rows.clone());
                }
                0..=2 if !created.is_empty() => {
                    let at = usize::try_from(below(created.len() as u64)).unwrap();
                    let (table, born) = created.iter().nth(at).map(|(table, born)| (*table, *born)).unwrap();
                    // Often a little above the floor, where the commits may all be other tables'.
                    let floor = floors.get(table).copied().unwrap_or(0);
                    let before =
                        if below(4) == 0 { below(last) + 1 } else { (floor + 1 + below(4)).min(last) };
                    let done = compact(&mut writer, table, at_seq(before), false).await;
                    if before < born {
                        refused(done, Code::NotFound, "TABLE_NOT_FOUND");
                        continue;
                    }
                    let floor = done.unwrap_or_else(|e| panic!("seed {seed}, step {step}: {e}")).floor_seq;
                    let known = floors.entry(table).or_insert(0);
                    assert!(
                        floor >= *known && floor <= before.max(*known),
                        "{table} before {before}: {floor}"
                    );
                    *known = floor;
                }
                _ if !created.is_empty() => {
                    let at = usize::try_from(below(created.len() as u64)).unwrap();
                    let table = *created.keys().nth(at).unwrap();
                    let key = format!("k{}", below(5));
                    last = apply(&mut writer, vec![put(table, format!(r#"{{"id":"{key}","n":{step}}}"#))])
                        .await
                        .unwrap()
                        .seq;
                    rows.insert((table, key), step);
                    states.push(rows.clone());
                }
                _ => {}
            }
        }
        verify_deep(&mut writer).await;
        let reader_daemon = Daemon::reader(dir.path());
        let mut reader = reader_daemon.as_reader().await;
        for (table, born) in &created {
            for seq in floors.get(table).copied().unwrap_or(*born).max(*born)..=last {
                let state = &states[usize::try_from(seq).unwrap()];
                let expected: Vec<String> =
                    state.keys().filter(|(of, _)| of == table).map(|(_, key)| key.clone()).collect();
                let found = select_at(&mut reader, table, seq).await.unwrap();
                let found: Vec<String> = found.into_iter().map(|(key, _)| key).collect();
                assert_eq!(found, expected, "seed {seed}: {table} at {seq}");
            }
        }
    }
}

/// A file is in the way of the snapshots of `t`.
#[tokio::test]
async fn a_snapshot_that_fails_stops_no_other_table_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--snapshot-events", "20", "--memory", "65536"];
    let daemon = Daemon::start("driftdb-writer", dir.path(), &args);
    let mut writer = daemon.as_writer().await;
    for table in ["t", "u"] {
        create_table(&mut writer, table).await.unwrap();
    }
    let in_the_way = dir.path().join("tables/t/snapshots");
    std::fs::write(&in_the_way, b"x").unwrap();
    let pad = "x".repeat(1000);
    let row = |table: &str, n: u64| put(table, format!(r#"{{"id":"k{n}","pad":"{pad}"}}"#));
    for n in 0..30 {
        apply(&mut writer, vec![row("t", n)]).await.unwrap();
    }
    let deadline = Instant::now() + LIMIT;
    let mut n = 0;
    loop {
        n += 1;
        apply(&mut writer, vec![row("u", n)]).await.unwrap();
        let found = status(&mut writer).await;
        let snapshots = found.tables.iter().find(|table| table.table == "u").unwrap().snapshots;
        let told = found
            .problems
            .iter()
            .any(|problem| problem.contains("table \"t\"") && problem.contains("snapshot"));
        if snapshots > 0 && told {
            break;
        }
        assert!(Instant::now() < deadline, "{found:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Writes go on until the memory that they take reaches its limit; the refusal then says why.
    let mut n = 100;
    let refusal = loop {
        n += 1;
        match apply(&mut writer, vec![row("t", n)]).await {
            Ok(_) => {}
            Err(status) => break status,
        }
        assert!(n < 1000, "the limit never came");
    };
    let refusal = refused::<()>(Err(refusal), Code::ResourceExhausted, "OVERLOADED");
    refusal.says(&["bytes of log wait for a snapshot", "the last snapshot of table \"t\" failed"]);
    std::fs::remove_file(&in_the_way).unwrap();
    let deadline = Instant::now() + LIMIT;
    while !status(&mut writer).await.problems.is_empty() {
        assert!(Instant::now() < deadline, "the snapshot was never tried again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    apply(&mut writer, vec![row("t", 1)]).await.unwrap();
}
