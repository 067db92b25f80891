//! HEAD on disk: readers look at it, the writer publishes into it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::format::head::{self, CELL, Header, TableEntry};
use crate::storage::fence;
use crate::storage::fs::{self, File, FileSystem};
use crate::storage::layout::{self, DataDir};

/// How often a read is tried again where a cell was being written at that moment.
const READ_TRIES: u32 = 50;

/// HEAD as read at one moment. A slot may be newer than the header, never older.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The later valid copy of the header.
    pub header: Header,
    /// One slot per table.
    pub slots: Vec<TableEntry>,
}

impl Head {
    /// The newest commit that the header or any slot tells of.
    pub fn last_seq(&self) -> u64 {
        self.slots.iter().map(|slot| slot.last_seq).fold(self.header.last_seq, u64::max)
    }
}

/// Reads HEAD through a fresh open: it may have been replaced, and network file systems cache what is open.
/// `None` where there is no HEAD.
pub fn read(disk: &dyn FileSystem, dir: &DataDir) -> Result<Option<Head>> {
    read_cells_of(disk, dir, false)
}

/// As [`read`], for the one that holds the lock: a slot that is not valid is read as that of no table. The header alone
/// says what was published; slots can be found anew from the log.
pub fn read_tolerant(disk: &dyn FileSystem, dir: &DataDir) -> Result<Option<Head>> {
    read_cells_of(disk, dir, true)
}

/// Reads what HEAD's header says, through a fresh open. `None` where there is no HEAD.
pub fn read_header(disk: &dyn FileSystem, dir: &DataDir) -> Result<Option<Header>> {
    let header = |file: &dyn File| Ok(read_copies(file)?.ok_or(0));
    read_whole(disk, dir, header)
}

fn read_cells_of(disk: &dyn FileSystem, dir: &DataDir, tolerant: bool) -> Result<Option<Head>> {
    read_whole(disk, dir, |file| read_cells(file, tolerant))
}

