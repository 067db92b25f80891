//! Opening a log for writing. There is one way, and it always recovers: look at everything, decide, and only then repair.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Reason, Result};
use crate::format::event::{self, EventType};
use crate::format::frame::{self, FrameAddress, FrameError};
use crate::format::head::{FORMAT_VERSION, Header, TableEntry};
use crate::format::manifest::{self, Database, Manifest};
use crate::limits;
use crate::storage::fence::Fence;
use crate::storage::fs::{self, FileSystem};
use crate::storage::head::{self, Head, HeadFile};
use crate::storage::layout::{self, DataDir};
use crate::storage::lock::Lock;
use crate::storage::wal::appender::{Log, LogOptions, TableLog};
use crate::storage::wal::background::Background;
use crate::storage::wal::commits::{CommitReader, LogCommit, LogSource};
use crate::storage::wal::compaction_base::BaseReader;
use crate::storage::wal::cursor::{Cursor, CursorPosition, Span};
use crate::storage::wal::segment::ActiveSegment;

mod leftovers;

/// How often a database that another may still write to is looked at before what is wrong with it counts.
const LOOKS: u32 = 5;
/// How long between two such looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// What a database is opened for: told what there is.
pub trait Replay {
    /// A table, as its manifest has it: what its snapshots hold is not handed out again. Every table comes before any
    /// commit.
    fn table(&mut self, manifest: &Manifest) -> Result<()> {
        let _ = manifest;
        Ok(())
    }

    /// A commit after the snapshots, in order; of one that some tables have in a snapshot, the rest.
    fn commit(&mut self, commit: LogCommit) -> Result<()>;
}

impl<F: FnMut(LogCommit) -> Result<()>> Replay for F {
    fn commit(&mut self, commit: LogCommit) -> Result<()> {
        self(commit)
    }
}

/// Opens the database in `dir` for writing, and makes one where there is none. Every commit that is kept, and that no
/// snapshot holds, is handed to `replay`, in order.
///
/// Fails with DATABASE_LOCKED while another writer holds it, and with CORRUPT, having changed nothing but LOCK, where
/// commits that were acknowledged are damaged or missing (I7).
pub fn open(
    disk: Arc<dyn FileSystem>,
    dir: &DataDir,
    options: LogOptions,
    replay: &mut dyn Replay,
) -> Result<Log> {
    let failed = |e: io::Error| Error::io(format_args!("cannot create {}", dir.root().display()), &e);
    disk.create_dir(dir.root()).map_err(failed)?;
    let lock = Lock::acquire(&*disk, dir)?;
    let (database, head) = match identify(&*disk, dir)? {
        Some(found) => found,
        None => initialise(&*disk, dir)?,
    };
    let fenced = options.fencing.is_on(&*disk, dir)?;
    // Where the lock may have lapsed, the last writer may be alive, and write on until it finds that it is one no more. What
    // it closed, it has done with.
    let follows = if fenced && !head.header.closed { Follows::Living } else { Follows::Ended };
    let mut survey = match follows {
        Follows::Ended => Survey::of(&disk, dir, &head, replay)?,
        Follows::Living => Survey::of_living(&disk, dir, &head)?,
    };
    survey.settle_names(&*disk, dir)?;
    let found = head;
    let head = HeadFile::take_over(&*disk, dir, &found)?;
    let fence = Fence::new(&disk, dir, head.head().header.term, fenced);
    let disk = fence.around(disk);
    leftovers::remove_unfinished(&*disk, dir)?;
    if follows == Follows::Living {
        // What it has acknowledged up to the change of HEAD is on disk by now, and its manifests change no more.
        survey =
            Survey::of(&disk, dir, &found, replay).map_err(|error| fence.check().err().unwrap_or(error))?;
        survey.settle_names(&*disk, dir)?;
    }
    let background = if options.background {
        let failed = |e: io::Error| Error::io("cannot start the log's threads", &e);
        Background::start(Arc::clone(head.sync())).map_err(failed)?
    } else {
        Background::inline()
    };
    let (dir, tables) = (dir.clone(), HashMap::new());
    let log = Log { disk, fence, dir, options, lock, database, head, tables, background };
    survey.repair(log, &found, follows)
}

