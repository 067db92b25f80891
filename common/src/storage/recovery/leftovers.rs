//! Removes the files that interrupted writers left, after the survey has succeeded.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::storage::fs::{self, FileSystem};
use crate::storage::layout::{self, DataDir, SEGMENT_TMP, TMP};
use crate::storage::wal::appender::Log;

/// Removes the unfinished manifests, segments and lineages of writers of other terms, so that none of them can be installed
/// later.
pub(super) fn remove_unfinished(fs: &dyn FileSystem, dir: &DataDir) -> Result<()> {
    let failed = |e: io::Error| Error::io(format_args!("cannot clear {}", dir.root().display()), &e);
    for name in fs.list(dir.root()).map_err(failed)?.iter().filter(|name| layout::is_record_tmp(name)) {
        fs::remove_if_exists(fs, &dir.root().join(name)).map_err(failed)?;
    }
    for table in layout::table_names(fs, dir)? {
        remove_temporary_files(fs, &dir.table(&table))?;
        remove_temporary_files(fs, &dir.segments(&table))?;
    }
    Ok(())
}

fn remove_temporary_files(fs: &dyn FileSystem, dir: &Path) -> Result<()> {
    let failed = |e: io::Error| Error::io(format_args!("cannot clear {}", dir.display()), &e);
    let names = match fs.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    for name in names.iter().filter(|name| name.ends_with(TMP)) {
        // The file may be gone: its writer may have renamed it in the meantime.
        fs::remove_if_exists(fs, &dir.join(name)).map_err(failed)?;
    }
    Ok(())
}

/// Renames damaged files, so that new ones can take their names. The manifest on disk may still list them: whoever reads it
/// does without a missing file as without a damaged one.
pub(super) fn keep_aside(log: &Log, damaged: &[PathBuf]) -> Result<()> {
    for path in damaged {
        let kept = layout::set_aside_path(path, log.term());
        match log.fs.rename(path, &kept) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            renamed => {
                let what = format_args!("cannot rename {}", path.display());
                renamed.map_err(|e| Error::io(what, &e))?;
            }
        }
    }
    Ok(())
}

/// Removes snapshots and indexes that the manifest does not list, because its change never completed or replaced them.
/// They contain nothing that the log does not contain.
pub(super) fn remove_unlisted_snapshots(log: &Log, manifest: &Manifest) -> Result<()> {
    let listed = layout::snapshot_files(&log.dir, manifest);
    for (dir, extension) in
        [(log.dir.snapshots(&manifest.table), ".snap"), (log.dir.indexes(&manifest.table), ".idx")]
    {
        let failed = |e: io::Error| Error::io(format_args!("cannot clear {}", dir.display()), &e);
        let names = match log.fs.list(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(failed)?,
        };
        for name in names {
            let ours = [extension, ".tmp", ".run"].iter().any(|end| name.ends_with(end));
            if ours && !listed.contains(&dir.join(&name)) {
                log.fs.remove(&dir.join(&name)).map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// Removes a table whose creation was never acknowledged. If its segments contain anything, keeps the directory under a
/// name that no table can have.
pub(super) fn remove_table(log: &Log, name: &str) -> Result<()> {
    let dir = log.dir.table(name);
    let failed = |e: io::Error| Error::io(format_args!("cannot remove {}", dir.display()), &e);
    let kept = log.dir.tables().join(format!("{name}.torn.{}", log.term()));
    let mut is_empty = true;
    for number in layout::segment_numbers(&*log.fs, &log.dir, name)? {
        let bytes = fs::read_range(&*log.fs, &log.dir.segment(name, number), 0, u64::MAX)?;
        is_empty &= bytes.iter().all(|byte| *byte == 0);
    }
    log.fs.rename(&dir, &kept).map_err(failed)?;
    log.fs.sync_dir(&log.dir.tables()).map_err(failed)?;
    if is_empty {
        remove_own_files(&*log.fs, &kept).map_err(failed)?;
    }
    Ok(())
}

/// Removes the files that DriftDB creates in a table's directory, and the directory itself if nothing else is in it.
fn remove_own_files(fs: &dyn FileSystem, dir: &Path) -> io::Result<()> {
    let segments = dir.join("segments");
    let own_segment = |name: &String| layout::segment_number(name).is_some() || name.ends_with(SEGMENT_TMP);
    for name in list_if_exists(fs, &segments)?.iter().filter(|name| own_segment(name)) {
        fs.remove(&segments.join(name))?;
    }
    for name in fs.list(dir)? {
        if ["meta.json", "schema.yaml"].contains(&name.as_str()) || name.ends_with(TMP) {
            fs.remove(&dir.join(name))?;
        }
    }
    for (subdir, extension) in [(dir.join("snapshots"), ".snap"), (dir.join("indexes"), ".idx")] {
        for name in list_if_exists(fs, &subdir)? {
            if name.ends_with(extension) || name.ends_with(".tmp") {
                fs.remove(&subdir.join(name))?;
            }
        }
        if fs.list(&subdir).is_ok_and(|names| names.is_empty()) {
            fs.remove_dir(&subdir)?;
        }
    }
    for dir in [&segments, dir] {
        if fs.list(dir).is_ok_and(|names| names.is_empty()) {
            fs.remove_dir(dir)?;
        }
    }
    Ok(())
}

/// The names in a directory; none if it does not exist.
fn list_if_exists(fs: &dyn FileSystem, dir: &Path) -> io::Result<Vec<String>> {
    match fs.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    }
}
