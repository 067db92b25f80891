//! Backups that a client asks a running writer for, and restores of some tables.

#![expect(clippy::disallowed_methods, reason = "looks at directories")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use driftdb::v1;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::harness::buckets::{BackedUp, driftctl, driftctl_lines, rows_at, text};
use crate::harness::condition::Random;
use crate::harness::s3_server::S3Server;
use crate::harness::watching::{after, watch};
use crate::harness::*;

/// A writer whose clients may have backups made below a directory.
fn writer(home: &Path, args: &[&str]) -> Daemon {
    let backups = home.join("backups");
    fs::create_dir(&backups).unwrap();
    let backups = backups.display().to_string();
    let options = [&buckets::WRITER[..], &["--backup-dir", backups.as_str()], args].concat();
    Daemon::start("driftdb-writer", &home.join("data"), &options)
}

fn url_of(home: &Path, name: &str) -> String {
    format!("file://{}", home.join("backups").join(name).display())
}

/// What driftctl complains of.
fn complaint(args: &[&str]) -> (i32, String) {
    let output = driftctl(args);
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

async fn put_row(client: &mut Writer, n: u64) -> u64 {
    apply(client, vec![put("t", format!(r#"{{"id":"k{n}","n":{n}}}"#))]).await.unwrap().seq
}

/// The rows of `t` in a directory, whose files must be sound.
async fn rows(dir: &Path, seq: u64) -> usize {
    let checked = driftctl_lines(&["-d", text(dir), "verify", "--deep"]);
    assert_eq!(checked.last().unwrap()["problems"], 0);
    let reader = Daemon::reader(dir);
    select_at(&mut reader.as_reader().await, "t", seq).await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_writer_ships_once_to_where_a_client_asks() {
    let home = tempfile::tempdir().unwrap();
    let daemon = writer(home.path(), &[]);
    let mut client = daemon.as_writer().await;
    create_table(&mut client, "t").await.unwrap();
    let seq = put_row(&mut client, 0).await;
    let url = url_of(home.path(), "nightly");
    let back_up = || driftctl_lines(&["backup", "--writer", &daemon.url, &url]).remove(0);
    let first = back_up();
    assert_eq!((first["last_seq"].as_u64().unwrap(), first["new"].as_bool().unwrap()), (seq, true));
    assert_eq!(back_up()["new"], false, "nothing has changed");
    // Under load: the backup is a whole commit, and everything before it.
    let stop = CancellationToken::new();
    let (mut loader, stopped) = (client.clone(), stop.clone());
    let load = tokio::spawn(async move {
        let mut n = 1;
        while !stopped.is_cancelled() {
            put_row(&mut loader, n).await;
            n += 1;
        }
        n
    });
    for round in 0..3 {
        let made = tokio::task::spawn_blocking({
            let (writer, url) = (daemon.url.clone(), url.clone());
            move || driftctl_lines(&["backup", "--writer", &writer, &url]).remove(0)
        });
        let made = made.await.unwrap();
        let last = made["last_seq"].as_u64().unwrap();
        let dir = home.path().join(format!("restored{round}"));
        let (url, target) = (url.clone(), dir.clone());
        let restored =
            tokio::task::spawn_blocking(move || driftctl_lines(&["restore", &url, text(&target)]).remove(0));
        assert_eq!(restored.await.unwrap()["last_seq"], last);
        // Commit 1 has created the table; each later one has added a row.
        assert_eq!(rows(&dir, last).await as u64, last - 1);
    }
    stop.cancel();
    let written = load.await.unwrap();
    assert!(written > 10, "there was no load: {written}");
    let last = back_up()["last_seq"].as_u64().unwrap();
    assert_eq!(last, written + 1);
    // The same database as a backup beside the writer makes, so both continue each other.
    let beside = driftctl_lines(&["backup", "-d", text(&home.path().join("data")), &url]).remove(0);
    assert_eq!((beside["last_seq"].as_u64().unwrap(), beside["new"].as_bool().unwrap()), (last, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_have_the_writer_write_anywhere_on_its_machine() {
    let home = tempfile::tempdir().unwrap();
    let own = home.path().join("own").display().to_string();
    let own = format!("file://{own}");
    let daemon = writer(home.path(), &["--bucket", &own]);
    let mut client = daemon.as_writer().await;
    create_table(&mut client, "t").await.unwrap();
    let elsewhere = home.path().join("elsewhere");
    for target in [
        format!("file://{}", elsewhere.display()),
        elsewhere.display().to_string(),
        url_of(home.path(), "../elsewhere"),
        url_of(home.path(), "x%2F..%2F..%2Felsewhere"),
    ] {
        let (code, said) = complaint(&["backup", "--writer", &daemon.url, &target]);
        assert!(
            code == 1 && said.contains("PERMISSION_DENIED") && said.contains("--backup-dir"),
            "{target}: {said}"
        );
    }
    assert!(!elsewhere.exists());
    let (_, said) = complaint(&["backup", "--writer", &daemon.url, &own, "--force"]);
    assert!(said.contains("ships to it by itself"), "{said}");
    let (_, said) = complaint(&["backup", "--writer", &daemon.url, "http://127.0.0.1:1/x"]);
    assert!(said.contains("names no bucket"), "{said}");
    let (_, said) = complaint(&["backup", "--writer", &daemon.url, "s3://bucket/x?key=secret"]);
    assert!(said.contains("do not belong in the URL") && !said.contains("secret"), "{said}");
    let closed = Daemon::writer(&home.path().join("other"));
    let (_, said) = complaint(&["backup", "--writer", &closed.url, &url_of(home.path(), "x")]);
    assert!(said.contains("started without --backup-dir"), "{said}");
    assert!(fs::read_dir(home.path().join("backups")).unwrap().next().is_none());
    // The writer is still one.
    put_row(&mut client, 1).await;
}

/// What a directory has on disk that contains a text.
fn files_with(dir: &Path, needle: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if fs::read(&path).unwrap().windows(needle.len()).any(|bytes| bytes == needle.as_bytes()) {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_named_tables_keep_their_history_and_nothing_is_left_of_the_others() {
    let made = BackedUp::build(2, 20).await;
    let seq = made.last_seq() - 2;
    let moment = made.moment(seq);
    let live: Vec<&String> =
        moment.tables.iter().filter(|(_, rows)| rows.is_some()).map(|(table, _)| table).collect();
    let (kept, gone) = (live[0], &live[1..]);
    assert!(!gone.is_empty());
    let dir = made.home.path().join("some");
    let point = format!("@seq:{seq}");
    let url = made.url();
    let restored = driftctl_lines(&["restore", &url, text(&dir), "--to", &point, "-t", kept]).remove(0);
    assert_eq!(restored["tables"], 1);
    let last = restored["last_seq"].as_u64().unwrap();
    assert_eq!(last, seq + gone.len() as u64, "a commit for each drop");
    let daemon = Daemon::reader(&dir);
    let mut reader = daemon.as_reader().await;
    // The table is what it was at every commit, and its commits have their numbers, times and changes.
    for at in 1..=seq {
        let expected = made.moment(at).tables.get(kept).cloned().flatten();
        let found = rows_at(&mut reader, std::slice::from_ref(kept), at).await.remove(kept).flatten();
        assert_eq!(found, expected, "{kept} at {at}");
    }
    let request = v1::WatchDriftRequest { tables: vec![kept.clone()], ..after(0) };
    let commits = watch(&mut reader, request).await.unwrap().upto(last).await;
    let of_table = |commit: &v1::Commit| {
        let mut commit = commit.clone();
        commit.changes.retain(|change| change.table == *kept);
        commit
    };
    let expected: Vec<_> = made.commits[..usize::try_from(seq).unwrap()]
        .iter()
        .map(of_table)
        .filter(|commit| !commit.changes.is_empty())
        .collect();
    let found: Vec<_> = commits.iter().map(of_table).filter(|commit| !commit.changes.is_empty()).collect();
    let strip = |commits: &[v1::Commit]| -> Vec<_> {
        commits.iter().map(|commit| (commit.seq, commit.time, commit.changes.clone())).collect()
    };
    assert_eq!(strip(&found), strip(&expected));
    for table in gone {
        let status = select_at(&mut reader, table, last).await.unwrap_err();
        assert_eq!(reason(&status), "TABLE_NOT_FOUND");
        let status = select_at(&mut reader, table, seq).await.unwrap_err();
        assert_eq!(reason(&status), "BELOW_FLOOR", "{status:?}");
    }
    drop(daemon);
    let left: BTreeSet<String> = fs::read_dir(made.home.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!left.iter().any(|name| name.contains("selecting") || name.contains("restoring")), "{left:?}");
    let checked = driftctl_lines(&["-d", text(&dir), "verify", "--deep"]);
    assert_eq!(checked.last().unwrap()["problems"], 0);
    // It is a database like any other.
    let mut daemon = Daemon::writer(&dir);
    let mut client = daemon.as_writer().await;
    assert_eq!(create_table(&mut client, "after").await.unwrap().seq, last + 1);
    drop(client);
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_other_tables_are_gone_and_unknown_tables_are_named() {
    let home = tempfile::tempdir().unwrap();
    let mut daemon = writer(home.path(), &[]);
    let mut client = daemon.as_writer().await;
    for table in ["orders", "salaries", "dropped"] {
        create_table(&mut client, table).await.unwrap();
    }
    let row = |table: &str, what: &str| put(table, format!(r#"{{"id":"a","what":"{what}"}}"#));
    // A commit of several tables stays whole for those that are kept.
    apply(
        &mut client,
        vec![row("orders", "open"), row("salaries", "confidential"), row("dropped", "confidential")],
    )
    .await
    .unwrap();
    calls::run(&mut client, "DROP TABLE dropped").await.unwrap();
    let seq = apply(&mut client, vec![row("orders", "paid")]).await.unwrap().seq;
    drop(client);
    assert!(daemon.terminate().await.success());
    let (data, url) = (home.path().join("data"), url_of(home.path(), "b"));
    assert!(!files_with(&data, "confidential").is_empty());
    driftctl_lines(&["backup", "-d", text(&data), &url]);
    let dir = home.path().join("restored");
    let (code, said) = complaint(&["restore", &url, text(&dir), "-t", "order"]);
    assert!(
        code == 4 && said.contains("TABLE_NOT_FOUND") && said.contains("did you mean \"orders\""),
        "{said}"
    );
    let (_, said) = complaint(&["restore", &url, text(&dir), "-t", "dropped"]);
    assert!(said.contains("it was dropped before"), "{said}");
    assert!(!dir.exists() && said.contains("for the next try"), "{said}");
    // Another point is another restore, and what the first has left is not mixed with it.
    let (_, said) = complaint(&["restore", &url, text(&dir), "--to", "@seq:4", "-t", "orders"]);
    assert!(said.contains("holds an interrupted restore"), "{said}");
    let again = driftctl(&["restore", &url, text(&dir), "-t", "orders"]);
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(said.contains(&format!("continues an interrupted restore to commit {seq}")), "{said}");
    let restored: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(
        (restored["last_seq"].as_u64().unwrap(), restored["discarded"].as_u64().unwrap()),
        (seq + 1, 2)
    );
    assert_eq!(files_with(&dir, "confidential"), Vec::<PathBuf>::new());
    let reader = Daemon::reader(&dir);
    let mut reader = reader.as_reader().await;
    for (at, what) in [(4, "open"), (seq, "paid"), (seq + 1, "paid")] {
        let found = select_at(&mut reader, "orders", at).await.unwrap();
        assert!(found.len() == 1 && found[0].1.contains(what), "{at}: {found:?}");
    }
    let lost = select_at(&mut reader, "salaries", 4).await.unwrap_err();
    assert_eq!(lost.code(), Code::OutOfRange, "{lost:?}");
}

/// A store that refuses one part in between costs that part, and not the file.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_after_refused_parts() {
    let (server, home) = (S3Server::start(), tempfile::tempdir().unwrap());
    let data = home.path().join("data");
    let mut daemon = Daemon::writer(&data);
    let mut client = daemon.as_writer().await;
    create_table(&mut client, "t").await.unwrap();
    let mut random = Random(3);
    let mut last = 0;
    for n in 0..24 {
        // Does not compress well: the snapshot has several parts.
        let text: String = (0..50_000).map(|_| format!("{:016x}", random.next())).collect();
        last = apply(&mut client, vec![put("t", format!(r#"{{"id":"k{n}","text":"{text}"}}"#))])
            .await
            .unwrap()
            .seq;
    }
    calls::snapshot(&mut client, "t").await.unwrap();
    drop(client);
    assert!(daemon.terminate().await.success());
    let back_up = |prefix: &str| {
        let url = format!("{}{prefix}", server.url());
        let output = server
            .command("driftctl")
            .args(["-o", "json", "backup", "-d", text(&data), &url])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(made[0]["last_seq"], last, "{made}");
        server.uploads().0
    };
    let uploads = back_up("");
    assert!(uploads > 0, "no file has several parts");
    server.refuse_parts(3);
    assert_eq!(back_up("-again") - uploads, uploads, "an upload began anew");
    assert_eq!(server.uploads().1, 0, "no part was refused");
}
