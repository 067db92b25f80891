//! A name means the table that has it at the point in time that is read: tables that are renamed, and tables that are made again with
//! another key.

#![expect(clippy::disallowed_methods, reason = "these tests look at the files of a database and damage them")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::calls::{ask, compact, run, snapshot};
use crate::harness::refusal::{invalid, refused};
use crate::harness::watching::{after, everything, resume, watch};
use crate::harness::*;
use driftdb::v1;
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::layout::DataDir;
use driftdb_common::table::check::doctor;
use serde_json::json;
use tonic::{Code, Status};

/// Runs statements and returns the seq of the last one.
async fn tell(writer: &mut Writer, statements: &[&str]) -> u64 {
    let mut seq = 0;
    for statement in statements {
        seq = run(writer, statement).await.unwrap_or_else(|status| panic!("{statement}: {status}")).seq;
    }
    seq
}

fn not_found<T>(outcome: Result<T, Status>) -> crate::harness::refusal::Refusal {
    refused(outcome, Code::NotFound, "TABLE_NOT_FOUND")
}

/// Asks at once and, if the first answer was from memory, from the snapshots of a reader that starts now.
async fn readers(cluster: &Cluster) -> (Daemon, Vec<Reader>) {
    let fresh = Daemon::reader(cluster.dir.path());
    let readers = vec![cluster.reader.clone(), fresh.as_reader().await];
    (fresh, readers)
}

async fn restart(cluster: &mut Cluster) {
    assert!(cluster.writer_daemon.terminate().await.success());
    cluster.writer_daemon = Daemon::writer(cluster.dir.path());
    cluster.writer = cluster.writer_daemon.as_writer().await;
}