/// Reads HEAD until `read` finds what it wants whole; it says at which offset it does not.
fn read_whole<T>(
    disk: &dyn FileSystem,
    dir: &DataDir,
    read: impl Fn(&dyn File) -> io::Result<std::result::Result<T, u64>>,
) -> Result<Option<T>> {
    let path = dir.head();
    for last_try in (0..READ_TRIES).map(|i| i + 1 == READ_TRIES) {
        let found = disk.open_fresh(&path).and_then(|file| read(&*file));
        match found {
            Ok(Ok(found)) => return Ok(Some(found)),
            // A cell may be half written at this moment; a damaged one stays damaged.
            Ok(Err(_)) if !last_try => std::thread::yield_now(),
            Ok(Err(offset)) => return Err(Error::corrupt(path.display(), offset, "no valid cell")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            // It was replaced between being opened and being read.
            Err(e) if fs::is_gone(&e) && !last_try => std::thread::yield_now(),
            Err(e) => return Err(Error::io(format_args!("cannot read {}", path.display()), &e)),
        }
    }
    Err(Error::corrupt(path.display(), 0, "no valid cell"))
}

fn read_copies(file: &dyn File) -> io::Result<Option<Header>> {
    let mut copies = [0; 2 * CELL];
    let read = file.read_at(&mut copies, 0)?;
    Ok(copies.get(..read).and_then(head::decode_header))
}

/// The header first, then the slots: slots are written before the header that counts them.
/// The inner error is the offset of the first cell that is not valid.
fn read_cells(file: &dyn File, tolerant: bool) -> io::Result<std::result::Result<Head, u64>> {
    let Some(header) = read_copies(file)? else { return Ok(Err(0)) };
    let mut cells = vec![0; usize::from(header.table_entry_count) * CELL];
    let read = file.read_at(&mut cells, head::cell_offset(head::table_entry_cell(0)))?;
    let found = head::decode_table_entries(cells.get(..read).unwrap_or_default(), header.table_entry_count);
    let mut slots = Vec::with_capacity(found.len());
    for (slot, i) in found.into_iter().zip(0..) {
        match slot {
            Some(slot) => slots.push(slot),
            None if tolerant => slots.push(TableEntry::default()),
            None => return Ok(Err(head::cell_offset(head::table_entry_cell(i)))),
        }
    }
    Ok(Ok(Head { header, slots }))
}

fn encode(head: &Head) -> Vec<u8> {
    let mut bytes = Vec::with_capacity((2 + head.slots.len()) * CELL);
    bytes.extend_from_slice(&head.header.encode(0));
    bytes.extend_from_slice(&head.header.encode(1));
    for (slot, i) in head.slots.iter().zip(0..) {
        bytes.extend_from_slice(&slot.encode(i));
    }
    bytes
}

/// The terms that writers have claimed, and that are not HEAD's yet.
fn claims(disk: &dyn FileSystem, dir: &DataDir) -> Result<Vec<u64>> {
    let names = disk.list(dir.root());
    let names = names.map_err(|e| Error::io(format_args!("cannot list {}", dir.root().display()), &e))?;
    Ok(names.iter().filter_map(|name| layout::head_tmp_term(name)).collect())
}

/// Claims a term over all others, and removes their claims.
fn claim(disk: &dyn FileSystem, dir: &DataDir, found: u64) -> Result<(u64, Box<dyn File>)> {
    let failed = |e: io::Error| Error::io(format_args!("cannot write {}", dir.head().display()), &e);
    loop {
        let term = claims(disk, dir)?.into_iter().fold(found, u64::max) + 1;
        let file = match disk.create(&dir.head_tmp(term)) {
            Ok(file) => file,
            // Another was quicker.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(failed(e)),
        };
        for lower in claims(disk, dir)?.into_iter().filter(|claimed| *claimed < term) {
            match disk.remove(&dir.head_tmp(lower)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
                _ => {}
            }
        }
        return Ok((term, file));
    }
}

/// HEAD, open for publishing. Not synced by [`HeadFile::publish`]: it lags the disk, and never leads it.
#[derive(Debug)]
pub struct HeadFile {
    file: Arc<dyn File>,
    head: Head,
    sync: Arc<HeadSync>,
}

/// Syncs HEAD from another thread.
#[derive(Debug)]
pub struct HeadSync {
    file: Arc<dyn File>,
    dirty: AtomicBool,
    failed: AtomicBool,
    /// Held by whoever syncs: nobody is told that HEAD is on disk while another is still at it.
    syncing: Mutex<()>,
}

impl HeadSync {
    /// Syncs HEAD if anything was published since the last time. A failure is remembered for ever.
    pub fn run(&self) -> io::Result<()> {
        let _syncing = self.syncing.lock();
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier sync of HEAD has failed"));
        }
        if !self.dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        self.file.sync().inspect_err(|_| self.failed.store(true, Ordering::Release))
    }
}

impl HeadFile {
    /// Puts a HEAD in place, durably.
    pub fn replace(disk: &dyn FileSystem, dir: &DataDir, head: &Head) -> Result<()> {
        fs::replace_by(disk, &dir.head_tmp(head.header.term), &dir.head(), &encode(head))
    }

