//! The deep comparison: eras with the log, moments of all rows with the eras before them, indexes with their files.
//!
//! It goes era by era, and within an era by stretches of commits, so that no more than a stretch is in memory, however much
//! has been merged into an era. A row before a stretch is looked up in the files themselves, in the part that has been
//! compared by then; after a version that differs that is not to be had, and what rests on rows is left out, which is said.
//! That an era holds no version too many follows from its count: every version of the log was found in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Reason, Result};
use crate::format::event::EventType;
use crate::format::manifest::{DeltaLayer, Manifest};
use crate::format::snapshot::{
    CommitEntry, DeltaProperties, ProducerEntry, RequestEntry, SchemaEntry, TableChange, VersionEntry,
    commit_key, read_commit_key, read_version, tree,
};
use crate::storage::sst::{SstFile, TreeCursor};
use crate::storage::wal::cursor::{CursorItem, DecodedFrame, LogCursor};
use crate::table::build::snapshot::{ReadLimit, born_at, log_after};
use crate::table::check::verification::chunk::{Chunk, Step};
use crate::table::check::verification::compaction_base::{self, Folded};
use crate::table::check::verification::{Files, ProblemList, candidates, image};
use crate::table::layers::{EventId, LayerMap, sort_key};
use crate::table::schema::{SchemaAction, SchemaEvent};
use crate::table::table_files::{LayerFile, TableFiles};

/// Compares all snapshots and indexes of a table with its log.
pub(super) fn compare(
    shelf: &TableFiles,
    manifest: &Manifest,
    reach: ReadLimit,
    files: &Files,
    report: &mut ProblemList<'_>,
) -> Result<()> {
    let mut deep = Deep::begin(shelf, manifest, reach);
    let mut images = manifest.images.iter().zip(&files.images).peekable();
    let mut deltas = manifest.deltas.iter().zip(&files.deltas).peekable();
    if let Some((era, open)) = deltas.next_if(|(era, _)| era.is_compaction_base()) {
        let full = images.next_if(|(full, _)| full.seq == era.seq).and_then(|(_, open)| open.as_ref());
        let (Some(open), Some(full)) = (open, full) else {
            let what = "the files at the floor are not sound: no snapshot was compared with the log";
            report.problem(&shelf.dir.manifest(&manifest.table), 0, what);
            return Ok(());
        };
        let before = report.figures.problems;
        let next = deltas.peek().and_then(|(_, next)| next.as_ref()).filter(|next| next.base < era.seq);
        let folded = match compaction_base::compare(shelf, manifest, (open, full, next), report) {
            Ok(Some(folded)) => folded,
            Ok(None) => return Ok(()),
            Err(error) => return report.failed(full.file.path(), error),
        };
        deep.begin_at_floor((shelf, manifest, reach), folded, (era, open, full))?;
        if report.figures.problems > before {
            deep.rows_known = false;
        }
        for (path, index) in full.indexes.iter().filter(|_| deep.rows_known) {
            let compared = candidates::of_full(full, path, index, report);
            told(report, index, compared)?;
        }
    }
    for (era, open) in deltas {
        let Some(open) = open else {
            let what = "it is not sound: neither it nor what is newer was compared with the log";
            let path = shelf.dir.delta_layer(&manifest.table, era.base, era.seq);
            report.problem(&path, 0, what);
            return Ok(());
        };
        match deep.era(era, open, report) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => return report.failed(open.file.path(), error),
        }
        let known = deep.rows_known;
        for (path, index) in open.indexes.iter().filter(|_| known) {
            let compared = candidates::of_era(&deep.past, (open, deep.floor), path, index, report);
            told(report, index, compared)?;
        }
        while let Some((of, open)) = images.next_if(|(full, _)| full.seq <= era.seq) {
            let Some(open) = open.as_ref().filter(|_| known) else { continue };
            let born = born_at(&deep.past, of.seq)?;
            let before = report.figures.problems;
            let compared = image::compare(&deep.past, of.seq, born, open, report);
            told(report, &open.file, compared)?;
            for (path, index) in &open.indexes {
                let compared = candidates::of_full(open, path, index, report);
                told(report, index, compared)?;
            }
            if report.figures.problems == before {
                deep.past.images.push(open.clone());
            }
        }
    }
    for (of, _) in images {
        let what = format!("it is of commit {}, after the newest era", of.seq);
        report.problem(&shelf.dir.image_layer(&manifest.table, of.seq), 0, what);
    }
    Ok(())
}

