//! HEAD, open for writing: a writer takes it over with a new term, then publishes commits in it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::format::head::{FORMAT_VERSION, HeadIncarnation, TableEntry, cell_offset, incarnation_cell};
use crate::storage::fence;
use crate::storage::fs::{self, File, FileId, FileSystem};
use crate::storage::head::{self, Head};
use crate::storage::layout::{self, DataDir};
use crate::storage::wal::append_error::AppendError;

/// HEAD grows by this many bytes at least.
const ROOM_BYTES: u64 = 4 << 10;

/// HEAD, open for publishing. [`HeadFile::publish`] does not sync it: HEAD may lag the segments on disk, and never leads
/// them.
#[derive(Debug)]
pub(crate) struct HeadFile {
    file: Arc<dyn File>,
    head: Head,
    /// The length of the file. After the last entry, it can have room for more.
    len: u64,
    syncer: Arc<HeadSyncer>,
    id: Option<FileId>,
}

/// Syncs HEAD, from another thread.
#[derive(Debug)]
pub(crate) struct HeadSyncer {
    file: Arc<dyn File>,
    is_dirty: AtomicBool,
    has_failed: AtomicBool,
    /// Held during a sync, so that no caller returns while another caller's sync is still running.
    syncing: Mutex<()>,
}

impl HeadSyncer {
    fn new(file: &Arc<dyn File>) -> Arc<HeadSyncer> {
        let (is_dirty, has_failed) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(HeadSyncer { file: Arc::clone(file), is_dirty, has_failed, syncing: Mutex::new(()) })
    }

    /// Syncs HEAD if anything was published since the last sync. After a failure, every later call fails.
    pub(crate) fn sync_if_dirty(&self) -> io::Result<()> {
        let _syncing = self.syncing.lock();
        if self.has_failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier sync of HEAD failed"));
        }
        if !self.is_dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        self.file.sync().inspect_err(|_| self.has_failed.store(true, Ordering::Release))
    }
}

impl HeadFile {
    /// Writes HEAD atomically and durably.
    pub(crate) fn replace(fs: &dyn FileSystem, dir: &DataDir, head: &Head) -> Result<()> {
        fs::replace_via(fs, &dir.head_tmp(head.header.term), &dir.head(), &head.encode())
    }