    /// Begins a new term, durably: puts a copy of the HEAD that was found in its place, not closed. A writer that still has
    /// the old one open writes to an orphan.
    ///
    /// Of several that try at once, as where a lock has lapsed, one comes through. Its temporary file is its claim: the name
    /// tells the term, the greatest wins, and those before it are removed.
    pub fn take_over(disk: &dyn FileSystem, dir: &DataDir, found: &Head) -> Result<HeadFile> {
        let path = dir.head();
        let failed = |e: io::Error| Error::io(format_args!("cannot write {}", path.display()), &e);
        let (term, file) = claim(disk, dir, found.header.term)?;
        let mut head = found.clone();
        head.header.term = term;
        head.header.generation = head.header.generation.wrapping_add(1);
        head.header.closed = false;
        file.write_at(&encode(&head), 0).and_then(|()| file.sync()).map_err(failed)?;
        // In this order: a claim that has become HEAD meanwhile is seen there.
        let greatest = claims(disk, dir)?.into_iter().fold(term, u64::max);
        let now = read_header(disk, dir)?.map_or(0, |header| header.term);
        if greatest != term || now != found.header.term {
            return Err(fence::taken_over(dir, term, greatest.max(now)));
        }
        disk.rename(&dir.head_tmp(term), &path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => fence::taken_over(dir, term, term + 1),
            _ => failed(e),
        })?;
        disk.sync_dir(dir.root()).map_err(failed)?;
        let file: Arc<dyn File> = file.into();
        let sync = HeadSync {
            file: Arc::clone(&file),
            dirty: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            syncing: Mutex::new(()),
        };
        Ok(HeadFile { file, head, sync: Arc::new(sync) })
    }

    /// What was last published.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// What syncs this HEAD.
    pub fn sync(&self) -> &Arc<HeadSync> {
        &self.sync
    }

    /// Publishes: first the changed slots (one may be new, at the end), then the older header copy.
    /// Any failure is final: what readers see can no longer be known.
    pub fn publish(
        &mut self,
        slots: &[(usize, TableEntry)],
        last_seq: u64,
        last_ms: u64,
        closed: bool,
    ) -> Result<()> {
        let failed = |e: &io::Error| Error::io("cannot write HEAD", e);
        if self.sync.failed.load(Ordering::Acquire) {
            return Err(failed(&io::Error::other("an earlier sync of it has failed")));
        }
        let counted = self.head.slots.len();
        for (index, slot) in slots {
            let cell = slot.encode(*index as u64);
            let offset = head::cell_offset(head::table_entry_cell(*index as u64));
            self.file.write_at(&cell, offset).map_err(|e| failed(&e))?;
            match self.head.slots.get_mut(*index) {
                Some(current) => *current = *slot,
                None => self.head.slots.push(*slot),
            }
        }
        if self.head.slots.len() > counted {
            // A header must not count a slot that a power cut may take away: it would leave no valid HEAD.
            self.file.sync().map_err(|e| failed(&e))?;
        }
        let header = &mut self.head.header;
        header.last_seq = last_seq;
        header.last_ms = last_ms;
        header.closed = closed;
        header.table_entry_count = u16::try_from(self.head.slots.len()).unwrap_or(u16::MAX);
        header.generation = header.generation.wrapping_add(1);
        let copy = u64::from(header.generation % 2);
        self.file.write_at(&header.encode(copy), head::cell_offset(copy)).map_err(|e| failed(&e))?;
        self.sync.dirty.store(true, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// A file whose sync says when it begins, and ends, with the outcome, when told to.
    #[derive(Debug)]
    struct Slow {
        begun: mpsc::Sender<()>,
        outcomes: Mutex<mpsc::Receiver<io::Result<()>>>,
    }

    impl File for Slow {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            Ok(0)
        }
        fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            Ok(())
        }
        fn len(&self) -> io::Result<u64> {
            Ok(0)
        }
        fn truncate(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn sync(&self) -> io::Result<()> {
            self.begun.send(()).unwrap();
            self.outcomes.lock().recv().unwrap()
        }
    }

    /// Two syncs at once, of which the first has the outcome: what the second one says.
    fn second_of_two(outcome: io::Result<()>) -> io::Result<()> {
        let (begun, begins) = mpsc::channel();
        let (end, outcomes) = mpsc::channel();
        let sync = HeadSync {
            file: Arc::new(Slow { begun, outcomes: Mutex::new(outcomes) }),
            dirty: AtomicBool::new(true),
            failed: AtomicBool::new(false),
            syncing: Mutex::new(()),
        };
        std::thread::scope(|threads| {
            let first = threads.spawn(|| sync.run());
            begins.recv().unwrap();
            let (done, is_done) = mpsc::channel();
            let sync = &sync;
            threads.spawn(move || done.send(sync.run()).unwrap());
            let early = is_done.recv_timeout(Duration::from_millis(50));
            let failed = outcome.is_err();
            end.send(outcome).unwrap();
            assert_eq!(first.join().unwrap().is_err(), failed);
            assert!(early.is_err(), "it did not wait for the first");
            is_done.recv().unwrap()
        })
    }

    #[test]
    fn nobody_is_told_of_a_sync_that_is_not_over() {
        assert!(second_of_two(Ok(())).is_ok());
        assert!(second_of_two(Err(io::Error::other("EIO"))).is_err());
    }
}
