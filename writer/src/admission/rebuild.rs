//! Rebuilds the admission state from snapshots and from the log after them, when the database is opened.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;

use driftdb_common::error::{Reason, Result};
use driftdb_common::format::event::{CommitMeta, Event, EventType, RequestId};
use driftdb_common::format::manifest::Manifest;
use driftdb_common::format::snapshot::{ProducerEntry, RequestEntry};
use driftdb_common::storage::recovery::Replay;
use driftdb_common::storage::wal::commit_reader::LogCommit;
use driftdb_common::table::damaged_files::DamagedFile;
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::operation::WriteToken;
use driftdb_common::table::schema::{SchemaAction, SchemaEvent};
use driftdb_common::table::sound_layers::{SoundFiles, damaged_layer_file};
use driftdb_common::table::state;
use driftdb_common::table::table_files::TableFiles;

use crate::admission::Admission;
use crate::admission::requests::RequestWindow;
use crate::admission::schema_changes::apply_schema_event;
use crate::admission::table::{AdmittedTable, RowState};
use crate::admission::tables::UnusableTable;

/// The admission state while it is rebuilt: recovery passes every table first, then the commits of the log in
/// order.
///
/// Requests and producers are kept twice: a snapshot holds those of the log that it covers, and the log holds
/// the rest. A commit that changed several tables is in the snapshots of some and in the log of others, so
/// each commit must be counted only once, and requests must be remembered in the order of their commits.
#[derive(Debug)]
pub(crate) struct AdmissionRebuild<'a> {
    files: &'a TableFiles,
    admission: Admission,
    /// Requests found in snapshots and not yet remembered.
    snapshot_requests: VecDeque<(WriteToken, RequestId)>,
    are_requests_sorted: bool,
    /// The commit of the last request that was remembered.
    last_request_seq: u64,
    /// The newest entry of each producer found in snapshots.
    snapshot_producers: HashMap<String, ProducerEntry>,
    /// Files that an earlier try found damaged.
    set_aside: &'a [PathBuf],
    /// The layers of each table, until it is replayed.
    layers: HashMap<u64, LayerMap>,
    /// The directory of each table.
    directories: HashMap<u64, String>,
    /// The damaged files, each with its table.
    damaged: Vec<(u64, DamagedFile)>,
}

