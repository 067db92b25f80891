//! The two sides of `storage-check`: this process with its own directory for the check, and the peer's process.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::fs::{File, FileSystem, OsFileSystem};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use uuid::Uuid;

use super::peer::{Answer, Request};
use crate::processes::own_program;
use crate::shapes;

/// How long the peer may take beyond what it was asked to wait: a network file system may be busy with something else.
const PATIENCE: Duration = Duration::from_secs(120);

/// A directory of the check's own, removed with all that is in it when dropped.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
    name: String,
}

impl Scratch {
    /// Makes one in a directory.
    pub fn make(parent: &Path) -> Result<Scratch> {
        let name = format!(".driftdb-storage-check-{}", Uuid::new_v4().simple());
        let dir = parent.join(&name);
        OsFileSystem
            .create_dir(&dir)
            .map_err(|e| Error::io(format_args!("cannot make a directory in {}", parent.display()), &e))?;
        Ok(Scratch { dir, name })
    }

    /// Its name, within its parent.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes a file with a text in it, durably.
    pub fn write(&self, name: &str, text: &str) -> std::io::Result<Box<dyn File>> {
        let file = OsFileSystem.create(&self.path(name))?;
        file.write_at(text.as_bytes(), 0)?;
        file.sync()?;
        OsFileSystem.sync_dir(&self.dir)?;
        Ok(file)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed stays: it is named so that everybody knows whose it is.
        for name in OsFileSystem.list(&self.dir).unwrap_or_default() {
            let _ = OsFileSystem.remove(&self.path(&name));
        }
        let _ = OsFileSystem.remove_dir(&self.dir);
    }
}

/// The other process. Killed when dropped.
#[derive(Debug)]
pub struct PeerProcess {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl PeerProcess {
    /// Starts it on its view of the check's directory.
    pub fn start(dir: &Path) -> Result<PeerProcess> {
        let failed = |e: std::io::Error| Error::io("cannot start another driftctl", &e);
        let mut child = Command::new(own_program()?)
            .args(["--output", "jsonl", "storage-peer"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let piped = || Error::new(Reason::Internal, "a child process without pipes");
        let requests = child.stdin.take().ok_or_else(piped)?;
        let answers = BufReader::new(child.stdout.take().ok_or_else(piped)?);
        Ok(PeerProcess { child, requests, answers })
    }

    /// Asks, and waits for the answer.
    pub async fn ask(&mut self, request: Request) -> Result<Answer> {
        self.tell(request).await?;
        self.answer().await
    }

    /// Asks, and goes on.
    pub async fn tell(&mut self, request: Request) -> Result<()> {
        let line = format!("{}\n", shapes::line(&request)?);
        self.requests
            .write_all(line.as_bytes())
            .await
            .map_err(|e| Error::io("the other driftctl is gone", &e))
    }

    /// The answer to what was asked.
    pub async fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.answers.read_line(&mut line)).await;
        let silent =
            |_| Error::new(Reason::Internal, format!("the storage does not answer for {PATIENCE:?}"));
        read.map_err(silent)?.map_err(|e| Error::io("the other driftctl is gone", &e))?;
        let wrong = |e| Error::new(Reason::Internal, format!("the other driftctl says {line:?}: {e}"));
        serde_json::from_str(&line).map_err(wrong)
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.map_err(|e| Error::io("cannot end the other driftctl", &e))
    }
}
