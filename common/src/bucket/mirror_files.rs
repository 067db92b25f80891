//! The files of a mirror, and the record of them: `bucket.json`, so that a mirror continues where it was after a break at any point.
//!
//! Files are written without a sync for each, and synced together before the record names them. What was written later is written again
//! from the chunks after it, with the same bytes, so nothing that a power cut may have torn is trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bucket::chunk::ContentDigest;
use crate::error::{Error, Result};
use crate::format::lineage::LineagePoint;
use crate::format::manifest;
use crate::storage::fs::{self, File, FileSystem};
use crate::storage::layout::{DataDir, MIRROR_RECORD};

/// How far a directory is a mirror of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct MirrorRecord {
    /// Where the bucket is: another one can have the same database with another history.
    pub(super) bucket: String,
    /// The last chunk whose content the directory has; 0 if there is none.
    pub(super) number: u64,
    /// The digest of that chunk.
    digest: String,
    /// The id of the database; all zeros before the first chunk.
    pub(super) database: uuid::Uuid,
    /// The directories of the tables, by table id.
    pub(super) tables: BTreeMap<u64, String>,
    /// The segments, layers and indexes, by their paths.
    pub(super) files: BTreeMap<String, MirroredFile>,
    /// The content of `database.json`, as long as it is not in place: without it nothing opens the directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<String>,
    /// Whether layers and older segments stay in the bucket.
    #[serde(default)]
    pub(super) is_partial: bool,
    /// What a restore is to: set before the first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) restore: Option<RestorePlan>,
    /// The commit of the base that is being copied, before the first chunk is there: the files can only be used for the same history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) begun: Option<BegunBase>,
    /// The file that is being copied: its first bytes are there, and only all of them can be checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unfinished: Option<UnfinishedFile>,
}

/// The last commit of a base that is being copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BegunBase {
    incarnation: u64,
    seq: u64,
}

impl BegunBase {
    pub(super) fn at(point: LineagePoint) -> BegunBase {
        BegunBase { incarnation: point.incarnation, seq: point.seq }
    }

    pub(super) fn point(self) -> LineagePoint {
        LineagePoint { incarnation: self.incarnation, seq: self.seq }
    }
}

/// A file that was copied in part, from its start on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UnfinishedFile {
    /// Its path. A layer or an index has a temporary name as long as it is not whole.
    pub(super) path: String,
    /// The digest of all of it.
    pub(super) digest: String,
    /// How many bytes are there.
    pub(super) bytes: u64,
}

/// A file of a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MirroredFile {
    /// Its length in bytes.
    pub(super) bytes: u64,
    /// Its digest; empty for a segment on this machine, which grows.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) digest: String,
}

impl MirroredFile {
    /// Its digest; `None` for a segment on this machine.
    pub(super) fn digest(&self) -> Option<ContentDigest> {
        ContentDigest::parse(&self.digest)
    }
}

/// What a restore has decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RestorePlan {
    /// The point in time, as the user wrote it.
    pub(super) point: String,
    /// When the restore began, in milliseconds since 1970, if the point is relative to that; otherwise 0.
    #[serde(default)]
    pub(super) began_ms: u64,
    /// The time that it meant when the restore began, in milliseconds since 1970, if it is a time.
    #[serde(default)]
    pub(super) time_ms: Option<u64>,
    /// The last chunk that it needs.
    pub(super) chunk: u64,
    /// The commit after which the database is cut off; `None` as long as the chunks are not all there.
    pub(super) seq: Option<u64>,
}

impl MirrorRecord {
    /// The record of an empty mirror.
    pub(super) fn of_bucket(place: &str) -> MirrorRecord {
        MirrorRecord { bucket: place.to_owned(), ..MirrorRecord::default() }
    }

    /// Reads the record of a directory. Returns `None` if it has none.
    pub(super) fn read(fs: &dyn FileSystem, dir: &DataDir) -> Result<Option<MirrorRecord>> {
        MirrorRecord::read_named(fs, dir, MIRROR_RECORD)
    }

    /// Reads the record under a name.
    pub(super) fn read_named(fs: &dyn FileSystem, dir: &DataDir, name: &str) -> Result<Option<MirrorRecord>> {
        let path = dir.root().join(name);
        let Some(bytes) = fs::read(fs, &path, manifest::FILE_BYTES)? else { return Ok(None) };
        let damaged = |detail: String| {
            let what =
                format!("{detail}; remove the directory, which is a copy of the bucket, and start again");
            Error::corrupt(path.display(), 0, what)
        };
        let record: MirrorRecord = manifest::decode(&bytes).map_err(damaged)?;
        match ContentDigest::parse(&record.digest) {
            None if record.number > 0 => Err(damaged("it has no digest".to_owned())),
            _ => Ok(Some(record)),
        }
    }

    /// Replaces the record, durably.
    pub(super) fn write(&self, fs: &dyn FileSystem, dir: &DataDir) -> Result<()> {
        fs::replace(fs, &dir.root().join(MIRROR_RECORD), &manifest::encode(self)?)
    }

    /// The digest of the last chunk.
    pub(super) fn digest(&self) -> ContentDigest {
        ContentDigest::parse(&self.digest).unwrap_or_default()
    }

    /// Records that a chunk was applied.
    pub(super) fn advance(&mut self, number: u64, digest: ContentDigest) {
        (self.number, self.digest) = (number, digest.to_string());
    }
}

