//! Files of the operator that a daemon reads again when they change: certificates, keys, grants.
//!
//! The contents are read and compared, several times a second. A notification of the file system, or a time stamp, would cost less, but
//! each fails somewhere: on network file systems, behind the symbolic links with which orchestrators swap whole directories, and
//! when two changes share one time stamp. A few small files cost nothing. A change counts once two checks in a row have found it:
//! a file that is being written, and a key that does not match its certificate yet, are left alone. SIGHUP does not wait. What
//! cannot be used is logged and named in Status, and the former contents stay in use.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::Xxh3Default;

use crate::error::{Error, Reason, Result};
use crate::limits;
use crate::storage::fs;
use crate::vital::VitalPart;

/// How often the files are read. A change is in use after two to three intervals.
const INTERVAL: Duration = Duration::from_millis(250);

/// A file of the operator, as it was read.
#[derive(Debug)]
pub struct WatchedFile {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// What is made of the files, such as a TLS configuration, or of the error why they cannot be read.
type FileDecoder<T> = dyn Fn(Result<&[WatchedFile]>) -> Result<T> + Send + Sync;

/// A value that is made of some files, and made again when one of them changes.
pub struct ReloadedFiles<T> {
    /// What the files are, for messages: `the TLS files`.
    what: &'static str,
    paths: Vec<PathBuf>,
    load: Box<FileDecoder<T>>,
    current: ArcSwap<T>,
    /// Counts the values: each sends the next number.
    version: watch::Sender<u64>,
    /// Held for a whole check.
    checks: Mutex<FileChecks>,
    /// Why the newest files are not in use.
    problem: Mutex<Option<String>>,
}

/// What the checks have found so far.
#[derive(Debug)]
struct FileChecks {
    /// The fingerprint of the files at the last check.
    found: u128,
    /// The fingerprint of the files that were last loaded, or could not be.
    tried: u128,
}

impl<T> std::fmt::Debug for ReloadedFiles<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReloadedFiles").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> ReloadedFiles<T> {
    /// Reads the files and makes the first value. Fails if that is not possible. Blocks.
    pub fn open(
        what: &'static str,
        paths: Vec<PathBuf>,
        load: impl Fn(Result<&[WatchedFile]>) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Arc<ReloadedFiles<T>>> {
        let contents = read_all(&paths)?;
        let first = load(Ok(&contents))?;
        let found = fingerprint(&Ok(contents));
        Ok(Arc::new(ReloadedFiles {
            what,
            paths,
            load: Box::new(load),
            current: ArcSwap::from_pointee(first),
            version: watch::channel(0).0,
            checks: Mutex::new(FileChecks { found, tried: found }),
            problem: Mutex::new(None),
        }))
    }

    /// The newest value.
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Tells of each new value from now on. To miss none, subscribe before you look at the value.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Why the newest files are not in use, for Status; `None` if they are.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().clone()
    }

    /// Starts the task that reads the files again, until `shutdown` is cancelled. Needs a tokio runtime.
    pub fn follow(self: &Arc<Self>, shutdown: CancellationToken) {
        let files = Arc::clone(self);
        tokio::spawn(async move {
            let _vital = VitalPart::new("the task that reads files again");
            while shutdown.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
                let checked = Arc::clone(&files);
                if let Err(error) = tokio::task::spawn_blocking(move || checked.check(false)).await {
                    tracing::error!(%error, "checking {} failed", files.what);
                }
            }
        });
    }

    /// Reads the files again now, because the operator asks for it, and uses them whether or not they have changed. Blocks.
    pub fn reload(&self) {
        self.check(true);
    }

    /// Reads the files, and makes a new value if they have changed and are settled, or if the operator asks for it. Blocks.
    fn check(&self, is_asked: bool) {
        // One check at a time, from the reading to the new value: of two that overlap, the one that has read older files could
        // otherwise store its value last, and a token that was revoked would be valid again. Nobody else takes this lock.
        let mut checks = self.checks.lock();
        let contents = read_all(&self.paths);
        let fingerprint = fingerprint(&contents);
        let is_settled = std::mem::replace(&mut checks.found, fingerprint) == fingerprint;
        if !is_asked && (!is_settled || checks.tried == fingerprint) {
            return;
        }
        checks.tried = fingerprint;
        match (self.load)(contents.as_deref().map_err(Error::clone)) {
            Ok(value) => {
                *self.problem.lock() = None;
                self.current.store(Arc::new(value));
                self.version.send_modify(|version| *version += 1);
                tracing::info!("reloaded {}", self.what);
            }
            Err(error) => {
                tracing::error!(%error, "cannot reload {}; the former ones stay in use", self.what);
                let problem = format!("cannot reload {}: {error}; the former ones stay in use", self.what);
                *self.problem.lock() = Some(problem);
            }
        }
    }
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<WatchedFile>> {
    paths.iter().map(|path| Ok(WatchedFile { path: path.clone(), bytes: read(path)? })).collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = fs::open_input(path)?.take(limits::RELOADED_FILE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|e| Error::io(format_args!("cannot read {}", path.display()), &e))?;
    if bytes.len() as u64 > limits::RELOADED_FILE_BYTES {
        let message = format!(
            "{} is too large: it has more than {} bytes",
            path.display(),
            limits::RELOADED_FILE_BYTES
        );
        return Err(Error::new(Reason::TooLarge, message));
    }
    Ok(bytes)
}

