//! Puts a sorted block file in place whole, or not at all.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::sst::{SstIdentity, SstWriter};
use crate::storage::fs::{File, FileSystem};

/// Bytes written at once.
const BUFFER_BYTES: usize = 1 << 20;

/// A file being written, from front to back.
#[derive(Debug)]
pub struct SstOutput {
    file: Box<dyn File>,
    offset: u64,
    buffer: Vec<u8>,
}

impl SstOutput {
    fn new(file: Box<dyn File>) -> SstOutput {
        SstOutput { file, offset: 0, buffer: Vec::with_capacity(BUFFER_BYTES) }
    }
}

impl Write for SstOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        let room = BUFFER_BYTES.saturating_sub(self.buffer.len());
        let now = bytes.get(..room).unwrap_or(bytes);
        self.buffer.extend_from_slice(now);
        Ok(now.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.file.write_at(&self.buffer, self.offset)?;
            self.offset += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }
}

/// Writes a sorted block file and puts it in place, replacing one that is there. `build` adds its trees and hands back
/// its properties. The name is durable once the caller has synced the directory. Hands back the file's length.
pub fn write_file(
    disk: &dyn FileSystem,
    path: &Path,
    identity: SstIdentity,
    build: impl FnOnce(&mut SstWriter<SstOutput>) -> Result<Vec<u8>>,
) -> Result<u64> {
    let temporary = temporary(path);
    let failed = |e: &io::Error| Error::io(what(path), e);
    match disk.remove(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(&e)),
        _ => {}
    }
    let file = disk.create(&temporary).map_err(|e| failed(&e))?;
    let written = fill(file, identity, build).map_err(|e| e.context(what(path))).and_then(|bytes| {
        disk.rename(&temporary, path).map_err(|e| failed(&e))?;
        Ok(bytes)
    });
    if written.is_err() {
        // What stays is removed by the next try, or by whoever clears the directory.
        let _ = disk.remove(&temporary);
    }
    written
}

fn fill(
    file: Box<dyn File>,
    identity: SstIdentity,
    build: impl FnOnce(&mut SstWriter<SstOutput>) -> Result<Vec<u8>>,
) -> Result<u64> {
    let mut writer = SstWriter::new(SstOutput::new(file), identity)?;
    let properties = build(&mut writer)?;
    let (output, bytes) = writer.finish(&properties)?;
    output.file.sync().map_err(|e| Error::io("cannot sync", &e))?;
    Ok(bytes)
}

fn what(path: &Path) -> impl Display {
    format!("cannot write {}", path.display())
}

/// The whole name with `.tmp` after it, so that no two files share one.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}
