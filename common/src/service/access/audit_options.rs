//! The options of the audit log.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::limits;

/// What the audit log records besides refusals and administration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AuditedCalls {
    writes: bool,
    reads: bool,
}

impl AuditedCalls {
    /// Writes.
    pub const WRITES: AuditedCalls = AuditedCalls { writes: true, reads: false };
    /// Reads.
    pub const READS: AuditedCalls = AuditedCalls { writes: false, reads: true };

    /// Whether all of `other` are recorded.
    pub fn contains(self, other: AuditedCalls) -> bool {
        (self.writes || !other.writes) && (self.reads || !other.reads)
    }
}

/// Where the audit log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTarget {
    /// A file.
    File(PathBuf),
    /// Standard error.
    StandardError,
}

/// The configuration of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditOptions {
    /// Where it goes; `None` for no audit log.
    pub target: Option<AuditTarget>,
    /// What it records besides refusals and administration.
    pub calls: AuditedCalls,
    /// The size at which a new file is begun, in bytes.
    pub max_bytes: u64,
    /// The number of files that are kept.
    pub files: u32,
}

/// The options of the audit log on a command line.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Audit log")]
pub struct AuditArgs {
    /// File that gets one JSON line for each security event, or `stderr`
    ///
    /// Records denied calls, failed authentication, administrative actions (create, drop, rename, compact, retention, snapshots …)
    /// and reloads of --auth-file. Only the owner may read the file. Without this option nothing is recorded.
    #[arg(long, env = "DRIFTDB_AUDIT_LOG", value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Calls that the audit log records, too: `writes`, `reads`, or both with a comma
    #[arg(
        long,
        env = "DRIFTDB_AUDIT_CALLS",
        value_enum,
        value_delimiter = ',',
        requires = "audit_log",
        value_name = "KINDS"
    )]
    pub audit_calls: Vec<AuditedCallKind>,
    /// Size at which the audit log begins a new file, in bytes
    ///
    /// At least 4096. The file is renamed to FILE.1, that one to FILE.2, and so on.
    #[arg(
        long,
        env = "DRIFTDB_AUDIT_BYTES",
        default_value_t = limits::AUDIT_FILE_BYTES,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u64).range(4096..)
    )]
    pub audit_bytes: u64,
    /// Number of files of the audit log that are kept, the newest included
    ///
    /// The oldest is removed. Ship the lines elsewhere if you must keep them for longer.
    #[arg(
        long,
        env = "DRIFTDB_AUDIT_FILES",
        default_value_t = limits::AUDIT_FILES,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    pub audit_files: u32,
}

/// Calls that are recorded on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AuditedCallKind {
    /// Each write
    Writes,
    /// Each read
    Reads,
}

impl AuditArgs {
    /// What the options ask for.
    pub fn options(&self) -> AuditOptions {
        let target = self.audit_log.as_ref().map(|path| match path.to_str() {
            Some("stderr") => AuditTarget::StandardError,
            _ => AuditTarget::File(path.clone()),
        });
        AuditOptions {
            target,
            calls: AuditedCalls {
                writes: self.audit_calls.contains(&AuditedCallKind::Writes),
                reads: self.audit_calls.contains(&AuditedCallKind::Reads),
            },
            max_bytes: self.audit_bytes,
            files: self.audit_files,
        }
    }
}
