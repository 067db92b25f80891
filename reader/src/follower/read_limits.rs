//! How far the follower may read each table's log: what HEAD and the manifests say.
//!
//! A look at HEAD costs as much as has changed since the last one, and not as much as there are tables: entries that are the same as
//! in the last HEAD that was applied as a whole have nothing to say. Whatever makes the follower read a table again forgets that HEAD.

use std::sync::Arc;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::head::TableEntry;
use driftdb_common::format::manifest::Manifest;
use driftdb_common::storage::head::Head;
use driftdb_common::storage::layout;
use driftdb_common::storage::wal::cursor::SegmentSpan;

use crate::follower::{Follower, compacted};

impl Follower {
    /// Lets each table's log be read up to the end that HEAD names.
    pub(super) fn raise_read_limits(&mut self, head: &Arc<Head>) -> Result<()> {
        let known = self.raised.take();
        if known.as_ref().is_some_and(|known| Arc::ptr_eq(known, head)) {
            self.raised = known;
            return Ok(());
        }
        let known = known.as_ref().map_or(&[][..], |known| &known.entries);
        let padded = known.iter().map(Some).chain(std::iter::repeat(None));
        let is_new = |(entry, known): &(&TableEntry, Option<&TableEntry>)| *known != Some(*entry);
        let changed = head.entries.iter().zip(padded).filter(is_new).map(|(entry, _)| entry);
        let changed: Vec<&TableEntry> = changed.filter(|entry| entry.table != 0).collect();
        let mut are_all_ahead = true;
        if changed.iter().any(|entry| !self.tables.contains_key(&entry.table)) {
            let known = self.tables.len();
            self.discover_tables()?;
            if self.starting && self.tables.len() > known {
                // The snapshots of the new table may contain commits that this HEAD does not.
                return Err(Error::new(
                    Reason::FileGone,
                    "a table was created while the reader opened the database; retry",
                ));
            }
        }
        for entry in changed {
            let Some(table) = self.tables.get(&entry.table) else {
                let what =
                    format!("it has an entry for table {}, but no directory has that table", entry.table);
                return Err(Error::corrupt(self.files.dir.head().display(), 0, what));
            };
            let newer_files = entry.manifest > table.manifest.version || table.entry.segment == 0;
            if !newer_files && (table.entry.segment, table.entry.bytes) >= (entry.segment, entry.bytes) {
                continue;
            }
            let mut is_ahead = true;
            if newer_files || table.entry.segment != entry.segment {
                is_ahead = self.reload_manifest(entry)?;
            }
            if is_ahead {
                let span = SegmentSpan { segment: entry.segment, end: entry.bytes, seal: None };
                self.commits.extend(entry.table, span);
            }
            are_all_ahead &= is_ahead;
            if let Some(table) = self.tables.get_mut(&entry.table) {
                // Without an entry, the manifest is read again with the next HEAD.
                table.entry = if is_ahead { *entry } else { TableEntry::default() };
                table.in_head = true;
                table.timeline.set_file_totals(table.manifest.file_totals(entry.segment, entry.bytes));
            }
        }
        self.raised = are_all_ahead.then(|| Arc::clone(head));
        Ok(())
    }

    /// Reads a table's manifest again, and lets the segments before the one in HEAD's entry be read. Returns whether that one is
    /// ahead of the cursor. It is not if the manifest is newer than HEAD: a compaction has replaced that segment, whose file stays
    /// for a while, and reading it would read commits twice.
    fn reload_manifest(&mut self, entry: &TableEntry) -> Result<bool> {
        let Some(table) = self.tables.get(&entry.table) else { return Ok(false) };
        let name = table.manifest.table.clone();
        let manifest = layout::read_manifest(&*self.files.fs, &self.files.dir, &name)?
            .filter(|manifest| manifest.table_id == entry.table && manifest.version >= entry.manifest)
            .ok_or_else(|| {
                let what = format!("HEAD names version {}, and the file is older", entry.manifest);
                Error::corrupt(self.files.dir.manifest(&name).display(), 0, what)
            })?;
        let current =
            self.commits.sources().get(&entry.table).map_or(0, |log| log.cursor().position().segment);
        let listed = manifest.segments.iter().position(|segment| segment.number == current);
        if current != 0 && listed.is_none() {
            self.reload_table(manifest)?;
            return self.reload_manifest(entry);
        }
        let active = manifest.segments.iter().position(|segment| segment.number == entry.segment);
        let (first, active) = (listed.unwrap_or(0), active.unwrap_or(manifest.segments.len()));
        for segment in manifest.segments.get(first..active).unwrap_or_default() {
            let end = segment.sealed.map_or(0, |seal| seal.bytes);
            self.commits
                .extend(entry.table, SegmentSpan { segment: segment.number, end, seal: segment.sealed });
        }
        let is_ahead = active < manifest.segments.len() && first <= active;
        if let Some(table) = self.tables.get_mut(&entry.table) {
            table.manifest = manifest;
            self.unsettled.insert(entry.table);
        }
        Ok(is_ahead)
    }

    /// Reads a table again from its newest snapshot, after compaction removed the segment that was being read.
    pub(super) fn reload_table(&mut self, manifest: Manifest) -> Result<()> {
        let applied = self.commits.next_seq() - 1;
        if self.starting || manifest.deltas.last().is_none_or(|layer| layer.seq > applied) {
            // The snapshot is ahead of this reader, whose other tables may be as far behind.
            self.restart_from_snapshots();
            return Err(compacted(&manifest.table));
        }
        self.commits.assume_whole(applied);
        self.replica.subscriptions().clear();
        self.reloading = true;
        self.add_table(manifest, true)
    }
}
