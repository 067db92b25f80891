//! Watchers of every kind, which check each message against the journal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use driftdb::v1;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

use super::client::TABLES;
use super::site::Site;
use crate::harness::checker::{Checker, Start, Violation};
use crate::harness::condition::Condition;
use crate::harness::filter::Filter;
use crate::harness::watcher::Watcher;
use crate::harness::{Writer, at_seq};

/// The pause after each message with rows.
const ROWS_PAUSE: Duration = Duration::from_millis(400);

/// A watcher, and when it starts: after this percentage of the events.
fn watchers() -> Vec<(u64, Kind, Filter)> {
    let n_is_low = Condition::Compare("n", "<", 200.into());
    let low_or_s1 = Condition::Or(vec![n_is_low.clone(), Condition::Compare("s", "=", "s1".into())]);
    let keys =
        |range: std::ops::Range<usize>| range.map(|n| format!("k{n:03}")).chain(["7".into()]).collect();
    let all = Filter::default();
    vec![
        (0, Kind::Now, Filter { before: true, after: true, ..all.clone() }),
        (0, Kind::Oldest, all.clone()),
        (
            30,
            Kind::Middle,
            Filter {
                tables: vec!["a", "b"],
                condition: Some(n_is_low),
                before: true,
                after: true,
                ..all.clone()
            },
        ),
        (40, Kind::Time, Filter { keys: keys(10..30), after: true, msgpack: true, ..all.clone() }),
        (10, Kind::Rows, Filter { tables: vec!["c", "large"], after: true, ..all.clone() }),
        (50, Kind::Rows, Filter { condition: Some(low_or_s1), before: true, ..all.clone() }),
        (
            0,
            Kind::Oldest,
            Filter {
                tables: vec!["b", "wide", "a"],
                prefix: "k0",
                condition: Some(Condition::IsMissing("n", false)),
                before: true,
                ..all.clone()
            },
        ),
        (20, Kind::Slow, Filter { before: true, after: true, msgpack: true, ..all }),
    ]
}

/// Where a watcher starts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Now,
    Oldest,
    Middle,
    Time,
    Rows,
    /// After a commit, and slow.
    Slow,
}

/// Raises every table's floor to a commit. Returns whether any floor rose.
async fn compact(url: &str, seq: u64) -> bool {
    let Ok(channel) = Endpoint::from_shared(url.to_owned()).unwrap().connect().await else { return false };
    let mut writer = Writer::new(channel);
    let mut raised = false;
    for (table, _) in TABLES.into_iter().flatten() {
        let request = v1::CompactRequest { table: table.into(), before: at_seq(seq), dry_run: false };
        // The writer may be restarting, or the floor may already be there.
        let Ok(answer) = writer.compact(request).await else { continue };
        let mut answers = answer.into_inner();
        while let Ok(Some(message)) = answers.message().await {
            raised |= matches!(message.event, Some(v1::compact_response::Event::Compaction(info)) if info.events_folded > 0);
        }
    }
    raised
}

type Following = JoinHandle<Result<Watcher, Violation>>;

/// The watchers that have started, and those that will.
pub struct Watching {
    to_come: Vec<(u64, Kind, Filter)>,
    begun: Vec<(Kind, Arc<AtomicU64>, Following)>,
    /// The commit to which compactions have raised the floors.
    pub floor: u64,
    end: watch::Sender<u64>,
}

impl Watching {
    /// Watchers of which none has started.
    pub fn new() -> Watching {
        Watching { to_come: watchers(), begun: Vec::new(), floor: 0, end: watch::Sender::new(u64::MAX) }
    }

    /// Raises the floor of every table to the commit that every watcher has. Returns whether any floor rose.
    pub async fn raise_floor(&mut self, site: &Site) -> bool {
        let slowest = self.slowest();
        if slowest <= self.floor + 50 {
            return false;
        }
        let url = site.writer_url.lock().unwrap().clone();
        let raised = compact(&url, slowest).await;
        self.floor = slowest;
        raised
    }

    /// Starts the watchers that start after this percentage of the events.
    pub fn begin(&mut self, site: &Site, percent: u64) {
        while let Some(at) = self.to_come.iter().position(|(when, ..)| *when <= percent) {
            let (_, kind, filter) = self.to_come.remove(at);
            let complete = site.journal.complete();
            // After a commit that is above the floor.
            let middle = (self.floor + complete) / 2;
            let start = match kind {
                Kind::Now => Start::Now,
                Kind::Oldest => Start::AfterSeq(0),
                Kind::Middle | Kind::Slow => Start::AfterSeq(middle),
                Kind::Time => {
                    let time = site.journal.read(|history| history.commit(middle).unwrap().time_ms);
                    Start::AfterTimeMs(time)
                }
                Kind::Rows => Start::InitialRows,
            };
            let mut watcher = Watcher::new(Checker::new(filter, start));
            watcher.pause = match kind {
                Kind::Slow => Some((50, Duration::from_millis(40))),
                // Slow enough that a reader is killed while the rows arrive.
                Kind::Rows => Some((1, ROWS_PAUSE)),
                _ => None,
            };
            // The floor must not rise above the commit at which it starts.
            let first = if matches!(kind, Kind::Middle | Kind::Slow | Kind::Time) { middle } else { 0 };
            watcher.position.store(first, Ordering::Relaxed);
            let position = watcher.position.clone();
            let following =
                watcher.follow(site.reader_urls.clone(), site.journal.clone(), self.end.subscribe());
            self.begun.push((kind, position, tokio::spawn(following)));
        }
    }

    /// The commit up to which every watcher has received everything.
    fn slowest(&self) -> u64 {
        self.begun.iter().map(|(_, position, _)| position.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    /// Waits until every watcher has everything up to a commit. Returns the violations.
    pub async fn finish(self, last: u64) -> Vec<String> {
        assert!(self.to_come.is_empty(), "a watcher never started");
        self.end.send_replace(last);
        let mut wrong = Vec::new();
        for (kind, position, following) in self.begun {
            match tokio::time::timeout(Duration::from_secs(120), following).await {
                Ok(Ok(Ok(Watcher { streams, streams_in_rows, checker, .. }))) => {
                    eprintln!("{kind:?}: {streams} streams, {streams_in_rows} in rows, {:?}", checker.counts);
                }
                Ok(ended) => wrong.push(format!("{kind:?}: {ended:?}")),
                Err(_) => wrong.push(format!("{kind:?} does not reach the end: it is at {position:?}")),
            }
        }
        wrong
    }
}