fn directories(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root.join("tables")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A table with the key id is dropped by commit 5, and made again with the key n by commit 6.
async fn with_another_key() -> (Cluster, u64) {
    let mut cluster = Cluster::start().await;
    let statements = [
        "CREATE TABLE t (pk=id, INDEX(a))",
        r#"INSERT INTO t {"id":"x","a":1}, {"id":"y","a":2}"#,
        r#"PATCH t KEY "x" SET {"a":3}"#,
        "CREATE TABLE other (pk=id)",
        "DROP TABLE t",
        "CREATE TABLE t (pk=n INT, INDEX(b))",
        r#"INSERT INTO t {"n":7,"id":"x","b":"new"}"#,
    ];
    let last = tell(&mut cluster.writer, &statements).await;
    assert_eq!(last, 7);
    (cluster, last)
}

#[tokio::test]
async fn a_dropped_table_is_made_again_with_another_key_and_its_past_stays_readable() {
    let (mut cluster, last) = with_another_key().await;
    assert_eq!(directories(cluster.dir.path()), ["other", "t", "t.6"]);
    for round in 0..3 {
        let (_fresh, readers) = readers(&cluster).await;
        for mut reader in readers {
            let reader = &mut reader;
            let now = ask(reader, "SELECT * FROM t", last).await.unwrap().rows();
            assert_eq!(now, [("7".to_owned(), json!({"n": 7, "id": "x", "b": "new"}))], "round {round}");
            let past = ask(reader, "SELECT * FROM t WHERE a = 3 AS OF @seq:4", last).await.unwrap().rows();
            assert_eq!(past, [("x".to_owned(), json!({"id": "x", "a": 3}))]);
            not_found(ask(reader, "SELECT * FROM t AS OF @seq:5", last).await)
                .says(&["it was dropped by commit 5"]);
            assert_eq!(ask(reader, "SELECT COUNT(*) FROM t AS OF @seq:6", last).await.unwrap().count(), 0);
            for (seq, key, indexes) in [(4, "id", "a"), (7, "n", "b")] {
                let answer = ask(reader, &format!("DESCRIBE t AS OF @seq:{seq}"), last).await.unwrap();
                let table = answer.tables()[0];
                assert_eq!((table.primary_key.as_str(), table.indexes[0].as_str()), (key, indexes));
            }
            // The drift up to a point is that of the table that had the name then.
            let drift = ask(reader, "SHOW DRIFT t", last).await.unwrap();
            assert_eq!(drift.drift().iter().map(|(seq, ..)| *seq).collect::<Vec<_>>(), [6, 7]);
            let notes = &drift.headers[0].notes;
            assert!(notes[0].contains(r#"another table was named "t" up to seq 4"#), "{notes:?}");
            let drift = ask(reader, "SHOW DRIFT t TO @seq:5", last).await.unwrap();
            assert_eq!(drift.drift().iter().map(|(seq, ..)| *seq).collect::<Vec<_>>(), [1, 2, 2, 3, 5]);
            assert!(drift.headers[0].notes.is_empty());
            // Rows of two tables are not compared.
            let diff = ask(reader, "SHOW DIFF t FROM @seq:3 TO @seq:7", last).await;
            not_found(diff).says(&["another table", "up to seq 4"]);
            let diff = ask(reader, "SHOW DIFF t FROM @seq:6 TO @seq:7", last).await.unwrap().diff();
            assert_eq!(diff.len(), 1);
            let every = "SELECT COUNT(*) FROM t AS OF EVERY 1 SEQS FROM @seq:2 TO @seq:7";
            not_found(ask(reader, every, last).await).says(&["another table"]);
        }
        match round {
            0 => restart(&mut cluster).await,
            _ => snapshot(&mut cluster.writer, "t").await.unwrap(),
        }
    }
    let writer = &mut cluster.writer;
    not_found(run(writer, "REVERT t KEY 7 TO @seq:3").await).says(&["t", "does not exist at"]);
    not_found(run(writer, "REVERT t TO @seq:3").await).says(&["it was created by commit 6"]);
    // A condition on the rows of the old table fails: the new one has no row of it.
    let guarded = r#"UPSERT INTO t {"n":8} IF NO CHANGE IN t WHERE id = "x" SINCE 3"#;
    refused(run(writer, guarded).await, Code::FailedPrecondition, "PRECONDITION_FAILED");
    // With the old key a third time, and then with the key of the second again: that one is continued.
    let statements = ["DROP TABLE t", "CREATE TABLE t (pk=id)", "DROP TABLE t", "CREATE TABLE t (pk=id)"];
    let last = tell(writer, &statements).await;
    let again = format!("t.{}", last - 2);
    assert_eq!(directories(cluster.dir.path()), ["other", "t", "t.6", again.as_str()]);
}

#[tokio::test]
async fn a_table_that_never_had_a_row_is_made_again_in_its_place() {
    let mut cluster = Cluster::start().await;
    let writer = &mut cluster.writer;
    tell(writer, &["CREATE TABLE t (pk=id, INDEX(a))", "CREATE INDEX ON t (b)"]).await;
    for same in ["CREATE TABLE t (pk=id)", "CREATE TABLE t (pk=id, INDEX(b))"] {
        refused(run(writer, same).await, Code::AlreadyExists, "TABLE_EXISTS");
    }
    let last = tell(writer, &["CREATE TABLE t (pk=n INT, INDEX(c))", r#"INSERT INTO t {"n":1,"c":2}"#]).await;
    assert_eq!((last, directories(cluster.dir.path())), (4, vec!["t".to_owned()]));
    let (fresh, readers) = readers(&cluster).await;
    for mut reader in readers {
        assert_eq!(ask(&mut reader, "SELECT * FROM t WHERE c = 2", last).await.unwrap().keys(), ["1"]);
        let past = ask(&mut reader, "DESCRIBE t AS OF @seq:2", last).await.unwrap();
        assert_eq!((past.tables()[0].primary_key.as_str(), past.tables()[0].rows), ("id", 0));
        assert!(ask(&mut reader, r#"SELECT * FROM t WHERE _key = "q" AS OF @seq:2"#, last).await.is_ok());
    }
    drop(fresh);
    snapshot(&mut cluster.writer, "t").await.unwrap();
    restart(&mut cluster).await;
    // The layer has keys of another type than the table had before.
    let (fresh, readers) = self::readers(&cluster).await;
    for mut reader in readers {
        for statement in ["SELECT * FROM t AS OF @seq:2", "SELECT * FROM t WHERE a = 1 AS OF @seq:2"] {
            assert!(ask(&mut reader, statement, last).await.unwrap().rows().is_empty());
        }
        assert_eq!(
            ask(&mut reader, "SHOW DIFF t FROM @seq:1 TO @seq:4", last).await.unwrap().diff().len(),
            1
        );
    }
    drop(fresh);
    // It has had a row now, and loses it: that is not the same.
    let writer = &mut cluster.writer;
    let last = tell(writer, &["SOFT DELETE FROM t KEY 1"]).await;
    refused(run(writer, "CREATE TABLE t (pk=id)").await, Code::AlreadyExists, "TABLE_EXISTS");
    let drift = ask(&mut cluster.reader, "SHOW DRIFT t", last).await.unwrap().drift();
    assert_eq!(drift.iter().map(|(seq, ..)| *seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

/// Commit 4 renames t to u, commit 6 makes another t.
async fn renamed() -> (Cluster, u64) {
    let mut cluster = Cluster::start().await;
    let statements = [
        "CREATE TABLE t (pk=id, INDEX(a))",
        r#"INSERT INTO t {"id":"x","a":1}"#,
        r#"PATCH t KEY "x" SET {"a":2}"#,
        "ALTER TABLE t RENAME TO u",
        r#"INSERT INTO u {"id":"y","a":2}"#,
        "CREATE TABLE t (pk=k)",
        r#"INSERT INTO t {"k":"z"}"#,
    ];
    let last = tell(&mut cluster.writer, &statements).await;
    (cluster, last)
}

#[tokio::test]
async fn a_renamed_table_has_its_old_name_before_and_its_new_name_after() {
    let (mut cluster, last) = renamed().await;
    assert_eq!(directories(cluster.dir.path()), ["t", "t.6"]);
    for round in 0..3 {
        let (_fresh, readers) = readers(&cluster).await;
        for mut reader in readers {
            let reader = &mut reader;
            let mut keys = async |statement: &str| ask(reader, statement, last).await.map(|a| a.keys());
            assert_eq!(keys("SELECT * FROM u WHERE a = 2").await.unwrap(), ["x", "y"], "round {round}");
            assert_eq!(keys("SELECT * FROM t").await.unwrap(), ["z"]);
            assert_eq!(keys("SELECT * FROM t WHERE a = 1 AS OF @seq:2").await.unwrap(), ["x"]);
            assert_eq!(keys("SELECT * FROM u AS OF @seq:4").await.unwrap(), ["x"]);
            not_found(keys("SELECT * FROM t AS OF @seq:4").await)
                .says(&[r#"it was renamed to "u" by commit 4"#, "use that name"])
                .tells("renamed_to", "u");
            not_found(keys("SELECT * FROM u AS OF @seq:3").await)
                .says(&[r#"table "t" was renamed to it by commit 4"#]);
            not_found(keys("SHOW DRIFT u TO @seq:3").await);
            for (seq, names) in [(3, vec!["t"]), (4, vec!["u"]), (6, vec!["t", "u"])] {
                let answer = ask(reader, &format!("SHOW TABLES AS OF @seq:{seq}"), last).await.unwrap();
                let found: Vec<_> = answer.tables().iter().map(|table| table.table.clone()).collect();
                assert_eq!(found, names, "tables at {seq}");
            }
            let drift = ask(reader, "SHOW DRIFT u", last).await.unwrap();
            let told = drift.results.iter().map(|result| match result {
                calls::Outcome::Commit(commit) => crate::harness::watching::told(commit),
                other => panic!("{other:?}"),
            });
            let told: Vec<String> = told.collect();
            let expected = ["1: schema t", "2: insert t/x", "3: patch t/x", "4: schema u", "5: insert u/y"];
            assert_eq!(told, expected);
            let diff = ask(reader, "SHOW DIFF u FROM @seq:2 TO @seq:5", last).await.unwrap().diff();
            assert_eq!(diff.iter().map(|(key, ..)| key.as_str()).collect::<Vec<_>>(), ["x", "y"]);
            let find = ask(reader, "FIND FIRST IN u KEY \"x\" WHERE a = 2", last).await.unwrap();
            assert_eq!(find.drift()[0].0, 3);
        }
        match round {
            0 => restart(&mut cluster).await,
            _ => snapshot(&mut cluster.writer, "u").await.unwrap(),
        }
    }
    let revert = run(&mut cluster.writer, r#"REVERT u KEY "x" TO @seq:2"#).await.unwrap();
    let row = ask(&mut cluster.reader, r#"SELECT * FROM u WHERE _key = "x""#, revert.seq).await.unwrap();
    assert_eq!(row.rows()[0].1, json!({"id": "x", "a": 1}));
    // There and back: the name belongs to whoever has it.
    let statements = ["ALTER TABLE t RENAME TO v", "ALTER TABLE u RENAME TO t", "DROP TABLE v"];
    let last = tell(&mut cluster.writer, &statements).await;
    assert_eq!(ask(&mut cluster.reader, "SELECT * FROM t", last).await.unwrap().keys(), ["x", "y"]);
    not_found(ask(&mut cluster.reader, "SELECT * FROM u", last).await).tells("renamed_to", "t");
}

#[tokio::test]
async fn a_rename_is_refused_if_the_name_is_taken_and_repeated_requests_are_answered_as_before() {
    let (mut cluster, last) = renamed().await;
    let writer = &mut cluster.writer;
    let rename = |table: &str, to: &str| v1::AlterTableRequest {
        table: table.into(),
        rename_to: to.into(),
        ..Default::default()
    };
    refused(writer.alter_table(rename("u", "t")).await, Code::AlreadyExists, "TABLE_EXISTS")
        .tells("table", "t");
    refused(writer.alter_table(rename("u", "T")).await, Code::AlreadyExists, "TABLE_EXISTS")
        .says(&["differ in more than case"]);
    invalid(writer.alter_table(rename("u", "u")).await, "ARGUMENT_INVALID").says(&["this name already"]);
    for name in ["1a", "a-b", "a.7", &"x".repeat(64)] {
        invalid(writer.alter_table(rename("u", name)).await, "NAME_INVALID");
    }
    not_found(writer.alter_table(rename("nothing", "v")).await);
    let both = v1::AlterTableRequest { add_indexes: vec!["q".into()], ..rename("u", "v") };
    invalid(writer.alter_table(both).await, "ARGUMENT_INVALID").says(&["cannot be combined"]);
    not_found(run(writer, "ALTER TABLE nothing RENAME TO v").await);
    // A change of case is a rename like any other, and so is one to the name of a dropped table.
    tell(writer, &["ALTER TABLE u RENAME TO U", "ALTER TABLE U RENAME TO u", "DROP TABLE t"]).await;
    let options = Some(v1::CommitOptions { request_id: "once".into(), ..Default::default() });
    let request = v1::AlterTableRequest { options, ..rename("u", "t") };
    let first = writer.alter_table(request.clone()).await.unwrap().into_inner().token.unwrap();
    assert_eq!(first.seq, last + 4);
    // Nothing has the name u any more, and the answer is that of the first time.
    let again = writer.alter_table(request.clone()).await.unwrap().into_inner().token.unwrap();
    assert_eq!(again.seq, first.seq);
    let other = v1::AlterTableRequest { rename_to: "w".into(), ..request };
    invalid(writer.alter_table(other).await, "REQUEST_ID_REUSED");
    restart(&mut cluster).await;
    let last = tell(&mut cluster.writer, &[r#"PATCH t KEY "y" SET {"a":9}"#]).await;
    assert_eq!(last, first.seq + 1);
    assert_eq!(ask(&mut cluster.reader, "SELECT * FROM t", last).await.unwrap().keys(), ["x", "y"]);
}

#[tokio::test]
async fn watches_go_on_with_a_renamed_table_and_with_a_new_one_of_the_name() {
    let mut cluster = Cluster::start().await;
    let writer = &mut cluster.writer;
    tell(writer, &["CREATE TABLE t (pk=id)", "CREATE TABLE other (pk=id)", r#"INSERT INTO t {"id":"x"}"#])
        .await;
    let of_t = v1::WatchDriftRequest { tables: vec!["t".into()], ..everything() };
    let of_x = v1::WatchDriftRequest { keys: vec!["x".into()], ..of_t.clone() };
    let mut reader = cluster.reader.clone();
    let mut all = watch(&mut reader, after(3)).await.unwrap();
    let mut named = watch(&mut reader, of_t.clone()).await.unwrap();
    let mut keyed = watch(&mut reader, of_x).await.unwrap();
    let statements = ["ALTER TABLE t RENAME TO u", r#"PATCH u KEY "x" SET {"a":1}"#];
    let last = tell(writer, &statements).await;
    let expected = ["4: schema u", "5: patch u/x"];
    assert_eq!(named.told(last).await, expected);
    assert_eq!(all.told(last).await, expected);
    assert_eq!(keyed.told(last).await, ["5: patch u/x"]);
    // The token is one of a watch of t: it goes on, also at a reader that starts now and reads files.
    let statements = [
        r#"UPSERT INTO other {"id":"o"}"#,
        r#"UPSERT INTO u {"id":"y"}"#,
        "CREATE TABLE t (pk=n INT)",
        r#"UPSERT INTO t {"n":1}"#,
    ];
    let last = tell(writer, &statements).await;
    snapshot(writer, "u").await.unwrap();
    let fresh = Daemon::reader(cluster.dir.path());
    let expected = ["7: insert u/y", "8: schema t", "9: insert t/1"];
    let mut resumed = watch(&mut fresh.as_reader().await, resume(&named.token, &of_t)).await.unwrap();
    assert_eq!(resumed.told(last).await, expected);
    assert_eq!(named.told(last).await, expected);
    // A watch that is opened now by the new name gets what the table was under the old one.
    let of_u = v1::WatchDriftRequest { tables: vec!["u".into()], ..after(1) };
    let mut past = watch(&mut reader, of_u).await.unwrap();
    let expected = ["3: insert t/x", "4: schema u", "5: patch u/x", "7: insert u/y"];
    assert_eq!(past.told(last).await, expected);
    // A name that nothing has any more since the watch's start is refused, with the name to use.
    let last = tell(writer, &["ALTER TABLE u RENAME TO w"]).await;
    seen(&mut reader, last).await;
    let of_u = v1::WatchDriftRequest { tables: vec!["u".into()], ..after(last) };
    not_found(watch(&mut reader, of_u).await).says(&[r#"renamed to "w""#]);
}

async fn seen(reader: &mut Reader, seq: u64) {
    ask(reader, "SHOW TABLES", seq).await.unwrap();
}

/// Waits until a reader knows that a point in time is below the floor: no commit tells it.
async fn until_refused(reader: &mut Reader, statement: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while ask(reader, statement, 0).await.is_ok() {
        assert!(Instant::now() < deadline, "{statement} is not refused");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The bytes of the files of a table's directory.
fn bytes_of(root: &Path, table: &str) -> u64 {
    let (mut bytes, mut open) = (0, vec![root.join("tables").join(table)]);
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                bytes += entry.metadata().unwrap().len();
            }
        }
    }
    bytes
}

#[tokio::test]
async fn compacting_a_dropped_table_frees_its_space() {
    let mut cluster = Cluster::start().await;
    let pad = "p".repeat(2000);
    tell(&mut cluster.writer, &["CREATE TABLE t (pk=id, INDEX(a))", "CREATE TABLE other (pk=id)"]).await;
    for n in 0..200 {
        let row = format!(r#"{{"id":"k{}","a":{n},"pad":"{n}{pad}"}}"#, n % 50);
        apply(&mut cluster.writer, vec![put("t", row)]).await.unwrap();
    }
    let last = tell(&mut cluster.writer, &["DROP TABLE t", r#"UPSERT INTO other {"id":"x"}"#]).await;
    let dropped = last - 1;
    let preview = compact(&mut cluster.writer, "t", None, true).await.unwrap();
    assert_eq!((preview.floor_seq, preview.events_folded), (dropped, 202));
    assert!(preview.bytes_freed > 300_000, "{preview:?}");
    // A dry run changes nothing.
    let past = format!("SELECT COUNT(*) FROM t AS OF @seq:{}", dropped - 1);
    assert_eq!(ask(&mut cluster.reader, &past, last).await.unwrap().count(), 50);
    let early = compact(&mut cluster.writer, "t", at_seq(100), false).await.unwrap();
    assert_eq!(early.floor_seq, 100);
    assert_eq!(ask(&mut cluster.reader, &past, last).await.unwrap().count(), 50);
    let done = compact(&mut cluster.writer, "t", None, false).await.unwrap();
    assert_eq!(done.floor_seq, dropped);
    assert_eq!(compact(&mut cluster.writer, "t", None, false).await.unwrap().events_folded, 0);
    until_refused(&mut cluster.reader, &past).await;
    refused(compact(&mut cluster.writer, "nothing", None, false).await, Code::NotFound, "TABLE_NOT_FOUND");
    for round in 0..2 {
        let (_fresh, readers) = readers(&cluster).await;
        for mut reader in readers {
            refused(ask(&mut reader, &past, last).await, Code::OutOfRange, "BELOW_FLOOR");
            let after = format!("SELECT * FROM t AS OF @seq:{last}");
            not_found(ask(&mut reader, &after, last).await).says(&["dropped by commit"]);
            assert_eq!(ask(&mut reader, "SELECT * FROM other", last).await.unwrap().keys(), ["x"]);
        }
        // A clean close deletes what waits for its deletion.
        restart(&mut cluster).await;
        let bytes = bytes_of(cluster.dir.path(), "t");
        assert!(bytes < 40_000, "round {round}: {bytes} bytes of the dropped table are left");
    }
    let verified = cluster.writer.verify(v1::VerifyRequest { deep: true, ..Default::default() }).await;
    let mut verified = verified.unwrap().into_inner();
    while let Some(message) = verified.message().await.unwrap() {
        assert!(!matches!(message.event, Some(v1::verify_response::Event::Problem(_))), "{message:?}");
    }
    // The name, with whatever key, begins anew; its compaction takes the dropped table with it.
    let last = tell(&mut cluster.writer, &["CREATE TABLE t (pk=n INT)", r#"INSERT INTO t {"n":1}"#]).await;
    assert_eq!(compact(&mut cluster.writer, "t", at_seq(last), false).await.unwrap().floor_seq, last);
    assert_eq!(ask(&mut cluster.reader, "SELECT * FROM t", last).await.unwrap().keys(), ["1"]);
}

#[tokio::test]
async fn the_history_of_a_dropped_table_ends_with_its_retention() {
    let mut cluster = Cluster::start().await;
    tell(&mut cluster.writer, &[r#"CREATE TABLE t (pk=id, RETAIN "1s")"#, r#"INSERT INTO t {"id":"x"}"#])
        .await;
    let mut last = tell(&mut cluster.writer, &["DROP TABLE t", "CREATE TABLE other (pk=id)"]).await;
    // Time passes only with commits.
    loop {
        last = tell(&mut cluster.writer, &[r#"UPSERT INTO other {"id":"x"}"#]).await.max(last);
        match ask(&mut cluster.reader, "SELECT * FROM t AS OF @seq:2", last).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(status) => {
                assert_eq!(reason(&status), "BELOW_FLOOR");
                return;
            }
        }
    }
}

#[tokio::test]
async fn a_lost_manifest_of_a_table_that_took_over_a_name_is_rebuilt() {
    let (mut cluster, last) = with_another_key().await;
    tell(&mut cluster.writer, &["ALTER TABLE t RENAME TO u"]).await;
    assert!(cluster.writer_daemon.terminate().await.success());
    std::fs::remove_file(cluster.dir.path().join("tables/t.6/meta.json")).unwrap();
    let examine = |repair| {
        let dir = DataDir::new(cluster.dir.path());
        doctor::examine(OsFileSystem::shared(), &dir, repair, &mut |_| {}).unwrap()
    };
    assert!(examine(false).damage > 0);
    examine(true);
    assert_eq!(examine(false).damage, 0);
    // The files say which tables are asked for by name, without a daemon.
    let verify = |table: &str| {
        let mut command = Command::new(binary("driftctl"));
        command.arg("-d").arg(cluster.dir.path()).args(["verify", "-t", table]).output().unwrap()
    };
    for table in ["t", "u"] {
        assert!(verify(table).status.success(), "{table}: {:?}", verify(table));
    }
    assert!(!verify("v").status.success());
    cluster.writer_daemon = Daemon::writer(cluster.dir.path());
    cluster.writer = cluster.writer_daemon.as_writer().await;
    let last = tell(&mut cluster.writer, &[r#"INSERT INTO u {"n":8}"#]).await.max(last);
    assert_eq!(ask(&mut cluster.reader, "SELECT * FROM u", last).await.unwrap().keys(), ["7", "8"]);
}

/// The layers of a compacted table are its only truth: a renamed one that is damaged is reported by the name that it has.
#[tokio::test]
async fn a_damaged_table_is_reported_by_its_newest_name() {
    for rename_first in [false, true] {
        let mut cluster = Cluster::start().await;
        tell(&mut cluster.writer, &["CREATE TABLE t (pk=id)", r#"INSERT INTO t {"id":"x"}"#]).await;
        if rename_first {
            tell(&mut cluster.writer, &["ALTER TABLE t RENAME TO u"]).await;
        }
        snapshot(&mut cluster.writer, if rename_first { "u" } else { "t" }).await.unwrap();
        let floor = compact(&mut cluster.writer, if rename_first { "u" } else { "t" }, None, false).await;
        assert!(floor.unwrap().floor_seq >= 2);
        if !rename_first {
            tell(&mut cluster.writer, &["ALTER TABLE t RENAME TO u"]).await;
        }
        let last =
            tell(&mut cluster.writer, &["CREATE TABLE t (pk=id)", r#"INSERT INTO t {"id":"z"}"#]).await;
        assert!(cluster.writer_daemon.terminate().await.success());
        cluster.reader_daemon.kill();
        for entry in std::fs::read_dir(cluster.dir.path().join("tables/t/snapshots")).unwrap() {
            std::fs::write(entry.unwrap().path(), b"damaged").unwrap();
        }
        cluster.writer_daemon = Daemon::writer(cluster.dir.path());
        let mut writer = cluster.writer_daemon.as_writer().await;
        let status = writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
        let problems = status.tables.iter().map(|table| (table.table.as_str(), !table.problem.is_empty()));
        assert_eq!(problems.collect::<Vec<_>>(), [("t", false), ("u", true)]);
        for statement in
            ["CREATE TABLE u (pk=id)", r#"INSERT INTO u {"id":"y"}"#, "ALTER TABLE t RENAME TO u"]
        {
            refused(run(&mut writer, statement).await, Code::DataLoss, "CORRUPT");
        }
        let reader = Daemon::reader(cluster.dir.path());
        let mut reader = reader.as_reader().await;
        refused(ask(&mut reader, "SELECT * FROM u", last).await, Code::DataLoss, "CORRUPT");
        assert_eq!(ask(&mut reader, "SELECT * FROM t", last).await.unwrap().keys(), ["z"]);
        let answer = ask(&mut reader, "SHOW TABLES", last).await.unwrap();
        let tables = answer.tables();
        let names = tables.iter().map(|table| (table.table.as_str(), !table.problem.is_empty()));
        assert_eq!(names.collect::<Vec<_>>(), [("t", false), ("u", true)]);
    }
}

/// The writer knows it from its memory, after a restart from the log, and from snapshots.
#[tokio::test]
async fn the_writer_says_what_a_renamed_table_is_called_now() {
    let mut cluster = Cluster::start().await;
    let statements = ["CREATE TABLE t (pk=id)", "ALTER TABLE t RENAME TO u", "ALTER TABLE u RENAME TO v"];
    tell(&mut cluster.writer, &statements).await;
    for round in 0..3 {
        let writer = &mut cluster.writer;
        for old in ["t", "u"] {
            let insert = format!(r#"INSERT INTO {old} {{"id":"x"}}"#);
            not_found(run(writer, &insert).await)
                .says(&["does not exist: it was renamed to \"v\"; use that name"])
                .tells("renamed_to", "v");
            not_found(apply(writer, vec![put(old, r#"{"id":"x"}"#)]).await).tells("renamed_to", "v");
            not_found(run(writer, &format!("DROP TABLE {old}")).await).tells("renamed_to", "v");
        }
        if round == 1 {
            tell(writer, &[r#"UPSERT INTO v {"id":"x"}"#]).await;
            snapshot(writer, "v").await.unwrap();
        }
        restart(&mut cluster).await;
    }
    // The name of another table now, and of none.
    let writer = &mut cluster.writer;
    tell(writer, &["CREATE TABLE t (pk=id)", r#"INSERT INTO t {"id":"x"}"#, "DROP TABLE v"]).await;
    let refusal = run(writer, r#"INSERT INTO u {"id":"x"}"#).await.unwrap_err();
    assert!(!refusal.message().contains("renamed"), "{refusal}");
}
