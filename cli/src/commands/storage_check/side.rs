//! The two sides of `storage-check`: the directory of this process, and the process of the peer.

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

/// How long the peer may take longer than requested: a network file system may be busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// The directory of one check. It is removed with its contents on drop.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
    name: String,
}

impl Scratch {
    /// Creates the directory in `parent`.
    pub fn make(parent: &Path) -> Result<Scratch> {
        let name = format!(".driftdb-storage-check-{}", Uuid::new_v4().simple());
        let dir = parent.join(&name);
        OsFileSystem
            .create_dir(&dir)
            .map_err(|e| Error::io(format_args!("cannot make a directory in {}", parent.display()), &e))?;
        Ok(Scratch { dir, name })
    }

    /// The name of the directory within its parent.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of the directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of a file in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Creates a file with this text, and syncs it.
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
        // What cannot be removed stays. Its name says which program it belongs to.
        for name in OsFileSystem.list(&self.dir).unwrap_or_default() {
            let _ = OsFileSystem.remove(&self.path(&name));
        }
        let _ = OsFileSystem.remove_dir(&self.dir);
    }
}

/// The process of the peer. It is killed on drop.
#[derive(Debug)]
pub struct PeerProcess {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl PeerProcess {
    /// Starts the peer on its view of the check's directory.
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

    /// Sends a request and waits for the response.
    pub async fn ask(&mut self, request: Request) -> Result<Answer> {
        self.tell(request).await?;
        self.answer().await
    }

    /// Sends a request without waiting.
    pub async fn tell(&mut self, request: Request) -> Result<()> {
        let line = format!("{}\n", shapes::line(&request)?);
        self.requests
            .write_all(line.as_bytes())
            .await
            .map_err(|e| Error::io("the other driftctl is gone", &e))
    }

    /// Waits for the response to a request.
    pub async fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.answers.read_line(&mut line)).await;
        let silent =
            |_| Error::new(Reason::Internal, format!("the storage did not respond within {PATIENCE:?}"));
        read.map_err(silent)?.map_err(|e| Error::io("the other driftctl is gone", &e))?;
        let wrong = |e| Error::new(Reason::Internal, format!("the other driftctl sent an invalid response {line:?}: {e}"));
        serde_json::from_str(&line).map_err(wrong)
    }

    /// Kills the process and waits until it has ended.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.map_err(|e| Error::io("cannot end the other driftctl", &e))
    }
}