    /// Starts a new term, durably: replaces HEAD by a copy of `found` that is not marked closed. A writer that still has
    /// the old HEAD open writes to a file without a name.
    ///
    /// If several writers try at once, because a lock has lapsed, one succeeds. A writer's temporary file is its claim:
    /// the name contains the term, the greatest term wins, and the winner removes lower claims.
    pub(crate) fn take_over(fs: &dyn FileSystem, dir: &DataDir, found: &Head) -> Result<HeadFile> {
        let path = dir.head();
        let failed = |e: io::Error| Error::io(format_args!("cannot write {}", path.display()), &e);
        let (term, file) = claim_term(fs, dir, found.header.term)?;
        let mut head = found.clone();
        head.header.term = term;
        head.header.generation = head.header.generation.wrapping_add(1);
        head.header.closed = false;
        head.header.format = FORMAT_VERSION;
        file.write_at(&head.encode(), 0).and_then(|()| file.sync()).map_err(failed)?;
        let id = fs.file_id(&dir.head_tmp(term)).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => fence::taken_over_error(dir, term, term + 1),
            _ => failed(e),
        })?;
        // Claims first, HEAD second: a claim that becomes HEAD in between is found in HEAD.
        let greatest = claimed_terms(fs, dir)?.into_iter().fold(term, u64::max);
        let now = head::read_header(fs, dir)?.map_or(0, |header| header.term);
        if greatest != term || now != found.header.term {
            return Err(fence::taken_over_error(dir, term, greatest.max(now)));
        }
        fs.rename(&dir.head_tmp(term), &path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => fence::taken_over_error(dir, term, term + 1),
            _ => failed(e),
        })?;
        fs.sync_dir(dir.root()).map_err(failed)?;
        let file: Arc<dyn File> = file.into();
        let syncer = HeadSyncer::new(&file);
        let len = cell_offset(head.header.table_entry_cell(head.entries.len() as u64));
        Ok(HeadFile { file, head, len, syncer, id })
    }

    /// Begins an incarnation, durably: from now on every read of HEAD shows it. One copy is valid at every moment.
    pub(crate) fn begin(&mut self, incarnation: HeadIncarnation) -> Result<()> {
        let failed = |e: io::Error| Error::io("cannot write HEAD", &e);
        for copy in [1, 0] {
            let offset = cell_offset(incarnation_cell(copy));
            self.file.write_at(&incarnation.encode(copy), offset).map_err(failed)?;
            self.file.sync().map_err(failed)?;
        }
        self.head.incarnation = incarnation;
        Ok(())
    }

    /// Makes room for `added` more entries, so that a full disk is found before anything is written that needs them.
    pub(crate) fn reserve(&mut self, added: usize) -> Result<(), AppendError> {
        let failed = |e: io::Error| Error::io("cannot extend HEAD", &e);
        let end = cell_offset(self.head.header.table_entry_cell((self.head.entries.len() + added) as u64));
        if end <= self.len {
            return Ok(());
        }
        let end = end.next_multiple_of(ROOM_BYTES);
        let zeros = vec![0; usize::try_from(end - self.len).unwrap_or_default()];
        self.file.write_at(&zeros, self.len).map_err(|e| AppendError::from_step(failed(e)))?;
        self.syncer.is_dirty.store(true, Ordering::Release);
        self.syncer.sync_if_dirty().map_err(|e| AppendError::Fatal(failed(e)))?;
        self.len = end;
        Ok(())
    }

    /// Returns what was last published.
    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// Returns the identity of the file.
    pub(crate) fn id(&self) -> Option<FileId> {
        self.id
    }

    /// Returns what syncs this HEAD.
    pub(crate) fn syncer(&self) -> &Arc<HeadSyncer> {
        &self.syncer
    }

    /// Returns the HEAD that [`HeadFile::publish`] would publish.
    pub(crate) fn next(&self, entries: &[(usize, TableEntry)], last_seq: u64, last_ms: u64) -> Head {
        let mut next = self.head.clone();
        for (index, entry) in entries {
            match next.entries.get_mut(*index) {
                Some(current) => *current = *entry,
                None => next.entries.push(*entry),
            }
        }
        (next.header.last_seq, next.header.last_ms) = (last_seq, last_ms);
        next.header.table_entry_count = u16::try_from(next.entries.len()).unwrap_or(u16::MAX);
        next
    }

    /// Publishes: writes the changed entries (new ones only at the end), then the older copy of the header.
    /// Any failure is final, because it is not known what readers see.
    pub(crate) fn publish(
        &mut self,
        entries: &[(usize, TableEntry)],
        last_seq: u64,
        last_ms: u64,
        closed: bool,
    ) -> Result<()> {
        let failed = |e: &io::Error| Error::io("cannot write HEAD", e);
        if self.syncer.has_failed.load(Ordering::Acquire) {
            return Err(failed(&io::Error::other("an earlier sync of HEAD failed")));
        }
        let published = self.head.entries.len();
        for (index, entry) in entries {
            let cell = entry.encode(*index as u64, self.head.header.format);
            let offset = cell_offset(self.head.header.table_entry_cell(*index as u64));
            self.file.write_at(&cell, offset).map_err(|e| failed(&e))?;
            self.len = self.len.max(offset + cell.len() as u64);
            match self.head.entries.get_mut(*index) {
                Some(current) => *current = *entry,
                None => self.head.entries.push(*entry),
            }
        }
        if self.head.entries.len() > published {
            // A durable header must not count an entry that a power cut can remove: HEAD would not be valid.
            self.file.sync().map_err(|e| failed(&e))?;
        }
        if closed {
            self.cut_room();
        }
        let mut header = self.head.header;
        header.last_seq = last_seq;
        header.last_ms = last_ms;
        header.closed = closed;
        header.table_entry_count = u16::try_from(self.head.entries.len()).unwrap_or(u16::MAX);
        header.generation = header.generation.wrapping_add(1);
        let copy = u64::from(header.generation % 2);
        self.file.write_at(&header.encode(copy), cell_offset(copy)).map_err(|e| failed(&e))?;
        self.head.header = header;
        self.syncer.is_dirty.store(true, Ordering::Release);
        Ok(())
    }

    /// Cuts off the room after the last entry. A failure changes nothing that counts.
    fn cut_room(&mut self) {
        let end = cell_offset(self.head.header.table_entry_cell(self.head.entries.len() as u64));
        if self.len > end {
            match self.file.truncate(end) {
                Ok(()) => self.len = end,
                Err(error) => tracing::debug!(%error, "left zeros at the end of HEAD"),
            }
        }
    }
}

