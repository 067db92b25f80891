//! The audit log: one JSON line for each refused call, failed authentication, administrative action and reload; on request also for
//! each write and read.
//!
//! A line costs a call a few microseconds and no wait: see `audit_queue` for what happens when the file cannot be written. A flood of
//! refused calls must not fill a disk, so of each kind of refusal at most [`limits::AUDIT_REFUSALS_PER_SECOND`] lines are written each
//! second; the others are counted, and a line contains their number. Each kind counts for itself: whoever has no token cannot hide what
//! those who have one try.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::format::rfc3339;
use crate::limits;
use crate::metrics;
use crate::metrics::catalog;
use crate::service::access::audit_file::{AuditFile, AuditSink, StandardErrorSink};
use crate::service::access::audit_options::{AuditOptions, AuditTarget, AuditedCalls};
use crate::service::access::audit_queue::{AuditCounts, AuditQueue};
use crate::service::clock::now_ms;
use crate::service::status::clip;
use crate::vital::VitalPart;

/// The longest text in a line, in bytes. Clients choose some of them.
const TEXT_BYTES: usize = 256;
/// The most tables that a line names. Further ones are counted.
const TABLES_LISTED: usize = 32;
/// The window in which refusals are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// The audit log of a daemon, or none. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct AuditLog(Option<Arc<OpenAuditLog>>);

#[derive(Debug)]
struct OpenAuditLog {
    daemon: String,
    queue: Arc<AuditQueue>,
    refusals: Arc<RefusalWindow>,
    calls: AuditedCalls,
}

/// A call, as the audit log describes it.
#[derive(Debug, Clone, Copy, Default)]
pub struct AuditedCall<'a> {
    /// The name of the principal; `None` without authentication.
    pub principal: Option<&'a str>,
    /// The client's address; `None` for a caller inside this process.
    pub peer: Option<IpAddr>,
    /// The method, such as `WriterService/Apply`.
    pub method: &'a str,
    /// What it does: `read`, `write`, or an administrative action such as `compact`.
    pub action: &'a str,
    /// The tables that it names.
    pub tables: &'a [&'a str],
}

/// One line. The names of the fields are documented in docs/audit.md.
#[derive(Debug, Default, Serialize)]
struct AuditLine<'a> {
    time: String,
    daemon: &'a str,
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<IpAddr>,
    #[serde(skip_serializing_if = "String::is_empty")]
    method: String,
    #[serde(skip_serializing_if = "is_empty")]
    action: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tables: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    more_tables: Option<usize>,
    #[serde(skip_serializing_if = "String::is_empty")]
    file: String,
    #[serde(skip_serializing_if = "is_empty")]
    outcome: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

fn is_empty(text: &&str) -> bool {
    text.is_empty()
}

impl<'a> AuditLine<'a> {
    fn new(daemon: &'a str, event: &'a str) -> AuditLine<'a> {
        let time = rfc3339::format_millis(i64::try_from(now_ms()).unwrap_or(i64::MAX));
        AuditLine { time, daemon, event, ..AuditLine::default() }
    }

    fn of_call(self, call: &AuditedCall<'a>) -> AuditLine<'a> {
        let listed = call.tables.iter().take(TABLES_LISTED).map(|table| clip(table, TEXT_BYTES)).collect();
        AuditLine {
            principal: call.principal.map(|name| clip(name, TEXT_BYTES)),
            peer: call.peer,
            method: clip(call.method.trim_start_matches("driftdb.v1."), TEXT_BYTES),
            action: call.action,
            tables: listed,
            more_tables: call.tables.len().checked_sub(TABLES_LISTED).filter(|more| *more > 0),
            ..self
        }
    }

    /// The outcome: `good`, or `bad` with the error's reason and message.
    fn ended(self, error: Option<&Error>, good: &'a str, bad: &'a str) -> AuditLine<'a> {
        match error {
            None => AuditLine { outcome: good, ..self },
            Some(error) => AuditLine {
                outcome: bad,
                reason: error.reason().as_str(),
                message: clip(error.message(), TEXT_BYTES),
                ..self
            },
        }
    }

    fn counting(self, count: u64) -> AuditLine<'a> {
        AuditLine { count: Some(count), ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        // Strings and numbers always have a JSON form.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        if !line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            line = without_controls(&line);
        }
        line.push('\n');
        line.into_bytes()
    }
}

