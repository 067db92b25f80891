//! Daemons as child processes: start, measure and stop them. A child never outlives its owner.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::fs;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::address::DaemonAddress;
use crate::child::{ChildProcess, own_program};

/// How long a daemon may take to start listening.
const START: Duration = Duration::from_secs(60);
/// How long a daemon may take to close its database.
const STOP: Duration = Duration::from_secs(30);
/// What the environment may say of the protection of daemons.
const SECURITY_ENVIRONMENT: [&str; 4] =
    ["DRIFTDB_TLS_CERT", "DRIFTDB_TLS_KEY", "DRIFTDB_TLS_CLIENT_CA", "DRIFTDB_INSECURE_LISTEN"];
/// How many bytes of a daemon's log are kept, to explain why it did not start.
const LOG_BYTES: usize = 8 << 10;

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
        let mut command = Command::new(sibling(name)?);
        // They protect the daemons of the environment, not this one, which listens on loopback and is gone soon.
        for name in SECURITY_ENVIRONMENT {
            command.env_remove(name);
        }
        command.arg("--data").arg(data).args(["--listen", "127.0.0.1:0"]);
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
        DaemonAddress::new(self.url.clone(), None)
    }

    /// The processor time used by the daemon, if the system reports it.
    pub(crate) fn processor_time(&self) -> Option<Duration> {
        let mut stat = String::new();
        let path = PathBuf::from(format!("/proc/{}/stat", self.process.id()?));
        fs::open_input(&path).ok()?.read_to_string(&mut stat).ok()?;
        let ticks = parse_ticks(&stat)?;
        Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// The resident memory of the daemon in bytes, if the system reports it.
    pub(crate) fn memory(&self) -> Option<u64> {
        let mut status = String::new();
        let path = PathBuf::from(format!("/proc/{}/status", self.process.id()?));
        fs::open_input(&path).ok()?.read_to_string(&mut status).ok()?;
        parse_resident(&status)
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

/// User and system time in clock ticks: fields 14 and 15 of `/proc/PID/stat`. The second field is the program's name
/// in parentheses, and may contain any character.
fn parse_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The resident memory in bytes. `/proc/PID/status` reports it in KiB.
fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_parsed() {
        let status = "Name:\ta\nVmPeak:\t  9 kB\nVmRSS:\t  2048 kB\nRssAnon:\t 1 kB\n";
        assert_eq!(parse_resident(status), Some(2 << 20));
        assert_eq!(parse_resident("Name:\ta\n"), None);
    }

    #[test]
    fn processor_time_is_parsed_after_any_program_name() {
        let stat = "123 (a ) b 1 2) S 1 123 123 0 -1 4194304 100 0 0 0 70 30 0 0 20 0 4 0 100";
        assert_eq!(parse_ticks(stat), Some(100));
        assert_eq!(parse_ticks("123 (x) S 1"), None);
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
