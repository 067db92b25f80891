//! Tests of the audit log: every line has one shape, floods are counted, and a full disk loses nothing that fits into the queue.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::error::Reason;
use crate::storage::fs::{self, FileSystem, OsFileSystem};

/// What a sink got, and whether its disk is full.
#[derive(Debug, Default, Clone)]
struct MemorySink {
    written: Arc<Mutex<Vec<u8>>>,
    is_full: Arc<AtomicBool>,
}

impl AuditSink for MemorySink {
    fn prepare(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    /// Takes a few bytes at a time, as a disk that becomes full within a line does.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let taken = &bytes[..bytes.len().min(7)];
        self.written.lock().extend(taken);
        Ok(taken.len())
    }
}

impl MemorySink {
    fn lines(&self) -> Vec<serde_json::Value> {
        let written = self.written.lock().clone();
        String::from_utf8(written).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn start(calls: AuditedCalls) -> (AuditLog, MemorySink) {
    let sink = MemorySink::default();
    (AuditLog::write_to("driftdb-writer", calls, sink.clone()).unwrap(), sink)
}

fn close(log: &AuditLog) {
    log.0.as_ref().unwrap().queue.close();
}

fn call<'a>(tables: &'a [&'a str]) -> AuditedCall<'a> {
    let peer = Some([127, 0, 0, 1].into());
    AuditedCall { principal: Some("app"), peer, method: "WriterService/Apply", action: "write", tables }
}

fn refusal() -> Error {
    Error::new(Reason::Overloaded, "no more calls")
}

#[test]
fn a_line_says_who_did_what_and_how_it_ended() {
    let (log, sink) = start(AuditedCalls::WRITES);
    log.denied(&call(&["orders"]), &refusal());
    log.admin(&AuditedCall { action: "drop", ..call(&["orders"]) });
    log.reloaded("auth.toml", None);
    log.call(AuditedCalls::WRITES, &call(&["orders"]));
    log.call(AuditedCalls::READS, &call(&["orders"]));
    close(&log);
    let mut lines = sink.lines();
    for line in &mut lines {
        let time = line.as_object_mut().unwrap().remove("time").unwrap();
        assert!(rfc3339::parse(time.as_str().unwrap()).is_ok(), "{time}");
    }
    let whole = serde_json::json!({
        "daemon": "driftdb-writer", "event": "denied", "principal": "app", "peer": "127.0.0.1",
        "method": "WriterService/Apply", "action": "write", "tables": ["orders"],
        "outcome": "refused", "reason": "OVERLOADED", "message": "no more calls",
    });
    assert_eq!(lines[0], whole);
    let events: Vec<_> = lines.iter().map(|line| (&line["event"], &line["outcome"])).collect();
    assert_eq!(
        serde_json::to_value(events).unwrap(),
        serde_json::json!([
            ["denied", "refused"],
            ["admin", "allowed"],
            ["reloaded", "ok"],
            ["write", "allowed"]
        ])
    );
}

#[test]
fn a_flood_of_refusals_is_counted() {
    let (log, sink) = start(AuditedCalls::default());
    let allowed = limits::AUDIT_REFUSALS_PER_SECOND;
    let flood = 5 * allowed;
    for _ in 0..flood {
        log.denied(&call(&[]), &refusal());
    }
    // Administration is written beside a flood.
    log.admin(&call(&[]));
    std::thread::sleep(WINDOW + Duration::from_millis(100));
    close(&log);
    let lines = sink.lines();
    let count = |event: &str| lines.iter().filter(|line| line["event"] == event).count() as u64;
    let left_out: u64 = lines
        .iter()
        .filter(|line| line["event"] == "left_out")
        .map(|line| line["count"].as_u64().unwrap())
        .sum();
    assert_eq!((count("denied") + left_out, count("admin")), (flood, 1));
    // The flood may have met the end of one window.
    assert!(count("denied") <= 2 * allowed, "{}", count("denied"));
}

#[test]
fn lines_wait_for_a_full_disk_and_those_that_find_no_room_are_counted() {
    let (log, sink) = start(AuditedCalls::WRITES);
    sink.is_full.store(true, Ordering::Relaxed);
    let mut pushed = 0_u64;
    while log.lost() < 10 {
        log.call(AuditedCalls::WRITES, &call(&["orders"]));
        pushed += 1;
    }
    assert!(pushed > 1000);
    sink.is_full.store(false, Ordering::Relaxed);
    // The writing thread finds out within a second.
    close_when_written(&log, &sink);
    let lines = sink.lines();
    let lost: u64 =
        lines.iter().filter(|line| line["event"] == "lost").map(|line| line["count"].as_u64().unwrap()).sum();
    assert_eq!((lost, log.lost()), (10, 10));
    assert_eq!(lines.iter().filter(|line| line["event"] == "write").count() as u64, pushed - 10);
}

/// Waits until the thread writes again, then closes the log.
fn close_when_written(log: &AuditLog, sink: &MemorySink) {
    while sink.written.lock().is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    close(log);
}

#[test]
fn what_a_client_sends_cannot_make_a_line_long() {
    let (log, sink) = start(AuditedCalls::WRITES);
    let long = "x\n\"".repeat(100_000);
    let tables = vec![long.as_str(); 1000];
    log.call(AuditedCalls::WRITES, &AuditedCall { principal: Some(&long), method: &long, ..call(&tables) });
    close(&log);
    assert!(sink.written.lock().len() < 32 << 10);
    assert_eq!(sink.lines()[0]["more_tables"], 1000 - TABLES_LISTED);
}

#[test]
fn a_name_that_a_terminal_would_obey_is_written_as_escapes() {
    let (log, sink) = start(AuditedCalls::WRITES);
    let names = [
        "a\nb\r\t\0",
        "\u{1b}[2J",
        "\u{9b}2J\u{85}",
        "\u{7f}",
        "x\u{202e}y\u{2066}",
        "\u{2028}",
        "\u{e0041}",
        "größe 表",
    ];
    log.call(AuditedCalls::WRITES, &call(&names));
    close(&log);
    let text = String::from_utf8(sink.written.lock().clone()).unwrap();
    assert_eq!(text.lines().count(), 1);
    let is_obeyed =
        |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{2066}\u{2028}\u{e0041}".contains(c));
    assert!(!text.contains(is_obeyed) && text.contains("größe 表"), "{text}");
    // Nothing of them is lost.
    assert_eq!(sink.lines()[0]["tables"], serde_json::json!(names));
}

#[test]
fn whoever_has_no_token_cannot_hide_what_others_are_denied() {
    let (log, sink) = start(AuditedCalls::default());
    for _ in 0..10 * limits::AUDIT_REFUSALS_PER_SECOND {
        log.authentication_failed(&call(&[]), &refusal());
    }
    log.denied(&call(&["orders"]), &refusal());
    close(&log);
    assert_eq!(sink.lines().iter().filter(|line| line["event"] == "denied").count(), 1);
}

/// A file in the temporary directory. Dropping it removes it, and the older ones.
struct TemporaryLog(std::path::PathBuf);

impl TemporaryLog {
    fn new() -> TemporaryLog {
        TemporaryLog(std::env::temp_dir().join(format!("driftdb-audit-{}", uuid::Uuid::new_v4())))
    }

    fn file(&self, number: usize) -> std::path::PathBuf {
        match number {
            0 => self.0.clone(),
            number => std::path::PathBuf::from(format!("{}.{number}", self.0.display())),
        }
    }

    /// The tables that the lines of a file name, in order; `None` if there is no file.
    fn tables(&self, number: usize) -> Option<Vec<String>> {
        let bytes = fs::read(&OsFileSystem, &self.file(number), 1 << 20).unwrap()?;
        let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let lines = String::from_utf8(bytes).unwrap();
        let lines = lines.lines().map(line).filter(|line| line["event"] == "write");
        Some(lines.map(|line| line["tables"][0].as_str().unwrap().to_owned()).collect())
    }
}

impl Drop for TemporaryLog {
    fn drop(&mut self) {
        for number in 0..10 {
            let _ = fs::remove_if_exists(&OsFileSystem, &self.file(number));
        }
    }
}

#[test]
fn files_are_rotated_by_size_and_the_oldest_is_removed() {
    let temporary = TemporaryLog::new();
    let options = AuditOptions {
        target: Some(AuditTarget::File(temporary.0.clone())),
        calls: AuditedCalls::WRITES,
        max_bytes: 1000,
        files: 3,
    };
    // Started twice: the second one appends.
    for start in 0..2 {
        let log = AuditLog::start_as("driftdb-writer", &options).unwrap();
        for n in 0..20 {
            log.call(AuditedCalls::WRITES, &call(&[&format!("t{}", 20 * start + n)]));
        }
        close(&log);
    }
    let files: Vec<_> = (0..10).map_while(|number| temporary.tables(number)).collect();
    assert_eq!(files.len(), 3);
    assert!(files.iter().all(|tables| tables.len() <= 5), "{files:?}");
    // The newest lines, without a gap.
    let kept = files.concat().len();
    let found: Vec<String> = files.into_iter().rev().flatten().collect();
    let newest: Vec<String> = (40 - kept..40).map(|n| format!("t{n}")).collect();
    assert!(kept >= 8);
    assert_eq!(found, newest);
}

#[test]
fn a_rotation_that_fails_is_continued_and_removes_no_further_file() {
    let temporary = TemporaryLog::new();
    let mut file = AuditFile::open(&temporary.0, 10, 3).unwrap();
    for n in 0..3 {
        let line = format!("{{\"event\":\"write\",\"tables\":[\"t{n}\"]}}\n");
        file.prepare(line.len() as u64).unwrap();
        assert_eq!(file.write(line.as_bytes()).unwrap(), line.len());
    }
    // As if the process had ended within a rotation: the newest file has its new name, and no other has.
    fs::remove_if_exists(&OsFileSystem, &temporary.file(2)).unwrap();
    OsFileSystem.rename(&temporary.file(1), &temporary.file(2)).unwrap();
    file.prepare(100).unwrap();
    let files: Vec<_> = (0..4).map(|number| temporary.tables(number)).collect();
    let tables = |name: &str| Some(vec![name.to_owned()]);
    assert_eq!(files, [Some(Vec::new()), tables("t2"), tables("t1"), None]);
}
