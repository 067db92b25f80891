//! systemd's notification protocol: a test plays systemd's socket, and sees each state that a unit of type `notify` goes through.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::*;

/// The socket of a supervisor.
struct Supervisor {
    socket: UnixDatagram,
    /// What `NOTIFY_SOCKET` says.
    name: String,
}

const LIMIT: Duration = Duration::from_secs(30);

impl Supervisor {
    /// A socket with an abstract name.
    fn start() -> Supervisor {
        let name = format!("driftdb-test-{}", uuid::Uuid::new_v4());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Supervisor { socket, name: format!("@{name}") }
    }

    fn command(&self, name: &str, data: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(binary(name));
        command.arg("--data").arg(data).args(["--listen", "127.0.0.1:0", "--log", "warn"]).args(args);
        command.env("NOTIFY_SOCKET", &self.name);
        command
    }

    /// Waits for a notification with a line, and returns the whole notification.
    async fn until(&self, line: &str) -> String {
        let began = Instant::now();
        self.socket.set_nonblocking(true).unwrap();
        let mut seen = Vec::new();
        while began.elapsed() < LIMIT {
            let mut bytes = [0; 4096];
            match self.socket.recv(&mut bytes) {
                Ok(length) => {
                    let notification = String::from_utf8(bytes[..length].to_vec()).unwrap();
                    let well_formed = |line: &str| {
                        line.split_once('=').is_some_and(|(name, _)| {
                            name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
                        })
                    };
                    assert!(notification.lines().all(well_formed), "{notification:?}");
                    if notification.lines().any(|found| found == line) {
                        return notification;
                    }
                    seen.push(notification);
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        panic!("no {line} after {LIMIT:?}: {seen:?}");
    }
}

/// Opened, ready, reloading, ready again, and stopping; with the watchdog fed all the time.
async fn walk(name: &str, data: &Path) {
    let supervisor = Supervisor::start();
    let mut command = supervisor.command(name, data, &[]);
    command.env("WATCHDOG_USEC", "400000");
    let mut daemon = Daemon::spawn(command).unwrap();
    supervisor.until("STATUS=opening the database").await;
    let ready = supervisor.until("READY=1").await;
    assert_eq!(ready, "READY=1\nSTATUS=ready", "{name}");
    // The daemon listens: a connection is accepted.
    drop(connect(&daemon.url).await);
    for _ in 0..3 {
        supervisor.until("WATCHDOG=1").await;
    }
    daemon.signal("HUP");
    supervisor.until("RELOADING=1").await;
    supervisor.until("READY=1").await;
    supervisor.until("WATCHDOG=1").await;
    daemon.signal("TERM");
    assert!(supervisor.until("STOPPING=1").await.contains("STATUS=shutting down"));
    assert!(daemon.wait(Duration::from_secs(20)).await.success());
}

#[tokio::test]
async fn a_supervisor_sees_each_state_of_both_daemons() {
    let dir = tempfile::tempdir().unwrap();
    walk("driftdb-writer", dir.path()).await;
    walk("driftdb-reader", dir.path()).await;
}

/// A standby is started for its supervisor, and says what it waits for; so does a reader without a database.
#[tokio::test]
async fn who_waits_is_started_and_says_what_for() {
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::start();
    let reader = Daemon::spawn(supervisor.command("driftdb-reader", dir.path(), &[])).unwrap();
    let waiting = "READY=1\nSTATUS=waiting: the directory contains no database yet";
    assert_eq!(supervisor.until("READY=1").await, waiting);
    let mut writer = Daemon::writer(dir.path());
    assert_eq!(supervisor.until("READY=1").await, "READY=1\nSTATUS=ready");
    drop(reader);
    let supervisor = Supervisor::start();
    let _standby = Daemon::spawn(supervisor.command("driftdb-writer", dir.path(), &["--standby"])).unwrap();
    let waiting = "READY=1\nSTATUS=waiting: another writer holds the database";
    assert_eq!(supervisor.until("READY=1").await, waiting);
    writer.kill();
    assert_eq!(supervisor.until("READY=1").await, "READY=1\nSTATUS=ready");
}

/// A daemon that is stopped feeds no watchdog: its supervisor would end it. It feeds it again when it goes on.
#[tokio::test]
async fn a_daemon_that_hangs_does_not_feed_the_watchdog() {
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::start();
    let mut command = supervisor.command("driftdb-writer", dir.path(), &[]);
    command.env("WATCHDOG_USEC", "200000");
    let daemon = Daemon::spawn(command).unwrap();
    supervisor.until("WATCHDOG=1").await;
    daemon.signal("STOP");
    let mut bytes = [0; 4096];
    while supervisor.socket.recv(&mut bytes).is_ok() {}
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(supervisor.socket.recv(&mut bytes).is_err());
    daemon.signal("CONT");
    supervisor.until("WATCHDOG=1").await;
}

/// A watchdog that another process was given is not this daemon's, and a supervisor that is gone stops nothing.
#[tokio::test]
async fn what_is_not_meant_for_a_daemon_does_not_concern_it() {
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::start();
    let mut command = supervisor.command("driftdb-writer", dir.path(), &[]);
    command.env("WATCHDOG_USEC", "100000").env("WATCHDOG_PID", "1");
    let mut daemon = Daemon::spawn(command).unwrap();
    supervisor.until("READY=1").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut bytes = [0; 4096];
    while let Ok(length) = supervisor.socket.recv(&mut bytes) {
        assert!(!String::from_utf8_lossy(&bytes[..length]).contains("WATCHDOG"));
    }
    drop(supervisor);
    create_table(&mut daemon.as_writer().await, "t").await.unwrap();
    daemon.signal("HUP");
    create_table(&mut daemon.as_writer().await, "u").await.unwrap();
    assert!(daemon.terminate().await.success());
}
