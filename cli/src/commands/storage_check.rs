//! `storage-check`: checks from two processes whether the file system of a directory is safe for DriftDB.

use std::path::Path;
use std::time::{Duration, Instant};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::fs::{self, FileSystem, OsFileSystem};
use serde::Serialize;

use crate::args::StorageCheck;
use crate::exit::{Failure, Outcome};
use crate::render::Output;
use crate::shapes;

pub mod peer;
mod side;

use peer::{Answer, Request, Way, generation};
use side::{PeerProcess, Scratch};

/// A change that another process sees later than this is slow.
const SLOW_MS: u64 = 100;
/// How long to wait for a change to become visible.
const LIMIT_MS: u64 = 5_000;
/// How long to wait for a new name in a listing: network file systems cache listings longest.
const LISTED_MS: u64 = 65_000;
/// How long to wait for a change notification.
const NOTICE_MS: u64 = 2_000;
/// How often a file is replaced while the peer reads it.
const GENERATIONS: u64 = 60;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
enum Ending {
    #[serde(rename = "ok")]
    Fine,
    #[serde(rename = "slow")]
    Slow,
    /// Not supported, and not needed.
    #[serde(rename = "no")]
    Absent,
    #[serde(rename = "UNSAFE")]
    Unsafe,
}

/// The output line of a check.
#[derive(Debug, Serialize)]
struct Line {
    check: &'static str,
    result: Ending,
    ms: Option<u64>,
    means: String,
}

/// Who is affected if a check fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Concerns {
    Writer,
    Readers,
    Both,
}

/// A run of all checks.
struct Checking<'a> {
    out: &'a mut Output,
    /// Declared before the directory, so that the peer is dropped first if the check is interrupted.
    peer: PeerProcess,
    scratch: Scratch,
    peer_dir: std::path::PathBuf,
    /// Whether either directory is on a network file system.
    shared: bool,
    unsafe_for_writer: bool,
    unsafe_for_readers: bool,
    slow: bool,
    notices: bool,
}

/// Runs all checks and prints each result. Fails if one is unsafe.
pub async fn run(args: &StorageCheck, out: &mut Output) -> Outcome {
    let other = args.peer.as_deref().unwrap_or(&args.dir);
    for dir in [args.dir.as_path(), other] {
        // Before anything is created in it.
        OsFileSystem
            .list(dir)
            .map_err(|e| Failure::Usage(format!("cannot check {}: {e}", dir.display())))?;
    }
    let scratch = Scratch::make(&args.dir)?;
    let peer_dir = other.join(scratch.name());
    let shared = is_shared(&args.dir)? || is_shared(other)?;
    let mut checking = Checking {
        out,
        peer: PeerProcess::start(&peer_dir)?,
        scratch,
        peer_dir,
        shared,
        unsafe_for_writer: false,
        unsafe_for_readers: false,
        slow: false,
        notices: false,
    };
    let done = checking.all(args.peer.is_some()).await;
    let Checking { peer, scratch, .. } = checking;
    // Stop the peer first: on NFS its open files would stay in the directory as `.nfs…` and keep it from being removed.
    let ended = peer.kill().await;
    drop(scratch);
    done.and(ended.map_err(Failure::from))
}

fn is_shared(dir: &Path) -> Result<bool> {
    let shared = OsFileSystem.is_network(dir);
    shared.map_err(|e| Error::io(format_args!("cannot detect the file system of {}", dir.display()), &e))
}

