//! A child process whose output is read line by line. It never outlives its owner.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// A running program with its stdout. It is killed on drop.
#[derive(Debug)]
pub(crate) struct ChildProcess {
    name: String,
    child: Child,
    /// Kept open: a program that writes to a closed pipe would fail.
    stdout: BufReader<ChildStdout>,
}

impl ChildProcess {
    /// Starts a program. The caller chooses its stdin and stderr.
    pub(crate) fn spawn(mut command: Command) -> Result<ChildProcess> {
        let name = command.as_std().get_program().display().to_string();
        let mut child = command
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| Error::io(format_args!("cannot start {name}"), &e))?;
        let stdout = BufReader::new(child.stdout.take().ok_or_else(no_pipe)?);
        Ok(ChildProcess { name, child, stdout })
    }

    /// The process id, while the process runs.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Takes the stdin of the process, if it is piped.
    pub(crate) fn take_stdin(&mut self) -> Result<ChildStdin> {
        self.child.stdin.take().ok_or_else(no_pipe)
    }

    /// Takes the stderr of the process, if it is piped.
    pub(crate) fn take_stderr(&mut self) -> Result<ChildStderr> {
        self.child.stderr.take().ok_or_else(no_pipe)
    }

    /// Reads the next line of stdout; an empty text at its end, `None` if no line arrives within `limit`.
    pub(crate) async fn read_line(&mut self, limit: Duration) -> Result<Option<String>> {
        let mut line = String::new();
        match timeout(limit, self.stdout.read_line(&mut line)).await {
            Ok(Ok(_)) => Ok(Some(line)),
            Ok(Err(e)) => Err(Error::io(format_args!("cannot read the output of {}", self.name), &e)),
            Err(_) => Ok(None),
        }
    }

    /// Kills the process (SIGKILL) and waits until it has ended.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.map_err(|e| Error::io(format_args!("cannot kill {}", self.name), &e))
    }

    /// Asks the process to end (SIGTERM) and waits up to `limit`. It must exit with code 0.
    pub(crate) async fn stop(&mut self, limit: Duration) -> Result<()> {
        let name = &self.name;
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            kill_process(id, Signal::TERM)
                .map_err(|e| Error::io(format_args!("cannot stop {name}"), &e.into()))?;
        }
        match timeout(limit, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(Error::new(Reason::Internal, format!("{name} failed: {status}"))),
            Ok(Err(e)) => Err(Error::io(format_args!("cannot wait for {name}"), &e)),
            Err(_) => Err(Error::new(Reason::Internal, format!("{name} did not stop within {limit:?}"))),
        }
    }
}

/// The path of this program.
pub(crate) fn own_program() -> Result<PathBuf> {
    std::env::current_exe().map_err(|e| Error::io("cannot find the path of driftctl", &e))
}

fn no_pipe() -> Error {
    Error::new(Reason::Internal, "a child process has no pipes")
}
