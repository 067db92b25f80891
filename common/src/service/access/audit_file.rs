//! Where the lines of the audit log go: a file that is rotated by size, or standard error.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::storage::fs::{self, FileSystem, OsFileSystem, append_private};

/// Takes the bytes of whole lines.
pub trait AuditSink: Send {
    /// Makes room for a line of `bytes`, before its first byte is written.
    fn prepare(&mut self, bytes: u64) -> io::Result<()>;
    /// Writes some of `bytes`, and returns how many.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

/// Standard error.
#[derive(Debug)]
pub struct StandardErrorSink;

impl AuditSink for StandardErrorSink {
    fn prepare(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().write(bytes)
    }
}

/// A file, and the older files `FILE.1`, `FILE.2` …: the higher the number, the older.
pub struct AuditFile {
    path: PathBuf,
    file: Box<dyn Write + Send>,
    len: u64,
    max_bytes: u64,
    /// The number of files, the newest included.
    files: u32,
}

impl AuditFile {
    /// Opens the file, or creates it. A line that would make it longer than `max_bytes` begins a new file; the oldest of more than
    /// `files` files is removed.
    pub fn open(path: &Path, max_bytes: u64, files: u32) -> io::Result<AuditFile> {
        let (file, len) = append_private(path)?;
        Ok(AuditFile { path: path.to_owned(), file, len, max_bytes, files: files.max(1) })
    }

    fn numbered(&self, number: u32) -> PathBuf {
        match number {
            0 => self.path.clone(),
            number => {
                let mut path = self.path.clone().into_os_string();
                path.push(format!(".{number}"));
                PathBuf::from(path)
            }
        }
    }

    fn exists(&self, number: u32) -> io::Result<bool> {
        match OsFileSystem.file_id(&self.numbered(number)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Renames each file to the next number, from the oldest to the newest, and begins a new one. After a failure another call
    /// goes on where this one stopped: files move only as far as there is a gap, so that no file is removed for nothing.
    fn rotate(&mut self) -> io::Result<()> {
        let mut gap = 1;
        while gap < self.files && self.exists(gap)? {
            gap += 1;
        }
        if gap == self.files {
            gap = self.files - 1;
            fs::remove_if_exists(&OsFileSystem, &self.numbered(gap))?;
        }
        for number in (0..gap).rev() {
            match OsFileSystem.rename(&self.numbered(number), &self.numbered(number + 1)) {
                // Someone has moved it away, or an earlier call has.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        (self.file, self.len) = append_private(&self.path)?;
        Ok(())
    }
}

impl AuditSink for AuditFile {
    fn prepare(&mut self, bytes: u64) -> io::Result<()> {
        if self.len == 0 || self.len.saturating_add(bytes) <= self.max_bytes { Ok(()) } else { self.rotate() }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.len += written as u64;
        Ok(written)
    }
}
