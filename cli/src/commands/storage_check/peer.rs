//! The other process of `storage-check`. It reads requests line by line from stdin and answers each on stdout.

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use driftdb_common::storage::fs::{File, FileSystem, OsFileSystem, is_gone};
use driftdb_reader::fs_events::{FsEvents, WakeReason};
use serde::{Deserialize, Serialize};

use crate::args::StoragePeerArgs;
use crate::exit::CliResult;
use crate::render::Printer;
use crate::shapes;

/// The pause between two attempts.
const BETWEEN: Duration = Duration::from_millis(1);
/// Larger than every file of the check.
const FILE_BYTES: usize = 16 << 10;

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ReadMode {
    /// With the file handle that was opened before.
    Kept,
    /// Opened for each attempt.
    Open,
    /// Opened for each attempt, without the caches of this machine if the file system is shared.
    Fresh,
}

/// A request to the peer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum PeerRequest {
    /// Take a lock and keep it.
    Lock(String),
    /// Release the lock.
    Unlock,
    /// Open a file and keep it open.
    Keep(String),
    /// Read a file until it contains this text.
    Read { name: String, way: ReadMode, text: String, limit_ms: u64 },
    /// List the directory until it contains this name.
    List { name: String, limit_ms: u64 },
    /// Read a file that is repeatedly replaced, until its generation is `last`.
    Replaced { name: String, last: u64, limit_ms: u64 },
    /// Start to watch the directory for changes.
    Watch,
    /// Wait for a change notification.
    Notice { limit_ms: u64 },
}

/// The response of the peer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum PeerResponse {
    /// The request was executed.
    Done,
    /// Whether the lock was acquired.
    Locked(bool),
    /// The change was seen after `ms` milliseconds; `odd` attempts found neither the old nor the new state.
    Seen { ms: u64, odd: u64 },
    /// The change was not seen in time; the text is what was found instead.
    Unseen(String),
    /// The system returned an error.
    Failed(String),
}

/// The content of a file of one generation. If its two ends differ, a reader has seen parts of two files.
pub(crate) fn generation(number: u64) -> String {
    format!("{number:08}{}{number:08}", "-".repeat(6000))
}

/// Answers the requests on standard input.
pub(crate) fn run(args: &StoragePeerArgs, out: &mut Printer) -> CliResult {
    let mut peer = CheckPeer { dir: args.dir.clone(), lock: None, kept: None, notices: None };
    for line in io::stdin().lock().lines() {
        let line = line?;
        let answer = match serde_json::from_str(&line) {
            Ok(request) => peer.answer(request).unwrap_or_else(|e| PeerResponse::Failed(e.to_string())),
            Err(e) => PeerResponse::Failed(format!("not a request: {e}")),
        };
        out.print_text(&format!("{}\n", shapes::line(&answer)?))?;
    }
    Ok(())
}

struct CheckPeer {
    dir: PathBuf,
    lock: Option<Box<dyn File>>,
    kept: Option<Box<dyn File>>,
    notices: Option<FsEvents>,
}

impl CheckPeer {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn answer(&mut self, request: PeerRequest) -> io::Result<PeerResponse> {
        match request {
            PeerRequest::Lock(name) => {
                self.lock = OsFileSystem.lock(&self.path(&name))?;
                Ok(PeerResponse::Locked(self.lock.is_some()))
            }
            PeerRequest::Unlock => {
                self.lock = None;
                Ok(PeerResponse::Done)
            }
            PeerRequest::Keep(name) => {
                let file = OsFileSystem.open(&self.path(&name))?;
                // A file that was read once may be cached.
                text_of(&*file)?;
                self.kept = Some(file);
                Ok(PeerResponse::Done)
            }
            PeerRequest::Read { name, way, text, limit_ms } => {
                let path = self.path(&name);
                until(limit_ms, || {
                    let found = self.read(&path, way)?;
                    Ok(if found == text { Attempt::There } else { Attempt::Not(found) })
                })
            }
            PeerRequest::List { name, limit_ms } => until(limit_ms, || {
                let names = OsFileSystem.list(&self.dir)?;
                Ok(if names.contains(&name) { Attempt::There } else { Attempt::Not(names.join(" ")) })
            }),
            PeerRequest::Replaced { name, last, limit_ms } => {
                let path = self.path(&name);
                until(limit_ms, || replaced(&path, last))
            }
            PeerRequest::Watch => match FsEvents::of(&self.dir) {
                Ok(notices) => {
                    self.notices = Some(notices);
                    Ok(PeerResponse::Done)
                }
                Err(e) => Ok(PeerResponse::Failed(e.to_string())),
            },
            PeerRequest::Notice { limit_ms } => {
                let began = Instant::now();
                let woken =
                    self.notices.as_ref().map(|notices| notices.wait(Duration::from_millis(limit_ms)));
                let seen = woken == Some(WakeReason::Changed);
                Ok(if seen {
                    PeerResponse::Seen { ms: ms(began), odd: 0 }
                } else {
                    PeerResponse::Unseen(String::new())
                })
            }
        }
    }

    fn read(&self, path: &Path, way: ReadMode) -> io::Result<String> {
        match (way, &self.kept) {
            (ReadMode::Kept, Some(kept)) => text_of(&**kept),
            (ReadMode::Kept | ReadMode::Open, _) => text_of(&*OsFileSystem.open(path)?),
            (ReadMode::Fresh, _) => text_of(&*OsFileSystem.open_fresh(path)?),
        }
    }
}

/// The result of one attempt.
enum Attempt {
    There,
    Not(String),
    /// A state that must never be visible.
    Odd(String),
}

/// Reads a file that is being replaced. It must always be complete: the old or the new one.
fn replaced(path: &Path, last: u64) -> io::Result<Attempt> {
    let found = match OsFileSystem.open_fresh(path).and_then(|file| text_of(&*file)) {
        // The file was replaced after it was opened: readers open it again.
        Err(e) if is_gone(&e) && e.kind() != io::ErrorKind::NotFound => {
            return Ok(Attempt::Not(String::new()));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Ok(Attempt::Odd("the file does not exist".to_owned()));
        }
        found => found?,
    };
    let number = found.get(..8).and_then(|digits| digits.parse().ok());
    Ok(match number {
        Some(number) if found == generation(number) && number == last => Attempt::There,
        Some(number) if found == generation(number) => Attempt::Not(format!("generation {number}")),
        _ => Attempt::Odd(format!("{} bytes that are no generation", found.len())),
    })
}

/// Repeats an attempt until it succeeds or the time limit is reached.
fn until(limit_ms: u64, mut look: impl FnMut() -> io::Result<Attempt>) -> io::Result<PeerResponse> {
    let (began, limit, mut odd) = (Instant::now(), Duration::from_millis(limit_ms), 0);
    loop {
        let found = match look() {
            Ok(Attempt::There) => return Ok(PeerResponse::Seen { ms: ms(began), odd }),
            Ok(Attempt::Not(found)) => found,
            Ok(Attempt::Odd(found)) => {
                odd += 1;
                found
            }
            Err(e) => e.to_string(),
        };
        if began.elapsed() >= limit {
            return Ok(PeerResponse::Unseen(found));
        }
        std::thread::sleep(BETWEEN);
    }
}

fn ms(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn text_of(file: &dyn File) -> io::Result<String> {
    let mut bytes = vec![0; FILE_BYTES];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