/// An error of reading while a file was compared is a problem of it.
fn told(report: &mut ProblemList<'_>, file: &SstFile, compared: Result<()>) -> Result<()> {
    compared.or_else(|error| report.failed(file.path(), error))
}

/// The log, and the table as it makes it.
struct Deep {
    cursor: LogCursor,
    /// Read, and of a later era.
    ahead: Option<DecodedFrame>,
    /// The files that have been compared, and the era that is being.
    past: LayerMap,
    /// Whether the rows before what is compared next are known.
    rows_known: bool,
    events: u64,
    rows: u64,
    time_ms: u64,
    schema_entries: Vec<SchemaEntry>,
    born: u64,
    /// Up to here the log has a folded state only.
    floor: u64,
}

/// An era in the course of being compared.
struct Course<'a> {
    era: &'a DeltaLayer,
    open: &'a LayerFile,
    /// What the era holds up to here the log has folded: it is passed over. 0 where it begins at or after the floor.
    folded: u64,
    commits: TreeCursor,
    requests: TreeCursor,
    /// A request of the era was found: none after it may have been forgotten.
    any_request: bool,
    producers: BTreeMap<String, ProducerEntry>,
    frames: u64,
    versions: u64,
    last_seq: u64,
    /// The commit being read, without its counts.
    commit: Option<(u64, u64, CommitEntry)>,
}

impl Deep {
    /// Before the first event.
    fn begin(shelf: &TableFiles, manifest: &Manifest, reach: ReadLimit) -> Deep {
        let whole = Manifest { deltas: Vec::new(), ..manifest.clone() };
        let past = LayerMap { table: manifest.table_id, ..LayerMap::default() };
        Deep {
            cursor: log_after(shelf, &whole, reach),
            ahead: None,
            past,
            rows_known: true,
            events: 0,
            rows: 0,
            time_ms: 0,
            schema_entries: Vec::new(),
            born: 0,
            floor: 0,
        }
    }

    /// Behind a folded state, which the files at the floor were compared with.
    fn begin_at_floor(
        &mut self,
        (shelf, manifest, reach): (&TableFiles, &Manifest, ReadLimit),
        Folded { floor, position, schema_entries }: Folded,
        (era, open, full): (&DeltaLayer, &LayerFile, &LayerFile),
    ) -> Result<()> {
        let behind = Manifest { deltas: vec![DeltaLayer { position, ..era.clone() }], ..manifest.clone() };
        self.cursor = log_after(shelf, &behind, reach);
        (self.events, self.rows, self.time_ms) = (floor.events, floor.rows, floor.time_ms);
        self.floor = floor.seq;
        self.past.floor = Some(floor);
        self.past.deltas.push(open.clone());
        self.past.images.push(full.clone());
        self.past.newest.schema_entries.clone_from(&schema_entries);
        self.born = born_at(&self.past, floor.seq)?.unwrap_or(0);
        self.schema_entries = schema_entries;
        Ok(())
    }

    /// The next frame up to a commit.
    fn next(&mut self, upto: u64) -> Result<Option<DecodedFrame>> {
        let entry = match self.ahead.take() {
            Some(entry) => entry,
            None => match self.cursor.next_frame()? {
                CursorItem::Frame(entry) => entry,
                CursorItem::End => return Ok(None),
                CursorItem::Invalid(error) => {
                    let (path, at) = (self.cursor.path(), self.cursor.position().offset);
                    return Err(Error::corrupt_by(path.display(), at, error));
                }
            },
        };
        if entry.seq > upto {
            self.ahead = Some(entry);
            return Ok(None);
        }
        Ok(Some(entry))
    }

    /// Compares an era. False where the log cannot be read on.
    fn era(&mut self, era: &DeltaLayer, open: &LayerFile, report: &mut ProblemList<'_>) -> Result<bool> {
        self.past.deltas.push(open.clone());
        let mut course = Course::begin(era, open, self.floor)?;
        let mut chunk = Chunk::default();
        loop {
            let entry = match self.next(era.seq) {
                Ok(entry) => entry,
                Err(error) => return report.failed(&self.cursor.path(), error).map(|()| false),
            };
            let begins = entry.as_ref().is_none_or(|entry| course.last_seq != entry.seq);
            if begins {
                course.end_commit((self.events, self.rows, self.rows_known), report)?;
                if chunk.is_full() || entry.is_none() {
                    let sound = course.versions(std::mem::take(&mut chunk), report)?;
                    self.lose_rows(sound, open, report);
                }
            }
            let Some(entry) = entry else { break };
            report.step()?;
            self.take(entry, &mut course, &mut chunk, report)?;
        }
        let sound = course.end(self, report)?;
        self.lose_rows(sound, open, report);
        self.past.newest.schema_entries.clone_from(&self.schema_entries);
        Ok(true)
    }