/// The same JSON with an escape in place of each character that a terminal or an editor would obey: JSON itself escapes only the first
/// 32, and clients choose some of the texts.
fn without_controls(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    for character in line.chars() {
        let is_obeyed = character.is_control()
            || matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
        match is_obeyed {
            true => {
                let mut units = [0; 2];
                // Writing to a string cannot fail.
                character.encode_utf16(&mut units).iter().for_each(|unit| _ = write!(shown, "\\u{unit:04x}"));
            }
            false => shown.push(character),
        }
    }
    shown
}

impl AuditLog {
    /// Starts the audit log of this program, with a thread that writes it. None if `options` names no target.
    ///
    /// # Errors
    /// If the file cannot be opened: a daemon must not serve without the audit log that it was told to write.
    pub fn start(options: &AuditOptions) -> Result<AuditLog> {
        let program = std::env::args_os().next().unwrap_or_default();
        let program = Path::new(&program).file_name().unwrap_or_default().to_string_lossy();
        AuditLog::start_as(&program, options)
    }

    /// The same, with the name of the daemon.
    fn start_as(daemon: &str, options: &AuditOptions) -> Result<AuditLog> {
        let log = match &options.target {
            None => return Ok(AuditLog::default()),
            Some(AuditTarget::StandardError) => AuditLog::write_to(daemon, options.calls, StandardErrorSink)?,
            Some(AuditTarget::File(path)) => {
                let file = AuditFile::open(path, options.max_bytes, options.files);
                let failed = |e| Error::io(format_args!("cannot open the audit log {}", path.display()), &e);
                AuditLog::write_to(daemon, options.calls, file.map_err(failed)?)?
            }
        };
        log.note("started");
        Ok(log)
    }

    fn write_to(daemon: &str, calls: AuditedCalls, sink: impl AuditSink + 'static) -> Result<AuditLog> {
        let queue = AuditQueue::new(limits::AUDIT_QUEUE_BYTES);
        let refusals = Arc::new(RefusalWindow::default());
        let (written, counts) = (
            Arc::clone(&queue),
            LeftOutCounts { daemon: daemon.to_owned(), refusals: Arc::clone(&refusals) },
        );
        let write = move || {
            let _vital = VitalPart::new("the audit log's thread");
            written.write_all(sink, counts);
        };
        let thread = std::thread::Builder::new().name("driftdb-audit".to_owned()).spawn(write);
        thread.map_err(|e| Error::io("cannot start the audit log's thread", &e))?;
        Ok(AuditLog(Some(Arc::new(OpenAuditLog { daemon: daemon.to_owned(), queue, refusals, calls }))))
    }

    /// Whether writes are recorded, or reads.
    pub fn records(&self, call: AuditedCalls) -> bool {
        self.0.as_ref().is_some_and(|open| open.calls.contains(call))
    }

    /// A call that its principal may not make.
    pub fn denied(&self, call: &AuditedCall<'_>, error: &Error) {
        metrics::count_with(&catalog::AUTH_DENIED, "permission");
        self.write_refusal("denied", call, error);
    }

    /// A call or a connection whose caller could not prove who it is.
    pub fn authentication_failed(&self, call: &AuditedCall<'_>, error: &Error) {
        metrics::count_with(&catalog::AUTH_DENIED, "authentication");
        self.write_refusal("authentication_failed", call, error);
    }

    /// An administrative action that was allowed.
    pub fn admin(&self, call: &AuditedCall<'_>) {
        let Some(open) = &self.0 else { return };
        let line = AuditLine::new(&open.daemon, "admin").of_call(call).ended(None, "allowed", "");
        open.write_important(&line);
    }

    /// The file of principals was read again: it took effect, or `error` says why not.
    pub fn reloaded(&self, file: &str, error: Option<&Error>) {
        let Some(open) = &self.0 else { return };
        let line = AuditLine { file: clip(file, TEXT_BYTES), ..AuditLine::new(&open.daemon, "reloaded") };
        open.write_important(&line.ended(error, "ok", "failed"));
    }

    /// A write or a read that was allowed. Recorded if the options ask for it.
    pub fn call(&self, kind: AuditedCalls, call: &AuditedCall<'_>) {
        let Some(open) = self.0.as_ref().filter(|open| open.calls.contains(kind)) else { return };
        let event = if kind.contains(AuditedCalls::WRITES) { "write" } else { "read" };
        let line = AuditLine::new(&open.daemon, event).of_call(call).ended(None, "allowed", "");
        open.queue.push(line.bytes());
    }

