//! Writes an SST atomically.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::sst::{SstIdentity, SstWriter};
use crate::storage::fs::{self, File, FileSystem};

/// The size of one write, in bytes.
const BUFFER_BYTES: usize = 1 << 20;
/// After this many bytes the file is synced. The disk has one queue: with one sync at the end, the log's next sync would wait
/// until a whole layer is on the disk.
const SYNC_BYTES: u64 = 4 << 20;

/// A buffered file that is written from front to back.
#[derive(Debug)]
pub struct SstOutput {
    file: Box<dyn File>,
    offset: u64,
    /// Everything before this offset is synced.
    synced: u64,
    buffer: Vec<u8>,
}

impl SstOutput {
    fn new(file: Box<dyn File>) -> SstOutput {
        SstOutput { file, offset: 0, synced: 0, buffer: Vec::with_capacity(BUFFER_BYTES) }
    }
}

impl Write for SstOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        let room = BUFFER_BYTES.saturating_sub(self.buffer.len());
        let accepted = bytes.get(..room).unwrap_or(bytes);
        self.buffer.extend_from_slice(accepted);
        Ok(accepted.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.file.write_at(&self.buffer, self.offset)?;
            self.offset += self.buffer.len() as u64;
            self.buffer.clear();
            if self.offset - self.synced >= SYNC_BYTES {
                self.file.sync()?;
                self.synced = self.offset;
            }
        }
        Ok(())
    }
}

/// Writes an SST and renames it to `path`, replacing an existing file. `build` adds the trees and returns the properties.
/// The bytes are durable when this function returns; the name is durable once the caller has synced the directory.
/// Returns the file's length in bytes.
pub fn write_file(
    fs: &dyn FileSystem,
    path: &Path,
    identity: SstIdentity,
    build: impl FnOnce(&mut SstWriter<SstOutput>) -> Result<Vec<u8>>,
) -> Result<u64> {
    let temporary = temporary_path(path);
    let cannot_write = || format!("cannot write {}", path.display());
    let failed = |e: &io::Error| Error::io(cannot_write(), e);
    fs::remove_if_exists(fs, &temporary).map_err(|e| failed(&e))?;
    let file = fs.create(&temporary).map_err(|e| failed(&e))?;
    let written =
        write_and_sync(file, identity, build).map_err(|e| e.context(cannot_write())).and_then(|bytes| {
            fs.rename(&temporary, path).map_err(|e| failed(&e))?;
            Ok(bytes)
        });
    if written.is_err() {
        // If this removal fails, the next write to the path or the next recovery removes the file.
        let _ = fs.remove(&temporary);
    }
    written
}

fn write_and_sync(
    file: Box<dyn File>,
    identity: SstIdentity,
    build: impl FnOnce(&mut SstWriter<SstOutput>) -> Result<Vec<u8>>,
) -> Result<u64> {
    let mut writer = SstWriter::new(SstOutput::new(file), identity)?;
    let properties = build(&mut writer)?;
    let (output, bytes) = writer.finish(&properties)?;
    output.file.sync().map_err(|e| Error::io("cannot sync the file", &e))?;
    Ok(bytes)
}

/// Appends `.tmp` to the whole name, so that no two files share a temporary file.
fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}
