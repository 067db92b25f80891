//! How a follower takes over the layers that a manifest names: newer ones, and those of a table that it reads again.
//!
//! A manifest counts as adopted only once its layers are open. Until then the table is served from the layers and the memtable
//! that it has, and the adoption is tried again. Damaged layers are left out, and the log replaces them.

use std::time::{Duration, Instant};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::manifest::Manifest;
use driftdb_common::table::damaged_files::DamagedFile;
use driftdb_common::table::sound_layers::{SoundFiles, damaged_layer_file};
use driftdb_common::table::timeline::{self, Timeline};

use crate::follower::{FailedAdoption, FollowedTable, Follower};

/// The pause before a failed adoption is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// What a reader does about a damaged file that the log replaces.
const READ_FROM_LOG: &str = "the reader does without the file, and reads what it held from the log";
/// What a reader does about a damaged table entry of HEAD.
const ENTRY_REPLACED: &str =
    "the reader reads from the segments what the entry says; the next writer rewrites it";
/// What a reader does about a damaged file that nothing replaces.
const READS_FAIL: &str = "reads that need the file fail; run `driftctl doctor`";

impl Follower {
    /// A table at the layers of a manifest, and the manifest without those that are damaged.
    pub(super) fn open_timeline(&self, manifest: &Manifest) -> Result<(Timeline, Manifest)> {
        let (id, name, damaged_files) =
            (manifest.table_id, manifest.table_name(), self.replica.damaged_files());
        match self.files.open_sound(manifest, None, &damaged_files.paths()) {
            Ok(SoundFiles { manifest: sound, layers, damaged }) => {
                damaged.into_iter().for_each(|file| damaged_files.add(file, READ_FROM_LOG));
                Ok((Timeline::open(id, name, layers)?, sound))
            }
            Err(error) if error.reason() == Reason::Corrupt => {
                self.note_lasting_damage(&error);
                Ok((Timeline::unreadable(id, name, error), manifest.clone()))
            }
            Err(error) => Err(error),
        }
    }

    /// Tells of a damaged entry of HEAD, until a writer has rewritten it.
    pub(super) fn note_head_damage(&self, damage: Option<Error>) {
        let (path, damaged_files) = (self.files.dir.head(), self.replica.damaged_files());
        match damage {
            Some(error) => damaged_files.add(DamagedFile::new(&path, &error), ENTRY_REPLACED),
            None if damaged_files.is_empty() => {}
            None => _ = damaged_files.remove_below(&path),
        }
    }

    fn note_lasting_damage(&self, error: &Error) {
        if let Some(path) = damaged_layer_file(error) {
            self.replica.damaged_files().add(DamagedFile::new(&path, error), READS_FAIL);
        }
    }

    /// Makes the tables use newer layers, which frees the memory of the events in them.
    pub(super) fn adopt_newer_layers(&mut self, applied: u64) -> Result<()> {
        let mut reloads = Vec::new();
        for id in &self.unsettled {
            let Some(table) = self.tables.get_mut(id) else { continue };
            let snapshot_seq = table.manifest.deltas.last().map_or(0, |layer| layer.seq);
            let pauses =
                table.failed_adoption.as_ref().is_some_and(|failed| Instant::now() < failed.next_try);
            if table.installed_version == table.manifest.version || snapshot_seq > applied || pauses {
                continue;
            }
            let (state, name) = (table.timeline.state(), table.timeline.name());
            self.replica.raise_floor(table.manifest.floor);
            match self.files.open_sound(&table.manifest, Some(&state.layers), &[]) {
                Ok(SoundFiles { layers, damaged, .. }) => {
                    let damaged_files = self.replica.damaged_files();
                    damaged_files.remove_below(&self.files.dir.table(&table.manifest.table));
                    damaged.into_iter().for_each(|file| damaged_files.add(file, READ_FROM_LOG));
                    self.replica.note_adoption(&name, None);
                    table.failed_adoption = None;
                    let goes_back = layers.end() < state.layers.end();
                    if goes_back || table.timeline.unreadable_because().is_some() {
                        // The events between are in no memtable: read them from the log.
                        reloads.push(table.manifest.clone());
                        continue;
                    }
                    table.timeline.install_layers(layers);
                    table.installed_version = table.manifest.version;
                }
                // The layers were replaced meanwhile: the next check reads the newer manifest.
                Err(error) if error.reason() == Reason::FileGone => {}
                Err(error) => {
                    // The new floor holds all the same.
                    table.timeline.raise_floor(table.manifest.floor);
                    table.note_failed_adoption(&error);
                    self.replica.note_adoption(&name, Some(error));
                }
            }
        }
        reloads.into_iter().try_for_each(|manifest| self.reload_table(manifest))
    }

    /// Reads a table again without a layer that a read has found damaged, if the log replaces that layer.
    pub(super) fn set_aside_found_damage(&mut self) -> Result<()> {
        let damage_found = timeline::damage_found();
        if std::mem::replace(&mut self.damage_seen, damage_found) == damage_found {
            return Ok(());
        }
        let found = |table: &FollowedTable| {
            let error = table.timeline.take_found_damage()?;
            Some((damaged_layer_file(&error)?, error, table.manifest.clone()))
        };
        let found: Vec<_> = self.tables.values().filter_map(found).collect();
        for (path, error, manifest) in found {
            let file = DamagedFile::new(&path, &error);
            match self.files.open_sound(&manifest, None, std::slice::from_ref(&path)) {
                Ok(_) => {
                    self.replica.damaged_files().add(file, READ_FROM_LOG);
                    self.reload_table(manifest)?;
                }
                Err(lasting) if lasting.reason() == Reason::Corrupt => {
                    self.replica.damaged_files().add(file, READS_FAIL);
                }
                // The next read of the file finds the damage again.
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Prepares a restart without the layer that a commit could not be applied for. Returns whether that may help.
    pub(super) fn set_aside_for_restart(&mut self, error: &Error) -> bool {
        let Some(path) = damaged_layer_file(error) else { return false };
        let damaged_files = self.replica.damaged_files();
        let is_new = !damaged_files.paths().contains(&path);
        damaged_files.add(DamagedFile::new(&path, error), READ_FROM_LOG);
        is_new
    }
}

impl FollowedTable {
    /// Remembers that newer layers could not be opened, and logs why unless the reason is the same as before.
    fn note_failed_adoption(&mut self, error: &Error) {
        let table = self.timeline.name();
        if self.failed_adoption.as_ref().is_none_or(|failed| failed.reason != error.reason()) {
            tracing::error!(%error, table = &*table, "cannot open newer snapshots; the reader goes on with what it has, and retries");
        }
        let next_try = Instant::now() + RETRY_PAUSE;
        self.failed_adoption = Some(FailedAdoption { reason: error.reason(), next_try });
    }
}
