//! A database with some of everything, made by a real writer; copies of it, edits to its files, and every question that
//! can be asked about it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use driftdb::v1;
use driftdb_common::format::manifest::{Manifest, encode};
use driftdb_common::format::snapshot::{kind, tree};
use driftdb_common::format::sst::SstIdentity;
use driftdb_common::storage::fs::{OsFileSystem, replace};
use driftdb_common::storage::head;
use driftdb_common::storage::layout::{DataDir, delta_stem, image_stem, read_manifest, table_names};
use driftdb_common::storage::sst::{BlockCache, SstFile, write_file};
use driftdb_common::table::check::verification::{self, Problem, VerifiedCounts};
use driftdb_common::table::log_tail::ReadLimit;
use driftdb_common::table::table_files::TableFiles;

use super::calls::{ask, run};
use super::condition::Random;
use super::*;

pub const ARGS: [&str; 4] = ["--snapshot-events", "40", "--segment-bytes", "16384"];
pub const TABLES: [&str; 5] = ["orders", "numbers", "reborn", "gone", "archive"];
const COMMITS: u64 = 420;

/// Makes the database, and stops the writer.
pub async fn build(dir: &Path) {
    let mut daemon = Daemon::start("driftdb-writer", dir, &ARGS);
    let mut writer = daemon.as_writer().await;
    for statement in [
        "CREATE TABLE orders (pk=id, INDEX(status, who.name))",
        "CREATE TABLE reborn (pk=id, INDEX(status))",
        "CREATE TABLE gone (pk=id)",
        "CREATE TABLE archive (pk=id, INDEX(status))",
    ] {
        run(&mut writer, statement).await.unwrap();
    }
    let numbers = v1::CreateTableRequest {
        table: "numbers".into(),
        primary_key: "id".into(),
        key_type: v1::KeyType::Int.into(),
        ..Default::default()
    };
    writer.create_table(numbers).await.unwrap();
    let mut random = Random(7);
    for n in 0..COMMITS {
        let bits = random.next();
        let (key, pick) = (format!("k{}", bits >> 33 & 31), bits >> 40 & 7);
        let row = format!(
            r#"{{"id":"{key}","n":{n},"status":"s{}","who":{{"name":"w{}"}},"pad":"{}"}}"#,
            n % 5,
            n % 3,
            "x".repeat(usize::try_from(n % 90).unwrap())
        );
        let mut operations = vec![put("orders", row.clone())];
        match pick {
            0 => operations.push(delete("orders", &key)),
            1..=4 => operations.push(patch("orders", &key, format!(r#"{{"status":"p{}","n":{n}}}"#, n % 4))),
            5 => operations.push(put("reborn", row)),
            _ => operations.push(put("numbers", format!(r#"{{"id":{},"n":{n}}}"#, n % 50))),
        }
        if n % 3 == 0 {
            operations.push(patch("orders", &key, r#"{"who":{"name":"again"}}"#));
            if pick == 0 {
                operations.pop();
            }
        }
        let kept = format!("a{}", n % 23);
        operations.push(put("archive", format!(r#"{{"id":"{kept}","n":{n},"status":"s{}"}}"#, n % 7)));
        match n % 3 {
            0 => operations.push(patch("archive", &kept, format!(r#"{{"status":"p{}"}}"#, n % 4))),
            1 if n % 5 == 0 => operations.push(delete("archive", &kept)),
            _ => {}
        }
        let reason = if n % 4 == 0 { format!("why {n}") } else { String::new() };
        let options = Some(v1::CommitOptions { reason, request_id: format!("r{n}"), ..Default::default() });
        writer.apply(v1::ApplyRequest { operations, options, ..Default::default() }).await.unwrap();
        match n {
            50 => drop(run(&mut writer, r#"INSERT INTO gone {"id": "a"}, {"id": "b"}"#).await.unwrap()),
            100 => drop(run(&mut writer, "DROP TABLE reborn").await.unwrap()),
            101 => drop(run(&mut writer, "CREATE TABLE reborn (pk=id, INDEX(status))").await.unwrap()),
            150 => compact(&mut writer, 90).await,
            _ => {}
        }
    }
    compact(&mut writer, 203).await;
    run(&mut writer, "DROP TABLE gone").await.unwrap();
    for table in ["orders", "numbers", "reborn"] {
        calls::snapshot(&mut writer, table).await.unwrap();
    }
    for n in 0..9 {
        apply(&mut writer, vec![put("orders", format!(r#"{{"id":"late{n}","status":"s1"}}"#))])
            .await
            .unwrap();
    }
    assert!(daemon.terminate().await.success());
}

/// Raises the floor of `archive` to a commit in the middle of a delta layer.
async fn compact(writer: &mut Writer, seq: u64) {
    calls::compact(writer, "archive", at_seq(seq), false).await.unwrap();
}

/// The database. It is built once for all tests that hold it at the same time.
pub async fn shared() -> Arc<tempfile::TempDir> {
    static BUILT: tokio::sync::Mutex<Weak<tempfile::TempDir>> = tokio::sync::Mutex::const_new(Weak::new());
    let mut built = BUILT.lock().await;
    if let Some(dir) = built.upgrade() {
        return dir;
    }
    let dir = Arc::new(tempfile::tempdir().unwrap());
    build(dir.path()).await;
    *built = Arc::downgrade(&dir);
    dir
}

/// Copies a directory.
#[expect(clippy::disallowed_methods, reason = "copies a database, as an operator would")]
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Damages one byte of a file.
#[expect(clippy::disallowed_methods, reason = "damages a file, as a disk would")]
pub fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// The answers to many questions: the rows at commits from the first to the last, and what happened to them.
pub async fn answers(dir: &Path) -> BTreeMap<String, String> {
    let mut writer_daemon = Daemon::start("driftdb-writer", dir, &ARGS);
    let reader_daemon = Daemon::reader(dir);
    let (mut writer, mut reader) = (writer_daemon.as_writer().await, reader_daemon.as_reader().await);
    let status = writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
    let last = status.last_seq;
    let mut found = BTreeMap::from([("last".to_owned(), last.to_string())]);
    for table in TABLES {
        for seq in (1..=last).filter(|seq| seq % 13 == 0 || seq + 3 > last) {
            let statement = format!("SELECT * FROM {table} AS OF @seq:{seq}");
            let rows = ask(&mut reader, &statement, last).await.map(|answer| answer.rows());
            found.insert(statement, format!("{:?}", rows.map_err(|status| reason(&status))));
        }
        let statement = format!("SELECT * FROM {table} WHERE status = \"p1\" AS OF @seq:{}", last / 2);
        let rows = ask(&mut reader, &statement, last).await.map(|answer| answer.rows());
        found.insert(statement, format!("{:?}", rows.map_err(|status| reason(&status))));
        let statement = format!("SHOW DRIFT {table} FROM @seq:1");
        let drift = ask(&mut reader, &statement, last).await.map(|answer| answer.drift());
        found.insert(statement, format!("{:?}", drift.map_err(|status| reason(&status))));
    }
    assert!(writer_daemon.terminate().await.success());
    found
}

/// A copy of a database that no writer has open.
pub struct Copy {
    pub dir: DataDir,
    _held: tempfile::TempDir,
}

impl Copy {
    pub fn of(original: &Path) -> Copy {
        let held = tempfile::tempdir().unwrap();
        copy(original, held.path());
        Copy { dir: DataDir::new(held.path()), _held: held }
    }

    pub fn table_files(&self) -> TableFiles {
        TableFiles { fs: OsFileSystem::shared(), dir: self.dir.clone(), cache: BlockCache::new(1 << 24) }
    }

    pub fn manifest(&self, table: &str) -> Manifest {
        read_manifest(&*OsFileSystem::shared(), &self.dir, table).unwrap().unwrap()
    }

    pub fn put_manifest(&self, manifest: &Manifest) {
        let path = self.dir.manifest(&manifest.table);
        replace(&*OsFileSystem::shared(), &path, &encode(manifest).unwrap()).unwrap();
    }

    /// The snapshot and index files of a table, each with its identity.
    pub fn files(&self, table: &str) -> Vec<(PathBuf, SstIdentity)> {
        let manifest = self.manifest(table);
        let id = manifest.table_id;
        let mut files = Vec::new();
        for delta in &manifest.deltas {
            let identity = SstIdentity { table: id, base: delta.base, seq: delta.seq, kind: kind::DELTA };
            files.push((self.dir.delta_layer(table, delta.base, delta.seq), identity));
            let identity = SstIdentity { kind: kind::DELTA_INDEX, ..identity };
            let stem = delta_stem(delta.base, delta.seq);
            files.extend(delta.indexes.iter().map(|path| (self.dir.index(table, path, &stem), identity)));
        }
        for image in &manifest.images {
            let identity = SstIdentity { table: id, base: image.seq, seq: image.seq, kind: kind::IMAGE };
            files.push((self.dir.image_layer(table, image.seq), identity));
            let identity = SstIdentity { kind: kind::IMAGE_INDEX, ..identity };
            let stem = image_stem(image.seq);
            files.extend(image.indexes.iter().map(|path| (self.dir.index(table, path, &stem), identity)));
        }
        files
    }

    /// The first file of a kind.
    pub fn file(&self, table: &str, kind: u8) -> (PathBuf, SstIdentity) {
        let mut files = self.files(table).into_iter();
        files.find(|(_, identity)| identity.kind == kind).unwrap_or_else(|| panic!("{table} has no {kind}"))
    }

    /// Rewrites a file with valid CRCs and other entries: `edit` returns what to write in place of each entry.
    pub fn rewrite(
        &self,
        (path, identity): &(PathBuf, SstIdentity),
        edit: &mut impl FnMut(u8, &[u8], &[u8]) -> Vec<(Vec<u8>, Vec<u8>)>,
    ) {
        let disk = OsFileSystem::shared();
        let cache = BlockCache::new(1 << 24);
        let file = SstFile::open(Arc::clone(&disk), path.clone(), *identity, cache).unwrap();
        write_file(&*disk, path, *identity, |out| {
            for id in
                [tree::VERSIONS, tree::COMMITS, tree::REQUESTS, tree::PRODUCERS, tree::ROWS, tree::CANDIDATES]
            {
                let belongs = match identity.kind {
                    kind::DELTA => id <= tree::PRODUCERS,
                    kind::IMAGE => id == tree::ROWS,
                    _ => id == tree::CANDIDATES,
                };
                if !belongs {
                    continue;
                }
                let filtered = id == tree::VERSIONS || id == tree::ROWS;
                out.begin_tree(id, filtered)?;
                let mut cursor = file.cursor(id);
                cursor.first()?;
                while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
                    for (key, value) in edit(id, key, &value) {
                        let row = if id == tree::VERSIONS { &key[..key.len() - 12] } else { &key[..] };
                        out.add(&key, filtered.then_some(row), &value)?;
                    }
                    cursor.next()?;
                }
                out.end_tree()?;
            }
            Ok(file.properties().to_vec())
        })
        .unwrap();
    }

    /// Verifies every table.
    pub fn verify(&self, deep: bool) -> (Vec<Problem>, VerifiedCounts) {
        let disk = OsFileSystem::shared();
        let head = head::read(&*disk, &self.dir).unwrap().unwrap();
        let (mut problems, mut all) = (Vec::new(), VerifiedCounts::default());
        for table in table_names(&*disk, &self.dir).unwrap() {
            let manifest = self.manifest(&table);
            let slot = head.entries.iter().find(|slot| slot.table == manifest.table_id).unwrap();
            let reach = ReadLimit { segment: slot.segment, bytes: slot.bytes, seq: head.last_seq() };
            let mut take = |problem| problems.push(problem);
            let figures =
                verification::verify(&self.table_files(), &manifest, reach, deep, &|_| Ok(()), &mut take)
                    .unwrap();
            all.files += figures.files;
            all.frames += figures.frames;
            all.rows += figures.rows;
            all.problems += figures.problems;
        }
        (problems, all)
    }
}