impl<'a> AdmissionRebuild<'a> {
    /// Starts from an empty state. Snapshots are opened through `files`, without those of `set_aside`.
    pub(crate) fn new(
        files: &'a TableFiles,
        window: RequestWindow,
        set_aside: &'a [PathBuf],
    ) -> AdmissionRebuild<'a> {
        AdmissionRebuild {
            files,
            admission: Admission::new(window),
            snapshot_requests: VecDeque::new(),
            are_requests_sorted: false,
            last_request_seq: 0,
            snapshot_producers: HashMap::new(),
            set_aside,
            layers: HashMap::new(),
            directories: HashMap::new(),
            damaged: Vec::new(),
        }
    }

    /// Takes the damaged files that were found, each with its table's id.
    pub(crate) fn take_damaged(&mut self) -> Vec<(u64, DamagedFile)> {
        std::mem::take(&mut self.damaged)
    }

    /// The finished state. `last` is the database's last commit.
    pub(crate) fn finish(mut self, last: WriteToken) -> Admission {
        self.remember_snapshot_requests(u64::MAX);
        self.admission.tables.index_names();
        self.admission.last = last;
        self.admission.tables.recent_mut().begin_after(last.seq);
        drop(self.admission.discard_undo(self.admission.tables.undo_mark(), last));
        self.admission
    }

    /// Collects the requests and producers that a table's snapshots hold.
    fn collect_snapshot_requests(&mut self, layers: &LayerMap) -> Result<()> {
        layers.requests(&mut |seq, entry| {
            let RequestEntry { time_ms, request } = entry;
            self.snapshot_requests.push_back((WriteToken { seq, time_ms }, request));
        })?;
        layers.producers(&mut |producer| {
            let known = self.snapshot_producers.get(&producer.origin.producer);
            if known.is_none_or(|known| known.seq < producer.seq) {
                self.snapshot_producers.insert(producer.origin.producer.clone(), producer);
            }
        })
    }

    /// Remembers the requests of snapshots up to commit `upto`, in the order of their commits.
    fn remember_snapshot_requests(&mut self, upto: u64) {
        if !self.are_requests_sorted {
            self.are_requests_sorted = true;
            self.snapshot_requests.make_contiguous().sort_unstable_by_key(|(token, _)| token.seq);
            for producer in self.snapshot_producers.values() {
                self.admission.producers.advance(producer.origin.clone(), producer.seq);
            }
        }
        while let Some((token, request)) = self.snapshot_requests.pop_front_if(|(token, _)| token.seq <= upto)
        {
            // A commit that changed several tables is in the snapshot of each.
            if self.last_request_seq < token.seq {
                self.last_request_seq = token.seq;
                self.admission.requests.insert(request, token);
            }
        }
    }

    fn replay_event(&mut self, table: u64, seq: u64, event: Event) -> Result<()> {
        let tables = &mut self.admission.tables;
        match (event.kind, event.key, event.document) {
            (EventType::Schema, _, Some(payload)) => {
                let event = SchemaEvent::from_document(&payload)?;
                let directory = self.directories.get(&table).unwrap_or(&event.schema.table).clone();
                apply_schema_event(tables, (table, directory), seq, event)
            }
            (kind, Some(key), payload) => {
                let table = tables.by_id_mut(table)?;
                let before = match kind {
                    // The event says enough: a lookup in the files would cost a read.
                    EventType::Insert if event.marks.replaces => None,
                    _ => table.read_row(&key)?,
                };
                let was_live = event.marks.replaces || before.is_some();
                let after = state::apply(before.as_ref(), kind, payload.as_ref())?;
                let document = after.map(|after| after.detached());
                table.set_row(key, RowState::new(seq, document), was_live);
                table.count_event(seq);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl AdmissionRebuild<'_> {
    /// Follows the name of a table that cannot be used.
    fn follow_name(&mut self, table: u64, events: &[Event]) -> Result<()> {
        for event in events.iter().filter(|event| event.kind == EventType::Schema) {
            if let Some(payload) = &event.document {
                let schema = SchemaEvent::from_document(payload)?.schema;
                self.admission.tables.rename_unusable(table, &schema.table);
            }
        }
        Ok(())
    }
}

impl Replay for AdmissionRebuild<'_> {
    fn set_aside_damage(&mut self, manifest: Manifest) -> Result<(Manifest, Vec<PathBuf>)> {
        let (id, name) = (manifest.table_id, manifest.table.clone());
        match self.files.open_sound(&manifest, None, self.set_aside) {
            Ok(SoundFiles { manifest, layers, damaged }) => {
                self.layers.insert(id, layers);
                let paths = damaged.iter().map(|file| file.path.clone()).collect();
                self.damaged.extend(damaged.into_iter().map(|file| (id, file)));
                Ok((manifest, paths))
            }
            Err(error) if error.reason() == Reason::Corrupt => {
                // The other tables can be used. The log of this one is read for the commits that it shares with them.
                tracing::error!(%error, table = name, "a table cannot be used");
                if let Some(path) = damaged_layer_file(&error) {
                    self.damaged.push((id, DamagedFile::new(&path, &error)));
                }
                let known = UnusableTable { name: manifest.table_name().to_owned(), directory: name, error };
                self.admission.tables.add_unusable(id, known);
                Ok((manifest, Vec::new()))
            }
            Err(error) => Err(error),
        }
    }

    fn replay_table(&mut self, manifest: &Manifest) -> Result<()> {
        self.directories.insert(manifest.table_id, manifest.table.clone());
        let layers = self.layers.remove(&manifest.table_id);
        let Some(layers) = layers.filter(|_| !manifest.deltas.is_empty()) else { return Ok(()) };
        let (mut created, mut named, mut newest) = (manifest.table_id, 0, None::<(u64, SchemaEvent)>);
        for entry in &layers.properties().schema_entries {
            let event = SchemaEvent::from_document(&entry.document)?;
            match (event.action, &event.from) {
                (SchemaAction::Create, _) => created = entry.seq,
                (SchemaAction::Rename, Some(from)) => {
                    named = entry.seq;
                    self.admission.tables.add_former_name(from.clone(), entry.seq, manifest.table_id);
                }
                _ => {}
            }
            newest = Some((entry.seq, event));
        }
        let Some((seq, SchemaEvent { action, schema, .. })) = newest else { return Ok(()) };
        self.collect_snapshot_requests(&layers)?;
        let dropped = (action == SchemaAction::Drop).then_some(seq);
        let table = AdmittedTable::new(manifest.table_id, created, schema).named_at(named);
        let table = table.in_directory(manifest.table.clone()).with_layers(layers, dropped);
        self.admission.tables.add_durable(table);
        Ok(())
    }

    fn replay_commit(&mut self, commit: LogCommit) -> Result<()> {
        let LogCommit { seq, time_ms, meta, parts } = commit;
        self.remember_snapshot_requests(seq);
        for (table, events) in parts {
            if self.admission.tables.is_unusable(table) {
                self.follow_name(table, &events)?;
                continue;
            }
            for event in events {
                self.replay_event(table, seq, event)?;
            }
        }
        self.admission.last = WriteToken { seq, time_ms };
        if let Some(CommitMeta { request, origin, .. }) = meta.map(|meta| *meta) {
            // The snapshot of another table may hold this commit's request, or a later commit of its
            // producer.
            let request = request.filter(|_| self.last_request_seq < seq);
            let origin = origin.filter(|origin| {
                self.snapshot_producers.get(&origin.producer).is_none_or(|found| found.seq < seq)
            });
            self.admission.remember(request, origin);
        }
        drop(self.admission.discard_undo(self.admission.tables.undo_mark(), self.admission.last));
        Ok(())
    }
}
