//! The other process of `storage-check`: does on its side what it is asked, line by line, until it is not asked any more.

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use driftdb_common::storage::fs::{File, FileSystem, OsFileSystem, is_gone};
use driftdb_reader::fs_events::{FsEvents, WakeReason};
use serde::{Deserialize, Serialize};

use crate::args::StoragePeer;
use crate::exit::Outcome;
use crate::render::Output;
use crate::shapes;

/// Between two looks for something to come.
const BETWEEN: Duration = Duration::from_millis(1);
/// More than any file of the check holds.
const FILE_BYTES: usize = 16 << 10;

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// By the file that was opened before.
    Kept,
    /// Opened for each look.
    Open,
    /// Opened for each look, past the caches of this machine where machines share the file system.
    Fresh,
}

/// What the peer is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Take a lock, and keep it.
    Lock(String),
    /// Let go of it.
    Unlock,
    /// Open a file, and keep it open.
    Keep(String),
    /// Read a file until it holds this text.
    Read { name: String, way: Way, text: String, limit_ms: u64 },
    /// List the directory until it has this name.
    List { name: String, limit_ms: u64 },
    /// Read a file that is replaced again and again, until its generation is this one.
    Replaced { name: String, last: u64, limit_ms: u64 },
    /// Begin to take notices.
    Watch,
    /// Wait for a notice.
    Notice { limit_ms: u64 },
}

/// What the peer has to say.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// Whether the lock was had.
    Locked(bool),
    /// It came after so long; so many looks found neither the old nor the new.
    Seen { ms: u64, odd: u64 },
    /// It did not come in time: what was there instead.
    Unseen(String),
    /// The system said no.
    Failed(String),
}

/// A file of one generation: whoever finds its two ends differ has found two files in one.
pub fn generation(number: u64) -> String {
    format!("{number:08}{}{number:08}", "-".repeat(6000))
}

/// Answers requests on standard input.
pub fn run(args: &StoragePeer, out: &mut Output) -> Outcome {
    let mut peer = Peer { dir: args.dir.clone(), lock: None, kept: None, notices: None };
    for line in io::stdin().lock().lines() {
        let line = line?;
        let answer = match serde_json::from_str(&line) {
            Ok(request) => peer.answer(request).unwrap_or_else(|e| Answer::Failed(e.to_string())),
            Err(e) => Answer::Failed(format!("not a request: {e}")),
        };
        out.text(&format!("{}\n", shapes::line(&answer)?))?;
    }
    Ok(())
}

struct Peer {
    dir: PathBuf,
    lock: Option<Box<dyn File>>,
    kept: Option<Box<dyn File>>,
    notices: Option<FsEvents>,
}

impl Peer {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn answer(&mut self, request: Request) -> io::Result<Answer> {
        match request {
            Request::Lock(name) => {
                self.lock = OsFileSystem.lock(&self.path(&name))?;
                Ok(Answer::Locked(self.lock.is_some()))
            }
            Request::Unlock => {
                self.lock = None;
                Ok(Answer::Done)
            }
            Request::Keep(name) => {
                let file = OsFileSystem.open(&self.path(&name))?;
                // Once read, it may be cached.
                text_of(&*file)?;
                self.kept = Some(file);
                Ok(Answer::Done)
            }
            Request::Read { name, way, text, limit_ms } => {
                let path = self.path(&name);
                until(limit_ms, || {
                    let found = self.read(&path, way)?;
                    Ok(if found == text { Look::There } else { Look::Not(found) })
                })
            }
            Request::List { name, limit_ms } => until(limit_ms, || {
                let names = OsFileSystem.list(&self.dir)?;
                Ok(if names.contains(&name) { Look::There } else { Look::Not(names.join(" ")) })
            }),
            Request::Replaced { name, last, limit_ms } => {
                let path = self.path(&name);
                until(limit_ms, || replaced(&path, last))
            }
            Request::Watch => match FsEvents::of(&self.dir) {
                Ok(notices) => {
                    self.notices = Some(notices);
                    Ok(Answer::Done)
                }
                Err(e) => Ok(Answer::Failed(e.to_string())),
            },
            Request::Notice { limit_ms } => {
                let began = Instant::now();
                let woken =
                    self.notices.as_ref().map(|notices| notices.wait(Duration::from_millis(limit_ms)));
                let seen = woken == Some(WakeReason::Changed);
                Ok(if seen { Answer::Seen { ms: ms(began), odd: 0 } } else { Answer::Unseen(String::new()) })
            }
        }
    }

    fn read(&self, path: &Path, way: Way) -> io::Result<String> {
        match (way, &self.kept) {
            (Way::Kept, Some(kept)) => text_of(&**kept),
            (Way::Kept | Way::Open, _) => text_of(&*OsFileSystem.open(path)?),
            (Way::Fresh, _) => text_of(&*OsFileSystem.open_fresh(path)?),
        }
    }
}

/// What a look has found.
enum Look {
    There,
    Not(String),
    /// What must never be there.
    Odd(String),
}

/// One look at a file that is being replaced: always whole, old or new.
fn replaced(path: &Path, last: u64) -> io::Result<Look> {
    let found = match OsFileSystem.open_fresh(path).and_then(|file| text_of(&*file)) {
        // Replaced between being opened and being read: readers open it again.
        Err(e) if is_gone(&e) && e.kind() != io::ErrorKind::NotFound => return Ok(Look::Not(String::new())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Look::Odd("it was not there".to_owned())),
        found => found?,
    };
    let number = found.get(..8).and_then(|digits| digits.parse().ok());
    Ok(match number {
        Some(number) if found == generation(number) && number == last => Look::There,
        Some(number) if found == generation(number) => Look::Not(format!("generation {number}")),
        _ => Look::Odd(format!("{} bytes of no generation", found.len())),
    })
}

/// Looks until it is there, or the time is over.
fn until(limit_ms: u64, mut look: impl FnMut() -> io::Result<Look>) -> io::Result<Answer> {
    let (began, limit, mut odd) = (Instant::now(), Duration::from_millis(limit_ms), 0);
    loop {
        let found = match look() {
            Ok(Look::There) => return Ok(Answer::Seen { ms: ms(began), odd }),
            Ok(Look::Not(found)) => found,
            Ok(Look::Odd(found)) => {
                odd += 1;
                found
            }
            Err(e) => e.to_string(),
        };
        if began.elapsed() >= limit {
            return Ok(Answer::Unseen(found));
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
