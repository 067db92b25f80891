//! Every effect on files, behind one trait, so that tests can cut the power at any of them (see [`sim`]).

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};

pub mod sim;

/// A file system as DriftDB uses it. Paths are used as given.
///
/// A name made, renamed or removed is durable only after [`Disk::sync_dir`] of its directory; bytes written, only after
/// [`File::sync`].
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;
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

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl RealDisk {
    /// The real disk, ready to share.
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(RealDisk)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that touches files")]
impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(fs::File::open(path)?))
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

/// Reads a whole file, refusing one over `limit` bytes. `None` where there is none.
pub fn read(disk: &dyn Disk, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let failed = |e: io::Error| Error::io(format_args!("cannot read {}", path.display()), &e);
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let len = file.len().map_err(failed)?;
    if len > limit {
        return Err(Error::corrupt(
            path.display(),
            limit,
            format_args!("{len} bytes, where at most {limit} belong"),
        ));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut bytes, 0).map_err(failed)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Puts a file in place whole: after a crash there is the old one or the new one, and once this returns, the new one.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<()> {
    replace_by(disk, &path.with_extension("tmp"), path, bytes)
}

/// As [`replace`], with a name for the file while it is made.
pub fn replace_by(disk: &dyn Disk, temporary: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
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
