//! `storage-check`: checks whether an object store is safe for DriftDB, or from two processes the file system of a directory.

use std::path::Path;
use std::time::{Duration, Instant};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::fs::{self, FileSystem, OsFileSystem};

use crate::args::StorageCheckArgs;
use crate::exit::{CliResult, Failure};
use crate::render::Printer;
use crate::shapes;

mod bucket;
mod check_line;
pub(crate) mod peer;
mod peer_process;
mod scratch;

use check_line::{CheckLine, CheckResult};
use peer::{PeerRequest, PeerResponse, ReadMode, generation};
use peer_process::PeerProcess;
use scratch::Scratch;

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

/// Who is affected if a check fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Affected {
    Writer,
    Readers,
    Both,
}

/// A run of all checks.
struct StorageChecker<'a> {
    out: &'a mut Printer,
    /// Declared before the directory, so that the peer is dropped first if the check is interrupted.
    peer: PeerProcess,
    scratch: Scratch,
    peer_dir: std::path::PathBuf,
    /// Whether either directory is on a network file system.
    shared: bool,
    unsafe_for_writer: bool,
    unsafe_for_readers: bool,
    slow: bool,
    notifies: bool,
}

/// Runs all checks and prints each result. Fails if one is unsafe.
pub(crate) async fn run(args: &StorageCheckArgs, out: &mut Printer) -> CliResult {
    if let Some(url) = args.dir.to_str().filter(|dir| dir.contains("://")) {
        if args.peer.is_some() {
            return Err(Failure::Usage(
                "--peer is for directories: a bucket is checked over several connections".to_owned(),
            ));
        }
        return bucket::run(args, url, out).await;
    }
    let other = args.peer.as_deref().unwrap_or(&args.dir);
    for dir in [args.dir.as_path(), other] {
        // Before anything is created in it.
        OsFileSystem.list(dir).map_err(|e| Failure::Usage(format!("cannot check {}: {e}", dir.display())))?;
    }
    let scratch = Scratch::create(&args.dir)?;
    let peer_dir = other.join(scratch.name());
    let shared = is_shared(&args.dir)? || is_shared(other)?;
    let mut checker = StorageChecker {
        out,
        peer: PeerProcess::start(&peer_dir)?,
        scratch,
        peer_dir,
        shared,
        unsafe_for_writer: false,
        unsafe_for_readers: false,
        slow: false,
        notifies: false,
    };
    let done = checker.run_checks(args.peer.is_some()).await;
    let StorageChecker { peer, scratch, .. } = checker;
    // Stop the peer first: on NFS its open files would stay in the directory as `.nfs…` and keep it from being removed.
    let ended = peer.kill().await;
    drop(scratch);
    done.and(ended.map_err(Failure::from))
}

fn is_shared(dir: &Path) -> Result<bool> {
    let shared = OsFileSystem.is_network(dir);
    shared.map_err(|e| Error::io(format_args!("cannot detect the file system of {}", dir.display()), &e))
}

