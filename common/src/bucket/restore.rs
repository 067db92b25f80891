//! Restores a database from a bucket: to any commit, as a history of its own, verified before it gets its name.
//!
//! The work is done in a directory beside the target. It becomes the target by one rename at the end, so a target that exists is whole.
//! After a break, the same call continues with what is there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::bucket::chain::{self, FoundLog, LogEnds, first_kept};
use crate::bucket::chunk::ChunkHeader;
use crate::bucket::mirror::{MIRROR_LOCK, Mirror, MirrorProgress};
use crate::bucket::mirror_files::{MirrorRecord, RestorePlan};
use crate::bucket::store::BucketStore;
use crate::bucket::truncation::{cut_after, last_commit_at};
use crate::error::{Error, Reason, Result};
use crate::storage::fs::{self, FileSystem};
use crate::storage::layout::{DataDir, MIRROR_RECORD};
use crate::storage::{head, recovery};
use crate::table::check::doctor::{self, Severity};
use crate::table::format_time;
use crate::table::point_in_time::{CommitBound, beyond_head};

/// The end of the name of the directory in which a restore works.
const WORK_SUFFIX: &str = ".restoring";
/// What follows the name of the target in that of a directory in which tables are selected.
const SELECTION_SUFFIX: &str = ".selecting-";
/// The record of the mirror, once the result is whole and verified.
const DONE_RECORD: &str = "restored.json";
/// How long an interrupted restore to a relative point can be continued, in milliseconds.
const CONTINUED_MS: u64 = 60 * 60 * 1000;
/// The lock that keeps two restores apart.
const WORK_LOCK: &str = "restore.lock";

/// What to restore.
#[derive(Debug, Clone, Copy)]
pub struct RestoreRequest<'a> {
    /// The point in time as the user wrote it: a restore that is continued must be to the same.
    pub point: &'a str,
    /// The last commit to restore; `None` for the newest.
    pub bound: Option<CommitBound>,
    /// Whether the result is another database, with an id of its own.
    pub is_clone: bool,
    /// The present time in milliseconds since 1970, if the point is relative to it and means a different commit later.
    pub relative_to: Option<u64>,
}

/// What was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoredDatabase {
    /// The last commit.
    pub seq: u64,
    /// Its time in milliseconds since 1970; 0 if there is no commit.
    pub time_ms: u64,
    /// The new epoch.
    pub epoch: u64,
    /// The last chunk that was read.
    pub chunk: u64,
    /// The number of tables.
    pub tables: u64,
}

/// How far a restore has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreProgress {
    /// An interrupted restore continues. Contains its last commit, if that is known already.
    Continuing(Option<u64>),
    /// The bucket is being copied.
    Copying(MirrorProgress),
    /// The copy is being cut off after a commit.
    Cutting(u64),
    /// The result is being verified.
    Verifying,
}

/// Restores a database into a new directory. Continues a restore to the same point that was interrupted.
pub fn restore(
    store: &BucketStore,
    fs: &Arc<dyn FileSystem>,
    target: &Path,
    request: RestoreRequest<'_>,
    progress: &mut dyn FnMut(RestoreProgress) -> Result<()>,
) -> Result<RestoredDatabase> {
    check_target(&**fs, target)?;
    let restored = restore_beside(store, fs, target, request, progress)?;
    forget_record(&**fs, target)?;
    Ok(restored)
}

/// Restores, and leaves the record in the result.
fn restore_beside(
    store: &BucketStore,
    fs: &Arc<dyn FileSystem>,
    target: &Path,
    request: RestoreRequest<'_>,
    progress: &mut dyn FnMut(RestoreProgress) -> Result<()>,
) -> Result<RestoredDatabase> {
    check_replaceable(&**fs, target)?;
    let work = work_directory(target);
    let dir = DataDir::new(&work);
    fs.create_dir(&work).map_err(|e| Error::io(format_args!("cannot create {}", work.display()), &e))?;
    let lock_path = work.join(WORK_LOCK);
    let locked = fs.lock(&lock_path);
    let locked = locked.map_err(|e| Error::io(format_args!("cannot lock {}", lock_path.display()), &e))?;
    let _lock = locked.ok_or_else(|| {
        let message = format!(
            "another restore is working in {}; wait for it, or name another directory",
            work.display()
        );
        Error::new(Reason::DatabaseLocked, message)
    })?;
    if let Some(record) = MirrorRecord::read_named(&**fs, &dir, DONE_RECORD)? {
        return finish_verified(store, fs, (&dir, target), request, &record);
    }
    let (plan, id) = copy(store, fs, &dir, request, progress)?;
    let Some(seq) = plan.seq else {
        return Err(Error::new(Reason::Internal, "a restore has no last commit"));
    };
    progress(RestoreProgress::Cutting(seq))?;
    let (_, epoch) = uuid::Uuid::new_v4().as_u64_pair();
    let epoch = epoch.max(1);
    let id = if request.is_clone { uuid::Uuid::new_v4() } else { id };
    let time_ms = cut_after(fs, &dir, seq, (id, epoch))?;
    progress(RestoreProgress::Verifying)?;
    let tables = verify(fs, &dir, (seq, time_ms)).map_err(|error| advise_removal(error, &work))?;
    finish(&**fs, &work, target)?;
    Ok(RestoredDatabase { seq, time_ms, epoch, chunk: plan.chunk, tables })
}

