//! Daemons as child processes: start, measure and stop them. A child never outlives its owner.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use driftdb::client::ClientTls;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::process_usage::ProcessOf;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::address::DaemonAddress;
use crate::child::{ChildProcess, own_program};

/// How long a daemon may take to start listening.
const START: Duration = Duration::from_secs(60);
/// How long a daemon may take to close its database.
const STOP: Duration = Duration::from_secs(30);
/// What the environment may say of daemons that is not meant for those of this program, which listen on loopback and are gone soon: their
/// protection, and their configuration file.
const FOREIGN_ENVIRONMENT: [&str; 10] = [
    "DRIFTDB_CONFIG",
    "DRIFTDB_TLS_CERT",
    "DRIFTDB_TLS_KEY",
    "DRIFTDB_TLS_CLIENT_CA",
    "DRIFTDB_AUTH_FILE",
    "DRIFTDB_AUDIT_LOG",
    "DRIFTDB_AUDIT_CALLS",
    "DRIFTDB_INSECURE_LISTEN",
    "DRIFTDB_METRICS",
    "DRIFTDB_METRICS_INSECURE_LISTEN",
];
/// How many bytes of a daemon's log are kept, to explain why it did not start.
const LOG_BYTES: usize = 8 << 10;

/// The options about the bucket. A writer with an empty directory would take over the database in the bucket of the environment.
const BUCKET_ENVIRONMENT: &str = "DRIFTDB_BUCKET";

/// Whether a variable of the environment is not meant for the daemons that this program starts.
fn is_for_other_daemons(name: &str) -> bool {
    name.starts_with(BUCKET_ENVIRONMENT) || FOREIGN_ENVIRONMENT.contains(&name)
}

/// A daemon in its own process. It is killed on drop.
#[derive(Debug)]
pub(crate) struct DaemonProcess {
    process: ChildProcess,
    url: String,
    /// Drains stderr, so that the daemon never blocks on it.
    _log: JoinHandle<String>,
}

impl DaemonProcess {
    /// Starts a daemon of DriftDB on a directory and a free port. Its program must be in the directory of this program.
    pub(crate) async fn start(name: &str, data: &Path) -> Result<DaemonProcess> {
        DaemonProcess::start_with(name, data, &[]).await
    }

    /// The same, with further options.
    pub(crate) async fn start_with(name: &str, data: &Path, options: &[OsString]) -> Result<DaemonProcess> {
        let mut command = Command::new(sibling(name)?);
        for name in std::env::vars_os().map(|(name, _)| name) {
            if name.to_str().is_some_and(is_for_other_daemons) {
                command.env_remove(name);
            }
        }
        command.arg("--data").arg(data).args(["--listen", "127.0.0.1:0"]).args(options);
        DaemonProcess::spawn(command).await
    }

    /// Starts a program that prints `listening on HOST:PORT` as its first line.
    pub(crate) async fn spawn(mut command: Command) -> Result<DaemonProcess> {
        let name = command.as_std().get_program().display().to_string();
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut process = ChildProcess::spawn(command)?;
        let log = tokio::spawn(last_of(process.take_stderr()?));
        let line = process.read_line(START).await?;
        if let Some(address) = line.as_deref().and_then(|line| line.trim().strip_prefix("listening on ")) {
            let url = format!("http://{address}");
            return Ok(DaemonProcess { process, url, _log: log });
        }
        // The process has ended or ends now, so its log is complete.
        let _ = process.kill().await;
        let why = match line {
            Some(_) => log.await.unwrap_or_default(),
            None => format!("it did not start listening within {START:?}"),
        };
        Err(Error::new(Reason::Internal, format!("{name} did not start: {}", why.trim())))
    }

    /// The address at which the daemon listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// How to connect to it.
    pub(crate) fn address(&self) -> DaemonAddress {
        self.address_with(None)
    }

    /// How to connect to it if it has TLS.
    pub(crate) fn address_with(&self, tls: Option<&ClientTls>) -> DaemonAddress {
        let url = match tls {
            Some(_) => self.url.replacen("http://", "https://", 1),
            None => self.url.clone(),
        };
        DaemonAddress::new(url, tls.cloned())
    }

    /// The processor time used by the daemon, if the system reports it.
    pub(crate) fn processor_time(&self) -> Option<Duration> {
        ProcessOf::Id(self.process.id()?).processor_time()
    }

    /// The resident memory of the daemon in bytes, if the system reports it.
    pub(crate) fn memory(&self) -> Option<u64> {
        ProcessOf::Id(self.process.id()?).resident_bytes()
    }

    /// Kills the daemon (SIGKILL), and waits until it has ended.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }

    /// Sends SIGTERM and waits until the daemon has ended.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.process.stop(STOP).await
    }
}

/// The path of a program in the directory of this program.
fn sibling(name: &str) -> Result<PathBuf> {
    let own = own_program()?;
    let path = own.with_file_name(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if path.exists() {
        return Ok(path);
    }
    let message = format!(
        "cannot find {}: it must be in the directory of driftctl; build it with `cargo build --workspace`",
        path.display()
    );
    Err(Error::new(Reason::Io, message))
}

/// Drains a pipe, so that its writer never blocks, and returns its last bytes.
async fn last_of(mut pipe: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = pipe.read(&mut chunk).await {
        kept.extend_from_slice(chunk.get(..read).unwrap_or_default());
        let over = kept.len().saturating_sub(LOG_BYTES);
        kept.drain(..over);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_and_the_protection_of_other_daemons_are_not_passed_on() {
        for name in ["DRIFTDB_BUCKET", "DRIFTDB_BUCKET_ACK", "DRIFTDB_CONFIG", "DRIFTDB_AUTH_FILE"] {
            assert!(is_for_other_daemons(name), "{name}");
        }
        for name in ["AWS_ENDPOINT", "DRIFTDB_LOG", "PATH"] {
            assert!(!is_for_other_daemons(name), "{name}");
        }
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_daemon_reports_its_address() {
        let script = "echo listening on 127.0.0.1:7; exec sleep 60";
        let mut daemon = DaemonProcess::spawn(shell(script)).await.unwrap();
        assert_eq!(daemon.url(), "http://127.0.0.1:7");
        assert!(daemon.processor_time().is_some());
        assert!(daemon.memory().is_some_and(|bytes| bytes > 1000));
        // `sleep` does not handle SIGTERM.
        assert!(daemon.stop().await.unwrap_err().message().contains("signal"));
    }

    #[tokio::test]
    async fn an_error_contains_the_log_of_a_daemon_that_did_not_start() {
        let script = "echo the disk is on fire >&2; exit 1";
        let error = DaemonProcess::spawn(shell(script)).await.unwrap_err();
        assert!(error.message().ends_with("did not start: the disk is on fire"), "{error}");
    }
}
