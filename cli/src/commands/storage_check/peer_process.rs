//! The process of the peer of `storage-check`, as the first process sees it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStdin, Command};

use super::peer::{PeerRequest, PeerResponse};
use crate::child::{ChildProcess, own_program};
use crate::shapes;

/// How long the peer may take longer than requested: a network file system may be busy.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(120);

/// The process of the peer. It is killed on drop.
#[derive(Debug)]
pub(crate) struct PeerProcess {
    process: ChildProcess,
    requests: ChildStdin,
}

impl PeerProcess {
    /// Starts the peer on its view of the check's directory.
    pub(crate) fn start(dir: &Path) -> Result<PeerProcess> {
        let mut command = Command::new(own_program()?);
        command.args(["--output", "jsonl", "storage-peer"]).arg(dir).stdin(Stdio::piped());
        let mut process = ChildProcess::spawn(command)?;
        let requests = process.take_stdin()?;
        Ok(PeerProcess { process, requests })
    }

    /// Sends a request and waits for the response.
    pub(crate) async fn ask(&mut self, request: PeerRequest) -> Result<PeerResponse> {
        self.send(request).await?;
        self.receive().await
    }

    /// Sends a request without waiting.
    pub(crate) async fn send(&mut self, request: PeerRequest) -> Result<()> {
        let line = format!("{}\n", shapes::line(&request)?);
        let sent = self.requests.write_all(line.as_bytes()).await;
        sent.map_err(|e| Error::io("the second process has ended", &e))
    }

    /// Waits for the response to a request.
    pub(crate) async fn receive(&mut self) -> Result<PeerResponse> {
        let late = || {
            Error::new(Reason::Internal, format!("the storage did not respond within {RESPONSE_TIMEOUT:?}"))
        };
        let line = self.process.read_line(RESPONSE_TIMEOUT).await?.ok_or_else(late)?;
        let invalid = |e| {
            Error::new(Reason::Internal, format!("the second process sent an invalid response {line:?}: {e}"))
        };
        serde_json::from_str(&line).map_err(invalid)
    }

    /// Kills the process and waits until it has ended.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.process.kill().await
    }
}
