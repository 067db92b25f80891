//! Errors of driftctl: their text, their JSON form and their exit codes.

use std::fmt::Write;
use std::io;
use std::sync::Arc;

use driftdb_common::error::{Error, ErrorKind, Reason};
use driftdb_common::query::report;
use driftdb_common::service::status::to_status;
use serde::Serialize;
use tonic::Status;

use crate::errors::{ADDRESS, to_error};

/// Success.
pub(crate) const DONE: u8 = 0;
/// Any error without a more specific code.
const ERROR: u8 = 1;
/// The command line is invalid.
const USAGE: u8 = 2;
/// No daemon can be reached.
const UNREACHABLE: u8 = 3;
/// A table or row does not exist.
pub(crate) const NOT_FOUND: u8 = 4;
/// A precondition failed, or another process holds the lock.
const PRECONDITION: u8 = 5;
/// Damage was found, or the storage is unsafe.
const DAMAGE: u8 = 6;
/// Interrupted by Ctrl-C (SIGINT).
pub(crate) const INTERRUPTED: u8 = 130;
/// Terminated by SIGTERM.
pub(crate) const TERMINATED: u8 = 143;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The process that reads our output has closed the pipe. This is not an error.
    BrokenPipe,
    /// The command line is invalid in a way that clap cannot detect.
    Usage(String),
    /// A program that driftctl ran for the user failed.
    Program(String),
    /// A daemon is alive, and not ready.
    NotReady(String),
    /// A daemon or the embedded database returned an error.
    Database(Error),
    /// A DriftQL statement or condition failed.
    Statement {
        /// The error of the statement.
        error: Error,
        /// The script that contains the statement, or the statement itself.
        script: Arc<str>,
        /// The byte offset at which the statement starts in the script.
        offset: usize,
        /// Where a person finds the statement, if the script has more than one line.
        place: Option<String>,
    },
}

/// The result of a command.
pub(crate) type CliResult<T = ()> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Database(error)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure::Database(to_error(&status))
    }
}

impl From<io::Error> for Failure {
    /// The error of a failed write to the output.
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
            // Not `Error::io`: a full disk here is not the disk of the database.
            _ => Failure::Database(Error::new(Reason::Io, format!("cannot write output: {error}"))),
        }
    }
}

impl Failure {
    /// An error that may point at a position in a text from the command line.
    pub(crate) fn in_text(error: Error, text: &str) -> Failure {
        match error.place() {
            Some(_) => Failure::Statement { error, script: text.into(), offset: 0, place: None },
            None => Failure::Database(error),
        }
    }

    fn error(&self) -> Option<&Error> {
        match self {
            Failure::Database(error) | Failure::Statement { error, .. } => Some(error),
            Failure::BrokenPipe | Failure::Usage(_) | Failure::Program(_) | Failure::NotReady(_) => None,
        }
    }

    /// The exit code of the process.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::BrokenPipe => DONE,
            Failure::Usage(_) => USAGE,
            Failure::Program(_) | Failure::NotReady(_) => ERROR,
            Failure::Database(error) | Failure::Statement { error, .. } => exit_code(error),
        }
    }

    /// The message for people; empty if there is nothing to report.
    pub(crate) fn text(&self) -> String {
        match self {
            Failure::BrokenPipe => String::new(),
            Failure::Usage(message) | Failure::Program(message) | Failure::NotReady(message) => {
                format!("error: {message}\n")
            }
            Failure::Database(error) => {
                let text = format!("error: {} ({})\n{}", error.message(), codes(error), violations(error));
                text + hint(error)
            }
            Failure::Statement { error, script, offset, place } => {
                let place = place.as_ref().map(|place| format!("; {place}")).unwrap_or_default();
                let mut text = report::describe_in(error, script, *offset);
                if error.place().is_some() {
                    let _ = write!(text, "\n  = {}{place}", codes(error));
                } else {
                    let _ = write!(text, " ({}{place})", codes(error));
                }
                format!("{text}\n{}", violations(error))
            }
        }
    }

    /// The message for programs: one line of JSON.
    pub(crate) fn json(&self) -> Option<String> {
        let error = self.error()?;
        #[derive(Serialize)]
        struct JsonError<'a> {
            code: String,
            reason: &'a str,
            message: &'a str,
        }
        #[derive(Serialize)]
        struct ErrorLine<'a> {
            error: JsonError<'a>,
        }
        let text =
            JsonError { code: grpc_code(error), reason: error.reason().as_str(), message: error.message() };
        serde_json::to_string(&ErrorLine { error: text }).ok().map(|line| line + "\n")
    }
}

