//! Reads and writes `lineage.json`: the incarnations of a database, of which HEAD names only the current one.
//!
//! The file is replaced before HEAD names a new incarnation, so it has every incarnation that HEAD can name. If it is lost or
//! damaged, the older incarnations are unknown: their tokens are then refused, which is safe, and nothing else depends on them.

use crate::error::{Reason, Result};
use crate::format::head::HeadIncarnation;
use crate::format::lineage::{Lineage, LineageEntry};
use crate::format::manifest;
use crate::storage::fs::{self, FileSystem};
use crate::storage::head::Head;
use crate::storage::layout::{self, DataDir};

/// Reads the lineage of the history that a HEAD publishes.
pub fn read(fs: &dyn FileSystem, dir: &DataDir, head: &Head) -> Result<Lineage> {
    let HeadIncarnation { id, start, term } = head.incarnation;
    if id == 0 {
        return Ok(Lineage::default());
    }
    let current = LineageEntry { id, start };
    let lineage = read_up_to(fs, dir, current)?;
    // A closed HEAD is the last of its incarnation: the next open for writing begins another.
    let is_closed = head.header.closed && head.header.term == term;
    Ok(if is_closed { lineage.ended_at(head.last_seq()) } else { lineage })
}

fn read_up_to(fs: &dyn FileSystem, dir: &DataDir, current: LineageEntry) -> Result<Lineage> {
    let why = match layout::read_lineage(fs, dir) {
        Ok(Some(found)) => match found.up_to(current) {
            Some(lineage) => return Ok(lineage),
            None => "it does not have the incarnation that HEAD names".to_owned(),
        },
        Ok(None) => "the file is missing".to_owned(),
        Err(error) if error.reason() == Reason::Corrupt => error.to_string(),
        Err(error) => return Err(error),
    };
    let path = dir.lineage().display().to_string();
    tracing::warn!(path, error = why, "the older incarnations are not known: their tokens are refused");
    Ok(Lineage::of(current))
}

/// Does the same as [`read`] for an open for writing, which begins the next incarnation. If HEAD names no incarnation, because its
/// cells are damaged or the doctor rebuilt it, all of the file counts.
pub(crate) fn read_for_writing(fs: &dyn FileSystem, dir: &DataDir, head: &Head) -> Result<Lineage> {
    if head.incarnation.id != 0 {
        return read(fs, dir, head);
    }
    match layout::read_lineage(fs, dir) {
        Ok(found) => Ok(found.unwrap_or_default()),
        Err(error) if error.reason() == Reason::Corrupt => {
            tracing::warn!(%error, "the older incarnations are not known: their tokens are refused");
            Ok(Lineage::default())
        }
        Err(error) => Err(error),
    }
}

/// Replaces the lineage, durably.
pub(crate) fn write(fs: &dyn FileSystem, dir: &DataDir, term: u64, lineage: &Lineage) -> Result<()> {
    fs::replace_via(fs, &dir.lineage_tmp(term), &dir.lineage(), &manifest::encode(lineage)?)
}

/// Draws the number of a new incarnation.
pub(crate) fn draw_incarnation() -> u64 {
    let (_, random) = uuid::Uuid::new_v4().as_u64_pair();
    random.max(1)
}