/// Whom a writer follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follows {
    /// One that has ended.
    Ended,
    /// One that may still write to the files it has open.
    Living,
}

/// The last commit that is there and whole, with its time, as the segments alone tell: what recovery would find without HEAD.
/// An error is what it would refuse for. Changes nothing.
pub fn last_whole(disk: &Arc<dyn FileSystem>, dir: &DataDir, head: &Head) -> Result<(u64, u64)> {
    let survey = Survey::of(disk, dir, head, &mut |_| Ok(()))?;
    Ok((survey.whole(), survey.last_ms))
}

/// What names the database, and its HEAD; `None` for an empty directory.
fn identify(disk: &dyn FileSystem, dir: &DataDir) -> Result<Option<(Database, Head)>> {
    let database = layout::read_database(disk, dir)?;
    let head = head::read_tolerant(disk, dir)?;
    let tables = layout::table_names(disk, dir)?;
    match (database, head) {
        (Some(database), Some(head)) if *database.id.as_bytes() == head.header.database_id => {
            Ok(Some((database, head)))
        }
        (Some(_), Some(_)) => Err(Error::corrupt(dir.head().display(), 0, "it belongs to another database")),
        (Some(_), None) => Err(Error::corrupt(dir.head().display(), 0, "it is missing")),
        (None, _) if tables.is_empty() => Ok(None),
        (None, _) => Err(Error::corrupt(dir.database().display(), 0, "it is missing, and there are tables")),
    }
}

/// Makes an empty database. `database.json` comes last: without it, and without tables, this starts over.
fn initialise(disk: &dyn FileSystem, dir: &DataDir) -> Result<(Database, Head)> {
    let failed = |e: io::Error| Error::io(format_args!("cannot initialise {}", dir.root().display()), &e);
    disk.create_dir(&dir.tables()).map_err(failed)?;
    if let Some(above) = dir.root().parent().filter(|above| !above.as_os_str().is_empty()) {
        disk.sync_dir(above).map_err(failed)?;
    }
    disk.sync_dir(dir.root()).map_err(failed)?;
    let id = uuid::Uuid::new_v4();
    let (_, epoch) = uuid::Uuid::new_v4().as_u64_pair();
    let database = Database { id, epoch: epoch.max(1), format: FORMAT_VERSION };
    let header = Header {
        database_id: *id.as_bytes(),
        epoch: database.epoch,
        term: 0,
        last_seq: 0,
        last_ms: 0,
        generation: 0,
        table_entry_count: 0,
        closed: true,
    };
    let head = Head { header, slots: Vec::new() };
    HeadFile::replace(disk, dir, &head)?;
    fs::replace(disk, &dir.database(), &manifest::encode(&database)?)?;
    tracing::info!(id = %database.id, dir = %dir.root().display(), "made an empty database");
    Ok((database, head))
}

/// Everything found on disk, before anything is changed.
struct Survey {
    merge: CommitReader,
    tables: HashMap<u64, Found>,
    /// Directories of tables whose creation never became durable: no manifest.
    leftovers: Vec<String>,
    /// The greatest commit that something on disk proves to have been published.
    published: u64,
    /// The greatest commit that is known to be whole, with all before it, because a snapshot rests on it; and its time.
    settled: u64,
    settled_ms: u64,
    last_ms: u64,
}

/// A table as found.
struct Found {
    manifest: Manifest,
    /// Numbered segments that the manifest does not name, and that hold no frame that counts.
    unlisted: Vec<u64>,
    /// The active segment's file length.
    active_len: u64,
}

impl Found {
    /// Where a segment stands among those listed.
    fn place(&self, number: u64) -> Option<usize> {
        self.manifest.segments.iter().position(|segment| segment.number == number)
    }
}

impl Survey {
    /// Looks at everything, and refuses where something that was published is not there.
    fn of(disk: &Arc<dyn FileSystem>, dir: &DataDir, head: &Head, replay: &mut dyn Replay) -> Result<Survey> {
        let mut survey = Survey::take(disk, dir, head)?;
        survey.replay(replay)?;
        survey.judge(head)?;
        Ok(survey)
    }