impl StorageChecker<'_> {
    async fn run_checks(&mut self, other_mount: bool) -> CliResult {
        if self.same_storage().await? {
            self.lock(other_mount).await?;
            self.release().await?;
            self.rename().await?;
            self.append().await?;
            self.listing().await?;
            self.sync()?;
            self.unlink().await?;
            self.notifications().await?;
        }
        self.report_verdict()
    }

    fn report(
        &mut self,
        check: &'static str,
        result: CheckResult,
        ms: Option<u64>,
        means: impl Into<String>,
    ) -> CliResult {
        self.slow |= result == CheckResult::Slow;
        let line = CheckLine { check, result, ms, means: means.into() };
        self.out.print_record(&shapes::line(&line)?)
    }

    fn report_unsafe(
        &mut self,
        check: &'static str,
        affected: Affected,
        means: impl Into<String>,
    ) -> CliResult {
        self.unsafe_for_writer |= affected != Affected::Readers;
        self.unsafe_for_readers |= affected != Affected::Writer;
        self.report(check, CheckResult::Unsafe, None, means)
    }

    /// Reports whether the peer saw a change. `affected` tells who suffers if it never did.
    fn report_response(
        &mut self,
        check: &'static str,
        response: PeerResponse,
        affected: Affected,
        what: &str,
    ) -> CliResult<bool> {
        match response {
            PeerResponse::Seen { ms, odd: 0 } => {
                let ending = if ms > SLOW_MS { CheckResult::Slow } else { CheckResult::Fine };
                self.report(check, ending, Some(ms), what)?;
                return Ok(true);
            }
            PeerResponse::Seen { odd, .. } => {
                self.report_unsafe(
                    check,
                    affected,
                    format!(
                        "the other process found a file that was neither the old nor the new one, {odd} times"
                    ),
                )?;
            }
            PeerResponse::Unseen(found) => {
                let found: String = found.chars().take(60).collect();
                self.report_unsafe(
                    check,
                    affected,
                    format!("the other process did not see the change; it saw {found:?}"),
                )?;
            }
            other => self.report_unsafe(check, affected, format!("the check could not run: {other:?}"))?,
        }
        Ok(false)
    }

    async fn same_storage(&mut self) -> CliResult<bool> {
        self.scratch.write("here", "here").map_err(|e| Error::io("cannot write a file", &e))?;
        let read = PeerRequest::Read {
            name: "here".into(),
            way: ReadMode::Fresh,
            text: "here".into(),
            limit_ms: LIMIT_MS,
        };
        let answer = self.peer.ask(read).await?;
        if !matches!(answer, PeerResponse::Seen { .. }) {
            let what = format!(
                "{} does not show a file written in {} within {LIMIT_MS} ms: it is other storage, or too slow",
                self.peer_dir.display(),
                self.scratch.dir().display()
            );
            self.report_unsafe("same storage", Affected::Both, what)?;
            return Ok(false);
        }
        self.report_response("same storage", answer, Affected::Both, "the other process sees a new file")
    }

    /// Locks exclude each other in both directions.
    async fn lock(&mut self, other_mount: bool) -> CliResult {
        let path = self.scratch.path("lock");
        let had = OsFileSystem.lock(&path);
        let theirs = match &had {
            Ok(Some(_)) => Some(self.peer.ask(PeerRequest::Lock("lock".into())).await?),
            _ => None,
        };
        self.peer.ask(PeerRequest::Unlock).await?;
        drop(had);
        let taken = self.peer.ask(PeerRequest::Lock("lock".into())).await?;
        let ours = OsFileSystem.lock(&path);
        self.peer.ask(PeerRequest::Unlock).await?;
        match (theirs, taken, ours) {
            (Some(PeerResponse::Locked(false)), PeerResponse::Locked(true), Ok(None)) => {
                let means = match self.shared && !other_mount {
                    true => {
                        "locks exclude processes of this machine; to check other machines, pass another mount as --peer"
                    }
                    false => "only one writer can run at a time",
                };
                self.report("lock", CheckResult::Fine, None, means)
            }
            (Some(PeerResponse::Locked(true)), ..) | (_, PeerResponse::Locked(true), Ok(Some(_))) => {
                let means = "both processes got the lock, so two writers could run at once; run writers on one machine, through \
                                             one mount";
                self.report_unsafe("lock", Affected::Writer, means)
            }
            _ => self.report_unsafe(
                "lock",
                Affected::Writer,
                "files cannot be locked; a writer does not start here",
            ),
        }
    }

    /// The lock of a killed process is released.
    async fn release(&mut self) -> CliResult {
        self.peer.ask(PeerRequest::Lock("held".into())).await?;
        let next = PeerProcess::start(&self.peer_dir)?;
        let (began, path) = (Instant::now(), self.scratch.path("held"));
        std::mem::replace(&mut self.peer, next).kill().await?;
        loop {
            let lock = OsFileSystem.lock(&path);
            let held =
                lock.map_err(|e| Error::io(format_args!("cannot lock {}", path.display()), &e))?.is_some();
            let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let check = "lock after a kill";
            if held {
                let ending = if ms > 1000 { CheckResult::Slow } else { CheckResult::Fine };
                return self.report(check, ending, Some(ms), "a standby writer can take over");
            }
            if ms > LIMIT_MS {
                let means = "the lock of a killed process is not released; no other writer can take over";
                return self.report_unsafe(check, Affected::Writer, means);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A rename replaces a file atomically.
    async fn rename(&mut self) -> CliResult {
        let path = self.scratch.path("replaced");
        fs::replace(&OsFileSystem, &path, generation(0).as_bytes())?;
        let read = PeerRequest::Read {
            name: "replaced".into(),
            way: ReadMode::Fresh,
            text: generation(0),
            limit_ms: LIMIT_MS,
        };
        self.peer.ask(read).await?;
        let watched =
            PeerRequest::Replaced { name: "replaced".into(), last: GENERATIONS, limit_ms: 2 * LIMIT_MS };
        self.peer.send(watched).await?;
        for number in 1..=GENERATIONS {
            fs::replace(&OsFileSystem, &path, generation(number).as_bytes())?;
        }
        // The time would include the time to write the files.
        let answer = match self.peer.receive().await? {
            PeerResponse::Seen { odd, .. } => PeerResponse::Seen { ms: 0, odd },
            answer => answer,
        };
        let means = "files are replaced atomically, and the other process sees it";
        self.report_response("rename", answer, Affected::Both, means).map(drop)
    }

    /// Appended and synced bytes become visible, for each way of reading.
    async fn append(&mut self) -> CliResult {
        for (check, way, means) in [
            ("append, file kept open", ReadMode::Kept, "an open file shows appended bytes"),
            ("append, file reopened", ReadMode::Open, "a reopened file shows appended bytes"),
            (
                "append, read past caches",
                ReadMode::Fresh,
                "an uncached read shows appended bytes; readers read this way",
            ),
        ] {
            let name = format!("{way:?}");
            let failed = |e| Error::io("cannot append to a file", &e);
            let file = self.scratch.write(&name, "old").map_err(failed)?;
            let before =
                PeerRequest::Read { name: name.clone(), way, text: "old".into(), limit_ms: LIMIT_MS };
            self.peer.ask(PeerRequest::Keep(name.clone())).await?;
            self.peer.ask(before).await?;
            file.write_at(b" new", 3).and_then(|()| file.sync()).map_err(failed)?;
            let limit_ms = LIMIT_MS;
            let answer =
                self.peer.ask(PeerRequest::Read { name, way, text: "old new".into(), limit_ms }).await?;
            match (way, answer) {
                (ReadMode::Kept | ReadMode::Open, PeerResponse::Unseen(_) | PeerResponse::Failed(_)) => {
                    let means = format!("not visible within {LIMIT_MS} ms; readers do not rely on it");
                    self.report(check, CheckResult::Absent, None, means)?;
                }
                (_, answer) => drop(self.report_response(check, answer, Affected::Readers, means)?),
            }
        }
        Ok(())
    }

    /// A new name becomes visible in a directory that was listed before.
    async fn listing(&mut self) -> CliResult {
        let list = |name: &str, limit_ms| PeerRequest::List { name: name.into(), limit_ms };
        self.peer.ask(list("nothing", 0)).await?;
        self.scratch.write("listed", "").map_err(|e| Error::io("cannot write a file", &e))?;
        let answer = self.peer.ask(list("listed", LISTED_MS)).await?;
        let means = "a reader sees a new table after this time, and a standby writer may miss newer files meanwhile; reduce it with the mount options";
        self.report_response("listing", answer, Affected::Both, means).map(drop)
    }

    fn sync(&mut self) -> CliResult {
        let began = Instant::now();
        let synced = self.scratch.write("synced", "synced").and_then(|file| {
            file.write_at(b"!", 6)?;
            file.sync()?;
            OsFileSystem.sync_dir(self.scratch.dir())
        });
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        match synced {
            Ok(()) => self.report("sync", CheckResult::Fine, Some(ms), "files and directories can be synced"),
            Err(e) => self.report_unsafe("sync", Affected::Writer, format!("written data may be lost: {e}")),
        }
    }

    /// An open file stays readable after its name was removed.
    async fn unlink(&mut self) -> CliResult {
        let failed = |e| Error::io("cannot remove a file", &e);
        drop(self.scratch.write("gone", "still here").map_err(failed)?);
        self.peer.ask(PeerRequest::Keep("gone".into())).await?;
        OsFileSystem.remove(&self.scratch.path("gone")).map_err(failed)?;
        let (name, text) = ("gone".into(), "still here".into());
        match self.peer.ask(PeerRequest::Read { name, way: ReadMode::Kept, text, limit_ms: 0 }).await? {
            PeerResponse::Unseen(found) if !found.contains("os error") => {
                let means = format!("a removed file that is still open reads as {found:?}");
                self.report_unsafe("unlink while open", Affected::Readers, means)
            }
            PeerResponse::Seen { .. } => self.report(
                "unlink while open",
                CheckResult::Fine,
                None,
                "open files stay readable after they are removed",
            ),
            _ => {
                let means =
                    "open files become unreadable when they are removed; readers open their replacements";
                self.report("unlink while open", CheckResult::Fine, None, means)
            }
        }
    }

    async fn notifications(&mut self) -> CliResult {
        let watching = matches!(self.peer.ask(PeerRequest::Watch).await?, PeerResponse::Done);
        self.scratch.write("noticed", "x").map_err(|e| Error::io("cannot write a file", &e))?;
        let answer = self.peer.ask(PeerRequest::Notice { limit_ms: NOTICE_MS }).await?;
        self.notifies = watching && matches!(answer, PeerResponse::Seen { .. });
        match answer {
            PeerResponse::Seen { ms, .. } if self.notifies => self.report(
                "change notifications",
                CheckResult::Fine,
                Some(ms),
                "readers are notified of commits",
            ),
            _ => self.report("change notifications", CheckResult::Absent, None, "readers must poll"),
        }
    }

    /// Prints the overall result.
    fn report_verdict(&mut self) -> CliResult {
        self.out.end_result()?;
        let (writer, readers) = (self.unsafe_for_writer, self.unsafe_for_readers);
        match writer {
            true => self.report(
                "writer",
                CheckResult::Unsafe,
                None,
                "do not run writers on both sides of this storage",
            )?,
            false => self.report("writer", CheckResult::Fine, None, "a writer and a standby can run here")?,
        }
        let follow = match (self.shared, self.notifies) {
            (true, _) => "readers can run here with --follow auto, which polls here, or --follow poll",
            (false, true) => "readers can run here with --follow auto or --follow notify",
            (false, false) => "readers can run here with --follow poll",
        };
        match readers {
            true => {
                self.report("readers", CheckResult::Unsafe, None, "do not run readers on this storage")?
            }
            false if self.slow => {
                self.report("readers", CheckResult::Slow, None, format!("{follow}; they will lag"))?
            }
            false => self.report("readers", CheckResult::Fine, None, follow)?,
        }
        if !writer && !readers {
            return Ok(());
        }
        let what = "this storage is not safe for DriftDB: see the checks marked UNSAFE";
        Err(Error::new(Reason::Corrupt, what).into())
    }
}
