//! A follower on a file system that shows what is no more: late it may be, wrong or certain of damage never.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use driftdb_common::storage::fs::sim::SimDisk;
use driftdb_common::storage::fs::{File, FileSystem};
use driftdb_common::storage::sst::BlockCache;
use parking_lot::Mutex;

use super::compacted::Writing;
use super::tests::{dir, open};
use super::*;

/// How many seeds the test goes through.
const SEEDS: u64 = 60;

/// A disk that machines share, seen from another one. Small files and listings may be those of an earlier look, open files
/// may end where they once did, and reads may fail because the file is stale.
#[derive(Debug)]
struct Stale {
    disk: SimDisk,
    random: Mutex<u64>,
    files: Mutex<HashMap<PathBuf, Vec<u8>>>,
    lists: Mutex<HashMap<PathBuf, Vec<String>>>,
}

#[derive(Debug)]
struct Old(Vec<u8>);

#[derive(Debug)]
struct Kept {
    file: Box<dyn File>,
    /// Reads find nothing beyond.
    end: u64,
    /// Reads say so.
    gone: bool,
}

impl Stale {
    fn new(disk: SimDisk, seed: u64) -> Stale {
        Stale { disk, random: Mutex::new(seed), files: Mutex::default(), lists: Mutex::default() }
    }

    fn one_in(&self, chance: u64) -> bool {
        let mut random = self.random.lock();
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*random >> 33).is_multiple_of(chance)
    }
}

impl FileSystem for Stale {
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.disk.open(path)
    }

    fn open_fresh(&self, path: &Path) -> io::Result<Box<dyn File>> {
        if path.extension().is_some_and(|extension| extension == "seg") {
            let file = self.disk.open(path)?;
            let len = file.len()?;
            let end = if self.one_in(3) { len * 2 / 3 } else { len };
            return Ok(Box::new(Kept { file, end, gone: self.one_in(8) }));
        }
        let mut files = self.files.lock();
        match files.get(path).filter(|_| self.one_in(2)) {
            Some(old) => Ok(Box::new(Old(old.clone()))),
            None => {
                let now = self.disk.bytes(path).ok_or(io::ErrorKind::NotFound)?;
                files.insert(path.to_owned(), now.clone());
                Ok(Box::new(Old(now)))
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

impl File for Old {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(copy(&self.0, buf, offset))
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    /// That of another file, which had this name before.
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

impl File for Kept {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.gone {
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

/// Looks; what is not seen yet is no damage.
fn look(follower: &mut Follower) {
    if let Err(error) = follower.look() {
        assert_eq!(error.reason(), Reason::ReplicaBehind, "{error}");
    }
}

fn follower_on(disk: Stale) -> Follower {
    let shelf = TableFiles { disk: Arc::new(disk), dir: dir(), cache: BlockCache::new(1 << 20) };
    Follower::open(shelf).unwrap()
}

#[test]
fn what_is_stale_is_waited_for() {
    let mut waited = 0;
    for seed in 0..SEEDS {
        let writing = Writing::start(3);
        let random = Stale::new(writing.disk.clone(), !seed);
        let mut follower = follower_on(Stale::new(writing.disk.clone(), seed));
        let (mut floor, mut shown, mut snapshot) = (0, 0, 0);
        for seq in 4..=60 {
            writing.insert(seq);
            if random.one_in(12) {
                writing.snapshot();
                snapshot = seq;
            } else if random.one_in(10) && snapshot > floor {
                floor = snapshot - random.one_in(2) as u64 * (snapshot - floor) / 2;
                writing.compact(floor);
            }
            if random.one_in(2) {
                look(&mut follower);
                let applied = follower.replica().applied().seq;
                assert!(shown <= applied && applied <= seq, "{shown}, then {applied} of {seq}");
                shown = applied;
            }
        }
        // Once HEAD has been seen as it is, and the manifest that goes with it.
        for _ in 0..1000 {
            look(&mut follower);
            let table = follower.tables.get(&1);
            let is_of_now = table
                .is_some_and(|table| table.timeline.state().layers.floor().map_or(0, |f| f.seq) == floor);
            if follower.replica().applied().seq == 60 && is_of_now {
                break;
            }
            waited += 1;
        }
        writing.check(&follower, floor, 60);
    }
    assert!(waited > 0, "nothing was stale");
}

/// A table whose directory no listing shows yet.
#[test]
fn a_table_that_is_not_listed_yet_is_waited_for() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    super::tests::create(&mut log, 1, "first");
    let mut waited = 0;
    for seed in 0..20 {
        let mut follower = follower_on(Stale::new(disk.clone(), seed));
        while follower.replica().applied().seq < 1 + seed {
            look(&mut follower);
        }
        super::tests::create(&mut log, 2 + seed, &format!("t{seed}"));
        while follower.replica().applied().seq < 2 + seed {
            look(&mut follower);
            waited += u64::from(follower.replica().problem().is_some());
            assert!(waited < 10_000);
        }
        assert!(follower.replica().applied().tables.contains_key(&format!("t{seed}")));
    }
    assert!(waited > 0, "nothing was stale");
}

/// HEAD is seen as it was before what the newest snapshots rest on: what no snapshot holds of that is not known to be read.
#[test]
fn a_head_older_than_snapshots_is_not_believed() {
    let mut waited = 0;
    for seed in 0..40 {
        let writing = Writing::start(3);
        super::tests::create(&mut writing.log.borrow_mut(), 4, "u");
        let old = writing.disk.bytes(dir().head()).unwrap();
        writing.insert_into(4, 5);
        writing.insert(6);
        writing.snapshot();
        let stale = Stale::new(writing.disk.clone(), seed);
        stale.files.lock().insert(dir().head(), old);
        let mut follower = follower_on(stale);
        for _ in 0..100 {
            look(&mut follower);
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
    assert!(waited > 0, "nothing was stale");
}