    /// As [`Survey::of`], while the last writer may still change what there is: damage stays, and what is seen in the middle
    /// of a change does not.
    fn of_living(disk: &Arc<dyn FileSystem>, dir: &DataDir, head: &Head) -> Result<Survey> {
        let mut looks = 0;
        loop {
            let error = match Survey::of(disk, dir, head, &mut |_| Ok(())) {
                Ok(survey) => return Ok(survey),
                Err(error) => error,
            };
            // Where another has taken over already, that is what to tell.
            Fence::new(disk, dir, head.header.term, true).check()?;
            looks += 1;
            if looks == LOOKS {
                return Err(error);
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }

    fn take(disk: &Arc<dyn FileSystem>, dir: &DataDir, head: &Head) -> Result<Survey> {
        let mut survey = Survey {
            merge: CommitReader::new(0),
            tables: HashMap::new(),
            leftovers: Vec::new(),
            published: head.last_seq(),
            settled: 0,
            settled_ms: 0,
            last_ms: 0,
        };
        for name in layout::table_names(&**disk, dir)? {
            match layout::read_manifest(&**disk, dir, &name)? {
                Some(manifest) => survey.add(disk, dir, manifest)?,
                None => {
                    if let Some(number) = numbered_segments(&**disk, dir, &name)?.into_iter().find(|n| *n > 1)
                    {
                        let what = "its table's meta.json is missing";
                        return Err(Error::corrupt(dir.segment(&name, number).display(), 0, what));
                    }
                    survey.leftovers.push(name);
                }
            }
        }
        Ok(survey)
    }

    fn add(&mut self, disk: &Arc<dyn FileSystem>, dir: &DataDir, manifest: Manifest) -> Result<()> {
        let (name, id) = (&manifest.table, manifest.table_id);
        let present = numbered_segments(&**disk, dir, name)?;
        let mut cursor = Cursor::new(Arc::clone(disk), dir, name, id);
        let newest = manifest.deltas.last();
        if let Some(era) = newest {
            cursor = cursor.starting_at(CursorPosition::at(&era.position));
        }
        let mut active_len = 0;
        // Segments before the newest snapshot's place in the log are not read again.
        let mut within = newest.is_none();
        for segment in &manifest.segments {
            let path = dir.segment(name, segment.number);
            if !present.contains(&segment.number) {
                return Err(Error::corrupt(path.display(), 0, "meta.json lists it, and it is missing"));
            }
            let end = match segment.sealed {
                Some(seal) => seal.bytes,
                None => {
                    let len = disk.open_fresh(&path).and_then(|file| fs::end_of(&*file));
                    active_len =
                        len.map_err(|e| Error::io(format_args!("cannot open {}", path.display()), &e))?;
                    active_len
                }
            };
            within |= newest.is_some_and(|era| era.position.segment == segment.number);
            if within {
                cursor.extend(Span { segment: segment.number, end, seal: segment.sealed });
            }
        }
        if !within {
            let what = "its newest snapshot goes on in a segment that it does not list";
            return Err(Error::corrupt(dir.manifest(name).display(), 0, what));
        }
        let listed = |number: &u64| manifest.segments.iter().any(|segment| segment.number == *number);
        let unlisted: Vec<u64> = present.into_iter().filter(|number| !listed(number)).collect();
        let superseded = superseded(&**disk, dir, &manifest)?;
        for number in unlisted.iter().filter(|number| !superseded.contains(number)) {
            let path = dir.segment(name, *number);
            let bytes = read_from(&**disk, &path, 0, frame::PREFIX as u64 + limits::FRAME_BYTES as u64)?;
            let first = frame::parse(&bytes, FrameAddress { table: id, segment: *number, offset: 0 });
            // FLOOR begins what a compaction wrote that then never came to be.
            if first.is_ok_and(|first| first.kind != EventType::Floor) {
                return Err(Error::corrupt(
                    path.display(),
                    0,
                    "it holds frames, and meta.json does not list it",
                ));
            }
        }
        self.published = self.published.max(manifest.published);
        if newest.is_some() && manifest.published > self.settled {
            (self.settled, self.settled_ms) = (manifest.published, manifest.published_ms);
        }
        self.merge.add(id, cursor, newest.map_or(0, |era| era.seq));
        if let Some(last) = manifest.segments.last() {
            // Any span wakes the merge; the cursor knows them all already.
            self.merge.extend(id, Span { segment: last.number, end: 0, seal: None });
        }
        self.tables.insert(id, Found { manifest, unlisted, active_len });
        Ok(())
    }

    /// Reads every commit that is there and whole.
    fn replay(&mut self, replay: &mut dyn Replay) -> Result<()> {
        // What a snapshot holds was published before, and so was all before it.
        self.merge.settle(self.settled);
        let mut tables: Vec<&Manifest> = self.tables.values().map(|table| &table.manifest).collect();
        tables.sort_unstable_by_key(|manifest| manifest.table_id);
        tables.into_iter().try_for_each(|manifest| replay.table(manifest))?;
        while let Some(commit) = self.merge.next_commit()? {
            if commit.time_ms < self.last_ms {
                let what = format!("commit {} is older than the one before it", commit.seq);
                return Err(Error::new(Reason::Corrupt, what));
            }
            self.last_ms = commit.time_ms;
            replay.commit(commit)?;
        }
        self.last_ms = self.last_ms.max(self.settled_ms);
        self.merge.drain()?;
        self.published = self.published.max(self.merge.published());
        Ok(())
    }

    /// The last commit that is there and whole, with all before it.
    fn whole(&self) -> u64 {
        self.merge.next_seq() - 1
    }

    /// I7: refuses where anything that was published is not there.
    fn judge(&mut self, head: &Head) -> Result<()> {
        for source in self.merge.sources().values() {
            let (cursor, mark) = (source.cursor(), source.cursor().mark());
            if let Some(error) = source.invalid()
                && cursor.in_sealed()
            {
                return Err(Error::corrupt(cursor.path().display(), mark.offset, error));
            }
        }
        for slot in head.slots.iter().filter(|slot| slot.table != 0) {
            let Some(source) = self.merge.sources().get(&slot.table) else {
                let what =
                    format!("it names table {}, and no directory under tables/ is that table's", slot.table);
                return Err(Error::corrupt("HEAD", 0, what));
            };
            let (cursor, mark) = (source.cursor(), source.cursor().mark());
            let place = |number| self.tables.get(&slot.table).and_then(|table| table.place(number));
            if (place(mark.segment), mark.offset) < (place(slot.segment), slot.bytes) {
                let what = match source.invalid() {
                    Some(error) => error.to_string(),
                    None => "the file ends".to_owned(),
                };
                let what = format!(
                    "{what}; HEAD says that segment {} is durable to byte {}",
                    slot.segment, slot.bytes
                );
                return Err(Error::corrupt(cursor.path().display(), mark.offset, what));
            }
        }
        self.look_past_damage()?;
        if self.whole() < self.published {
            return Err(self.lost_commits());
        }
        Ok(())
    }

    /// Frames past an invalid one prove nothing about themselves, but what they say was published, was.
    fn look_past_damage(&mut self) -> Result<()> {
        for (id, source) in self.merge.sources_mut() {
            if source.invalid().is_some() {
                let tail = source.rest()?;
                let told = published_in(&tail, *id, source.cursor().mark());
                self.published = self.published.max(told);
            }
        }
        Ok(())
    }

    fn lost_commits(&self) -> Error {
        let missing = self.whole() + 1;
        let what = |detail: String| format!("commit {missing} was published, and is not whole: {detail}");
        let sources = self.merge.sources().values();
        let suspect = sources.max_by_key(|source| (source.invalid().is_some(), source.mark().offset));
        match suspect {
            Some(source) => {
                let detail =
                    source.invalid().map_or("the log ends".to_owned(), |error: FrameError| error.to_string());
                Error::corrupt(source.cursor().path().display(), source.cursor().mark().offset, what(detail))
            }
            None => Error::corrupt("HEAD", 0, what("there is no table".to_owned())),
        }
    }

    /// Makes every name that was found durable. A writer killed between a rename and its sync leaves names that a power
    /// cut could still take back, and HEAD is about to rest on them.
    fn settle_names(&self, disk: &dyn FileSystem, dir: &DataDir) -> Result<()> {
        let settle = |path: &Path| {
            let failed = |e: io::Error| Error::io(format_args!("cannot sync {}", path.display()), &e);
            disk.sync_dir(path).map_err(failed)
        };
        settle(dir.root())?;
        settle(&dir.tables())?;
        for table in self.tables.values() {
            settle(&dir.table(&table.manifest.table))?;
            settle(&dir.segments(&table.manifest.table))?;
        }
        Ok(())
    }

    /// Makes the log fit to go on: cuts what was never acknowledged, and publishes.
    fn repair(mut self, mut log: Log, found: &Head, follows: Follows) -> Result<Log> {
        let (last_seq, last_ms) = (self.whole(), self.last_ms);
        if !found.header.closed {
            tracing::info!("the last writer did not close the database");
        }
        let old_slots = &found.slots;
        for name in std::mem::take(&mut self.leftovers) {
            leftovers::remove_table(&log, &name)?;
        }
        let mut found: Vec<(u64, Found)> = self.tables.drain().collect();
        // Tables without a slot get theirs in the order of their creation: first those of no table, then new ones.
        found.sort_unstable_by_key(|(id, _)| *id);
        let taken = |index: &usize| old_slots.get(*index).is_some_and(|slot| slot.table != 0);
        let mut free = (0..).filter(|index| !taken(index));
        for (id, table) in found {
            let Some(source) = self.merge.sources().get(&id) else { continue };
            if id > last_seq {
                leftovers::remove_table(&log, &table.manifest.table)?;
                continue;
            }
            let own = old_slots.iter().position(|slot| slot.table == id);
            let slot = own.or_else(|| free.next()).unwrap_or(usize::MAX);
            adopt(&mut log, (id, table), source, (slot, last_seq), follows)?;
        }
        log.publish_all(last_seq, last_ms)?;
        tracing::info!(last_seq, term = log.term(), tables = log.tables.len(), "opened for writing");
        Ok(log)
    }
}

/// Takes a table into the log: cuts what lies above the last whole commit, makes sure of what is kept, and goes on in
/// a new segment where anything was in doubt.
fn adopt(
    log: &mut Log,
    (id, found): (u64, Found),
    source: &LogSource,
    (slot_index, last_seq): (usize, u64),
    follows: Follows,
) -> Result<()> {
    let Found { manifest, unlisted, active_len } = found;
    // What a writer that still lives is about to remove must not be the name of a new one.
    let reserved = unlisted.iter().copied().fold(0, u64::max);
    let name = manifest.table.clone();
    for number in unlisted {
        let path = log.dir.segment(&name, number);
        log.disk
            .remove(&path)
            .map_err(|e| Error::io(format_args!("cannot remove {}", path.display()), &e))?;
    }
    leftovers::remove_unlisted_snapshots(log, &manifest)?;
    let CursorPosition { segment: number, offset: end, digest } = source.mark().clone();
    let slot = log.head.head().slots.get(slot_index).copied().unwrap_or_default();
    let synced = if slot.segment == number { slot.bytes } else { 0 };
    let path = log.dir.segment(&name, number);
    let tail = read_from(&*log.disk, &path, end, active_len.saturating_sub(end))?;
    let torn = tail.iter().rposition(|byte| *byte != 0).map(|last| last + 1);
    if let Some(torn) = torn {
        let kept_aside = log.dir.torn(&name, number, log.term());
        let temporary = kept_aside.with_extension(format!("{}.tmp", log.term()));
        fs::replace_by(&*log.disk, &temporary, &kept_aside, tail.get(..torn).unwrap_or_default())?;
        let file = kept_aside.display().to_string();
        tracing::warn!(table = name, segment = number, offset = end, bytes = torn, file, "cut a torn tail");
    }
    let failed = |e: io::Error| Error::io(format_args!("cannot repair {}", path.display()), &e);
    if synced < end {
        // After a failed sync the kernel may hold clean pages that never reached the disk: only writing them again
        // and syncing proves them.
        let kept = read_from(&*log.disk, &path, synced, end - synced)?;
        let file = log.disk.open_write(&path).map_err(failed)?;
        file.write_at(&kept, synced).map_err(failed)?;
        file.sync().map_err(failed)?;
    }
    let in_doubt = torn.is_some() || synced < end;
    if active_len > end {
        let file = log.disk.open_write(&path).map_err(failed)?;
        file.truncate(end).map_err(failed)?;
        file.sync().map_err(failed)?;
    }
    let segment = match follows {
        // An empty one cannot be left for a new one; another file in its place can: the one that lives writes to an orphan.
        Follows::Living if end == 0 => log.new_segment(&name, number)?,
        _ => ActiveSegment::open(&*log.disk, &path, number, end, digest, log.options.segment_bytes)?,
    };
    let slot = TableEntry {
        table: id,
        manifest: manifest.version,
        segment: number,
        bytes: end,
        last_seq: source.last_seq(),
        floor: manifest.floor.map_or(0, |floor| floor.seq),
    };
    debug_assert!(slot.last_seq <= last_seq);
    log.tables.insert(id, TableLog { manifest, slot_index, slot, segment, reserved });
    if (in_doubt || follows == Follows::Living) && end > 0 { log.rotate(id) } else { Ok(()) }
}

/// The segments that the first one listed stands for, where a compaction made it: those still there may go.
fn superseded(disk: &dyn FileSystem, dir: &DataDir, manifest: &Manifest) -> Result<Vec<u64>> {
    let (Some(first), Some(_)) = (manifest.segments.first(), manifest.floor) else { return Ok(Vec::new()) };
    let Some(seal) = first.sealed else { return Ok(Vec::new()) };
    let table = (manifest.table.as_str(), manifest.table_id);
    let folded = BaseReader::open(disk, dir, table, first.number, seal.bytes)?;
    Ok(folded.map(|folded| folded.floor().superseded.clone()).unwrap_or_default())
}

/// The greatest "last published" seq in any valid frame of `tail`, which stands at `mark`, at whatever offset.
fn published_in(tail: &[u8], table: u64, mark: &CursorPosition) -> u64 {
    let mut published = 0;
    let mut at = 0;
    while let Some(rest) = tail.get(at..).filter(|rest| rest.len() > frame::PREFIX) {
        let place = FrameAddress { table, segment: mark.segment, offset: mark.offset + at as u64 };
        match frame::parse(rest, place) {
            Ok(frame) => {
                let payload = bytes::Bytes::copy_from_slice(frame.payload);
                let event = event::decode(frame.kind, &payload).ok();
                published = published.max(event.and_then(|event| event.published).unwrap_or(0));
                at += frame.len;
            }
            Err(_) => {
                // A frame's length is not zero: over the zeros written ahead, which are many.
                let next = rest.iter().skip(1).position(|byte| *byte != 0).unwrap_or(rest.len());
                at += (next + 1).saturating_sub(3).max(1);
            }
        }
    }
    published
}

/// The numbers of a table's segment files.
fn numbered_segments(disk: &dyn FileSystem, dir: &DataDir, table: &str) -> Result<Vec<u64>> {
    let path = dir.segments(table);
    match disk.list(&path) {
        Ok(names) => Ok(names.iter().filter_map(|name| layout::segment_number(name)).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(format_args!("cannot list {}", path.display()), &e)),
    }
}

/// At most `len` bytes of a file from an offset; fewer where it ends.
fn read_from(disk: &dyn FileSystem, path: &Path, offset: u64, len: u64) -> Result<Vec<u8>> {
    let steps = || {
        let file = disk.open_fresh(path)?;
        let len = len.min(fs::end_of(&*file)?.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = file.read_at(&mut bytes, offset)?;
        bytes.truncate(read);
        Ok(bytes)
    };
    steps().map_err(|e| Error::io(format_args!("cannot read {}", path.display()), &e))
}
