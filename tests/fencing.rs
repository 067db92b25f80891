//! A lock that lapses: the old holder is stopped before each of its operations and woken after another writer has taken
//! over. It acknowledges nothing more, and nothing that it does then is ever shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::harness::script::{self, Seen};
use crate::harness::{Reader, connect};
use driftdb::v1;
use driftdb_common::error::{Error, Reason};
use driftdb_common::format::event::EventType;
use driftdb_common::format::key::Key;
use driftdb_common::service::server::Listener;
use driftdb_common::storage::fence::Fencing;
use driftdb_common::storage::fs::FileSystem;
use driftdb_common::storage::fs::sim::{SimDisk, SimProcess};
use driftdb_common::storage::wal::appender::{AppendError, Log, LogOptions};
use driftdb_common::storage::{head, recovery};
use driftdb_common::table::check::doctor;
use driftdb_reader::ReaderConfig;
use tokio_util::sync::CancellationToken;

const SEGMENT: u64 = 700;
/// Commits that the old holder makes before it may be stopped.
const BEFORE: u64 = 2;
/// The last commit that the old holder tries.
const LAST: u64 = 14;

fn open(disk: Arc<dyn FileSystem>) -> Result<(Log, Vec<Seen>), Error> {
    let options = LogOptions { fencing: Fencing::On, ..script::options(SEGMENT) };
    let mut commits = Vec::new();
    let log = recovery::open(disk, &script::dir(), options, &mut |commit| {
        commits.push(script::seen(&commit));
        Ok(())
    })?;
    Ok((log, commits))
}

fn plain(error: AppendError) -> Error {
    match error {
        AppendError::Fatal(error) => error,
        AppendError::Refused(error) => panic!("the old holder would continue after this error: {error}"),
    }
}

/// The old holder's work: groups over several tables, a new table, rotations, a manifest change, a clean close.
fn old_way(mut log: Log, acknowledged: &AtomicU64) -> Result<(), Error> {
    for (from, to) in [(3, 3), (4, 5), (6, 8), (9, 9), (10, 12), (13, LAST)] {
        log.append(&mut script::group(from, to)).map_err(plain)?;
        acknowledged.store(to, Ordering::SeqCst);
        if to == 9 {
            log.edit_manifest(1, &mut |_| Ok(())).map_err(plain)?;
        }
    }
    log.close()
}

