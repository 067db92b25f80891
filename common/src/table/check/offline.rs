//! Verifies all tables of a data directory that no writer has open. Changes nothing, and needs no right to write.

use std::sync::Arc;

use crate::error::{Error, Reason, Result};
use crate::format::head::TableEntry;
use crate::format::manifest::Manifest;
use crate::storage::fs::FileSystem;
use crate::storage::head;
use crate::storage::layout::{self, DataDir};
use crate::storage::lock::Lock;
use crate::storage::sst::BlockCache;
use crate::table::build::progress::ProgressFn;
use crate::table::check::verification::{self, Problem, VerifiedCounts};
use crate::table::log_tail::ReadLimit;
use crate::table::table_files::TableFiles;

/// Verifies a table, or all tables, up to what HEAD has published. Reports each problem to `on_problem`.
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
    if let Some(table) = table.filter(|table| !names.iter().any(|name| name == table)) {
        return Err(Error::unknown_table(table, names.iter().map(String::as_str)));
    }
    let mut all = VerifiedCounts::default();
    let mut entries: Vec<TableEntry> =
        head.entries.iter().filter(|entry| entry.table != 0).copied().collect();
    for name in names {
        let is_asked_for = table.is_none_or(|table| table == name);
        let manifest = match layout::read_manifest(&**fs, dir, &name) {
            Ok(manifest) => manifest,
            Err(error) if error.reason() == Reason::Corrupt && is_asked_for => {
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
        if is_asked_for {
            let limit = read_limit(&manifest, &entry, head.last_seq());
            let found = verification::verify(&files, &manifest, limit, deep, progress, on_problem)?;
            all.files += found.files;
            all.frames += found.frames;
            all.rows += found.rows;
            all.problems += found.problems;
        }
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