/// The directory of a mirror, and what was written into it since the last sync.
#[derive(Debug)]
pub(super) struct MirrorFiles {
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) dir: DataDir,
    /// The directories that exist.
    directories: BTreeSet<PathBuf>,
    unsynced: BTreeSet<PathBuf>,
    unsynced_directories: BTreeSet<PathBuf>,
    /// The bytes that were written since the last sync.
    written: u64,
}

impl MirrorFiles {
    pub(super) fn new(fs: Arc<dyn FileSystem>, dir: DataDir) -> MirrorFiles {
        MirrorFiles {
            fs,
            dir,
            directories: BTreeSet::new(),
            unsynced: BTreeSet::new(),
            unsynced_directories: BTreeSet::new(),
            written: 0,
        }
    }

    /// The path of a file that a chunk names. The chunk's decoder has checked the name.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.root().join(name)
    }

    /// The bytes that were written since the last sync.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Writes bytes into a file, which is created if it does not exist.
    pub(super) fn write_at(&mut self, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
        self.make_parent(path)?;
        let file = match self.fs.open_write(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.fs.create(path),
            opened => opened,
        };
        let written = file.and_then(|file| file.write_at(bytes, offset));
        written.map_err(|e| Error::io(format_args!("cannot write {}", path.display()), &e))?;
        self.note_write(path, bytes.len());
        Ok(())
    }

    /// Begins a file under a temporary name.
    pub(super) fn begin(&mut self, path: &Path) -> Result<PendingFile> {
        self.make_parent(path)?;
        let temporary = temporary_path(path);
        let created = fs::remove_if_exists(&*self.fs, &temporary).and_then(|()| self.fs.create(&temporary));
        let file =
            created.map_err(|e| Error::io(format_args!("cannot create {}", temporary.display()), &e))?;
        Ok(PendingFile { file, temporary, len: 0 })
    }

    /// Continues a file under its temporary name after the first `len` bytes.
    pub(super) fn resume(&mut self, path: &Path, len: u64) -> Result<PendingFile> {
        let temporary = temporary_path(path);
        let file = self.fs.open_write(&temporary);
        let file = file.map_err(|e| Error::io(format_args!("cannot write {}", temporary.display()), &e))?;
        Ok(PendingFile { file, temporary, len })
    }

    /// Notes what was written into a file that does not have its name yet, so that it is synced.
    pub(super) fn note_pending(&mut self, pending: &PendingFile, bytes: usize) {
        self.note_write(&pending.temporary, bytes);
    }

    /// Gives a file its name, in the place of one that may have it.
    pub(super) fn put_in_place(&mut self, pending: PendingFile, path: &Path) -> Result<()> {
        let renamed = self.fs.rename(&pending.temporary, path);
        renamed.map_err(|e| Error::io(format_args!("cannot write {}", path.display()), &e))?;
        self.unsynced.remove(&pending.temporary);
        self.note_write(path, 0);
        Ok(())
    }

    /// Replaces a small file. A reader sees the old one or the new one.
    pub(super) fn replace(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        let mut pending = self.begin(path)?;
        pending.append(bytes)?;
        self.note_pending(&pending, bytes.len());
        self.put_in_place(pending, path)
    }

    /// Removes a file. Succeeds if it does not exist.
    pub(super) fn remove(&mut self, path: &Path) -> Result<()> {
        self.unsynced.remove(path);
        let removed = fs::remove_if_exists(&*self.fs, path);
        removed.map_err(|e| Error::io(format_args!("cannot remove {}", path.display()), &e))
    }

    /// Makes everything durable that was written.
    pub(super) fn sync(&mut self) -> Result<()> {
        for path in &self.unsynced {
            let synced = self.fs.open_write(path).and_then(|file| file.sync());
            match synced {
                // It was removed since.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                synced => {
                    synced.map_err(|e| Error::io(format_args!("cannot sync {}", path.display()), &e))?
                }
            }
        }
        for path in &self.unsynced_directories {
            let synced = self.fs.sync_dir(path);
            synced.map_err(|e| Error::io(format_args!("cannot sync {}", path.display()), &e))?;
        }
        self.unsynced.clear();
        self.unsynced_directories.clear();
        self.written = 0;
        Ok(())
    }

    fn note_write(&mut self, path: &Path, bytes: usize) {
        self.written += bytes as u64;
        self.unsynced.insert(path.to_owned());
        if let Some(parent) = path.parent() {
            self.unsynced_directories.insert(parent.to_owned());
        }
    }

    /// Makes the directory of a file.
    pub(super) fn make_parent(&mut self, path: &Path) -> Result<()> {
        let Some(parent) = path.parent().filter(|parent| !self.directories.contains(*parent)) else {
            return Ok(());
        };
        let made = self.fs.create_dir(parent);
        made.map_err(|e| Error::io(format_args!("cannot create {}", parent.display()), &e))?;
        self.directories.insert(parent.to_owned());
        // The names of the directories themselves, up to that of the data directory.
        let above = parent.ancestors().skip(1).take_while(|above| above.starts_with(self.dir.root()));
        self.unsynced_directories.extend(above.map(Path::to_owned));
        Ok(())
    }
}

/// The name of a file as long as it is not whole.
pub(super) fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

/// A file that does not have its name yet.
#[derive(Debug)]
pub(super) struct PendingFile {
    file: Box<dyn File>,
    temporary: PathBuf,
    len: u64,
}

impl PendingFile {
    /// Writes bytes after those that were written.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_at(bytes, self.len);
        written.map_err(|e| Error::io(format_args!("cannot write {}", self.temporary.display()), &e))?;
        self.len += bytes.len() as u64;
        Ok(())
    }
}