impl Checking<'_> {
    async fn all(&mut self, other_mount: bool) -> Outcome {
        if self.same_storage().await? {
            self.lock(other_mount).await?;
            self.release().await?;
            self.rename().await?;
            self.append().await?;
            self.listing().await?;
            self.sync()?;
            self.unlink().await?;
            self.notices().await?;
        }
        self.verdict()
    }

    fn tell(
        &mut self,
        check: &'static str,
        result: Ending,
        ms: Option<u64>,
        means: impl Into<String>,
    ) -> Outcome {
        self.slow |= result == Ending::Slow;
        let line = Line { check, result, ms, means: means.into() };
        self.out.record(&shapes::line(&line)?)
    }

    fn harm(&mut self, check: &'static str, whom: Concerns, means: impl Into<String>) -> Outcome {
        self.unsafe_for_writer |= whom != Concerns::Readers;
        self.unsafe_for_readers |= whom != Concerns::Writer;
        self.tell(check, Ending::Unsafe, None, means)
    }

    /// Reports whether the peer saw a change. `whom` is affected if it never did.
    fn seen(&mut self, check: &'static str, answer: Answer, whom: Concerns, what: &str) -> Outcome<bool> {
        match answer {
            Answer::Seen { ms, odd: 0 } => {
                let ending = if ms > SLOW_MS { Ending::Slow } else { Ending::Fine };
                self.tell(check, ending, Some(ms), what)?;
                return Ok(true);
            }
            Answer::Seen { odd, .. } => {
                self.harm(
                    check,
                    whom,
                    format!("the other process found a file that was neither the old nor the new one, {odd} times"),
                )?;
            }
            Answer::Unseen(found) => {
                let found: String = found.chars().take(60).collect();
                self.harm(check, whom, format!("the other process did not see the change; it saw {found:?}"))?;
            }
            other => self.harm(check, whom, format!("the check could not run: {other:?}"))?,
        }
        Ok(false)
    }

    async fn same_storage(&mut self) -> Outcome<bool> {
        self.scratch.write("here", "here").map_err(|e| Error::io("cannot write a file", &e))?;
        let read =
            Request::Read { name: "here".into(), way: Way::Fresh, text: "here".into(), limit_ms: LIMIT_MS };
        let answer = self.peer.ask(read).await?;
        if !matches!(answer, Answer::Seen { .. }) {
            let what = format!(
                "{} does not show a file written in {} within {LIMIT_MS} ms: it is other storage, or too slow",
                self.peer_dir.display(),
                self.scratch.dir().display()
            );
            self.harm("same storage", Concerns::Both, what)?;
            return Ok(false);
        }
        self.seen("same storage", answer, Concerns::Both, "the other process sees a new file")
    }

    /// Locks exclude each other in both directions.
    async fn lock(&mut self, other_mount: bool) -> Outcome {
        let path = self.scratch.path("lock");
        let had = OsFileSystem.lock(&path);
        let theirs = match &had {
            Ok(Some(_)) => Some(self.peer.ask(Request::Lock("lock".into())).await?),
            _ => None,
        };
        self.peer.ask(Request::Unlock).await?;
        drop(had);
        let taken = self.peer.ask(Request::Lock("lock".into())).await?;
        let ours = OsFileSystem.lock(&path);
        self.peer.ask(Request::Unlock).await?;
        match (theirs, taken, ours) {
            (Some(Answer::Locked(false)), Answer::Locked(true), Ok(None)) => {
                let means = match self.shared && !other_mount {
                    true => "locks exclude processes of this machine; to check other machines, pass another mount as --peer",
                    false => "only one writer can run at a time",
                };
                self.tell("lock", Ending::Fine, None, means)
            }
            (Some(Answer::Locked(true)), ..) | (_, Answer::Locked(true), Ok(Some(_))) => {
                                let means = "both processes got the lock, so two writers could run at once; run writers on one machine, through \
                                             one mount";
                self.harm("lock", Concerns::Writer, means)
            }
            _ => self.harm("lock", Concerns::Writer, "files cannot be locked; a writer does not start here"),
        }
    }

    /// The lock of a killed process is released.
    async fn release(&mut self) -> Outcome {
        self.peer.ask(Request::Lock("held".into())).await?;
        let next = PeerProcess::start(&self.peer_dir)?;
        let (began, path) = (Instant::now(), self.scratch.path("held"));
        std::mem::replace(&mut self.peer, next).kill().await?;
        loop {
            let held = OsFileSystem.lock(&path).is_ok_and(|lock| lock.is_some());
            let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let check = "lock after a death";
            if held {
                let ending = if ms > 1000 { Ending::Slow } else { Ending::Fine };
                return self.tell(check, ending, Some(ms), "a standby writer can take over");
            }
            if ms > LIMIT_MS {
                let means = "the lock of a killed process is not released; no other writer can take over";
                return self.harm(check, Concerns::Writer, means);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A rename replaces a file atomically.
    async fn rename(&mut self) -> Outcome {
        let path = self.scratch.path("replaced");
        fs::replace(&OsFileSystem, &path, generation(0).as_bytes())?;
        let read = Request::Read {
            name: "replaced".into(),
            way: Way::Fresh,
            text: generation(0),
            limit_ms: LIMIT_MS,
        };
        self.peer.ask(read).await?;
        let watched =
            Request::Replaced { name: "replaced".into(), last: GENERATIONS, limit_ms: 2 * LIMIT_MS };
        self.peer.tell(watched).await?;
        for number in 1..=GENERATIONS {
            fs::replace(&OsFileSystem, &path, generation(number).as_bytes())?;
        }
        // The time would include the time to write the files.
        let answer = match self.peer.answer().await? {
            Answer::Seen { odd, .. } => Answer::Seen { ms: 0, odd },
            answer => answer,
        };
        let means = "files are replaced atomically, and the other process sees it";
        self.seen("rename", answer, Concerns::Both, means).map(drop)
    }

    /// Appended and synced bytes become visible, for each way of reading.
    async fn append(&mut self) -> Outcome {
        for (check, way, means) in [
            ("append, file kept open", Way::Kept, "an open file shows appended bytes"),
            ("append, file reopened", Way::Open, "a reopened file shows appended bytes"),
            ("append, uncached read", Way::Fresh, "an uncached read shows appended bytes; readers read this way"),
        ] {
            let name = format!("{way:?}");
            let failed = |e| Error::io("cannot append to a file", &e);
            let file = self.scratch.write(&name, "old").map_err(failed)?;
            let before = Request::Read { name: name.clone(), way, text: "old".into(), limit_ms: LIMIT_MS };
            self.peer.ask(Request::Keep(name.clone())).await?;
            self.peer.ask(before).await?;
            file.write_at(b" new", 3).and_then(|()| file.sync()).map_err(failed)?;
            let limit_ms = LIMIT_MS;
            let answer = self.peer.ask(Request::Read { name, way, text: "old new".into(), limit_ms }).await?;
            match (way, answer) {
                (Way::Kept | Way::Open, Answer::Unseen(_) | Answer::Failed(_)) => {
                    let means = format!("not visible within {LIMIT_MS} ms; readers do not rely on it");
                    self.tell(check, Ending::Absent, None, means)?;
                }
                (_, answer) => drop(self.seen(check, answer, Concerns::Readers, means)?),
            }
        }
        Ok(())
    }

    /// A new name becomes visible in a directory that was listed before.
    async fn listing(&mut self) -> Outcome {
        let list = |name: &str, limit_ms| Request::List { name: name.into(), limit_ms };
        self.peer.ask(list("nothing", 0)).await?;
        self.scratch.write("listed", "").map_err(|e| Error::io("cannot write a file", &e))?;
        let answer = self.peer.ask(list("listed", LISTED_MS)).await?;
        let means = "a reader sees a new table after this time, and a standby writer may miss newer files meanwhile; reduce it with the mount options";
        self.seen("listing", answer, Concerns::Both, means).map(drop)
    }

    fn sync(&mut self) -> Outcome {
        let began = Instant::now();
        let synced = self.scratch.write("synced", "synced").and_then(|file| {
            file.write_at(b"!", 6)?;
            file.sync()?;
            OsFileSystem.sync_dir(self.scratch.dir())
        });
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        match synced {
            Ok(()) => self.tell("sync", Ending::Fine, Some(ms), "files and directories can be synced"),
            Err(e) => self.harm("sync", Concerns::Writer, format!("written data may be lost: {e}")),
        }
    }

    /// An open file stays readable after its name was removed.
    async fn unlink(&mut self) -> Outcome {
        let failed = |e| Error::io("cannot remove a file", &e);
        drop(self.scratch.write("gone", "still here").map_err(failed)?);
        self.peer.ask(Request::Keep("gone".into())).await?;
        OsFileSystem.remove(&self.scratch.path("gone")).map_err(failed)?;
        let (name, text) = ("gone".into(), "still here".into());
        match self.peer.ask(Request::Read { name, way: Way::Kept, text, limit_ms: 0 }).await? {
            Answer::Unseen(found) if !found.contains("os error") => {
                let means = format!("a removed file that is still open reads as {found:?}");
                self.harm("unlink while open", Concerns::Readers, means)
            }
            Answer::Seen { .. } => {
                self.tell("unlink while open", Ending::Fine, None, "open files stay readable after they are removed")
            }
            _ => {
                let means = "open files become unreadable when they are removed; readers open their replacements";
                self.tell("unlink while open", Ending::Fine, None, means)
            }
        }
    }

    async fn notices(&mut self) -> Outcome {
        let watching = matches!(self.peer.ask(Request::Watch).await?, Answer::Done);
        self.scratch.write("noticed", "x").map_err(|e| Error::io("cannot write a file", &e))?;
        let answer = self.peer.ask(Request::Notice { limit_ms: NOTICE_MS }).await?;
        self.notices = watching && matches!(answer, Answer::Seen { .. });
        match answer {
            Answer::Seen { ms, .. } if self.notices => {
                self.tell("change notices", Ending::Fine, Some(ms), "readers are notified of commits")
            }
            _ => self.tell("change notices", Ending::Absent, None, "readers must poll"),
        }
    }

    /// Prints the overall result.
    fn verdict(&mut self) -> Outcome {
        self.out.end_of_result()?;
        let (writer, readers) = (self.unsafe_for_writer, self.unsafe_for_readers);
        match writer {
            true => {
                self.tell("writer", Ending::Unsafe, None, "do not run writers on both sides of this storage")?
            }
            false => self.tell("writer", Ending::Fine, None, "a writer and a standby can run here")?,
        }
        let follow = match (self.shared, self.notices) {
            (true, _) => "readers can run here with --follow auto, which polls here, or --follow poll",
            (false, true) => "readers can run here with --follow auto or --follow notify",
            (false, false) => "readers can run here with --follow poll",
        };
        match readers {
            true => self.tell("readers", Ending::Unsafe, None, "do not run readers on this storage")?,
            false if self.slow => self.tell("readers", Ending::Slow, None, format!("{follow}; they will lag"))?,
            false => self.tell("readers", Ending::Fine, None, follow)?,
        }
        if !writer && !readers {
            return Ok(());
        }
        let what = "this storage is not safe for DriftDB: see the checks marked UNSAFE";
        Err(Error::new(Reason::Corrupt, what).into())
    }
}
