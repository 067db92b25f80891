//! The way of audit lines from the calls to the file: a queue that is bounded in bytes, and one thread that writes.
//!
//! A call never waits for the disk that has the audit log: that disk may be full, or slow, and then every call would be. So lines
//! wait in a queue. While the file cannot be written, the thread tries again every second; only lines that find the queue full are
//! lost. Lost lines are counted, the daemon's log says so once a second, and the first line that can be written after them
//! contains their number. An administrator's action that is lost is written to the daemon's log instead.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::service::access::audit_file::AuditSink;
use crate::service::log_throttle::LogThrottle;

/// How long the thread waits after a failed write, and how often it looks for lines that were left out.
const INTERVAL: Duration = Duration::from_secs(1);
/// The memory that a waiting line takes besides its bytes.
const LINE_OVERHEAD_BYTES: usize = 64;

/// Lines on their way to the sink.
#[derive(Debug)]
pub struct AuditQueue {
    waiting: Mutex<WaitingLines>,
    changed: Condvar,
    max_bytes: usize,
    lost: AtomicU64,
    lost_in_all: AtomicU64,
    full: LogThrottle,
}

#[derive(Debug, Default)]
struct WaitingLines {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    is_closed: bool,
    has_ended: bool,
}

/// Makes the lines that nobody asked for: the numbers of lines that were left out.
pub trait AuditCounts: Send {
    /// The lines to write now. `lost` lines were lost since the last call.
    fn lines(&mut self, lost: u64) -> Vec<Vec<u8>>;
}

impl AuditQueue {
    /// An empty queue that takes `max_bytes` of memory.
    pub fn new(max_bytes: usize) -> Arc<AuditQueue> {
        Arc::new(AuditQueue {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            max_bytes,
            lost: AtomicU64::new(0),
            lost_in_all: AtomicU64::new(0),
            full: LogThrottle::new(),
        })
    }

    /// Adds a line, which ends with a line feed. Returns false if it is lost.
    pub fn push(&self, line: Vec<u8>) -> bool {
        let bytes = line.len() + LINE_OVERHEAD_BYTES;
        let mut waiting = self.waiting.lock();
        if waiting.is_closed || waiting.bytes + bytes > self.max_bytes {
            drop(waiting);
            self.count_lost(1);
            return false;
        }
        waiting.bytes += bytes;
        waiting.lines.push_back(line);
        drop(waiting);
        self.changed.notify_all();
        true
    }

    /// The number of lines that were lost since the start.
    pub fn lost(&self) -> u64 {
        self.lost_in_all.load(Ordering::Relaxed)
    }

    fn count_lost(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
        let lost = self.lost_in_all.fetch_add(lines, Ordering::Relaxed) + lines;
        if self.full.pass().is_some() {
            tracing::error!(
                lines = lost,
                "lines of the audit log are lost: it cannot be written fast enough, or at all"
            );
        }
    }

    /// Takes no more lines, and waits until those that are here are written or lost. Blocks.
    pub fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.is_closed = true;
        self.changed.notify_all();
        while !waiting.has_ended {
            self.changed.wait(&mut waiting);
        }
    }

    /// Waits for a line, for the interval, or for the end.
    fn next(&self) -> NextLine {
        let mut waiting = self.waiting.lock();
        if waiting.lines.is_empty() && !waiting.is_closed {
            self.changed.wait_for(&mut waiting, INTERVAL);
        }
        match waiting.lines.pop_front() {
            Some(line) => {
                waiting.bytes -= line.len() + LINE_OVERHEAD_BYTES;
                NextLine::Line(line)
            }
            None if waiting.is_closed => NextLine::End,
            None => NextLine::None,
        }
    }

    fn is_closed(&self) -> bool {
        self.waiting.lock().is_closed
    }

    /// Waits for the interval, or until the queue is closed.
    fn pause(&self) {
        let mut waiting = self.waiting.lock();
        let end = Instant::now() + INTERVAL;
        while !waiting.is_closed && !self.changed.wait_until(&mut waiting, end).timed_out() {}
    }

    /// Writes lines until the queue is closed and empty. Runs on a thread of its own.
    pub fn write_all(&self, mut sink: impl AuditSink, mut counts: impl AuditCounts) {
        let failed = LogThrottle::new();
        loop {
            // After a line, so that the number of lost lines never fills a queue that is full.
            let next = self.next();
            if let NextLine::Line(line) = &next {
                self.write_line(&mut sink, line, &failed);
            }
            for line in counts.lines(self.lost.swap(0, Ordering::Relaxed)) {
                self.write_line(&mut sink, &line, &failed);
            }
            if matches!(next, NextLine::End) {
                break;
            }
        }
        self.waiting.lock().has_ended = true;
        self.changed.notify_all();
    }

    /// Writes a line, however long that takes. Once the queue is closed, a line that cannot be written is lost.
    fn write_line(&self, sink: &mut impl AuditSink, line: &[u8], failed: &LogThrottle) {
        let mut rest = line;
        while !rest.is_empty() {
            let is_last_try = self.is_closed();
            // A line that has begun must end in the same file.
            let is_prepared = if rest.len() == line.len() { sink.prepare(line.len() as u64) } else { Ok(()) };
            match is_prepared.and_then(|()| sink.write(rest)) {
                Ok(0) => self.report(&std::io::ErrorKind::WriteZero.into(), failed),
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    continue;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => self.report(&error, failed),
            }
            if is_last_try {
                return self.count_lost(1);
            }
            self.pause();
        }
    }

    fn report(&self, error: &std::io::Error, failed: &LogThrottle) {
        if failed.pass().is_some() {
            let waiting = self.waiting.lock().lines.len() + 1;
            tracing::error!(%error, lines = waiting, "cannot write the audit log; its lines wait");
        }
    }
}

/// What the thread does next.
#[derive(Debug)]
enum NextLine {
    Line(Vec<u8>),
    /// Nothing but to look again.
    None,
    End,
}
