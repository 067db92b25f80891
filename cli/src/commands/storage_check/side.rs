//! The two sides of `storage-check`: the directory of this process, and the process of the peer.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::fs::{File, FileSystem, OsFileSystem};
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStdin, Command};
use uuid::Uuid;

use super::peer::{PeerRequest, PeerResponse};
use crate::child::{ChildProcess, own_program};
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
    pub fn create(parent: &Path) -> Result<Scratch> {
        let name = format!(".driftdb-storage-check-{}", Uuid::new_v4().simple());
        let dir = parent.join(&name);
        OsFileSystem
            .create_dir(&dir)
            .map_err(|e| Error::io(format_args!("cannot create a directory in {}", parent.display()), &e))?;
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
    process: ChildProcess,
    requests: ChildStdin,
}

impl PeerProcess {
    /// Starts the peer on its view of the check's directory.
    pub fn start(dir: &Path) -> Result<PeerProcess> {
        let mut command = Command::new(own_program()?);
        command.args(["--output", "jsonl", "storage-peer"]).arg(dir).stdin(Stdio::piped());
        let mut process = ChildProcess::spawn(command)?;
        let requests = process.take_stdin()?;
        Ok(PeerProcess { process, requests })
    }

    /// Sends a request and waits for the response.
    pub async fn ask(&mut self, request: PeerRequest) -> Result<PeerResponse> {
        self.send(request).await?;
        self.receive().await
    }

    /// Sends a request without waiting.
    pub async fn send(&mut self, request: PeerRequest) -> Result<()> {
        let line = format!("{}\n", shapes::line(&request)?);
        let sent = self.requests.write_all(line.as_bytes()).await;
        sent.map_err(|e| Error::io("the second process has ended", &e))
    }

    /// Waits for the response to a request.
    pub async fn receive(&mut self) -> Result<PeerResponse> {
        let late =
            || Error::new(Reason::Internal, format!("the storage did not respond within {PATIENCE:?}"));
        let line = self.process.read_line(PATIENCE).await?.ok_or_else(late)?;
        let invalid = |e| {
            Error::new(Reason::Internal, format!("the second process sent an invalid response {line:?}: {e}"))
        };
        serde_json::from_str(&line).map_err(invalid)
    }

    /// Kills the process and waits until it has ended.
    pub async fn kill(mut self) -> Result<()> {
        self.process.kill().await
    }
}
