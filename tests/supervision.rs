//! systemd's notification protocol: a test plays systemd's socket, and sees each state that a unit of type `notify` goes through.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use driftdb_common::metrics::catalog::DaemonKind;
use driftdb_common::service::monitor;
use driftdb_common::service::options::MetricsArgs;
use driftdb_common::service::server::Listener;
use driftdb_common::storage::fs::{File, FileId, FileSystem, OsFileSystem};
use driftdb_reader::{ReaderConfig, ReaderDaemon};
use tokio_util::sync::CancellationToken;

use crate::harness::scrape::{free_address, get, send};
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

/// Stops every thread of a process but its watchdog, until its input ends.
const FREEZE: &str = r#"
import ctypes, os, sys
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
SEIZE, INTERRUPT = 0x4206, 0x4207
tasks = f"/proc/{sys.argv[1]}/task"
for thread in os.listdir(tasks):
    if not open(f"{tasks}/{thread}/comm").read().startswith("driftdb-watchd"):
        for request in (SEIZE, INTERRUPT):
            if ptrace(request, int(thread), None, None):
                sys.exit(os.strerror(ctypes.get_errno()))
print("frozen", flush=True)
sys.stdin.read()
"#;

/// A daemon whose threads hang feeds no watchdog, although the watchdog's own thread runs. It feeds it again when they go on.
#[tokio::test]
async fn a_daemon_that_hangs_does_not_feed_the_watchdog() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::start();
    let mut command = supervisor.command("driftdb-writer", dir.path(), &[]);
    command.env("WATCHDOG_USEC", "200000");
    let daemon = Daemon::spawn(command).unwrap();
    supervisor.until("READY=1").await;
    supervisor.until("WATCHDOG=1").await;
    let mut freeze = Command::new("python3");
    freeze.args(["-c", FREEZE, &daemon.pid().to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut freezer = freeze.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(freezer.stdout.take().unwrap()).read_line(&mut said).unwrap();
    if said != "frozen\n" {
        freezer.wait().unwrap();
        eprintln!("skipped: this user may not stop the threads of another process");
        return;
    }
    // What was being checked when they stopped.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut bytes = [0; 4096];
    while supervisor.socket.recv(&mut bytes).is_ok() {}
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert!(supervisor.socket.recv(&mut bytes).is_err());
    drop(freezer.stdin.take());
    freezer.wait().unwrap();
    supervisor.until("WATCHDOG=1").await;
}

/// A reload while the database is opened does not tell the supervisor that the daemon is started.
#[tokio::test]
async fn a_reload_before_the_start_is_no_start() {
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::start();
    // A bucket that never answers: the writer waits for it before it opens its database.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = supervisor.command("driftdb-writer", dir.path(), &["--bucket", "s3://b/p"]);
    command.env("AWS_ENDPOINT", format!("http://{}", silent.local_addr().unwrap()));
    command.env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "us-east-1");
    command.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
    let metrics = free_address();
    let mut process = command.args(["--metrics", &metrics]).stdout(Stdio::null()).spawn().unwrap();
    supervisor.until("STATUS=opening the database").await;
    while send(&metrics, "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let signalled = Command::new("kill").args(["-HUP", &process.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let answer = get(&metrics, "/readyz", "*/*").await;
    assert_eq!((answer.code, answer.body.as_str()), (503, "opening the database\n"));
    assert_eq!(get(&metrics, "/activez", "*/*").await.code, 503);
    let mut bytes = [0; 4096];
    while let Ok(length) = supervisor.socket.recv(&mut bytes) {
        let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
        assert!(!said.contains("READY=1") && !said.contains("RELOADING"), "{said}");
    }
    process.kill().unwrap();
    process.wait().unwrap();
}

/// The files of this machine, until a thread that reads them is to die.
#[derive(Debug)]
struct DeadlyFiles {
    files: Arc<dyn FileSystem>,
    is_deadly: Arc<AtomicBool>,
}

impl DeadlyFiles {
    fn files(&self) -> &dyn FileSystem {
        assert!(!self.is_deadly.load(Ordering::Relaxed), "this test ends the thread");
        &*self.files
    }
}

impl FileSystem for DeadlyFiles {
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.files().open(path)
    }
    fn open_fresh(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.files().open_fresh(path)
    }
    fn open_write(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.files().open_write(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.files().create(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files().rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files().remove(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.files().create_dir(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.files().remove_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.files().list(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.files().sync_dir(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn File>>> {
        self.files().lock(path)
    }
    fn file_id(&self, path: &Path) -> io::Result<Option<FileId>> {
        self.files().file_id(path)
    }
    fn is_network(&self, path: &Path) -> io::Result<bool> {
        self.files().is_network(path)
    }
}

/// The reader would serve old data for ever: only a new start helps, so it is not alive.
#[tokio::test]
async fn a_reader_whose_follower_has_died_is_not_alive() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Daemon::writer(dir.path());
    let mut client = writer.as_writer().await;
    create_table(&mut client, "t").await.unwrap();
    let (end, metrics, is_deadly) = (CancellationToken::new(), free_address(), Arc::<AtomicBool>::default());
    let files = DeadlyFiles { files: OsFileSystem::shared(), is_deadly: Arc::clone(&is_deadly) };
    let config = ReaderConfig::new(dir.path());
    let opening = move || ReaderDaemon::open_on(Arc::new(files), config);
    let opened = tokio::task::spawn_blocking(opening).await.unwrap().unwrap();
    let options = MetricsArgs { metrics: Some(metrics.parse().unwrap()), ..MetricsArgs::default() };
    let monitor = monitor::start(DaemonKind::Reader, &options, || {}, &end).await.unwrap();
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap().watched_by(&monitor);
    let serving = tokio::spawn(opened.serve(listener, end.clone()));
    while get(&metrics, "/readyz", "*/*").await.code != 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(get(&metrics, "/healthz", "*/*").await.code, 200);
    is_deadly.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let dead = loop {
        apply(&mut client, vec![put("t", r#"{"id":"a"}"#)]).await.unwrap();
        let answer = get(&metrics, "/healthz", "*/*").await;
        if answer.code != 200 {
            break answer;
        }
        assert!(began.elapsed() < LIMIT, "the reader says that it is alive");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let expected = "the thread that follows the log panicked";
    assert!(dead.code == 503 && dead.body.contains(expected), "{dead:?}");
    end.cancel();
    serving.await.unwrap().unwrap();
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
