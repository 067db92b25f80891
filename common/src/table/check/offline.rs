//! Verifies all tables of a data directory that no writer has open. Changes nothing, and needs no right to write.

use std::sync::Arc;

use crate::error::{Error, Reason, Result};
use crate::format::event::EventType;
use crate::format::head::TableEntry;
use crate::format::manifest::{Manifest, created_name};
use crate::storage::fs::FileSystem;
use crate::storage::head;
use crate::storage::layout::{self, DataDir};
use crate::storage::lock::Lock;
use crate::storage::sst::BlockCache;
use crate::storage::wal::cursor::CursorItem;
use crate::table::build::progress::ProgressFn;
use crate::table::check::verification::{self, Problem, VerifiedCounts};
use crate::table::log_tail::{ReadLimit, log_after};
use crate::table::schema::SchemaEvent;
use crate::table::table_files::TableFiles;

/// Verifies the tables of a name, dropped ones included, or all tables, up to what HEAD has published. Reports each problem to `on_problem`.
///
/// Fails with DATABASE_LOCKED if a writer is running.
pub fn verify_directory(
    fs: &Arc<dyn FileSystem>,
    dir: &DataDir,
    (table, deep): (Option<&str>, bool),
    progress: ProgressFn<'_>,
    on_problem: &mut dyn FnMut(Problem),
) -> Result<VerifiedCounts> {
    let (Some(_), Some(head)) = (layout::read_database(&**fs, dir)?, head::read(&**fs, dir)?) else {
        let message = format!("{} contains no database that can be read", dir.root().display());
        return Err(Error::new(Reason::Unreachable, message));
    };
    let _shared = Lock::acquire_shared(&**fs, dir)?;
    // A cache for the files' footers: a verification has its own for blocks.
    let files = TableFiles { fs: Arc::clone(fs), dir: dir.clone(), cache: BlockCache::new(0) };
    let names = layout::table_names(&**fs, dir)?;
    let (mut all, mut known) = (VerifiedCounts::default(), Vec::new());
    let mut entries: Vec<TableEntry> =
        head.entries.iter().filter(|entry| entry.table != 0).copied().collect();
    for name in names {
        let is_asked_for = |known: &str| table.is_none_or(|table| table == known);
        let manifest = match layout::read_manifest(&**fs, dir, &name) {
            Ok(manifest) => manifest,
            Err(error) if error.reason() == Reason::Corrupt && is_asked_for(created_name(&name)) => {
                known.push(created_name(&name).to_owned());
                let (file, message) = (dir.manifest(&name).display().to_string(), error.message().to_owned());
                on_problem(Problem { file, offset: 0, message });
                all.problems += 1;
                continue;
            }
            Err(error) if error.reason() == Reason::Corrupt => continue,
            Err(error) => return Err(error),
        };
        // Without a manifest or an entry, the creation of the table never became durable.
        let Some(manifest) = manifest else { continue };
        let Some(at) = entries.iter().position(|entry| entry.table == manifest.table_id) else { continue };
        let entry = entries.swap_remove(at);
        let limit = read_limit(&manifest, &entry, head.last_seq());
        // The log is read for names only if one is asked for.
        known.extend(table.map(|_| newest_name(&files, &manifest, limit)));
        if table.is_none() || known.last().is_some_and(|known| is_asked_for(known)) {
            let found = verification::verify(&files, &manifest, limit, deep, progress, on_problem)?;
            all.files += found.files;
            all.frames += found.frames;
            all.rows += found.rows;
            all.problems += found.problems;
        }
    }
    if let Some(table) = table.filter(|table| !known.iter().any(|known| known == table)) {
        return Err(Error::unknown_table(table, known.iter().map(String::as_str)));
    }
    for entry in entries.iter().filter(|_| table.is_none()) {
        let message =
            format!("it has an entry for table id {}, and no readable meta.json has this id", entry.table);
        on_problem(Problem { file: dir.head().display().to_string(), offset: 0, message });
        all.problems += 1;
    }
    Ok(all)
}

/// How far the log of a table may be read. After a crash, the manifest can have a newer segment than HEAD: nothing in it was
/// published.
fn read_limit(manifest: &Manifest, entry: &TableEntry, seq: u64) -> ReadLimit {
    let active = manifest.segments.last().map_or(0, |segment| segment.number);
    let bytes = if active == entry.segment { entry.bytes } else { 0 };
    ReadLimit { segment: active, bytes, seq }
}

/// The newest name of a table: the one at the end of its layers, unless the log after them renames it. Where that log is damaged, the
/// name before the damage counts.
fn newest_name(files: &TableFiles, manifest: &Manifest, limit: ReadLimit) -> String {
    let mut name = manifest.table_name().to_owned();
    let mut cursor = log_after(files, manifest, limit);
    while let Ok(CursorItem::Frame(frame)) = cursor.next_frame() {
        if frame.seq > limit.seq {
            break;
        }
        let schema = frame.event.document.as_ref().filter(|_| frame.event.kind == EventType::Schema);
        if let Some(Ok(event)) = schema.map(SchemaEvent::from_document) {
            name = event.schema.table;
        }
    }
    name
}
