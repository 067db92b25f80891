//! A reader on a network file system: sshfs over pipes to an sftp-server, without login or port. Skipped if the tools
//! are missing.

#![expect(clippy::disallowed_methods, reason = "these tests mount a file system")]

use std::fs;
use std::io::pipe;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::lane::by_lane;
use crate::harness::random_writer::{RandomWriter, compare};
use crate::harness::*;
use driftdb::v1;
use serde_json::Value;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const SFTP_SERVERS: [&str; 4] = [
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/libexec/sftp-server",
];
/// A file that proves that the directory is mounted.
const MARKER: &str = "mounted";
const WRITER: [&str; 4] = ["--segment-bytes", "16384", "--snapshot-events", "150"];

/// A directory mounted with sshfs. Dropping it unmounts the directory.
struct Mount {
    sshfs: Child,
    server: Child,
    at: PathBuf,
    unmount: &'static str,
}

impl Mount {
    /// Mounts a directory. The error says why this machine cannot.
    fn of(real: &Path) -> Result<Mount, String> {
        let has = |program: &&str| Command::new(program).arg("-V").output().is_ok();
        let unmount = ["fusermount3", "fusermount"].into_iter().find(has).ok_or("no fusermount here")?;
        let sftp =
            SFTP_SERVERS.into_iter().find(|path| Path::new(path).exists()).ok_or("no sftp-server here")?;
        if !has(&"sshfs") || !Path::new("/dev/fuse").exists() {
            return Err("no sshfs, or no /dev/fuse, here".to_owned());
        }
        // Not a TempDir: dropping that would remove the mounted files.
        let at = tempfile::tempdir().unwrap().keep();
        let ((asked, asks), (answered, answers)) = (pipe().unwrap(), pipe().unwrap());
        let server = Command::new(sftp).stdin(asked).stdout(answers).spawn().map_err(|e| e.to_string())?;
        // Caches directories for 1 s instead of 20 s: still stale, but a short test.
        let mut sshfs = Command::new("sshfs");
        sshfs.args(["-f", "-o", "passive", "-o", "dcache_timeout=1"]);
        sshfs.arg(format!("here:{}", real.display())).arg(&at).stdin(answered).stdout(asks);
        let sshfs = sshfs.stderr(Stdio::inherit()).spawn().map_err(|e| e.to_string())?;
        let mut mount = Mount { sshfs, server, at, unmount };
        fs::write(real.join(MARKER), "").unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !mount.at.join(MARKER).exists() {
            if mount.sshfs.try_wait().unwrap().is_some() || Instant::now() > deadline {
                return Err("sshfs cannot mount here".to_owned());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        fs::remove_file(real.join(MARKER)).unwrap();
        Ok(mount)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = |how: &str| Command::new(self.unmount).arg(how).arg(&self.at).output();
        if !unmounted("-u").is_ok_and(|output| output.status.success()) {
            let _ = unmounted("-uz");
        }
        for child in [&mut self.sshfs, &mut self.server] {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Fails and does nothing if something is still mounted.
        let _ = fs::remove_dir(&self.at);
    }
}

/// The mount and the mounted directory; `None` if this machine cannot mount.
fn mounted() -> Option<(Mount, tempfile::TempDir)> {
    let real = tempfile::tempdir().unwrap();
    match Mount::of(real.path()) {
        Ok(mount) => Some((mount, real)),
        Err(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

/// Asks a reader for its lag until told to stop. Returns the longest lag, and the number of commits seen.
async fn lag(mut reader: Reader, stop: Arc<AtomicBool>) -> (Duration, u64) {
    let mut most = (Duration::ZERO, 0);
    while !stop.load(Ordering::Relaxed) {
        let status = reader.status(v1::ReaderServiceStatusRequest {}).await.unwrap().into_inner();
        let lag = Duration::try_from(status.lag.unwrap()).unwrap();
        most = (most.0.max(lag), most.1.max(status.lag_seqs));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    most
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_on_a_network_file_system_shows_no_wrong_row() {
    let Some((mount, real)) = mounted() else { return };
    let batches = by_lane(8, 60);
    let writer = Daemon::start("driftdb-writer", real.path(), &WRITER);
    let mut churn = RandomWriter::start(writer.as_writer().await, 3).await;
    let near_daemon = Daemon::reader(real.path());
    let far_daemon = Daemon::start("driftdb-reader", &mount.at, &["--poll-interval", "20ms"]);
    let (mut near, mut far) = (near_daemon.as_reader().await, far_daemon.as_reader().await);
    let stop = Arc::new(AtomicBool::new(false));
    let lagging = tokio::spawn(lag(far_daemon.as_reader().await, Arc::clone(&stop)));

    let mut compared = 0;
    for batch in 0..batches {
        churn.commits(150).await;
        match batch % 4 {
            0 => churn.create().await,
            1 => churn.snapshot(0).await,
            2 => churn.compact(0, churn.seq - 100).await,
            _ => {}
        }
        churn.commits(10).await;
        let moments = [churn.seq, churn.seq - 7, churn.seq - 90, churn.seq / 2 + 1];
        compared += compare(&churn, [&mut near, &mut far], moments.into_iter()).await;
        if batch % 3 == 2 {
            // A new reader starts with whatever the mount has cached.
            let daemon = Daemon::reader(&mount.at);
            let mut young = daemon.as_reader().await;
            compared += compare(&churn, [&mut near, &mut young], moments.into_iter()).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let (lag, seqs) = lagging.await.unwrap();
    eprintln!("{} commits, {compared} answers compared; lag at most {lag:?}, {seqs} commits", churn.seq);
    assert!(seqs > 0 || !lag.is_zero(), "the reader reported no lag");
    let mut health = HealthClient::new(connect(&far_daemon.url).await);
    let request = HealthCheckRequest { service: "driftdb.v1.ReaderService".into() };
    assert_eq!(health.check(request).await.unwrap().into_inner().status(), ServingStatus::Serving);

    let refused = Daemon::try_start("driftdb-reader", &mount.at, &["--follow", "notify"]).unwrap_err();
    assert!(refused.contains("--follow poll"), "{refused}");
}

/// The result of `storage-check`, check by check; and its exit code.
fn check(dir: &Path, peer: &Path) -> (Vec<(String, String)>, Option<i32>) {
    let mut command = Command::new(binary("driftctl"));
    let output =
        command.args(["-o", "jsonl", "storage-check"]).arg(dir).arg("--peer").arg(peer).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    eprintln!("{told}{}", String::from_utf8_lossy(&output.stderr));
    let lines = told.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (lines.map(|line| (text(&line["check"]), text(&line["result"]))).collect(), output.status.code())
}

#[test]
fn storage_check_reports_what_a_network_file_system_supports() {
    let Some((mount, real)) = mounted() else { return };
    let (told, code) = check(real.path(), &mount.at);
    let result = |name: &str| told.iter().find(|(check, _)| check == name).map(|(_, result)| result.as_str());
    // Its locks are local to one machine, and nobody is notified of changes. Everything else works as on a local disk.
    assert_eq!(result("lock"), Some("UNSAFE"));
    assert_eq!(result("change notifications"), Some("no"));
    for name in ["same storage", "rename", "append, read past caches", "sync", "unlink while open", "readers"]
    {
        assert!(matches!(result(name), Some("ok" | "slow")), "{name}: {:?}", result(name));
    }
    assert_eq!((result("writer"), code), (Some("UNSAFE"), Some(6)));
    assert_eq!(fs::read_dir(real.path()).unwrap().count(), 0, "storage-check removes its files");
}
