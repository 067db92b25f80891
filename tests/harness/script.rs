//! A scripted history written directly to the log, so that a test can interrupt it at any step.

use std::path::Path;
use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::format::document::Document;
use driftdb_common::format::event::{self, CommitMeta, CommitShape, EventType};
use driftdb_common::format::key::{Key, KeyType};
use driftdb_common::storage::fs::FileSystem;
use driftdb_common::storage::layout::DataDir;
use driftdb_common::storage::wal::appender::{AppendError, Group, Log, LogOptions};
use driftdb_common::storage::wal::commit_reader::LogCommit;
use driftdb_common::storage::{head, recovery};
use driftdb_common::table::schema::{Schema, SchemaAction, SchemaEvent};

pub const ROOT: &str = "/data";
pub const TABLES: [&str; 3] = ["alpha", "beta", "gamma"];

/// A commit, for comparisons: its seq, and its events as (table id, kind, key, content).
pub type Seen = (u64, Vec<(u64, EventType, Option<Key>, Option<String>)>);

pub fn dir() -> DataDir {
    DataDir::new(ROOT)
}

/// Small segments rotate often. Without background threads the order of the steps is always the same.
pub fn options(segment_bytes: u64) -> LogOptions {
    LogOptions { segment_bytes, background: false, ..LogOptions::default() }
}

/// Opens the log and returns every commit that it contains.
pub fn open(disk: Arc<dyn FileSystem>, segment_bytes: u64) -> Result<(Log, Vec<Seen>)> {
    open_with(disk, options(segment_bytes))
}

/// Opens the log with some options and returns every commit that it contains.
pub fn open_with(disk: Arc<dyn FileSystem>, options: LogOptions) -> Result<(Log, Vec<Seen>)> {
    let mut commits = Vec::new();
    let log = recovery::open(disk, &dir(), options, &mut |commit| {
        commits.push(seen(&commit));
        Ok(())
    })?;
    Ok((log, commits))
}

pub fn seen(commit: &LogCommit) -> Seen {
    let events = commit.parts.iter().flat_map(|(id, events)| {
        events.iter().map(|event| {
            let content = event.document.as_ref().map(|document| document.to_json().unwrap());
            (*id, event.kind, event.key.clone(), content)
        })
    });
    (commit.seq, events.collect())
}

/// The newest commit that a reader could show now; 0 if there is no HEAD yet.
pub fn shown(disk: &dyn FileSystem) -> u64 {
    head::read(disk, &dir()).ok().flatten().map_or(0, |head| head.last_seq())
}

/// Commit `seq` of the script. The first three create the tables; each other one writes to one, two or three of them.
pub fn commit(seq: u64) -> Seen {
    if let Some(table) = usize::try_from(seq - 1).ok().and_then(|i| TABLES.get(i)) {
        let schema = Schema {
            table: (*table).to_owned(),
            primary_key: "id".to_owned(),
            key_type: KeyType::String,
            indexes: Vec::new(),
            retain_ms: None,
            auto_key: false,
        };
        let content =
            SchemaEvent::new(SchemaAction::Create, schema).to_document().unwrap().to_json().unwrap();
        return (seq, vec![(seq, EventType::Schema, None, Some(content))]);
    }
    let mut events = Vec::new();
    for table in 1..=(1 + seq % 3) {
        for i in 0..=(seq % 2) {
            let key = Key::Str(format!("k{seq}-{i}").into());
            let content = format!(
                r#"{{"id":"{key}","n":{seq},"pad":"{}"}}"#,
                "x".repeat(usize::try_from(seq % 7).unwrap() * 9)
            );
            events.push((table, EventType::Insert, Some(key), Some(content)));
        }
    }
    (seq, events)
}

/// Commits `from` to `to` of the script as one group.
pub fn group(from: u64, to: u64) -> Group {
    group_of((from..=to).map(commit))
}

/// Commits as one group.
pub fn group_of(commits: impl Iterator<Item = Seen>) -> Group {
    let mut group = Group::default();
    for (seq, events) in commits {
        let frames = u32::try_from(events.len()).unwrap();
        let reason = if seq % 5 == 0 { "why".to_owned() } else { String::new() };
        let meta = CommitMeta { reason, ..CommitMeta::default() };
        let mut last = 0;
        for (table, kind, key, content) in &events {
            if *kind == EventType::Schema {
                group.created.push((*table, TABLES[usize::try_from(*table).unwrap() - 1].to_owned()));
            }
            let here = u32::try_from(events.iter().filter(|event| event.0 == *table).count()).unwrap();
            let first = (*table != last).then_some((CommitShape { frames, frames_in_table: here }, &meta));
            last = *table;
            let document = content.as_ref().map(|text| Document::from_json(text).unwrap());
            let entry = group.tables.entry(*table).or_default();
            let first_of_group = entry.frames.is_empty();
            entry.last_seq = seq;
            entry.frames.push(seq, 1_000 + seq, *kind, |out| {
                event::encode(out, key.as_ref(), document.as_ref(), false, first, first_of_group)
            });
        }
        group.last_seq = seq;
        group.last_ms = 1_000 + seq;
    }
    group
}

/// How far a run of the script came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last acknowledged commit.
    pub acknowledged: u64,
    /// The last commit given to the log.
    pub attempted: u64,
}

/// Runs the script up to commit `last`, in groups of one to four commits, and closes the log. Stops at the first
/// failure.
pub fn run(disk: Arc<dyn FileSystem>, segment_bytes: u64, last: u64) -> Progress {
    let mut progress = Progress::default();
    let Ok((mut log, _)) = open(disk, segment_bytes) else { return progress };
    let mut from = 1;
    while from <= last {
        let to = (from + from % 4).min(last);
        progress.attempted = to;
        match log.append(&mut group(from, to)) {
            Ok(()) => progress.acknowledged = to,
            // A full disk is refused before anything is written; the append could be retried.
            Err(AppendError::Refused(_)) => return progress,
            Err(AppendError::Fatal(_)) => return progress,
        }
        from = to + 1;
    }
    let _ = log.close();
    progress
}

/// The first `last` commits of the script.
pub fn expected(last: u64) -> Vec<Seen> {
    (1..=last).map(commit).collect()
}

/// The path of a table's segment.
pub fn segment(table: &str, number: u64) -> std::path::PathBuf {
    dir().segment(table, number)
}

/// Whether a path is the lock file, which changes even if opening is refused.
pub fn is_lock(path: &Path) -> bool {
    path == dir().lock()
}