fn exit_code(error: &Error) -> u8 {
    match error.reason() {
        Reason::Unreachable
        | Reason::TlsFailed
        | Reason::TlsRequired
        | Reason::WriterStopped
        | Reason::ShuttingDown
        | Reason::Standby
        | Reason::Fenced => UNREACHABLE,
        _ => match error.kind() {
            ErrorKind::NotFound => NOT_FOUND,
            ErrorKind::Conflict | ErrorKind::Locked => PRECONDITION,
            ErrorKind::Corrupt => DAMAGE,
            _ => ERROR,
        },
    }
}

fn codes(error: &Error) -> String {
    format!("{}, {}", grpc_code(error), error.reason().as_str())
}

/// The name of the gRPC code, spelled as in its documentation: `OUT_OF_RANGE`.
fn grpc_code(error: &Error) -> String {
    let name = format!("{:?}", to_status(error.clone()).code());
    let mut spelled = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !spelled.is_empty() {
            spelled.push('_');
        }
        spelled.push(c.to_ascii_uppercase());
    }
    spelled
}

/// Advice for an address that cannot be reached.
fn hint(error: &Error) -> &'static str {
    match error.metadata().contains_key(ADDRESS) {
        true => {
            "hint: start both daemons with `driftctl dev`; name others with --writer and --reader; or use -d DIR without daemons\n"
        }
        false => "",
    }
}

fn violations(error: &Error) -> String {
    let lines =
        error.violations().iter().map(|v| format!("  {}: {}: {}\n", v.subject, v.check, v.description));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use driftdb_common::query::parser;

    use super::*;

    #[test]
    fn each_reason_has_its_documented_exit_code() {
        for (reason, code) in [
            (Reason::QuerySyntax, 1),
            (Reason::RowExists, 1),
            (Reason::BelowFloor, 1),
            (Reason::ReplicaBehind, 1),
            (Reason::DiskFull, 1),
            (Reason::Unreachable, 3),
            (Reason::TlsFailed, 3),
            (Reason::TlsRequired, 3),
            (Reason::WriterStopped, 3),
            (Reason::Standby, 3),
            (Reason::RowNotFound, 4),
            (Reason::TableNotFound, 4),
            (Reason::PreconditionFailed, 5),
            (Reason::DatabaseLocked, 5),
            (Reason::Corrupt, 6),
        ] {
            assert_eq!(Failure::from(Error::new(reason, "")).code(), code, "{reason:?}");
        }
        assert_eq!(Failure::Usage(String::new()).code(), 2);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).code(), 0);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::StorageFull)).code(), 1);
    }

    #[test]
    fn text_and_json_both_contain_the_codes() {
        let failure = Failure::from(Error::new(Reason::BelowFloor, "seq 3 is below \"5\""));
        assert_eq!(failure.text(), "error: seq 3 is below \"5\" (OUT_OF_RANGE, BELOW_FLOOR)\n");
        assert_eq!(
            failure.json().unwrap(),
            "{\"error\":{\"code\":\"OUT_OF_RANGE\",\"reason\":\"BELOW_FLOOR\",\"message\":\"seq 3 is below \\\"5\\\"\"}}\n"
        );
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).text(), "");
        let failure = Failure::Statement {
            error: Error::new(Reason::RowNotFound, "no row"),
            script: "PATCH t KEY 1 SET {}".into(),
            offset: 0,
            place: Some("the statement starts at line 3 of x.dql".into()),
        };
        assert_eq!(
            failure.text(),
            "error: no row (NOT_FOUND, ROW_NOT_FOUND; the statement starts at line 3 of x.dql)\n"
        );
    }

    #[test]
    fn a_syntax_error_points_at_its_position_in_the_script() {
        let script = "SHOW TABLES;\nSELCT * FROM t";
        let error = parser::parse("SELCT * FROM t", &[]).unwrap_err();
        let place = Some("the statement starts at line 2 of x.dql".to_owned());
        let text = Failure::Statement { error, script: script.into(), offset: 13, place }.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.get(1..3), Some([" --> 2:1", "  | SELCT * FROM t"].as_slice()), "{text}");
        let last = "  = INVALID_ARGUMENT, QUERY_SYNTAX; the statement starts at line 2 of x.dql";
        assert_eq!(lines.last(), Some(&last), "{text}");
    }
}