fn advise_removal(error: Error, work: &Path) -> Error {
    let work = work.display();
    error.context(format_args!(
        "the copy in {work} cannot be used (remove {work} and restore again; if that fails, too, run `driftctl backup verify --deep`)"
    ))
}

/// Gives a result its name that was verified, and had not got it when the restore was interrupted.
fn finish_verified(
    store: &BucketStore,
    fs: &Arc<dyn FileSystem>,
    (dir, target): (&DataDir, &Path),
    request: RestoreRequest<'_>,
    record: &MirrorRecord,
) -> Result<RestoredDatabase> {
    let (root, missing) =
        (dir.root(), |path: PathBuf| Error::corrupt(path.display(), 0, "the file is missing"));
    let plan = record.restore.as_ref().filter(|_| record.bucket == store.place());
    let Some((plan, seq)) = plan.and_then(|plan| Some((plan, plan.seq?))) else {
        let message = format!(
            "{} holds a restore of another bucket, {}; remove the directory, or name that bucket",
            root.display(),
            record.bucket
        );
        return Err(Error::new(Reason::ArgumentInvalid, message));
    };
    check_point(plan, request, root)?;
    let head = head::read(&**fs, dir)?.ok_or_else(|| missing(dir.head()))?;
    let last = recovery::last_whole(fs, dir, &head)?;
    let tables = verify(fs, dir, (seq, last.1)).map_err(|error| advise_removal(error, root))?;
    finish(&**fs, root, target)?;
    Ok(RestoredDatabase { seq, time_ms: last.1, epoch: head.header.epoch, chunk: plan.chunk, tables })
}

/// Fails if an interrupted restore has another point, or has a relative point and started too long ago.
fn check_point(plan: &RestorePlan, request: RestoreRequest<'_>, root: &Path) -> Result<()> {
    let (root, point) = (root.display(), request.point);
    let message = if plan.point != point {
        let other = &plan.point;
        format!(
            "cannot restore to {point:?}: {root} holds an interrupted restore to {other:?}; continue that one, or remove {root}"
        )
    } else if let Some(now_ms) = request.relative_to
        && now_ms.saturating_sub(plan.began_ms) > CONTINUED_MS
    {
        let began = format_time(plan.began_ms);
        format!(
            "cannot restore to {point:?}: {root} contains a restore that was interrupted after it started at {began}, and the point has moved since then; remove {root} to start over"
        )
    } else {
        return Ok(());
    };
    Err(Error::new(Reason::ArgumentInvalid, message))
}

/// The directory in which a restore works.
pub fn work_directory(target: &Path) -> PathBuf {
    let mut name = target.components().collect::<PathBuf>().into_os_string();
    name.push(WORK_SUFFIX);
    name.into()
}