/// Returns the terms that writers have claimed and not yet made the term of HEAD.
fn claimed_terms(fs: &dyn FileSystem, dir: &DataDir) -> Result<Vec<u64>> {
    let names = fs.list(dir.root());
    let names = names.map_err(|e| Error::io(format_args!("cannot list {}", dir.root().display()), &e))?;
    Ok(names.iter().filter_map(|name| layout::head_tmp_term(name)).collect())
}

/// Claims a term above `found` and all other claims, and removes the other claims. Returns the term and the open claim.
fn claim_term(fs: &dyn FileSystem, dir: &DataDir, found: u64) -> Result<(u64, Box<dyn File>)> {
    let failed = |e: io::Error| Error::io(format_args!("cannot write {}", dir.head().display()), &e);
    loop {
        let term = claimed_terms(fs, dir)?.into_iter().fold(found, u64::max) + 1;
        let file = match fs.create(&dir.head_tmp(term)) {
            Ok(file) => file,
            // Another writer claimed the term first.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(failed(e)),
        };
        for lower in claimed_terms(fs, dir)?.into_iter().filter(|claimed| *claimed < term) {
            fs::remove_if_exists(fs, &dir.head_tmp(lower)).map_err(failed)?;
        }
        return Ok((term, file));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// A file whose sync reports that it has started, then blocks until the test sends its outcome.
    #[derive(Debug)]
    struct BlockingFile {
        started: mpsc::Sender<()>,
        outcomes: Mutex<mpsc::Receiver<io::Result<()>>>,
    }

    impl File for BlockingFile {
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
            self.started.send(()).unwrap();
            self.outcomes.lock().recv().unwrap()
        }
    }

    /// Runs two syncs at once, of which the first has `outcome`, and returns the outcome of the second.
    fn second_of_two_syncs(outcome: io::Result<()>) -> io::Result<()> {
        let (started, starts) = mpsc::channel();
        let (send_outcome, outcomes) = mpsc::channel();
        let file: Arc<dyn File> = Arc::new(BlockingFile { started, outcomes: Mutex::new(outcomes) });
        let syncer = HeadSyncer::new(&file);
        syncer.is_dirty.store(true, Ordering::Release);
        std::thread::scope(|threads| {
            let first = threads.spawn(|| syncer.sync_if_dirty());
            starts.recv().unwrap();
            let (finished, is_finished) = mpsc::channel();
            let syncer = &syncer;
            threads.spawn(move || finished.send(syncer.sync_if_dirty()).unwrap());
            let early = is_finished.recv_timeout(Duration::from_millis(50));
            let failed = outcome.is_err();
            send_outcome.send(outcome).unwrap();
            assert_eq!(first.join().unwrap().is_err(), failed);
            assert!(early.is_err(), "the second sync did not wait for the first");
            is_finished.recv().unwrap()
        })
    }

    #[test]
    fn a_sync_returns_only_after_a_running_sync_has_finished() {
        assert!(second_of_two_syncs(Ok(())).is_ok());
        assert!(second_of_two_syncs(Err(io::Error::other("EIO"))).is_err());
    }
}
