//! The daemons of the oracle: they are killed and replaced while clients and watchers use them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::Daemon;
use crate::harness::watcher::Journal;

const WRITER: [&str; 4] = ["--snapshot-events", "700", "--segment-bytes", "262144"];
const READER: [&str; 2] = ["--cache", "2097152"];
/// The database and the daemons on it.
pub struct Site {
    pub dir: PathBuf,
    pub journal: Arc<Journal>,
    pub writer_url: Arc<Mutex<String>>,
    pub reader_urls: Arc<Mutex<Vec<String>>>,
    /// The events that all clients have written.
    pub events: Arc<AtomicU64>,
    /// The processes that run now, the writer first.
    pub pids: Arc<Mutex<Vec<u32>>>,
    pub stop: Arc<AtomicBool>,
}

/// Waits for a time, or until `stop` is set. Returns whether it is.
fn is_stopped_within(time: Duration, stop: &AtomicBool) -> bool {
    let end = Instant::now() + time;
    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
    }
    stop.load(Ordering::Relaxed)
}

/// At every interval, kills a reader and starts another in its place. After many of them, the intervals grow.
pub fn replace_readers(
    site: &Site,
    every: Duration,
    mut readers: Vec<Daemon>,
) -> std::thread::JoinHandle<u64> {
    let (dir, urls, stop) = (site.dir.clone(), site.reader_urls.clone(), site.stop.clone());
    let pids = site.pids.clone();
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        let mut kills = 0;
        while !stop.load(Ordering::Relaxed) {
            // On a slow machine a reader must live long enough to send a watcher something.
            if is_stopped_within(every * (1 + u32::try_from(kills / 30).unwrap()), &stop) {
                break;
            }
            let turn = usize::try_from(kills).unwrap() % readers.len();
            // Sometimes uses SIGTERM, so that the reader can end its streams.
            if kills % 7 == 6 {
                assert!(runtime.block_on(readers[turn].terminate()).success());
            } else {
                readers[turn].kill();
            }
            readers[turn] = Daemon::start("driftdb-reader", &dir, &READER);
            urls.lock().unwrap()[turn] = readers[turn].url.clone();
            pids.lock().unwrap()[turn + 1] = readers[turn].pid();
            kills += 1;
        }
        kills
    })
}

/// At every interval, restarts the writer with SIGKILL or SIGTERM.
pub fn restart_writer(site: &Site, every: Duration, mut writer: Daemon) -> std::thread::JoinHandle<u64> {
    let (dir, url, stop) = (site.dir.clone(), site.writer_url.clone(), site.stop.clone());
    let pids = site.pids.clone();
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        let mut restarts = 0;
        loop {
            if is_stopped_within(every, &stop) {
                return restarts;
            }
            if restarts % 3 == 2 {
                assert!(runtime.block_on(writer.terminate()).success());
            } else {
                writer.kill();
            }
            writer = Daemon::start("driftdb-writer", &dir, &WRITER);
            *url.lock().unwrap() = writer.url.clone();
            pids.lock().unwrap()[0] = writer.pid();
            restarts += 1;
        }
    })
}

/// Starts a writer and two readers on a directory.
pub async fn open(dir: &Path) -> (Site, Daemon, Vec<Daemon>) {
    let writer = Daemon::start("driftdb-writer", dir, &WRITER);
    let readers: Vec<Daemon> = (0..2).map(|_| Daemon::start("driftdb-reader", dir, &READER)).collect();
    let site = Site {
        dir: dir.to_owned(),
        journal: Journal::new(),
        writer_url: Arc::new(Mutex::new(writer.url.clone())),
        reader_urls: Arc::new(Mutex::new(readers.iter().map(|reader| reader.url.clone()).collect())),
        events: Arc::default(),
        pids: Arc::new(Mutex::new([&writer].into_iter().chain(&readers).map(Daemon::pid).collect())),
        stop: Arc::default(),
    };
    (site, writer, readers)
}
