//! What writers leave that did not come to their end: removed, once recovery has judged all there is.

use std::io;
use std::path::Path;

use super::{numbered_segments, read_from};
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::storage::fs::FileSystem;
use crate::storage::layout::{self, DataDir, SEGMENT_TMP, TMP};
use crate::storage::wal::appender::Log;

/// Removes what writers of other terms began to write, manifests and segments: from now on none of them gets its name.
pub(super) fn remove_unfinished(disk: &dyn FileSystem, data: &DataDir) -> Result<()> {
    for table in layout::table_names(disk, data)? {
        remove_ending(disk, &data.table(&table), TMP)?;
        remove_ending(disk, &data.segments(&table), TMP)?;
    }
    Ok(())
}

fn remove_ending(disk: &dyn FileSystem, dir: &Path, end: &str) -> Result<()> {
    let failed = |e: io::Error| Error::io(format_args!("cannot clear {}", dir.display()), &e);
    let names = match disk.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    for name in names.iter().filter(|name| name.ends_with(end)) {
        match disk.remove(&dir.join(name)) {
            // Whoever made it has given it its name meanwhile.
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
    }
    Ok(())
}

/// Removes snapshots and indexes that the manifest does not name: made for one that never came to be, or replaced.
/// They hold nothing that the log does not.
pub(super) fn remove_unlisted_snapshots(log: &Log, manifest: &Manifest) -> Result<()> {
    let named = layout::snapshot_files(&log.dir, manifest);
    for (dir, own) in
        [(log.dir.snapshots(&manifest.table), ".snap"), (log.dir.indexes(&manifest.table), ".idx")]
    {
        let failed = |e: io::Error| Error::io(format_args!("cannot clear {}", dir.display()), &e);
        let names = match log.disk.list(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(failed)?,
        };
        for name in names {
            let ours = [own, ".tmp", ".run"].iter().any(|end| name.ends_with(end));
            if ours && !named.contains(&dir.join(&name)) {
                log.disk.remove(&dir.join(&name)).map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// A table whose creation was never acknowledged: removed, or kept aside under a name that no table can have if it
/// holds anything.
pub(super) fn remove_table(log: &Log, name: &str) -> Result<()> {
    let dir = log.dir.table(name);
    let failed = |e: io::Error| Error::io(format_args!("cannot remove {}", dir.display()), &e);
    let aside = log.dir.tables().join(format!("{name}.torn.{}", log.term()));
    let mut empty = true;
    for number in numbered_segments(&*log.disk, &log.dir, name)? {
        empty &=
            read_from(&*log.disk, &log.dir.segment(name, number), 0, u64::MAX)?.iter().all(|byte| *byte == 0);
    }
    log.disk.rename(&dir, &aside).map_err(failed)?;
    log.disk.sync_dir(&log.dir.tables()).map_err(failed)?;
    if empty {
        remove_own_files(&*log.disk, &aside).map_err(failed)?;
    }
    Ok(())
}

/// Removes what DriftDB makes in a table's directory, and the directory itself if nothing else is in it.
fn remove_own_files(disk: &dyn FileSystem, dir: &Path) -> io::Result<()> {
    let segments = dir.join("segments");
    let own_segment = |name: &String| layout::segment_number(name).is_some() || name.ends_with(SEGMENT_TMP);
    for name in disk.list(&segments).unwrap_or_default().iter().filter(|name| own_segment(name)) {
        disk.remove(&segments.join(name))?;
    }
    for name in disk.list(dir)? {
        if ["meta.json", "schema.yaml"].contains(&name.as_str()) || name.ends_with(TMP) {
            disk.remove(&dir.join(name))?;
        }
    }
    for (of_files, own) in [(dir.join("snapshots"), ".snap"), (dir.join("indexes"), ".idx")] {
        for name in disk.list(&of_files).unwrap_or_default() {
            if name.ends_with(own) || name.ends_with(".tmp") {
                disk.remove(&of_files.join(name))?;
            }
        }
        if disk.list(&of_files).is_ok_and(|names| names.is_empty()) {
            disk.remove_dir(&of_files)?;
        }
    }
    for emptied in [&segments, dir] {
        if disk.list(emptied).is_ok_and(|names| names.is_empty()) {
            disk.remove_dir(emptied)?;
        }
    }
    Ok(())
}
