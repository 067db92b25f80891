//! Every effect on files, behind one trait, so that tests can cut the power at any of them (see the module `sim`).

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::error::{Error, Result};

#[cfg(any(test, feature = "sim"))]
pub mod sim;
#[cfg(test)]
mod tests;

/// A file system as DriftDB uses it. Paths are used as given.
///
/// A name made, renamed or removed is durable only after [`FileSystem::sync_dir`] of its directory; bytes written, only after
/// [`File::sync`].
pub trait FileSystem: Send + Sync + fmt::Debug {
    /// Opens a file for reading. Where machines share the file system, what another one changed may be seen late.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Opens a file for reading that others append to or replace: what they have written is seen, also where machines share
    /// the file system and it caches. [`File::len`] may still be old there: only reading tells where the file ends.
    fn open_fresh(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.open(path)
    }
    /// Opens a file that exists, for reading and writing.
    fn open_write(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Makes a file for reading and writing; fails where there is one.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Renames a file or directory; a file at `to` is replaced at once.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory and those above it; no error where it exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory, which must be empty.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, sorted. Names that are not UTF-8 are left out: DriftDB makes none.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Opens or makes a file and takes an exclusive lock on it, which ends when the file is dropped.
    /// `None` where another holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn File>>>;
    /// Whether a path lies on a file system that other machines share: it sends no notices of their changes, what it says of
    /// sizes may be old, and a lock on it may lapse.
    fn is_network(&self, path: &Path) -> io::Result<bool>;
}

/// An open file.
pub trait File: Send + Sync + fmt::Debug {
    /// Reads at an offset; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all bytes at an offset; a gap before it reads as zeros.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends the file to a length.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes the file's bytes and length durable (`fdatasync`). Once it has failed, nothing may be concluded from
    /// another try.
    fn sync(&self) -> io::Result<()>;
}

/// File systems that machines share, by the number that `statfs` gives (Linux, `magic.h`): AFS, BeeGFS, Ceph, CIFS, FUSE
/// (sshfs, GlusterFS and S3 mounts among others), GFS2, GPFS, Lustre, NFS, OCFS2, SMB, SMB2, 9P.
const NETWORK_FILE_SYSTEMS: [u64; 13] = [
    0x5346_414f,
    0x1983_0326,
    0x00c3_6400,
    0xff53_4d42,
    0x6573_5546,
    0x0116_1970,
    0x4750_4653,
    0x0bd0_0bd0,
    0x6969,
    0x7461_636f,
    0x517b,
    0xfe53_4d42,
    0x0102_1997,
];

/// `ESTALE`: what NFS says of a file that another machine has removed. The standard library's name for it is not stable.
const STALE: i32 = 116;
/// How often a small file is read again that was replaced while it was being read.
const READ_TRIES: u32 = 5;
/// How much is asked for beyond the length that a file says it has.
const READ_ON: u64 = 64 << 10;
/// How many file systems are remembered to be of a kind; a process sees one or two.
const MOUNTS: usize = 16;

/// What is known of file systems, by device number: whether machines share it. Asking a network file system is a journey.
static MOUNTS_SEEN: Mutex<Vec<(u64, bool)>> = Mutex::new(Vec::new());

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsFileSystem;

/// A file whose reads go past the caches of this machine, as far as its file system does that.
#[derive(Debug)]
struct DirectFile(fs::File);

impl DirectFile {
    /// Takes the cache back in.
    fn give_up(&self) -> io::Result<()> {
        Ok(fcntl_setfl(&self.0, fcntl_getfl(&self.0)? - OFlags::DIRECT)?)
    }
}

impl OsFileSystem {
    /// The real disk, ready to share.
    pub fn shared() -> Arc<dyn FileSystem> {
        Arc::new(OsFileSystem)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that touches files")]
impl FileSystem for OsFileSystem {
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(fs::File::open(path)?))
    }

