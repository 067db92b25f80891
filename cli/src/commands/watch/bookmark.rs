//! A file that says how far a watch came, so that the next run goes on there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::fs::{self, FileSystem, OsFileSystem};
use serde::{Deserialize, Serialize};

use crate::shapes;

/// A file of this size is none of ours.
const BYTES_MAX: u64 = 1 << 20;

/// What stands in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    /// For people.
    seq: u64,
    /// In hexadecimal digits.
    resume_token: String,
}

/// A place in a watch, kept in a file. Dropped, it is kept once more.
pub struct Bookmark {
    path: PathBuf,
    disk: Arc<dyn FileSystem>,
    token: Option<Bytes>,
    /// What is not in the file yet.
    ahead: Option<u64>,
}

impl Bookmark {
    /// The place that a file holds; none, where there is no file yet.
    pub fn open(path: &Path) -> Result<Bookmark> {
        let failed = |e| Error::io(format_args!("cannot find {}", path.display()), &e);
        let path = std::path::absolute(path).map_err(failed)?;
        let disk = OsFileSystem::shared();
        let token = match fs::read(&*disk, &path, BYTES_MAX)? {
            Some(text) => Some(parse(&text).ok_or_else(|| {
                let message = format!("{} does not hold the place of a watch", path.display());
                Error::new(Reason::ArgumentInvalid, message)
            })?),
            None => None,
        };
        Ok(Bookmark { path, disk, token, ahead: None })
    }

    /// The file.
    pub fn path(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Where the watch goes on.
    pub fn token(&self) -> Option<Bytes> {
        self.token.clone()
    }

    /// Moves on; into the file at once, or some time soon.
    pub fn move_to(&mut self, seq: u64, token: &Bytes, at_once: bool) -> Result<()> {
        if self.token.as_ref() != Some(token) {
            // A file that is not there yet is made at once: it says from where on nothing is missed.
            let first = self.token.is_none();
            self.token = Some(token.clone());
            self.ahead = Some(seq);
            if at_once || first {
                return self.keep();
            }
        }
        Ok(())
    }

    /// Writes the place where it is not in the file yet: whole, and durably.
    pub fn keep(&mut self) -> Result<()> {
        let (Some(seq), Some(token)) = (self.ahead, &self.token) else { return Ok(()) };
        let resume_token = token.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = shapes::line(&Place { seq, resume_token })? + "\n";
        self.replace(text.as_bytes())
            .map_err(|e| Error::io(format_args!("cannot write {}", self.path.display()), &e))?;
        self.ahead = None;
        Ok(())
    }

    fn replace(&self, bytes: &[u8]) -> std::io::Result<()> {
        // Beside files of the user's, so that it is not taken for one of theirs.
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
        // Ctrl-C came. What cannot be kept now comes again the next time.
        let _ = self.keep();
    }
}

fn parse(text: &[u8]) -> Option<Bytes> {
    let Place { resume_token, .. } = serde_json::from_slice(text).ok()?;
    let pairs = resume_token.as_bytes().chunks(2);
    let token: Option<Vec<u8>> =
        pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    token.filter(|token| !token.is_empty()).map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.watch");
        let mut bookmark = Bookmark::open(&path).unwrap();
        assert_eq!(bookmark.token(), None);
        let [first, second, third] = [b"\x00\xffa".as_slice(), b"2", b"3"].map(Bytes::from_static);
        bookmark.move_to(7, &first, false).unwrap();
        assert_eq!(Bookmark::open(&path).unwrap().token(), Some(first.clone()));
        // Later ones when there is time, or at the end.
        bookmark.move_to(8, &second, false).unwrap();
        assert_eq!(Bookmark::open(&path).unwrap().token(), Some(first));
        drop(bookmark);
        let mut bookmark = Bookmark::open(&path).unwrap();
        assert_eq!(bookmark.token(), Some(second));
        bookmark.move_to(9, &third, true).unwrap();
        assert_eq!(Bookmark::open(&path).unwrap().token(), Some(third));
        assert_eq!(path.read_dir_names(), ["a.watch"]);
    }

    trait Names {
        fn read_dir_names(&self) -> Vec<String>;
    }

    impl Names for PathBuf {
        fn read_dir_names(&self) -> Vec<String> {
            OsFileSystem::shared().list(self.parent().unwrap()).unwrap()
        }
    }

    #[test]
    fn another_file_is_refused_and_left_alone() {
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
