//! Opens a log for writing. There is one way, and it always recovers: survey the directory, decide, and only then repair.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::head::{FORMAT_VERSION, HeadIncarnation, Header};
use crate::format::manifest::{self, Database};
use crate::storage::descriptors::{RecentlyUsed, SpareDescriptors};
use crate::storage::disk_space::DiskSpace;
use crate::storage::fence::{Fence, OpenedFiles};
use crate::storage::foreign_files::{check_no_foreign_files, check_no_mirror};
use crate::storage::fs::{self, FileId, FileSystem};
use crate::storage::head::{self, Head};
use crate::storage::head_file::HeadFile;
use crate::storage::layout::{self, DataDir, LINEAGE};
use crate::storage::lineage;
use crate::storage::lock::Lock;
use crate::storage::wal::appender::{Log, LogOptions};
use crate::storage::wal::background::Background;

mod leftovers;
mod repair;
mod replay;
mod survey;

use repair::Predecessor;
pub use replay::Replay;
use survey::Survey;

/// Opens the database in `dir` for writing. Creates it if the directory is empty, and refuses a directory that contains other
/// files. Passes every table, and every commit
/// that no snapshot contains, to `replay`, in order.
///
/// Fails with DATABASE_LOCKED while another writer holds the lock. Fails with CORRUPT, having changed nothing but LOCK, if
/// acknowledged commits are damaged or missing (I7).
pub fn open(
    fs: Arc<dyn FileSystem>,
    dir: &DataDir,
    options: LogOptions,
    replay: &mut dyn Replay,
) -> Result<Log> {
    let failed = |e: io::Error| Error::io(format_args!("cannot create {}", dir.root().display()), &e);
    fs.create_dir(dir.root()).map_err(failed)?;
    // Before LOCK is created, which must not appear among the files of something else.
    check_no_foreign_files(&*fs, dir)?;
    check_no_mirror(&*fs, dir)?;
    let root = opened_id(&*fs, dir)?;
    let lock = Lock::acquire(&*fs, dir)?;
    let space = DiskSpace::new(Arc::clone(&fs), dir);
    space.make_room_to_open(options.give_up_reserve);
    let (database, found) = match identify(&*fs, dir)? {
        Some(found) => found,
        None => initialise(&*fs, dir)?,
    };
    let fenced = options.fencing.is_on(&*fs, dir)?;
    // If the lock may have lapsed, or someone removed LOCK, the last writer may still run, and write until it notices that it
    // was replaced. A writer that has closed the database writes no more.
    let may_run = !found.header.closed && (fenced || lock.may_predecessor_run());
    let predecessor = if may_run { Predecessor::MayRun } else { Predecessor::Ended };
    let mut survey = match predecessor {
        Predecessor::Ended => Survey::complete(&fs, dir, &found, replay)?,
        Predecessor::MayRun => Survey::complete_beside_writer(&fs, dir, &found)?,
    };
    survey.sync_names(&*fs, dir)?;
    let lineage = lineage::read_for_writing(&*fs, dir, &found)?;
    let database = upgrade(&*fs, dir, database)?;
    let head = HeadFile::take_over(&*fs, dir, &found)?;
    let opened = match root {
        Some(root) => OpenedFiles::new([
            (dir.root().to_owned(), Some(root)),
            (dir.lock(), lock.id()),
            (dir.head(), head.id()),
        ]),
        None => OpenedFiles::default(),
    };
    let fence = Fence::new(&fs, dir, head.head().header.term, fenced, opened);
    let fs = fence.wrap(fs);
    let space = space.on(Arc::clone(&fs));
    leftovers::remove_unfinished(&*fs, dir)?;
    if predecessor == Predecessor::MayRun {
        // All that the last writer acknowledged before the change of HEAD is on disk now, and it can no longer change
        // manifests.
        survey = Survey::complete(&fs, dir, &found, replay)
            .map_err(|error| fence.check().err().unwrap_or(error))?;
        survey.sync_names(&*fs, dir)?;
    }
    let background = if options.background {
        let failed = |e: io::Error| Error::io("cannot start the log's threads", &e);
        Background::start(Arc::clone(head.syncer()), Arc::clone(&space)).map_err(failed)?
    } else {
        Background::inline()
    };
    let spares = SpareDescriptors::take(Arc::clone(&fs), dir.database());
    let open_segments = RecentlyUsed::new(options.open_segments);
    let (dir, tables) = (dir.clone(), HashMap::new());
    #[rustfmt::skip]
    let log = Log {
        fs, fence, dir, options, lock, database, head, lineage, tables, background, space, open_segments, spares,
    };
    let log = repair::repair(survey, log, &found, predecessor)?;
    log.space.restore_reserve();
    Ok(log)
}

