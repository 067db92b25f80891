//! The file system as a trait, so that tests can cut the power before any change (see the module `sim`).
//!
//! Every access to a file goes through [`FileSystem`] and [`File`]. This is the only file that uses `std::fs`.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustix::fs::{CWD, OFlags, RenameFlags, fcntl_getfl, fcntl_setfl, renameat_with};
use rustix::io::Errno;

use crate::error::{Error, Reason, Result};

pub mod ownership;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
#[cfg(test)]
mod tests;

/// The operations that DriftDB needs from a file system. Paths are used as given.
///
/// A created, renamed or removed name is durable only after [`FileSystem::sync_dir`] of its directory. Written bytes are
/// durable only after [`File::sync`].
pub trait FileSystem: Send + Sync + fmt::Debug {
    /// Opens a file for reading. On a network file system, changes by other machines may become visible late.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Opens a file that others append to or replace, for reading. Reads bypass the cache of a network file system, so
    /// they return what other machines have written. [`File::len`] may still be out of date: only a read finds the end.
    fn open_fresh(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.open(path)
    }
    /// Opens an existing file for reading and writing.
    fn open_write(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Creates a file for reading and writing. Fails if the file exists.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Renames a file or directory. Atomically replaces a file at `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory and its missing parents. Succeeds if the directory exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Returns the names in a directory, sorted. Skips names that are not UTF-8, because DriftDB creates none.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Opens or creates a file and locks it exclusively. Dropping the file releases the lock.
    /// Returns `None` if another process holds the lock.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn File>>>;
    /// Locks an existing file shared, for which read access is enough: nobody can lock it exclusively while the returned file is
    /// open. Returns `None` if another process holds an exclusive lock.
    fn lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn File>>> {
        self.lock(path)
    }
    /// Identifies the file or directory at a path, whatever its name; `None` if the file system does not tell.
    fn file_id(&self, path: &Path) -> io::Result<Option<FileId>> {
        let _ = path;
        Ok(None)
    }
    /// Returns whether a path is on a network file system. There, changes by other machines cause no notifications, file
    /// sizes may be out of date, and a lock may lapse.
    fn is_network(&self, path: &Path) -> io::Result<bool>;
    /// Returns the bytes that the file system of a path has left for this process. A quota may leave fewer.
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let _ = path;
        Ok(u64::MAX)
    }
}

/// Identifies a file or directory on this machine for as long as it exists, also after a rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// The device number.
    pub device: u64,
    /// The inode number.
    pub inode: u64,
}

/// An open file.
pub trait File: Send + Sync + fmt::Debug {
    /// Reads at an offset and returns the number of bytes read: less than `buf.len()` only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all bytes at an offset. A gap before the offset reads as zeros.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Returns the file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Returns whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends the file to a length in bytes.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes the file's bytes and length durable (`fdatasync`). After a failure, a second call that succeeds proves
    /// nothing: the kernel may have dropped the dirty pages.
    fn sync(&self) -> io::Result<()>;
}

/// The `statfs` types of network file systems (Linux, `magic.h`): AFS, BeeGFS, Ceph, CIFS, FUSE (includes sshfs, GlusterFS
/// and S3 mounts), GFS2, GPFS, Lustre, NFS, OCFS2, SMB, SMB2, 9P.
const NETWORK_FILE_SYSTEM_TYPES: [u64; 13] = [
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

/// `O_NONBLOCK`, for an open that must not wait.
const NONBLOCK: i32 = OFlags::NONBLOCK.bits().cast_signed();
/// `ESTALE`: the error that NFS returns for a file that another machine has removed. The standard library's name for it
/// is not stable.
const ESTALE: i32 = 116;
/// How often [`read`] opens a file again that was replaced during the read.
const READ_TRIES: u32 = 5;
/// How many bytes a read requests beyond the length that a file reports.
const READ_AHEAD_BYTES: u64 = 64 << 10;
/// How many devices [`DEVICES`] remembers. A process sees one or two.
const DEVICES_MAX: usize = 16;

/// Device numbers, and whether each one is a network file system. A cache, because `statfs` on a network file system is
/// a round trip.
static DEVICES: Mutex<Vec<(u64, bool)>> = Mutex::new(Vec::new());

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsFileSystem;

/// A file opened with `O_DIRECT`, whose reads bypass this machine's page cache.
#[derive(Debug)]
struct DirectFile(fs::File);

impl DirectFile {
    /// Reads through the page cache from now on.
    fn disable_direct_io(&self) -> io::Result<()> {
        Ok(fcntl_setfl(&self.0, fcntl_getfl(&self.0)? - OFlags::DIRECT)?)
    }
}

impl OsFileSystem {
    /// Returns the operating system's file system as a shared trait object.
    pub fn shared() -> Arc<dyn FileSystem> {
        Arc::new(OsFileSystem)
    }
}

#[expect(clippy::disallowed_methods, reason = "only this file accesses files")]
impl FileSystem for OsFileSystem {
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(open_regular(OpenOptions::new().read(true), path)?))
    }

    fn open_fresh(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = open_regular(OpenOptions::new().read(true), path)?;
        if !is_network_device(path, file.metadata()?.dev())? {
            return Ok(Box::new(file));
        }
        // Network file systems accept unaligned direct reads, or reject the flag or the read; both are handled.
        match fcntl_getfl(&file).and_then(|flags| fcntl_setfl(&file, flags | OFlags::DIRECT)) {
            Ok(()) => Ok(Box::new(DirectFile(file))),
            Err(_) => Ok(Box::new(file)),
        }
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(open_regular(OpenOptions::new().read(true).write(true), path)?))
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
        OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn File>>> {
        for _ in 0..READ_TRIES {
            let file =
                open_regular(OpenOptions::new().read(true).write(true).create(true).truncate(false), path)?;
            if !is_locked(fs2::FileExt::try_lock_exclusive(&file))? {
                return Ok(None);
            }
            // A lock on a file that was removed or replaced meanwhile excludes nobody.
            let (locked, named) = (file.metadata()?, fs::metadata(path));
            if named.is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino())) {
                return Ok(Some(Box::new(file)));
            }
        }
        Err(io::Error::other("the file was replaced again and again"))
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn File>>> {
        let file = open_regular(OpenOptions::new().read(true), path)?;
        Ok(if is_locked(fs2::FileExt::try_lock_shared(&file))? { Some(Box::new(file)) } else { None })
    }

    fn file_id(&self, path: &Path) -> io::Result<Option<FileId>> {
        let metadata = fs::metadata(path)?;
        Ok(Some(FileId { device: metadata.dev(), inode: metadata.ino() }))
    }

    fn is_network(&self, path: &Path) -> io::Result<bool> {
        let kind = u64::try_from(rustix::fs::statfs(path)?.f_type).unwrap_or_default();
        Ok(NETWORK_FILE_SYSTEM_TYPES.contains(&(kind & 0xffff_ffff)))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let found = rustix::fs::statvfs(path)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
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
                self.disable_direct_io()?;
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

/// Returns whether an attempt to lock a file has locked it; false if another process holds the lock.
fn is_locked(attempt: io::Result<()>) -> io::Result<bool> {
    match attempt {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => Ok(false),
        Err(e) => Err(e),
    }
}

/// Opens a regular file. Anything else with its name is refused: the open of a named pipe, for example, would wait for
/// another process, and block whoever opens it. On a regular file `O_NONBLOCK` has no effect.
#[expect(clippy::disallowed_methods, reason = "only this file accesses files")]
fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<fs::File> {
    let file = options.custom_flags(NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    let found = match kind {
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a named pipe",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err(io::Error::other(format!("it is {found}, not a regular file; remove it or put the file back")))
}

/// Returns whether a path on a device is on a network file system.
fn is_network_device(path: &Path, device: u64) -> io::Result<bool> {
    if let Some((_, is_network)) = DEVICES.lock().iter().find(|(known, _)| *known == device) {
        return Ok(*is_network);
    }
    let is_network = OsFileSystem.is_network(path)?;
    let mut devices = DEVICES.lock();
    devices.truncate(DEVICES_MAX - 1);
    devices.insert(0, (device, is_network));
    Ok(is_network)
}

/// Returns whether an error of an open or a read means that the file was removed or replaced.
pub fn is_gone(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(ESTALE)
}

/// Converts an error of an open or a read. If the file was removed or replaced, the reason is `FILE_GONE`.
pub(crate) fn read_failed(path: &Path, e: &io::Error) -> Error {
    match is_gone(e) {
        true => Error::file_gone(path.display(), e),
        false => Error::io(format_args!("cannot read {}", path.display()), e),
    }
}

/// Reads a whole file. Returns `None` if it does not exist, and an error if it is longer than `limit` bytes.
pub fn read(fs: &dyn FileSystem, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let mut tries = 1;
    let read = loop {
        let read = fs.open_fresh(path).and_then(|file| read_whole(&*file, limit));
        match read {
            Err(e) if e.raw_os_error() == Some(ESTALE) && tries < READ_TRIES => tries += 1,
            read => break read,
        }
    };
    match read {
        Ok(Some(bytes)) => Ok(Some(bytes)),
        Ok(None) => {
            let detail = format_args!("the file is longer than {limit} bytes, the most it can have");
            Err(Error::corrupt(path.display(), limit, detail))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(read_failed(path, &e)),
    }
}

/// Reads a file until a read finds its end, because the reported length may be that of a file it replaced.
/// Returns `None` if the file is longer than `limit` bytes.
fn read_whole(file: &dyn File, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut wanted = file.len()?.saturating_add(1);
    loop {
        let end = (bytes.len() as u64).saturating_add(wanted).min(limit.saturating_add(1));
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
        wanted = READ_AHEAD_BYTES;
    }
}

/// Reads at most `len` bytes of a file from an offset; fewer if the file ends before.
pub(crate) fn read_range(fs: &dyn FileSystem, path: &Path, offset: u64, len: u64) -> Result<Vec<u8>> {
    let steps = || {
        let file = fs.open_fresh(path)?;
        let len = len.min(find_end(&*file)?.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = file.read_at(&mut bytes, offset)?;
        bytes.truncate(read);
        Ok(bytes)
    };
    steps().map_err(|e| Error::io(format_args!("cannot read {}", path.display()), &e))
}

/// Finds the offset at which a file ends, by reading on from its reported length, which may be out of date on a network
/// file system. See [`FileSystem::open_fresh`].
pub(crate) fn find_end(file: &dyn File) -> io::Result<u64> {
    let mut end = file.len()?;
    let mut chunk = vec![0; usize::try_from(READ_AHEAD_BYTES).unwrap_or(usize::MAX)];
    loop {
        match file.read_at(&mut chunk, end)? {
            0 => return Ok(end),
            read => end += read as u64,
        }
    }
}

/// Writes a file atomically and durably: after a crash, the path has the old file or the new one, and once this function
/// returns, the new one.
pub fn replace(fs: &dyn FileSystem, path: &Path, bytes: &[u8]) -> Result<()> {
    replace_via(fs, &path.with_extension("tmp"), path, bytes)
}

/// Does the same as [`replace`], with a given name for the temporary file.
pub(crate) fn replace_via(fs: &dyn FileSystem, temporary: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e: io::Error| Error::io(format_args!("cannot write {}", path.display()), &e);
    let steps = || {
        write_temporary(fs, temporary, bytes)?;
        fs.rename(temporary, path).inspect_err(|_| discard(fs, temporary))?;
        sync_parent(fs, path)
    };
    steps().map_err(failed)
}

/// Writes and syncs a file under its temporary name. Leaves nothing behind if this fails.
pub(crate) fn write_temporary(fs: &dyn FileSystem, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    remove_if_exists(fs, temporary)?;
    let file = fs.create(temporary)?;
    file.write_at(bytes, 0).and_then(|()| file.sync()).inspect_err(|_| discard(fs, temporary))
}

/// Makes a file's name durable.
pub(crate) fn sync_parent(fs: &dyn FileSystem, path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| fs.sync_dir(dir))
}

/// Removes a file that nothing refers to, after a failure that the caller reports.
pub(crate) fn discard(fs: &dyn FileSystem, path: &Path) {
    if let Err(error) = remove_if_exists(fs, path) {
        let path = path.display();
        tracing::warn!(%error, %path, "cannot remove an unfinished file; the next start of the writer removes it");
    }
}

/// Removes a file. Succeeds if it does not exist.
pub fn remove_if_exists(fs: &dyn FileSystem, path: &Path) -> io::Result<()> {
    match fs.remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Opens an input file of the user, for example a script or rows to load.
#[expect(clippy::disallowed_methods, reason = "only this file accesses files")]
pub fn open_input(path: &Path) -> Result<Box<dyn Read + Send>> {
    let file =
        fs::File::open(path).map_err(|e| Error::io(format_args!("cannot open {}", path.display()), &e))?;
    Ok(Box::new(file))
}

/// Identifies an input file of the user, and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStamp {
    /// The absolute path, with symbolic links resolved.
    pub path: PathBuf,
    /// The length in bytes.
    pub len: u64,
    /// The time of the last write, since 1970.
    pub modified: Duration,
}

/// Returns the stamp of an input file; `None` if it is not a regular file, for example a pipe.
#[expect(clippy::disallowed_methods, reason = "only this file accesses files")]
pub fn read_stamp(path: &Path) -> Result<Option<FileStamp>> {
    let failed = |e: io::Error| Error::io(format_args!("cannot open {}", path.display()), &e);
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let modified = metadata.modified().map_err(failed)?.duration_since(SystemTime::UNIX_EPOCH);
    let path = path.canonicalize().map_err(failed)?;
    Ok(Some(FileStamp { path, len: metadata.len(), modified: modified.unwrap_or_default() }))
}

/// A new output file of the user. Until it is whole, its name ends in `.partial`.
#[derive(Debug)]
pub struct NewOutputFile {
    file: Box<dyn File>,
    len: u64,
    partial: PathBuf,
    path: PathBuf,
}

impl NewOutputFile {
    /// Makes the content durable and gives the file its name. Fails if another file has got the name meanwhile.
    #[expect(clippy::disallowed_methods, reason = "only this file accesses files")]
    pub fn finish(self) -> io::Result<()> {
        self.file.sync()?;
        match renameat_with(CWD, &self.partial, CWD, &self.path, RenameFlags::NOREPLACE) {
            // Not every file system can do it. A link never replaces a file either.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                fs::hard_link(&self.partial, &self.path)?;
                fs::remove_file(&self.partial)?;
            }
            renamed => renamed?,
        }
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        OsFileSystem.sync_dir(directory.unwrap_or(Path::new(".")))
    }
}

impl Write for NewOutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins a new output file of the user. Fails if the file exists, or if another process is writing it. What an earlier attempt has left
/// is replaced.
pub fn create_new_output(path: &Path) -> Result<NewOutputFile> {
    let what = format!("cannot create {}", path.display());
    let refused = |why: &str| Error::new(Reason::ArgumentInvalid, format!("{what}: {why}"));
    let failed = |e: io::Error| Error::io(&what, &e);
    if fs::symlink_metadata(path).is_ok() {
        return Err(refused("the file exists; name another, or remove it"));
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let file = OsFileSystem.lock(&partial).map_err(failed)?;
    let file = file.ok_or_else(|| refused("another process is writing it; name another file"))?;
    file.truncate(0).map_err(failed)?;
    Ok(NewOutputFile { file, len: 0, partial, path: path.to_owned() })
}

/// Writes a small file of the user; if it is private, nobody else can read it. Fails if the file exists.
#[expect(clippy::disallowed_methods, reason = "only this file accesses files")]
pub fn create_small_output(path: &Path, bytes: &[u8], is_private: bool) -> Result<()> {
    let failed = |e: io::Error| Error::io(format_args!("cannot create {}", path.display()), &e);
    let mode = if is_private { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

/// Opens an output file of the user for appending. Creates it if it does not exist.
#[expect(clippy::disallowed_methods, reason = "only this file accesses files")]
pub fn create_output(path: &Path) -> Result<Box<dyn Write + Send>> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    let file = file.map_err(|e| Error::io(format_args!("cannot open {} for writing", path.display()), &e))?;
    Ok(Box::new(file))
}

/// Opens a log file for appending, and returns its length. Creates it if it does not exist; then only its owner may read it.
pub fn append_private(path: &Path) -> io::Result<(Box<dyn Write + Send>, u64)> {
    let file = open_regular(OpenOptions::new().append(true).create(true).mode(0o600), path)?;
    let len = file.metadata()?.len();
    Ok((Box::new(file), len))
}

/// Creates an output file of the user that only its owner may read. Fails if it exists.
#[expect(clippy::disallowed_methods, reason = "only this file accesses files")]
pub fn create_private(path: &Path) -> Result<Box<dyn Write + Send>> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(|e| Error::io(format_args!("cannot create {}", path.display()), &e))?;
    Ok(Box::new(file))
}