/// Differs if the files differ, or if they cannot be read for another reason. The files themselves are not kept: one may be a key.
fn fingerprint(contents: &Result<Vec<WatchedFile>>) -> u128 {
    let mut hash = Xxh3Default::new();
    match contents {
        Ok(contents) => {
            for content in contents {
                hash.update(&(content.bytes.len() as u64).to_le_bytes());
                hash.update(&content.bytes);
            }
        }
        Err(error) => hash.update(error.message().as_bytes()),
    }
    hash.digest128()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::fs::{FileSystem, OsFileSystem, replace};

    /// A file in the temporary directory, removed when dropped.
    struct OperatorFile(PathBuf);

    impl OperatorFile {
        fn with(text: &str) -> OperatorFile {
            let path = std::env::temp_dir().join(format!("driftdb-reloaded-{}", uuid::Uuid::new_v4()));
            let file = OperatorFile(path);
            file.write(text);
            file
        }

        fn write(&self, text: &str) {
            replace(&OsFileSystem, &self.0, text.as_bytes()).unwrap();
        }
    }

    impl Drop for OperatorFile {
        fn drop(&mut self) {
            let _ = OsFileSystem.remove(&self.0);
        }
    }

    fn open(file: &OperatorFile) -> Arc<ReloadedFiles<String>> {
        ReloadedFiles::open("the test file", vec![file.0.clone()], |contents| {
            let text = String::from_utf8_lossy(&contents?[0].bytes).into_owned();
            match text.contains("bad") {
                true => Err(Error::new(Reason::ArgumentInvalid, "it is bad")),
                false => Ok(text),
            }
        })
        .unwrap()
    }

    #[test]
    fn a_change_counts_once_two_checks_have_found_it() {
        let file = OperatorFile::with("one");
        let files = open(&file);
        let version = files.subscribe();
        let state = || (files.current().to_string(), *version.borrow());
        file.write("tw");
        files.check(false);
        file.write("two");
        files.check(false);
        assert_eq!(state(), ("one".to_owned(), 0));
        files.check(false);
        files.check(false);
        assert_eq!(state(), ("two".to_owned(), 1));
        // A signal does not wait.
        file.write("three");
        files.check(true);
        assert_eq!(state(), ("three".to_owned(), 2));
    }

    #[test]
    fn a_bad_file_or_none_keeps_the_former_value_and_is_named_until_it_is_mended() {
        let file = OperatorFile::with("one");
        let files = open(&file);
        for step in ["bad", "", "worse and bad"] {
            match step {
                "" => OsFileSystem.remove(&file.0).unwrap(),
                text => file.write(text),
            }
            files.check(false);
            files.check(false);
            assert_eq!(files.current().as_str(), "one", "{step}");
            let problem = files.problem().unwrap();
            assert!(problem.starts_with("cannot reload the test file: "), "{problem}");
            assert!(problem.ends_with("; the former ones stay in use"), "{problem}");
        }
        // The contents of the former value count, too.
        file.write("one");
        files.check(false);
        files.check(false);
        assert_eq!(files.problem(), None);
    }

    #[test]
    fn a_file_has_a_bound() {
        let limit = usize::try_from(limits::RELOADED_FILE_BYTES).unwrap();
        let file = OperatorFile::with(&"x".repeat(limit));
        assert_eq!(read(&file.0).unwrap().len(), limit);
        file.write(&"x".repeat(limit + 1));
        assert_eq!(read(&file.0).unwrap_err().reason(), Reason::TooLarge);
    }
}