/// Returns the identity of the data directory; `None` on a network file system, where identities can change by themselves.
fn opened_id(fs: &dyn FileSystem, dir: &DataDir) -> Result<Option<FileId>> {
    let failed = |e: io::Error| Error::io(format_args!("cannot open {}", dir.root().display()), &e);
    if fs.is_network(dir.root()).map_err(failed)? { Ok(None) } else { fs.file_id(dir.root()).map_err(failed) }
}

/// Returns the last whole commit and its time, as the segments alone show: what recovery would find without HEAD.
/// Fails if recovery would refuse to open the database. Changes nothing.
pub(crate) fn last_whole(fs: &Arc<dyn FileSystem>, dir: &DataDir, head: &Head) -> Result<(u64, u64)> {
    let survey = Survey::complete(fs, dir, head, &mut |_| Ok(()))?;
    Ok((survey.last_whole_seq(), survey.last_ms))
}

/// Reads `database.json` and HEAD. Returns `None` if the directory has no database.
fn identify(fs: &dyn FileSystem, dir: &DataDir) -> Result<Option<(Database, Head)>> {
    let database = layout::read_database(fs, dir)?;
    let head = head::read_tolerant(fs, dir)?;
    let missing = "the file is missing";
    match (database, head) {
        (Some(database), Some(head)) if *database.id.as_bytes() == head.header.database_id => {
            Ok(Some((database, head)))
        }
        (Some(_), Some(_)) => {
            Err(Error::corrupt(dir.head().display(), 0, "the file belongs to another database"))
        }
        (Some(_), None) => Err(Error::corrupt(dir.head().display(), 0, missing)),
        (None, head) => {
            let others = remains_of_database(fs, dir, head.as_ref())?;
            if others.is_empty() {
                return Ok(None);
            }
            let detail = format!(
                "the file is missing, but {} of a database exists; if files are being copied here, wait for them, else put this \
                 file back or run driftctl doctor --repair; remove all of it for a new database",
                others.join(" and ")
            );
            Err(Error::corrupt(dir.database().display(), 0, detail))
        }
    }
}

/// Returns what a directory without `database.json` has of a database. A creation that did not complete does not count: it
/// leaves an empty `tables` and a HEAD of term 0, which a database has only before its first open for writing.
fn remains_of_database(fs: &dyn FileSystem, dir: &DataDir, head: Option<&Head>) -> Result<Vec<&'static str>> {
    let mut found = Vec::new();
    if head.is_some_and(|head| head.header.term > 0) {
        found.push("HEAD");
    }
    let failed = |e: io::Error| Error::io(format_args!("cannot list {}", dir.root().display()), &e);
    if fs.list(dir.root()).map_err(failed)?.iter().any(|name| *name == LINEAGE) {
        found.push(LINEAGE);
    }
    match fs.list(&dir.tables()) {
        Ok(names) if names.is_empty() => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Ok(_) => found.push("tables/"),
        Err(e) => return Err(Error::io(format_args!("cannot list {}", dir.tables().display()), &e)),
    }
    Ok(found)
}

/// Marks a database of an older version as one of the newest, before HEAD is replaced by one of that version: older versions of
/// DriftDB then report the version instead of damage. A database marked so, with an older HEAD, is complete.
fn upgrade(fs: &dyn FileSystem, dir: &DataDir, database: Database) -> Result<Database> {
    if database.format == FORMAT_VERSION {
        return Ok(database);
    }
    let upgraded = Database { format: FORMAT_VERSION, ..database };
    fs::replace(fs, &dir.database(), &manifest::encode(&upgraded)?)?;
    tracing::info!(from = database.format, to = FORMAT_VERSION, "upgraded the database's format");
    Ok(upgraded)
}

/// Creates an empty database. Writes `database.json` last: without it, and with a HEAD of term 0, the next open starts over.
fn initialise(fs: &dyn FileSystem, dir: &DataDir) -> Result<(Database, Head)> {
    let failed = |e: io::Error| Error::io(format_args!("cannot initialise {}", dir.root().display()), &e);
    fs.create_dir(&dir.tables()).map_err(failed)?;
    if let Some(parent) = dir.root().parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs.sync_dir(parent).map_err(failed)?;
    }
    fs.sync_dir(dir.root()).map_err(failed)?;
    let id = uuid::Uuid::new_v4();
    let (_, epoch) = uuid::Uuid::new_v4().as_u64_pair();
    let database = Database { id, epoch: epoch.max(1), format: FORMAT_VERSION };
    let header = Header {
        database_id: *id.as_bytes(),
        epoch: database.epoch,
        term: 0,
        last_seq: 0,
        last_ms: 0,
        generation: 0,
        table_entry_count: 0,
        closed: true,
        format: FORMAT_VERSION,
    };
    let head = Head { header, incarnation: HeadIncarnation::default(), entries: Vec::new() };
    HeadFile::replace(fs, dir, &head)?;
    fs::replace(fs, &dir.database(), &manifest::encode(&database)?)?;
    tracing::info!(database = %database.id, path = %dir.root().display(), "created an empty database");
    Ok((database, head))
}