/// A commit of the new holder that the old holder never makes. It creates the third table if that is missing.
fn mine(seq: u64) -> Seen {
    if seq == 3 {
        return script::commit(seq);
    }
    let event = |table: u64| {
        let key = Key::Str(format!("new{seq}").into());
        let content = format!(r#"{{"id":"{key}","pad":"{}"}}"#, "y".repeat(60));
        (table, EventType::Insert, Some(key), Some(content))
    };
    (seq, if seq.is_multiple_of(4) { vec![event(2)] } else { vec![event(1), event(2), event(3)] })
}

/// The new holder, and everything that it must find and show.
struct New {
    log: Log,
    history: Vec<Seen>,
}

impl New {
    fn take_over(disk: &SimDisk, what: &str) -> New {
        let (log, history) = open(disk.shared()).unwrap_or_else(|e| panic!("{what}: no take-over: {e}"));
        let kept = history.len() as u64;
        assert_eq!(history, script::expected(kept), "{what}: commits kept");
        New { log, history }
    }

    fn try_append(&mut self, count: u64, commit: impl Fn(u64) -> Seen) -> Result<(), Error> {
        let last = self.history.len() as u64;
        let commits: Vec<Seen> = (last + 1..=last + count).map(commit).collect();
        self.log.append(&mut script::group_of(commits.iter().cloned())).map_err(plain)?;
        self.history.extend(commits);
        Ok(())
    }

    fn append(&mut self, count: u64, what: &str) {
        let appended = self.try_append(count, mine);
        appended.unwrap_or_else(|e| panic!("{what}: the new holder cannot append: {e}"));
    }
}

/// A reader that follows.
struct Following {
    reader: Reader,
    end: CancellationToken,
}

impl Following {
    async fn start(disk: &SimDisk) -> Following {
        let opened =
            driftdb_reader::ReaderDaemon::open_on(disk.shared(), ReaderConfig::new(script::ROOT)).unwrap();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = format!("http://{}", listener.address().unwrap());
        let end = CancellationToken::new();
        tokio::spawn(opened.serve(listener, end.clone()));
        Following { reader: Reader::new(connect(&url).await), end }
    }

    /// Everything up to a commit: (seq, table, key).
    async fn history(&mut self, last: u64) -> Vec<(u64, String, String)> {
        let mut found = Vec::new();
        for table in script::TABLES {
            let freshness = Some(v1::Freshness { min_seq: last, ..Default::default() });
            let request = v1::HistoryRequest { table: table.into(), freshness, ..Default::default() };
            let mut stream = self.reader.history(request).await.unwrap().into_inner();
            while let Some(message) = stream.message().await.unwrap() {
                for commit in message.commits {
                    let rows = commit.changes.into_iter().filter(|change| !change.key.is_empty());
                    found.extend(rows.map(|change| (commit.seq, change.table, change.key)));
                }
            }
        }
        found.sort();
        found
    }
}

fn rows(history: &[Seen]) -> Vec<(u64, String, String)> {
    let mut rows = Vec::new();
    for (seq, events) in history {
        for (table, _, key, _) in events {
            let table = script::TABLES[usize::try_from(*table).unwrap() - 1];
            rows.extend(key.as_ref().map(|key| (*seq, table.to_owned(), key.to_string())));
        }
    }
    rows.sort();
    rows
}

/// Checks everything after the old holder has continued.
async fn check(disk: &SimDisk, new: New, mut followed: Following, closes: bool, what: &str) {
    let New { log, history } = new;
    let last = history.len() as u64;
    let now = head::read(disk, &script::dir()).unwrap().unwrap();
    assert_eq!((now.header.term, now.last_seq()), (log.term(), last), "{what}: HEAD");
    assert!(
        followed.history(last).await == rows(&history),
        "{what}: commits shown by a reader that followed"
    );
    if closes {
        log.close().unwrap_or_else(|e| panic!("{what}: the new holder cannot close: {e}"));
    } else {
        drop(log);
    }
    disk.lapse_locks();
    let again = open(disk.shared()).map(|(log, found)| (log.close(), found));
    let (closed, found) = again.unwrap_or_else(|e| panic!("{what}: cannot open again: {e}"));
    closed.unwrap();
    assert!(found == history, "{what}: commits found by a third open");
    let mut damage = Vec::new();
    let summary =
        doctor::examine(disk.shared(), &script::dir(), false, &mut |finding| damage.push(finding)).unwrap();
    assert_eq!(summary.damage, 0, "{what}: {damage:#?}");
    let mut fresh = Following::start(disk).await;
    assert!(fresh.history(last).await == rows(&history), "{what}: commits shown by a new reader");
    assert!(
        followed.history(last).await == rows(&history),
        "{what}: commits shown by a reader that followed"
    );
    followed.end.cancel();
    fresh.end.cancel();
}

/// Stops the old holder before its operation `k`. Returns false if there is no such operation.
async fn taken_over_before(k: u64) -> bool {
    let disk = SimDisk::new();
    let old = SimProcess::new(&disk);
    let (mut log, _) = open(old.shared()).unwrap();
    log.append(&mut script::group(1, BEFORE)).unwrap();
    let followed = Following::start(&disk).await;
    old.stop_before(old.operations() + k);
    let acknowledged = Arc::new(AtomicU64::new(BEFORE));
    let thread = run(&old, {
        let acknowledged = Arc::clone(&acknowledged);
        move || old_way(log, &acknowledged)
    });
    let Some(stopped) = old.wait_until_stopped() else {
        thread.join().unwrap().unwrap();
        assert_eq!(acknowledged.load(Ordering::SeqCst), LAST);
        return false;
    };
    let what = format!("stopped before its operation {k}, {stopped}");
    let (before, shown) = (acknowledged.load(Ordering::SeqCst), script::shown(&disk));
    disk.lapse_locks();
    let mut new = New::take_over(&disk, &what);
    let kept = new.history.len() as u64;
    assert!(kept >= before.max(shown), "{what}: {kept} kept, {before} acknowledged and {shown} shown before");
    new.append(if kept < 3 { 1 } else { 2 }, &what);
    new.append(3, &what);
    old.resume();
    let ended = thread.join().unwrap();
    let told = acknowledged.load(Ordering::SeqCst);
    assert!(told <= kept, "{what}: commit {told} was acknowledged, and the new holder has {kept} of them");
    let error = ended.expect_err(&what);
    assert_eq!(error.reason(), Reason::Fenced, "{what}: {error}");
    new.append(2, &what);
    check(&disk, new, followed, k.is_multiple_of(2), &what).await;
    true
}

fn run<T: Send + 'static>(
    process: &SimProcess,
    way: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let process = process.clone();
    std::thread::spawn(move || {
        let outcome = way();
        process.mark_ended();
        outcome
    })
}