    /// The number of lines that were lost because the log could not be written.
    pub fn lost(&self) -> u64 {
        self.0.as_ref().map_or(0, |open| open.queue.lost())
    }

    /// Writes what waits, and takes no more lines.
    pub async fn close(&self) {
        let Some(open) = &self.0 else { return };
        self.note("stopped");
        let queue = Arc::clone(&open.queue);
        // It only waits for the log's own thread, which does not panic.
        let _ = tokio::task::spawn_blocking(move || queue.close()).await;
    }

    /// Writes a line about the daemon itself.
    fn note(&self, event: &'static str) {
        let Some(open) = &self.0 else { return };
        open.queue.push(AuditLine::new(&open.daemon, event).bytes());
    }

    /// What is wrong with the log, for Status; `None` if nothing is.
    pub fn problem(&self) -> Option<String> {
        let lost = self.lost();
        (lost > 0).then(|| {
            format!("{lost} lines of the audit log are lost: it could not be written; see the daemon's log")
        })
    }

    fn write_refusal(&self, event: &'static str, call: &AuditedCall<'_>, error: &Error) {
        let Some(open) = &self.0 else { return };
        if open.refusals.passes(event, Instant::now()) {
            let line = AuditLine::new(&open.daemon, event).of_call(call).ended(Some(error), "", "refused");
            open.queue.push(line.bytes());
        }
    }
}

impl OpenAuditLog {
    /// Writes a line that must not be lost: if it is, the daemon's log has it.
    fn write_important(&self, line: &AuditLine<'_>) {
        let bytes = line.bytes();
        let copy = bytes.clone();
        if !self.queue.push(bytes) {
            let line = String::from_utf8_lossy(&copy);
            tracing::error!(line = line.trim_end(), "a line of the audit log is lost");
        }
    }
}

/// How many refusals were written in the present second, and how many were not.
#[derive(Debug, Default)]
struct RefusalWindow(Mutex<RefusalCounts>);

#[derive(Debug, Default)]
struct RefusalCounts {
    began_at: Option<Instant>,
    denied: RefusalCount,
    authentication_failed: RefusalCount,
}

/// The refusals of one kind.
#[derive(Debug, Default)]
struct RefusalCount {
    written: u64,
    left_out: u64,
}

impl RefusalWindow {
    /// Whether a refusal is written; otherwise it is counted.
    fn passes(&self, event: &'static str, now: Instant) -> bool {
        let mut counts = self.0.lock();
        if counts.began_at.is_none_or(|at| now.duration_since(at) >= WINDOW) {
            counts.began_at = Some(now);
            (counts.denied.written, counts.authentication_failed.written) = (0, 0);
        }
        let count = match event {
            "denied" => &mut counts.denied,
            _ => &mut counts.authentication_failed,
        };
        let passes = count.written < limits::AUDIT_REFUSALS_PER_SECOND;
        if passes {
            count.written += 1
        } else {
            count.left_out += 1
        }
        passes
    }

    /// The refusals that were left out in a window that is over, by event.
    fn take_left_out(&self, now: Instant) -> [(&'static str, u64); 2] {
        let mut counts = self.0.lock();
        if counts.began_at.is_some_and(|at| now.duration_since(at) < WINDOW) {
            return [("denied", 0), ("authentication_failed", 0)];
        }
        [
            ("denied", std::mem::take(&mut counts.denied.left_out)),
            ("authentication_failed", std::mem::take(&mut counts.authentication_failed.left_out)),
        ]
    }
}

/// Makes the lines with the numbers of lines that were left out or lost.
struct LeftOutCounts {
    daemon: String,
    refusals: Arc<RefusalWindow>,
}

impl AuditCounts for LeftOutCounts {
    fn lines(&mut self, lost: u64) -> Vec<Vec<u8>> {
        let left_out = self.refusals.take_left_out(Instant::now()).into_iter();
        let left_out = left_out.filter(|(_, count)| *count > 0).map(|(event, count)| {
            let message = format!("further {event} events within a second");
            AuditLine { message, ..AuditLine::new(&self.daemon, "left_out") }.counting(count).bytes()
        });
        let lost = (lost > 0).then(|| AuditLine::new(&self.daemon, "lost").counting(lost).bytes());
        left_out.chain(lost).collect()
    }
}

#[cfg(test)]
mod tests;
