//! The temporary directory of `storage-check`.

use std::path::{Path, PathBuf};

use driftdb_common::error::{Error, Result};
use driftdb_common::storage::fs::{File, FileSystem, OsFileSystem};
use uuid::Uuid;

/// The directory of one check. It is removed with its contents on drop.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
    name: String,
}

impl Scratch {
    /// Creates the directory in `parent`.
    pub(crate) fn create(parent: &Path) -> Result<Scratch> {
        let name = format!(".driftdb-storage-check-{}", Uuid::new_v4().simple());
        let dir = parent.join(&name);
        OsFileSystem
            .create_dir(&dir)
            .map_err(|e| Error::io(format_args!("cannot create a directory in {}", parent.display()), &e))?;
        Ok(Scratch { dir, name })
    }

    /// The name of the directory within its parent.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The path of the directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of a file in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Creates a file with this text, and syncs it.
    pub(crate) fn write(&self, name: &str, text: &str) -> std::io::Result<Box<dyn File>> {
        let file = OsFileSystem.create(&self.path(name))?;
        file.write_at(text.as_bytes(), 0)?;
        file.sync()?;
        OsFileSystem.sync_dir(&self.dir)?;
        Ok(file)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // If the removal fails, the directory stays. Its name shows which program made it.
        for name in OsFileSystem.list(&self.dir).unwrap_or_default() {
            let _ = OsFileSystem.remove(&self.path(&name));
        }
        let _ = OsFileSystem.remove_dir(&self.dir);
    }
}