/// Copies the chunks, and finds the commit. Both are recorded.
fn copy(
    store: &BucketStore,
    fs: &Arc<dyn FileSystem>,
    dir: &DataDir,
    request: RestoreRequest<'_>,
    progress: &mut dyn FnMut(RestoreProgress) -> Result<()>,
) -> Result<(RestorePlan, uuid::Uuid)> {
    let mut mirror = Mirror::open(store.clone(), Arc::clone(fs), dir)?.with_whole_files()?;
    let mut plan = match mirror.record_mut().restore.clone() {
        Some(plan) => {
            check_point(&plan, request, dir.root())?;
            progress(RestoreProgress::Continuing(plan.seq))?;
            plan
        }
        None => RestorePlan {
            point: request.point.to_owned(),
            began_ms: request.relative_to.unwrap_or_default(),
            time_ms: match request.bound {
                Some(CommitBound::Time(time_ms)) => Some(time_ms),
                _ => None,
            },
            chunk: choose_chunk(store, request.bound)?,
            seq: None,
        },
    };
    if plan.seq.is_none() {
        let first = first_kept(store)?;
        if plan.chunk < first {
            // Collection has passed it since the restore began, and a later chunk has the same commits.
            let bound = plan.time_ms.map(CommitBound::Time).or(request.bound);
            plan.chunk = choose_chunk(store, bound)?;
        }
        mirror.record_mut().restore = Some(plan.clone());
        mirror.checkpoint()?;
        mirror.catch_up(LogEnds { first, last: plan.chunk }, &mut |made| {
            progress(RestoreProgress::Copying(made))
        })?;
        mirror.sweep()?;
        let header = mirror.last_header().copied();
        let header = header.ok_or_else(|| Error::new(Reason::Internal, "a mirror has no last chunk"))?;
        // "10 minutes ago" means another time when the restore is continued.
        let bound = plan.time_ms.map(CommitBound::Time).or(request.bound);
        let seq = match bound {
            None => header.last.seq,
            Some(CommitBound::Seq(seq)) => seq,
            Some(CommitBound::Time(time_ms)) if time_ms >= header.last.time_ms => header.last.seq,
            Some(CommitBound::Time(time_ms)) => {
                let before = if header.after.time_ms <= time_ms { header.after.seq } else { 0 };
                last_commit_at(fs, dir, before, time_ms)?
            }
        };
        plan.seq = Some(seq);
        mirror.record_mut().restore = Some(plan.clone());
        mirror.checkpoint()?;
    }
    Ok((plan, mirror.record_mut().database))
}

/// Chooses the chunk up to which the bucket is copied.
fn choose_chunk(store: &BucketStore, bound: Option<CommitBound>) -> Result<u64> {
    let found = chain::existing_log(store)?;
    let ends = found.ends;
    // What is before a missing chunk can be restored, and nothing else.
    let end = |found: FoundLog| found.check(store).map(|ends| ends.last);
    let Some(bound) = bound else { return end(found) };
    match (chain::first_with(store, &ends, bound)?, bound) {
        // A mirror begins with a base, which can come after the commit: the cut goes back to it.
        (Some(chunk), _) => {
            let is_based = |header: &ChunkHeader| header.base > 0;
            let first = chain::first_where(store, (chunk, ends.last), is_based)?;
            first.ok_or_else(|| {
                let message = format!("the bucket {} has no commit yet; wait for its writer", store.url());
                Error::new(Reason::Unreachable, message)
            })
        }
        (None, CommitBound::Time(_)) => end(found),
        (None, CommitBound::Seq(seq)) => {
            let newest = chain::expect_header(store, end(found)?)?.last.seq;
            Err(beyond_head(seq, newest).context(format_args!("cannot restore from {}", store.url())))
        }
    }
}

/// The directory in which a database is prepared that is to have only some of the tables that a restore of `url` to `point` has. It has
/// another name for each such restore, so that what an interrupted one has left is not taken for this one.
pub fn selection_directory(target: &Path, url: &str, point: &str) -> PathBuf {
    let mut name = target.components().collect::<PathBuf>().into_os_string();
    let digest = xxh3_64(format!("{url}\n{point}").as_bytes());
    name.push(format!("{SELECTION_SUFFIX}{digest:016x}"));
    name.into()
}

/// Restores the whole database into such a directory, unless an earlier attempt has. Fails if one of another restore is there.
pub fn restore_for_selection(
    store: &BucketStore,
    fs: &Arc<dyn FileSystem>,
    (target, work): (&Path, &Path),
    request: RestoreRequest<'_>,
    progress: &mut dyn FnMut(RestoreProgress) -> Result<()>,
) -> Result<()> {
    check_target(&**fs, target)?;
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (prefix, own) = (format!("{}{SELECTION_SUFFIX}", name(target)), name(work));
    let found = fs.list(parent);
    let found = found.map_err(|e| Error::io(format_args!("cannot list {}", parent.display()), &e))?;
    let is_other = |found: &&String| found.starts_with(&prefix) && !found.starts_with(&own);
    if let Some(other) = found.iter().find(is_other) {
        let other = parent.join(other);
        let message = format!(
            "cannot restore into {}: {} holds an interrupted restore from another bucket or to another point; continue that one, or \
             remove the directory",
            target.display(),
            other.display()
        );
        return Err(Error::new(Reason::ArgumentInvalid, message));
    }
    if !found.contains(&own) {
        return restore_beside(store, fs, work, request, progress).map(drop);
    }
    // The directory gets this name only when the restore in it is complete. Its record contains the plan.
    let plan =
        MirrorRecord::read_named(&**fs, &DataDir::new(work), DONE_RECORD)?.and_then(|record| record.restore);
    let Some(plan) = plan else {
        let work = work.display();
        let message = format!(
            "cannot continue the restore in {work}: its record is missing; remove {work} to start over"
        );
        return Err(Error::new(Reason::ArgumentInvalid, message));
    };
    check_point(&plan, request, work)?;
    progress(RestoreProgress::Continuing(plan.seq))
}