    fn open_fresh(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = fs::File::open(path)?;
        if !is_shared(path, file.metadata()?.dev())? {
            return Ok(Box::new(file));
        }
        // Local file systems want reads that are aligned; these take any, or say so.
        match fcntl_getfl(&file).and_then(|flags| fcntl_setfl(&file, flags | OFlags::DIRECT)) {
            Ok(()) => Ok(Box::new(DirectFile(file))),
            Err(_) => Ok(Box::new(file)),
        }
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).create_new(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn File>>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match fs2::FileExt::try_lock_exclusive(&file) {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn is_network(&self, path: &Path) -> io::Result<bool> {
        let kind = u64::try_from(rustix::fs::statfs(path)?.f_type).unwrap_or_default();
        Ok(NETWORK_FILE_SYSTEMS.contains(&(kind & 0xffff_ffff)))
    }
}

impl File for fs::File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match FileExt::read_at(self, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

impl File for DirectFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match File::read_at(&self.0, buf, offset) {
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                self.give_up()?;
                File::read_at(&self.0, buf, offset)
            }
            read => read,
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        File::write_at(&self.0, bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        File::len(&self.0)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        File::truncate(&self.0, len)
    }

    fn sync(&self) -> io::Result<()> {
        File::sync(&self.0)
    }
}

/// Whether machines share the file system that a path lies on, whose device number this is.
fn is_shared(path: &Path, device: u64) -> io::Result<bool> {
    if let Some((_, shared)) = MOUNTS_SEEN.lock().iter().find(|(seen, _)| *seen == device) {
        return Ok(*shared);
    }
    let shared = OsFileSystem.is_network(path)?;
    let mut seen = MOUNTS_SEEN.lock();
    seen.truncate(MOUNTS - 1);
    seen.insert(0, (device, shared));
    Ok(shared)
}

/// Whether an error of opening or reading says that the file is no more: it was removed, or replaced.
pub fn is_gone(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(STALE)
}

/// An error of opening or reading a file; one that is no more has a reason of its own.
pub fn read_failed(path: &Path, e: &io::Error) -> Error {
    match is_gone(e) {
        true => Error::file_gone(path.display(), e),
        false => Error::io(format_args!("cannot read {}", path.display()), e),
    }
}

/// Reads a whole file, refusing one over `limit` bytes. `None` where there is none.
pub fn read(disk: &dyn FileSystem, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let mut tries = 1;
    let read = loop {
        let read = disk.open_fresh(path).and_then(|file| read_whole(&*file, limit));
        match read {
            Err(e) if e.raw_os_error() == Some(STALE) && tries < READ_TRIES => tries += 1,
            read => break read,
        }
    };
    match read {
        Ok(Some(bytes)) => Ok(Some(bytes)),
        Ok(None) => {
            let what = format_args!("it is longer than {limit} bytes, which at most belong there");
            Err(Error::corrupt(path.display(), limit, what))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(read_failed(path, &e)),
    }
}

/// A file's bytes up to where reading finds its end: its length may be that of the file it has replaced. `None` where there
/// are more than `limit`.
fn read_whole(file: &dyn File, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut ask = file.len()?.saturating_add(1);
    loop {
        let end = (bytes.len() as u64).saturating_add(ask).min(limit.saturating_add(1));
        let end = usize::try_from(end).unwrap_or(usize::MAX);
        let known = bytes.len();
        bytes.resize(end, 0);
        let read = file.read_at(bytes.get_mut(known..).unwrap_or_default(), known as u64)?;
        bytes.truncate(known + read);
        if bytes.len() as u64 > limit {
            return Ok(None);
        }
        if bytes.len() < end {
            return Ok(Some(bytes));
        }
        ask = READ_ON;
    }
}

/// Where a file ends, found by reading on from what its length is said to be, which may be old. See [`FileSystem::open_fresh`].
pub fn end_of(file: &dyn File) -> io::Result<u64> {
    let mut end = file.len()?;
    let mut chunk = vec![0; usize::try_from(READ_ON).unwrap_or(usize::MAX)];
    loop {
        match file.read_at(&mut chunk, end)? {
            0 => return Ok(end),
            read => end += read as u64,
        }
    }
}

/// Puts a file in place whole: after a crash there is the old one or the new one, and once this returns, the new one.
pub fn replace(disk: &dyn FileSystem, path: &Path, bytes: &[u8]) -> Result<()> {
    replace_by(disk, &path.with_extension("tmp"), path, bytes)
}

/// As [`replace`], with a name for the file while it is made.
pub fn replace_by(disk: &dyn FileSystem, temporary: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let steps = || -> io::Result<()> {
        match disk.remove(temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = disk.create(temporary)?;
        file.write_at(bytes, 0)?;
        file.sync()?;
        disk.rename(temporary, path)?;
        match path.parent() {
            Some(dir) => disk.sync_dir(dir),
            None => Ok(()),
        }
    };
    steps().map_err(|e| Error::io(format_args!("cannot write {}", path.display()), &e))
}

/// Opens a file of the user's for reading from start to end: a script, rows to load.
#[expect(clippy::disallowed_methods, reason = "this is the one place that touches files")]
pub fn open_input(path: &Path) -> Result<Box<dyn Read + Send>> {
    let file =
        fs::File::open(path).map_err(|e| Error::io(format_args!("cannot open {}", path.display()), &e))?;
    Ok(Box::new(file))
}

/// What tells a file of the user's from another, or from what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Its absolute path, without links.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// When it was last written, since 1970.
    pub modified: Duration,
}

/// The stamp of a file of the user's; `None` for what has no length, a pipe say.
#[expect(clippy::disallowed_methods, reason = "this is the one place that touches files")]
pub fn stamp(path: &Path) -> Result<Option<Stamp>> {
    let failed = |e: io::Error| Error::io(format_args!("cannot open {}", path.display()), &e);
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let modified = metadata.modified().map_err(failed)?.duration_since(SystemTime::UNIX_EPOCH);
    let path = path.canonicalize().map_err(failed)?;
    Ok(Some(Stamp { path, len: metadata.len(), modified: modified.unwrap_or_default() }))
}

/// Opens a file of the user's for writing at its end, and makes it where there is none.
#[expect(clippy::disallowed_methods, reason = "this is the one place that touches files")]
pub fn create_output(path: &Path) -> Result<Box<dyn Write + Send>> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    let file = file.map_err(|e| Error::io(format_args!("cannot open {} for writing", path.display()), &e))?;
    Ok(Box::new(file))
}
