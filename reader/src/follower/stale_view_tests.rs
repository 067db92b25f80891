//! A follower on a network file system that shows old states: it may lag, but it never publishes a wrong state or reports
//! damage.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use driftdb_common::error::Reason;
use driftdb_common::storage::fs::sim::SimDisk;
use driftdb_common::storage::fs::{File, FileSystem};
use driftdb_common::storage::sst::BlockCache;
use driftdb_common::table::table_files::TableFiles;
use parking_lot::Mutex;

use crate::follower::Follower;
use crate::follower::test_log::{TestLog, create, dir, open};

/// The number of random sequences that the test runs.
const SEEDS: u64 = 60;

/// A disk as another machine sees it over the network. Small files and listings may be in an old state, open files may have an
/// old length, and reads may fail with ESTALE.
#[derive(Debug)]
struct StaleDisk {
    disk: SimDisk,
    random: Mutex<u64>,
    files: Mutex<HashMap<PathBuf, Vec<u8>>>,
    lists: Mutex<HashMap<PathBuf, Vec<String>>>,
}

#[derive(Debug)]
struct OldFile(Vec<u8>);

#[derive(Debug)]
struct OldHandle {
    file: Box<dyn File>,
    /// The old length: reads find nothing beyond it.
    end: u64,
    /// Whether reads fail with ESTALE.
    is_stale: bool,
}

impl StaleDisk {
    fn new(disk: SimDisk, seed: u64) -> StaleDisk {
        StaleDisk { disk, random: Mutex::new(seed), files: Mutex::default(), lists: Mutex::default() }
    }

    fn one_in(&self, chance: u64) -> bool {
        let mut random = self.random.lock();
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*random >> 33).is_multiple_of(chance)
    }
}

impl FileSystem for StaleDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.disk.open(path)
    }

    fn open_fresh(&self, path: &Path) -> io::Result<Box<dyn File>> {
        if path.extension().is_some_and(|extension| extension == "seg") {
            let file = self.disk.open(path)?;
            let len = file.len()?;
            let end = if self.one_in(3) { len * 2 / 3 } else { len };
            return Ok(Box::new(OldHandle { file, end, is_stale: self.one_in(8) }));
        }
        let mut files = self.files.lock();
        match files.get(path).filter(|_| self.one_in(2)) {
            Some(old) => Ok(Box::new(OldFile(old.clone()))),
            None => {
                let now = self.disk.bytes(path).ok_or(io::ErrorKind::NotFound)?;
                files.insert(path.to_owned(), now.clone());
                Ok(Box::new(OldFile(now)))
            }
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut lists = self.lists.lock();
        match lists.get(path).filter(|_| !self.one_in(4)) {
            Some(old) => Ok(old.clone()),
            None => {
                let now = self.disk.list(path)?;
                lists.insert(path.to_owned(), now.clone());
                Ok(now)
            }
        }
    }

    fn is_network(&self, _: &Path) -> io::Result<bool> {
        Ok(true)
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Err(io::Error::other(format!("a reader writes to {}", path.display())))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.open_write(path)
    }

    fn rename(&self, _: &Path, to: &Path) -> io::Result<()> {
        self.open_write(to).map(drop)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.open_write(path).map(drop)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.open_write(path).map(drop)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.open_write(path).map(drop)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.open_write(path).map(drop)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn File>>> {
        self.open_write(path).map(Some)
    }
}

fn copy(bytes: &[u8], buf: &mut [u8], offset: u64) -> usize {
    let rest = bytes.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
    let len = rest.len().min(buf.len());
    buf[..len].copy_from_slice(&rest[..len]);
    len
}

impl File for OldFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(copy(&self.0, buf, offset))
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    /// The length of the file that had this name before.
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64 / 2)
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

