//! Makes a surveyed log ready for writing: cuts what was never acknowledged, keeps it aside, and publishes HEAD.

use std::io;

use super::leftovers;
use super::survey::{Survey, SurveyedTable};
use crate::error::{Error, Result};
use crate::format::head::TableEntry;
use crate::storage::fs;
use crate::storage::head::Head;
use crate::storage::wal::appender::{AppendError, Log, TableLog};
use crate::storage::wal::commit_reader::LogSource;
use crate::storage::wal::cursor::CursorPosition;
use crate::storage::wal::segment::ActiveSegment;

/// Whether the last writer can still write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Predecessor {
    /// It has ended.
    Ended,
    /// It may run, and write to the files that it has open.
    MayRun,
}

/// Repairs what a survey found, and returns the log, published and ready for writing.
pub(super) fn repair(
    mut survey: Survey,
    mut log: Log,
    found: &Head,
    predecessor: Predecessor,
) -> Result<Log> {
    let (last_seq, last_ms) = (survey.last_whole_seq(), survey.last_ms);
    if !found.header.closed {
        tracing::info!("the last writer did not close the database");
    }
    let old_entries = &found.entries;
    for name in std::mem::take(&mut survey.leftovers) {
        leftovers::remove_table(&log, &name)?;
    }
    let mut tables: Vec<(u64, SurveyedTable)> = survey.tables.drain().collect();
    // Tables without an entry in HEAD get one in the order of their creation: first unused entries, then new ones.
    tables.sort_unstable_by_key(|(id, _)| *id);
    let is_used = |index: &usize| old_entries.get(*index).is_some_and(|entry| entry.table != 0);
    let mut unused = (0..).filter(|index| !is_used(index));
    for (id, table) in tables {
        let Some(source) = survey.commits.sources().get(&id) else { continue };
        if id > last_seq {
            leftovers::remove_table(&log, &table.manifest.table)?;
            continue;
        }
        let own = old_entries.iter().position(|entry| entry.table == id);
        let index = own.or_else(|| unused.next()).unwrap_or(usize::MAX);
        adopt_table(&mut log, (id, table), source, (index, last_seq), predecessor)?;
    }
    log.begin_incarnation(last_seq)?;
    log.publish_all(last_seq, last_ms)?;
    tracing::info!(seq = last_seq, term = log.term(), tables = log.tables.len(), "opened for writing");
    Ok(log)
}

/// Adds a table to the log: cuts what lies after the last whole commit, makes the rest durable, and continues in a new
/// segment if anything was in doubt.
fn adopt_table(
    log: &mut Log,
    (id, table): (u64, SurveyedTable),
    source: &LogSource,
    (entry_index, last_seq): (usize, u64),
    predecessor: Predecessor,
) -> Result<()> {
    let SurveyedTable { manifest, unlisted, active_len, damaged } = table;
    // A running predecessor may still remove these files by name, so no new segment may get one of their numbers.
    let reserved = unlisted.iter().copied().fold(0, u64::max);
    let name = manifest.table.clone();
    for number in unlisted {
        let path = log.dir.segment(&name, number);
        log.fs.remove(&path).map_err(|e| Error::io(format_args!("cannot remove {}", path.display()), &e))?;
    }
    leftovers::keep_aside(log, &damaged)?;
    leftovers::remove_unlisted_snapshots(log, &manifest)?;
    let CursorPosition { segment: number, offset: end, digest } = source.position().clone();
    let entry = log.head.head().entries.get(entry_index).copied().unwrap_or_default();
    let synced = if entry.segment == number { entry.bytes } else { 0 };
    let path = log.dir.segment(&name, number);
    let tail = fs::read_range(&*log.fs, &path, end, active_len.saturating_sub(end))?;
    let torn_len = tail.iter().rposition(|byte| *byte != 0).map(|last| last + 1);
    if let Some(torn_len) = torn_len {
        let kept = log.dir.torn_tail(&name, number, log.term());
        let temporary = kept.with_extension(format!("{}.tmp", log.term()));
        fs::replace_via(&*log.fs, &temporary, &kept, tail.get(..torn_len).unwrap_or_default())?;
        let path = kept.display().to_string();
        tracing::warn!(
            table = name,
            segment = number,
            offset = end,
            bytes = torn_len,
            path,
            "cut a torn tail"
        );
    }
    let failed = |e: io::Error| Error::io(format_args!("cannot repair {}", path.display()), &e);
    if synced < end {
        // After a failed sync, the kernel may have clean pages that never reached the disk. Only a second write and a sync
        // prove that the bytes are durable.
        let kept = fs::read_range(&*log.fs, &path, synced, end - synced)?;
        let file = log.fs.open_write(&path).map_err(failed)?;
        file.write_at(&kept, synced).map_err(failed)?;
        file.sync().map_err(failed)?;
    }
    let in_doubt = torn_len.is_some() || synced < end;
    // Preallocated zeros can stay: thousands of tables have some after a kill, and to cut them all takes long.
    let mut len = active_len.max(end);
    if active_len > end && (in_doubt || predecessor == Predecessor::MayRun) {
        let file = log.fs.open_write(&path).map_err(failed)?;
        file.truncate(end).map_err(failed)?;
        file.sync().map_err(failed)?;
        len = end;
    }
    let segment = match predecessor {
        // An empty segment cannot be sealed, but its file can be replaced: a running predecessor then writes to a file
        // without a name.
        Predecessor::MayRun if end == 0 => log.new_segment(&name, number)?,
        _ => ActiveSegment::open(&log.segment_files(), &path, number, (end, len), digest),
    };
    let entry = TableEntry {
        table: id,
        manifest: manifest.version,
        segment: number,
        bytes: end,
        last_seq: source.last_seq(),
        floor: manifest.floor.map_or(0, |floor| floor.seq),
    };
    debug_assert!(entry.last_seq <= last_seq);
    log.tables.insert(id, TableLog { manifest, entry_index, entry, segment, next: None, reserved });
    if (in_doubt || predecessor == Predecessor::MayRun) && end > 0 {
        log.rotate(id).map_err(AppendError::into_error)?;
    }
    Ok(())
}