/// Verifies what was selected, and gives it its name.
pub fn finish_selection(fs: &Arc<dyn FileSystem>, work: &Path, target: &Path) -> Result<()> {
    examine(fs, &DataDir::new(work))?;
    finish(&**fs, work, target)?;
    forget_record(&**fs, target)
}

/// Fails unless every file of the directory is sound, and what an open for writing would find is exactly what was asked for.
/// Returns the number of tables.
fn verify(fs: &Arc<dyn FileSystem>, dir: &DataDir, last: (u64, u64)) -> Result<u64> {
    let tables = examine(fs, dir)?;
    let Some(head) = head::read(&**fs, dir)? else {
        return Err(Error::corrupt(dir.head().display(), 0, "the file is missing"));
    };
    let found = recovery::last_whole(fs, dir, &head)?;
    if found != last {
        let what = format!("the restored log ends with commit {}, and not with commit {}", found.0, last.0);
        return Err(Error::corrupt(dir.root().display(), 0, what));
    }
    Ok(tables)
}

/// Fails unless every file of the directory is sound. Returns the number of tables.
fn examine(fs: &Arc<dyn FileSystem>, dir: &DataDir) -> Result<u64> {
    let mut damage = None;
    let summary = doctor::examine(Arc::clone(fs), dir, false, &mut |finding| {
        if finding.severity == Severity::Damage && damage.is_none() {
            damage = Some(Error::corrupt(finding.file, finding.offset, finding.message));
        }
    })?;
    if let Some(error) = damage {
        return Err(error.context("the restored database is not sound"));
    }
    Ok(summary.tables)
}

/// Gives the result its name. The record of the mirror gets another name first, so that a restore that is interrupted here finds the
/// result whole and only has to name it.
fn finish(fs: &dyn FileSystem, work: &Path, target: &Path) -> Result<()> {
    let failed = |e: io::Error| Error::io(format_args!("cannot create {}", target.display()), &e);
    match fs.rename(&work.join(MIRROR_RECORD), &work.join(DONE_RECORD)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    fs.sync_dir(work).map_err(failed)?;
    for name in [MIRROR_LOCK, WORK_LOCK, "LOCK"] {
        fs::remove_if_exists(fs, &work.join(name)).map_err(failed)?;
    }
    fs.sync_dir(work).map_err(failed)?;
    remove_empty(fs, target).map_err(failed)?;
    fs.rename(work, target).map_err(failed)?;
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs.sync_dir(parent.unwrap_or(Path::new("."))).map_err(failed)
}

/// Removes the record of a result that has its name.
fn forget_record(fs: &dyn FileSystem, target: &Path) -> Result<()> {
    let path = target.join(DONE_RECORD);
    fs::remove_if_exists(fs, &path)
        .map_err(|e| Error::io(format_args!("cannot remove {}", path.display()), &e))
}

fn remove_empty(fs: &dyn FileSystem, target: &Path) -> io::Result<()> {
    match fs.remove_dir(target) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Fails if the result could not be put in the place of an empty target at the end: the root of a disk or the current directory cannot be
/// replaced. It is tried, before anything is copied.
fn check_replaceable(fs: &dyn FileSystem, target: &Path) -> Result<()> {
    let refused = |why: &dyn std::fmt::Display| {
        let message = format!(
            "cannot restore into {}: {why}; name a directory that does not exist yet, for example one in it",
            target.display()
        );
        Error::new(Reason::ArgumentInvalid, message)
    };
    if target.file_name().is_none() {
        return Err(refused(&"this directory cannot be replaced by the result"));
    }
    match fs.remove_dir(target) {
        Ok(()) => fs.create_dir(target).map_err(|e| refused(&e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(refused(&format_args!("the empty directory cannot be replaced by the result ({e})"))),
    }
}

/// Fails unless the target is an empty directory, or does not exist.
fn check_target(fs: &dyn FileSystem, target: &Path) -> Result<()> {
    match fs.list(target) {
        Ok(names) if names.is_empty() => Ok(()),
        Ok(_) => {
            let message = format!(
                "cannot restore into {}: the directory is not empty; name one that does not exist yet",
                target.display()
            );
            Err(Error::new(Reason::ArgumentInvalid, message))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(format_args!("cannot restore into {}", target.display()), &e)),
    }
}