impl File for OldHandle {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.is_stale {
            // ESTALE.
            return Err(io::Error::from_raw_os_error(116));
        }
        let left = usize::try_from(self.end.saturating_sub(offset)).unwrap();
        let len = left.min(buf.len());
        self.file.read_at(&mut buf[..len], offset)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.end)
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// Checks HEAD. Fails the test if the follower reports anything but REPLICA_BEHIND.
fn check_head(follower: &mut Follower) {
    if let Err(error) = follower.check_head() {
        assert_eq!(error.reason(), Reason::ReplicaBehind, "{error}");
    }
}

fn follower_on(disk: StaleDisk) -> Follower {
    let files = TableFiles { fs: Arc::new(disk), dir: dir(), cache: BlockCache::new(1 << 20) };
    Follower::open(files).unwrap()
}

#[test]
fn a_follower_waits_out_old_states() {
    let mut waited = 0;
    for seed in 0..SEEDS {
        let log = TestLog::start(3);
        let random = StaleDisk::new(log.disk.clone(), !seed);
        let mut follower = follower_on(StaleDisk::new(log.disk.clone(), seed));
        let (mut floor, mut published, mut snapshot) = (0, 0, 0);
        for seq in 4..=60 {
            log.insert(seq);
            if random.one_in(12) {
                log.snapshot();
                snapshot = seq;
            } else if random.one_in(10) && snapshot > floor {
                floor = snapshot - random.one_in(2) as u64 * (snapshot - floor) / 2;
                log.compact(floor);
            }
            if random.one_in(2) {
                check_head(&mut follower);
                let applied = follower.replica().applied().seq;
                assert!(published <= applied && applied <= seq, "{published}, then {applied} of {seq}");
                published = applied;
            }
        }
        // Until the follower has read the current HEAD and the manifest that it names.
        for _ in 0..1000 {
            check_head(&mut follower);
            let table = follower.tables.get(&1);
            let is_current = table
                .is_some_and(|table| table.timeline.state().layers.floor().map_or(0, |f| f.seq) == floor);
            if follower.replica().applied().seq == 60 && is_current {
                break;
            }
            waited += 1;
        }
        log.check(follower.replica(), floor, 60);
    }
    assert!(waited > 0, "no old state was seen");
}

/// Listings do not show the directory of a new table yet.
#[test]
fn a_follower_waits_for_a_new_table_to_be_listed() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    create(&mut log, 1, "first");
    let mut waited = 0;
    for seed in 0..20 {
        let mut follower = follower_on(StaleDisk::new(disk.clone(), seed));
        while follower.replica().applied().seq < 1 + seed {
            check_head(&mut follower);
        }
        create(&mut log, 2 + seed, &format!("t{seed}"));
        while follower.replica().applied().seq < 2 + seed {
            check_head(&mut follower);
            waited += u64::from(follower.replica().problem().is_some());
            assert!(waited < 10_000);
        }
        assert!(follower.replica().applied().tables.contains_key(&format!("t{seed}")));
    }
    assert!(waited > 0, "no old state was seen");
}

/// The HEAD that the follower sees is older than the newest snapshots. The commits that are in no snapshot must not be skipped.
#[test]
fn a_head_older_than_the_snapshots_is_not_trusted() {
    let mut waited = 0;
    for seed in 0..40 {
        let log = TestLog::start(3);
        create(&mut log.log.borrow_mut(), 4, "u");
        let old = log.disk.bytes(dir().head()).unwrap();
        log.insert_into(4, 5);
        log.insert(6);
        log.snapshot();
        let stale = StaleDisk::new(log.disk.clone(), seed);
        stale.files.lock().insert(dir().head(), old);
        let mut follower = follower_on(stale);
        for _ in 0..100 {
            check_head(&mut follower);
            let applied = follower.replica().applied();
            if applied.seq < 6 {
                waited += 1;
                continue;
            }
            let counts = applied.tables["u"].counts(applied.seq).unwrap();
            assert_eq!(counts.rows, 1, "seed {seed}: a commit is missing");
        }
        assert_eq!(follower.replica().applied().seq, 6);
    }
    assert!(waited > 0, "no old state was seen");
}