/// Runs all cases, four at a time.
async fn every<F: Future<Output = bool> + Send + 'static>(case: impl Fn(u64) -> F) -> u64 {
    let mut k = 1;
    loop {
        let cases: Vec<_> = (k..k + 4).map(|k| tokio::spawn(case(k))).collect();
        for running in cases {
            if !running.await.unwrap() {
                return k - 1;
            }
            k += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn an_old_holder_stopped_at_any_operation_acknowledges_and_shows_nothing_more() {
    let places = every(taken_over_before).await;
    assert!(places > 150, "{places} places");
    eprintln!("stopped at each of {places} places");
}

/// What the previous holder left behind.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Left {
    /// Half of a commit.
    Torn,
    /// Empty segments: the holder was killed after it had opened a database whose writer was killed.
    Idle,
    /// A cleanly closed database.
    Closed,
}

fn leave(left: Left) -> SimDisk {
    let disk = SimDisk::new();
    let (mut log, _) = open(disk.shared()).unwrap();
    log.append(&mut script::group(1, 4)).unwrap();
    log.append(&mut script::group(5, 6)).unwrap();
    match left {
        Left::Torn => {
            disk.power_off_at(disk.operations() + 3);
            log.append(&mut script::group(7, 7)).unwrap_err();
            drop(log);
        }
        Left::Idle => {
            drop(log);
            drop(open(disk.shared()).unwrap());
        }
        Left::Closed => log.close().unwrap(),
    }
    disk.clone_state()
}

/// Stops the old holder before operation `k` of opening the database, which repairs what was left behind.
async fn opening_taken_over_before(left: Left, k: u64) -> bool {
    let disk = leave(left);
    let followed = Following::start(&disk).await;
    let old = SimProcess::new(&disk);
    old.stop_before(k);
    let thread = run(&old, {
        let disk = old.shared();
        move || {
            let (log, history) = open(disk)?;
            let mut opened = New { log, history };
            opened.try_append(1, script::commit)?;
            Ok(opened)
        }
    });
    let Some(stopped) = old.wait_until_stopped() else {
        let opened: Result<New, Error> = thread.join().unwrap();
        opened.unwrap();
        return false;
    };
    let what = format!("{left:?}: stopped before operation {k} of its opening, {stopped}");
    disk.lapse_locks();
    let mut new = New::take_over(&disk, &what);
    new.append(3, &what);
    old.resume();
    let opened = thread.join().unwrap();
    let owner = match (new.try_append(2, mine), opened) {
        // It does not get the lock any more.
        (Ok(()), Err(error)) => {
            let refused = matches!(error.reason(), Reason::Fenced | Reason::DatabaseLocked);
            assert!(refused, "{what}: {error}");
            new
        }
        // It acknowledged its commit before it was stopped, so the commit is kept.
        (Ok(()), Ok(opened)) => {
            assert!(
                new.history.starts_with(&opened.history),
                "{what}: the old holder did not notice the take-over"
            );
            new
        }
        // It had the lock, but had not read anything yet: it takes over in its turn.
        (Err(error), Ok(opened)) => {
            assert_eq!(error.reason(), Reason::Fenced, "{what}: {error}");
            assert!(opened.history.starts_with(&new.history), "{what}: commits were lost");
            opened
        }
        (Err(error), Err(other)) => panic!("{what}: neither holder can continue: {error}; {other}"),
    };
    check(&disk, owner, followed, k.is_multiple_of(2), &what).await;
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn of_two_simultaneous_opens_one_succeeds() {
    for (left, least) in [(Left::Torn, 60), (Left::Idle, 40), (Left::Closed, 20)] {
        let places = every(move |k| opening_taken_over_before(left, k)).await;
        assert!(places > least, "{left:?}: {places} places");
        eprintln!("{left:?}: stopped at each of {places} places");
    }
}
