//! Rotation: seals a table's active segment and continues in a new one.
//!
//! The new segment and the new manifest are complete on disk under temporary names before the old segment is touched. The manifest
//! is renamed last: until then the old segment is the active one, and a failure is only a refusal. A rename whose outcome is not
//! known, or that may not be durable, is fatal: frames in either segment could be those that recovery does not read.

use std::io;

use crate::error::{Error, Reason, Result};
use crate::format::head::TableEntry;
use crate::format::manifest::{self, Manifest, Segment};
use crate::storage::fs;
use crate::storage::layout;
use crate::storage::wal::appender::{AppendError, Log};
use crate::storage::wal::next_segment::{CreateSegment, NextSegment};
use crate::storage::wal::segment::ActiveSegment;

/// A rotation that was prepared.
#[derive(Debug)]
pub(super) struct Rotation {
    /// The table.
    pub(super) id: u64,
    /// The next active segment.
    pub(super) segment: ActiveSegment,
    /// The manifest that lists it. It is on disk under its temporary name.
    manifest: Manifest,
    /// Whether the segment may have its final name.
    is_named: bool,
}

impl Log {
    /// Seals a table's active segment and continues in a new one.
    pub(in crate::storage) fn rotate(&mut self, id: u64) -> Result<(), AppendError> {
        self.sync_head().map_err(AppendError::Fatal)?;
        let mut rotations = vec![self.prepare_rotation(id).map_err(AppendError::from_step)?];
        let outcome = self.finish_rotations(&mut rotations);
        if matches!(outcome, Err(AppendError::Refused(_))) {
            rotations.into_iter().for_each(|rotation| self.cancel_rotation(rotation));
        }
        outcome
    }

    /// Makes the next segment and the manifest that lists it. HEAD must have been synced.
    pub(super) fn prepare_rotation(&mut self, id: u64) -> Result<Rotation> {
        let prepared = self.table_mut(id)?.next.take().and_then(|next| next.take());
        let segment = match prepared {
            Some(segment) => segment,
            None => {
                let number = self.table_mut(id)?.next_number();
                self.create_segment_job(id, number)?()?
            }
        };
        let mut manifest = self.next_manifest(self.table(id)?);
        if let Some(last) = manifest.segments.last_mut() {
            last.sealed = Some(self.table(id)?.segment.next_seal());
        }
        manifest.segments.push(Segment { number: segment.number, sealed: None });
        let (temporary, path) = self.manifest_paths(&manifest);
        let failed = |e: io::Error| Error::io(format_args!("cannot write {}", path.display()), &e);
        let written = manifest::encode(&manifest)
            .and_then(|bytes| fs::write_temporary(&*self.fs, &temporary, &bytes).map_err(failed));
        if let Err(error) = written {
            self.table_mut(id)?.next = Some(NextSegment::ready(segment));
            return Err(error);
        }
        Ok(Rotation { id, segment, manifest, is_named: false })
    }

    /// Performs prepared rotations, and removes those from the list that are done.
    pub(super) fn finish_rotations(&mut self, rotations: &mut Vec<Rotation>) -> Result<(), AppendError> {
        while let Some(rotation) = rotations.last_mut() {
            self.fence.check().map_err(AppendError::Fatal)?;
            let number = rotation.segment.number;
            let path = self.dir.segment(&rotation.manifest.table, number);
            rotation.is_named = true;
            rotation.segment.publish_name(&path).map_err(AppendError::from_step)?;
            let id = rotation.id;
            let table = self.tables.get_mut(&id).ok_or_else(|| AppendError::Refused(unknown(id)))?;
            table.segment.seal()?;
            self.replace_manifest(&rotation.manifest).inspect_err(|_| {
                if let Some(table) = self.tables.get(&id) {
                    table.segment.unseal();
                }
            })?;
            if let Some(Rotation { manifest, segment, .. }) = rotations.pop() {
                self.switch_to(id, manifest, segment);
            }
        }
        Ok(())
    }

    /// Puts a prepared manifest in place. Refuses only if the manifest before it certainly stays.
    fn replace_manifest(&self, manifest: &Manifest) -> Result<(), AppendError> {
        let (temporary, path) = self.manifest_paths(manifest);
        let failed = |e: io::Error| Error::io(format_args!("cannot write {}", path.display()), &e);
        if let Err(error) = self.fs.rename(&temporary, &path) {
            let error = AppendError::from_step(failed(error));
            // On a network file system, a rename that failed here can still happen there.
            let found = layout::read_manifest(&*self.fs, &self.dir, &manifest.table);
            let has_old = matches!(found, Ok(Some(found)) if found.version < manifest.version);
            return Err(match error {
                AppendError::Refused(error) if !has_old || self.fence.is_on() => AppendError::Fatal(error),
                error => error,
            });
        }
        fs::sync_parent(&*self.fs, &path).map_err(|e| AppendError::Fatal(failed(e)))
    }

    fn switch_to(&mut self, id: u64, manifest: Manifest, segment: ActiveSegment) {
        self.open_segments.remove(id);
        let Some(table) = self.tables.get_mut(&id) else { return };
        tracing::debug!(table = manifest.table, segment = segment.number, "started a new segment");
        table.entry =
            TableEntry { manifest: manifest.version, segment: segment.number, bytes: 0, ..table.entry };
        table.manifest = manifest;
        table.segment = segment;
    }

    /// Takes back what was made for a rotation that is not done.
    pub(super) fn cancel_rotation(&mut self, rotation: Rotation) {
        let Rotation { id, segment, manifest, is_named } = rotation;
        fs::discard(&*self.fs, &self.manifest_paths(&manifest).0);
        match self.tables.get_mut(&id) {
            Some(table) if !is_named => table.next = Some(NextSegment::ready(segment)),
            _ => segment.discard(),
        }
    }

    /// Has zeros, and next segments, made in the background for tables that need some soon.
    pub(super) fn prepare_ahead(&mut self, ids: impl Iterator<Item = u64>) {
        let nearly_full = self.options.segment_bytes / 4 * 3;
        for id in ids {
            let Some(table) = self.tables.get_mut(&id) else { continue };
            self.background.fill_ahead(table.segment.preallocation(), table.segment.offset);
            if table.segment.offset < nearly_full || table.next.is_some() || self.background.is_inline() {
                continue;
            }
            let next = NextSegment::wanted(table.next_number());
            table.next = Some(next.clone());
            if let Ok(create) = self.create_segment_job(id, next.number()) {
                self.background.prepare(next, create);
            }
        }
    }

    /// What creates a table's segment under its temporary name.
    fn create_segment_job(&self, id: u64, number: u64) -> Result<CreateSegment> {
        let temporary = self.dir.segment_tmp(&self.table(id)?.manifest.table, number, self.term());
        let files = self.segment_files();
        Ok(Box::new(move || ActiveSegment::create_unnamed(&files, &temporary, number)))
    }

    /// Creates a segment with its final name.
    pub(in crate::storage) fn new_segment(&self, table: &str, number: u64) -> Result<ActiveSegment> {
        let temporary = self.dir.segment_tmp(table, number, self.term());
        let mut segment = ActiveSegment::create_unnamed(&self.segment_files(), &temporary, number)?;
        match segment.publish_name(&self.dir.segment(table, number)) {
            Ok(()) => Ok(segment),
            Err(error) => {
                segment.discard();
                Err(error)
            }
        }
    }
}

fn unknown(id: u64) -> Error {
    Error::new(Reason::Internal, format!("the log has no table with id {id}"))
}