    /// Where versions differ, rows are not known any more.
    fn lose_rows(&mut self, sound: bool, open: &LayerFile, report: &mut ProblemList<'_>) {
        if !sound && self.rows_known {
            self.rows_known = false;
            let what = "its versions are not those of the log: rows, patched rows and indexes from here on were not compared";
            report.problem(open.file.path(), 0, what);
        }
    }

    /// Takes in a frame.
    fn take(
        &mut self,
        entry: DecodedFrame,
        course: &mut Course<'_>,
        chunk: &mut Chunk,
        report: &mut ProblemList<'_>,
    ) -> Result<()> {
        let DecodedFrame { seq, time_ms, event, at } = entry;
        self.time_ms = time_ms;
        let index = course.frame(seq, time_ms, &event, report)?;
        let Some((_, _, commit)) = &mut course.commit else { return Ok(()) };
        match (event.kind, &event.document, &event.key) {
            (EventType::Schema, Some(document), _) => {
                let action = SchemaEvent::from_document(document)?.action;
                let emptied = action != SchemaAction::Alter;
                let document = document.detached();
                let (actor, reason) = (commit.actor.clone(), commit.reason.clone());
                commit.changes.push(TableChange::Schema(document.clone(), emptied));
                if emptied {
                    (self.born, self.rows) = (seq, 0);
                }
                self.events += 1;
                self.schema_entries.push(SchemaEntry { seq, time_ms, actor, reason, document });
            }
            (EventType::Insert | EventType::Patch | EventType::SoftDelete, _, Some(key)) => {
                commit.changes.push(TableChange::Row(sort_key(key).into()));
                self.events += 1;
                let said = (commit.actor.as_str(), commit.reason.as_str());
                let step =
                    Step { spot: EventId { seq, index }, time_ms, event: &event, born: self.born, said };
                let taken = chunk.take(&step, Some(&self.past).filter(|_| self.rows_known));
                match taken {
                    Ok(Some(turn)) => {
                        self.rows = (self.rows + u64::from(turn.is)).saturating_sub(u64::from(turn.was));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        let path = self.cursor.path();
                        if error.reason() != Reason::Corrupt || error.file_error().is_some() {
                            return Err(error);
                        }
                        report.problem(&path, at.offset, format!("commit {seq}: {}", error.message()));
                        self.lose_rows(false, course.open, report);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Course<'a> {
    fn begin(era: &'a DeltaLayer, open: &'a LayerFile, floor: u64) -> Result<Course<'a>> {
        let folded = if era.base < floor { floor } else { 0 };
        let mut commits = open.file.cursor(tree::COMMITS);
        commits.seek_by(|key| read_commit_key(key).is_some_and(|(_, seq)| seq <= folded))?;
        let mut requests = open.file.cursor(tree::REQUESTS);
        requests.seek(&(folded + 1).to_be_bytes())?;
        Ok(Course {
            era,
            open,
            folded,
            commits,
            requests,
            any_request: false,
            producers: BTreeMap::new(),
            frames: 0,
            versions: 0,
            last_seq: 0,
            commit: None,
        })
    }

    fn problem(&self, report: &mut ProblemList<'_>, message: impl Into<String>) {
        report.problem(self.open.file.path(), 0, message);
    }

    /// A frame, and what its commit's first frame tells; hands back its event's position in the commit.
    fn frame(
        &mut self,
        seq: u64,
        time_ms: u64,
        event: &crate::format::event::Event,
        report: &mut ProblemList<'_>,
    ) -> Result<u32> {
        self.frames += 1;
        self.last_seq = seq;
        let mut request = None;
        let (_, _, commit) = self.commit.get_or_insert_with(|| (seq, time_ms, CommitEntry::default()));
        if let Some(meta) = &event.meta {
            request.clone_from(&meta.request);
            if let Some(origin) = meta.origin.clone() {
                self.producers.insert(origin.producer.clone(), ProducerEntry { seq, origin });
            }
            (commit.actor, commit.reason) = (meta.actor.clone(), meta.reason.clone());
        }
        let index = u32::try_from(commit.changes.len()).unwrap_or(u32::MAX);
        if let Some(request) = request {
            self.request(seq, &RequestEntry { time_ms, request }, report)?;
        }
        Ok(index)
    }

    /// A request of the log. The oldest of an era may have been forgotten when it was merged.
    fn request(&mut self, seq: u64, expected: &RequestEntry, report: &mut ProblemList<'_>) -> Result<()> {
        loop {
            let found = self.requests.key().and_then(|key| key.try_into().ok()).map(u64::from_be_bytes);
            match found {
                Some(found) if found < seq => {
                    self.problem(report, format!("a request of commit {found}, which had none"));
                    self.requests.next()?;
                }
                Some(found) if found == seq => {
                    self.any_request = true;
                    let entry = RequestEntry::decode(&self.requests.value().unwrap_or_default())?;
                    if entry != *expected {
                        self.problem(
                            report,
                            format!("the request of commit {seq} is {entry:?}, and the log has {expected:?}"),
                        );
                    }
                    return self.requests.next();
                }
                _ => {
                    if self.any_request {
                        self.problem(report, format!("the request of commit {seq} is missing"));
                    }
                    return Ok(());
                }
            }
        }
    }

    /// The commit that was read is whole: compares it.
    fn end_commit(
        &mut self,
        (events, rows, known): (u64, u64, bool),
        report: &mut ProblemList<'_>,
    ) -> Result<()> {
        let Some((seq, time_ms, mut expected)) = self.commit.take() else { return Ok(()) };
        (expected.events, expected.rows) = (events, rows);
        loop {
            let found = self.commits.key().and_then(read_commit_key);
            let value = self.commits.value();
            match (found, value) {
                (Some(found), Some(value)) if commit_key(found.0, found.1) <= commit_key(time_ms, seq) => {
                    self.commits.next()?;
                    if found != (time_ms, seq) {
                        self.problem(
                            report,
                            format!("commit {} at {}, of which the log has nothing", found.1, found.0),
                        );
                        continue;
                    }
                    let entry = CommitEntry::decode(&value)?;
                    if !known {
                        expected.rows = entry.rows;
                    }
                    if entry != expected {
                        self.problem(report, differs(seq, &entry, &expected));
                    }
                    return Ok(());
                }
                _ => {
                    self.problem(report, format!("commit {seq} at {time_ms} is missing"));
                    return Ok(());
                }
            }
        }
    }

    /// Compares the versions of a stretch. False where any differs.
    fn versions(&mut self, mut chunk: Chunk, report: &mut ProblemList<'_>) -> Result<bool> {
        chunk.versions.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        self.versions += chunk.versions.len() as u64;
        let mut cursor = self.open.file.cursor(tree::VERSIONS);
        let mut sound = true;
        for expected in &chunk.versions {
            report.step()?;
            cursor.seek(&expected.key)?;
            let found = cursor.value().filter(|_| cursor.key() == Some(&expected.key));
            let Some(found) = found else {
                sound = false;
                self.problem(report, format!("{} is missing", version(&expected.key)));
                continue;
            };
            let found = VersionEntry::decode(&found)?;
            if let Some(what) = version_differs(&found, &expected.entry) {
                sound = false;
                self.problem(report, format!("{}: {what}", version(&expected.key)));
            }
        }
        Ok(sound)
    }

    /// All of the era's log has been read. False where versions differ.
    fn end(&mut self, deep: &Deep, report: &mut ProblemList<'_>) -> Result<bool> {
        while let Some((time_ms, seq)) = self.commits.key().and_then(read_commit_key) {
            self.problem(report, format!("commit {seq} at {time_ms}, of which the log has nothing"));
            self.commits.next()?;
        }
        while let Some(seq) = self.requests.key().and_then(|key| key.try_into().ok()).map(u64::from_be_bytes)
        {
            self.problem(report, format!("a request of commit {seq}, which had none"));
            self.requests.next()?;
        }
        self.compare_producers(report)?;
        // What was folded is counted with the rest.
        let counted = self.frames == self.era.events || (self.folded > 0 && self.frames < self.era.events);
        if !counted || self.last_seq != self.era.seq {
            let what = format!(
                "meta.json says {} events up to commit {}, and the log has {} up to {}",
                self.era.events, self.era.seq, self.frames, self.last_seq
            );
            self.problem(report, what);
        }
        let found = properties(&self.open.file)?;
        let rows = if deep.rows_known { deep.rows } else { found.rows };
        let schema_entries = deep.schema_entries.clone();
        let expected = DeltaProperties { events: deep.events, rows, time_ms: deep.time_ms, schema_entries };
        if found != expected {
            self.problem(report, format!("the table at its end is {found:?}, and the log has {expected:?}"));
        }
        let count = self.count_versions(report)?;
        if count > self.versions {
            self.problem(report, format!("{count} versions, and the log has {}", self.versions));
            self.name_extra(report)?;
        }
        Ok(count <= self.versions)
    }

    /// Versions that the log must have.
    fn count_versions(&self, report: &mut ProblemList<'_>) -> Result<u64> {
        if self.folded == 0 {
            return Ok(self.open.file.entries(tree::VERSIONS));
        }
        let mut cursor = self.open.file.cursor(tree::VERSIONS);
        cursor.first()?;
        let mut count = 0;
        while let Some(key) = cursor.key() {
            report.step()?;
            count += u64::from(read_version(key).is_some_and(|(_, seq, _)| seq > self.folded));
            cursor.next()?;
        }
        Ok(count)
    }

    /// Names versions that no commit of the era has made.
    fn name_extra(&self, report: &mut ProblemList<'_>) -> Result<()> {
        let mut cursor = self.open.file.cursor(tree::VERSIONS);
        let mut commits = self.open.file.cursor(tree::COMMITS);
        cursor.first()?;
        while let Some(key) = cursor.key() {
            report.step()?;
            if let Some((row, seq, index)) = read_version(key) {
                commits.seek_by(|key| read_commit_key(key).is_some_and(|(_, found)| found < seq))?;
                let same = commits.key().and_then(read_commit_key).is_some_and(|(_, found)| found == seq);
                let changes = match commits.value().filter(|_| same) {
                    Some(value) => CommitEntry::decode(&value)?.changes,
                    None => Vec::new(),
                };
                let made = usize::try_from(index).ok().and_then(|index| changes.get(index));
                if !matches!(made, Some(TableChange::Row(made)) if *made == row) {
                    self.problem(report, format!("{} is not in the log", version(key)));
                }
            }
            cursor.next()?;
        }
        Ok(())
    }

    fn compare_producers(&self, report: &mut ProblemList<'_>) -> Result<()> {
        let mut expected = self.producers.clone();
        let mut cursor = self.open.file.cursor(tree::PRODUCERS);
        cursor.first()?;
        while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
            let found = ProducerEntry::decode(key, &value)?;
            let logged = expected.remove(&found.origin.producer);
            if logged.as_ref() != Some(&found) && (logged.is_some() || found.seq > self.folded) {
                self.problem(report, format!("of a producer {found:?}, and the log has {logged:?}"));
            }
            cursor.next()?;
        }
        for missing in expected.values() {
            self.problem(report, format!("of a producer nothing, and the log has {missing:?}"));
        }
        Ok(())
    }
}

pub(super) fn properties(file: &Arc<SstFile>) -> Result<DeltaProperties> {
    DeltaProperties::decode(&Bytes::copy_from_slice(file.properties()))
}

fn differs(seq: u64, found: &CommitEntry, expected: &CommitEntry) -> String {
    let of = |entry: &CommitEntry| {
        let CommitEntry { events, rows, actor, reason, changes } = entry;
        format!("{events} events, {rows} rows, by {actor:?}, why {reason:?}, {} changes", changes.len())
    };
    let (has, log) = (of(found), of(expected));
    let other = if has == log { ", other ones" } else { "" };
    format!("commit {seq}: {has}; the log has {log}{other}")
}

/// A version for people: its row's sort key is mostly readable.
fn version(key: &[u8]) -> String {
    match read_version(key) {
        Some((row, seq, index)) => {
            format!("version {seq}.{index} of row \"{}\"", row.escape_ascii())
        }
        None => "a version".to_owned(),
    }
}

fn version_differs(found: &VersionEntry, expected: &VersionEntry) -> Option<String> {
    let kind = (found.kind != expected.kind)
        .then(|| format!("it is of kind {:?}, and the log has {:?}", found.kind, expected.kind));
    let time = (found.time_ms != expected.time_ms)
        .then(|| format!("it is of {}, and the log has {}", found.time_ms, expected.time_ms));
    let who = ((&found.actor, &found.reason) != (&expected.actor, &expected.reason)).then(|| {
        let said = |entry: &VersionEntry| format!("by {:?}, why {:?}", entry.actor, entry.reason);
        format!("it is {}, and the log has {}", said(found), said(expected))
    });
    let payload =
        (found.payload != expected.payload).then(|| "its content is not that of the log".to_owned());
    // Not every patch keeps the row after it; where the rows are not known there is nothing to compare it with.
    let image = (found.image.is_some() && expected.image.is_some() && found.image != expected.image)
        .then(|| "the row after the patch is not what the log makes of it".to_owned());
    kind.or(time).or(who).or(payload).or(image)
}
