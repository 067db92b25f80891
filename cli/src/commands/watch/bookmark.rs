//! The bookmark file of a watch: the position from which the next run resumes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::fs::{self, FileSystem, OsFileSystem};
use serde::{Deserialize, Serialize};

use crate::shapes;

/// The maximum size of a bookmark, in bytes. A larger file is not one.
const BYTES_MAX: u64 = 1 << 20;

/// The content of the file.
#[derive(Debug, Serialize, Deserialize)]
struct BookmarkFile {
    /// Only for people.
    seq: u64,
    /// In hexadecimal digits.
    resume_token: String,
}

/// The position of a watch, saved in a file. It is also saved on drop.
pub(crate) struct Bookmark {
    path: PathBuf,
    disk: Arc<dyn FileSystem>,
    token: Option<Bytes>,
    /// The seq of a position that is not in the file yet.
    ahead: Option<u64>,
}

impl Bookmark {
    /// Reads the position from a file; there is none if the file does not exist.
    pub(crate) fn open(path: &Path) -> Result<Bookmark> {
        let failed = |e| Error::io(format_args!("cannot resolve the path {}", path.display()), &e);
        let path = std::path::absolute(path).map_err(failed)?;
        let disk = OsFileSystem::shared();
        let token = match fs::read(&*disk, &path, BYTES_MAX)? {
            Some(text) => Some(parse(&text).ok_or_else(|| {
                let message = format!("{} is not a bookmark of a watch", path.display());
                Error::new(Reason::ArgumentInvalid, message)
            })?),
            None => None,
        };
        Ok(Bookmark { path, disk, token, ahead: None })
    }

    /// The path of the file.
    pub(crate) fn path(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// The token from which the watch resumes.
    pub(crate) fn token(&self) -> Option<Bytes> {
        self.token.clone()
    }

    /// Moves the bookmark. Saves it now if `at_once`, otherwise at the next call of `keep`.
    pub(crate) fn advance(&mut self, seq: u64, token: &Bytes, at_once: bool) -> Result<()> {
        if self.token.as_ref() != Some(token) {
            // Create a missing file now: from this position on nothing may be lost.
            let first = self.token.is_none();
            self.token = Some(token.clone());
            self.ahead = Some(seq);
            if at_once || first {
                return self.save();
            }
        }
        Ok(())
    }

    /// Saves the position if it is not in the file yet, atomically and durably.
    pub(crate) fn save(&mut self) -> Result<()> {
        let (Some(seq), Some(token)) = (self.ahead, &self.token) else { return Ok(()) };
        let resume_token = token.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = shapes::line(&BookmarkFile { seq, resume_token })? + "\n";
        self.replace(text.as_bytes())
            .map_err(|e| Error::io(format_args!("cannot write {}", self.path.display()), &e))?;
        self.ahead = None;
        Ok(())
    }

    fn replace(&self, bytes: &[u8]) -> std::io::Result<()> {
        // The file is in a directory of the user, so its temporary file needs a recognizable name.
        let mut name = self.path.file_name().map(OsString::from).unwrap_or_default();
        name.push(".tmp");
        let temporary = self.path.with_file_name(name);
        match self.disk.remove(&temporary) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = self.disk.create(&temporary)?;
        file.write_at(bytes, 0)?;
        file.sync()?;
        self.disk.rename(&temporary, &self.path)?;
        self.path.parent().map_or(Ok(()), |dir| self.disk.sync_dir(dir))
    }
}

impl Drop for Bookmark {
    fn drop(&mut self) {
        // For example after Ctrl-C. If saving fails, some commits are repeated in the next run.
        let _ = self.save();
    }
}

fn parse(text: &[u8]) -> Option<Bytes> {
    let BookmarkFile { resume_token, .. } = serde_json::from_slice(text).ok()?;
    let pairs = resume_token.as_bytes().chunks(2);
    let token: Option<Vec<u8>> =
        pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    token.filter(|token| !token.is_empty()).map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_saved_and_restored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.watch");
        let mut bookmark = Bookmark::open(&path).unwrap();
        assert_eq!(bookmark.token(), None);
        let [first, second, third] = [b"\x00\xffa".as_slice(), b"2", b"3"].map(Bytes::from_static);
        bookmark.advance(7, &first, false).unwrap();
        assert_eq!(Bookmark::open(&path).unwrap().token(), Some(first.clone()));
        // Later positions are saved at the next `keep`, or on drop.
        bookmark.advance(8, &second, false).unwrap();
        assert_eq!(Bookmark::open(&path).unwrap().token(), Some(first));
        drop(bookmark);
        let mut bookmark = Bookmark::open(&path).unwrap();
        assert_eq!(bookmark.token(), Some(second));
        bookmark.advance(9, &third, true).unwrap();
        assert_eq!(Bookmark::open(&path).unwrap().token(), Some(third));
        assert_eq!(OsFileSystem::shared().list(dir.path()).unwrap(), ["a.watch"]);
    }

    #[test]
    fn a_file_that_is_not_a_bookmark_is_rejected_and_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        for text in [
            "",
            "hello",
            "{\"seq\":1}",
            "{\"seq\":1,\"resume_token\":\"\"}",
            "{\"seq\":1,\"resume_token\":\"zz\"}",
        ] {
            fs::replace(&*OsFileSystem::shared(), &path, text.as_bytes()).unwrap();
            let failed = Bookmark::open(&path).map(drop).unwrap_err();
            assert!(failed.message().contains("notes"), "{failed}");
        }
    }
}
