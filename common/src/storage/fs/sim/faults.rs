//! Planned faults of a simulated disk: rules by operation number or by kind and path, and the power switch.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The kind of a disk operation. Operations that change the disk are numbered; only rules see `Read`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each has the name of its method of FileSystem or File")]
pub enum SimOp {
    Create,
    Write,
    Truncate,
    Sync,
    Rename,
    Remove,
    CreateDir,
    RemoveDir,
    SyncDir,
    /// An open, a read, a length or a listing. Not numbered, and not in the trace.
    Read,
}

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An input/output error. The operation does nothing; a sync loses what it was to make durable.
    Eio,
    /// No space left. The operation does nothing; a sync loses what it was to make durable.
    Enospc,
    /// Too many open files. The operation does nothing; a sync loses what it was to make durable.
    Emfile,
    /// A write writes its first half, then fails with no space left. Other operations fail as with `Enospc`.
    ShortWrite,
    /// A sync succeeds and makes nothing durable. A test uses this to prove that it would notice a missing sync.
    /// Other operations succeed.
    IgnoredSync,
}

/// How often a fault occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Once.
    Once,
    /// At the given operation, and at every later one that the rule matches.
    Always,
}

/// One operation in the trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedOp {
    /// The operation's number, from 1.
    pub number: u64,
    /// The kind of operation.
    pub op: SimOp,
    /// The path. For writes and syncs, the path that the file was opened under.
    pub path: PathBuf,
    /// The destination of a rename.
    pub to: Option<PathBuf>,
}

impl fmt::Display for TracedOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.number, self.op, self.path.display())?;
        match &self.to {
            Some(to) => write!(f, " -> {}", to.display()),
            None => Ok(()),
        }
    }
}

/// The error of every operation after the machine is off.
#[derive(Debug)]
struct PowerOff;

impl fmt::Display for PowerOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the simulated machine is off")
    }
}

impl std::error::Error for PowerOff {}

/// Returns whether an error means that the machine is off (see `SimDisk::power_off_at`).
pub fn is_power_off(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<PowerOff>())
}

/// Which operations a rule matches.
#[derive(Debug)]
enum RuleTarget {
    Number(u64),
    Match { op: SimOp, path: String, nth: u64, seen: u64 },
}

#[derive(Debug)]
struct FaultRule {
    target: RuleTarget,
    fault: Fault,
    repeat: Repeat,
}

impl FaultRule {
    /// Counts an operation, and returns whether the fault occurs at it.
    fn strikes(&mut self, number: u64, call: &SimCall<'_>) -> bool {
        let (at, now) = match &mut self.target {
            RuleTarget::Number(at) if call.op != SimOp::Read => (*at, number),
            RuleTarget::Match { op, path, nth, seen } if *op == call.op && call.mentions(path) => {
                *seen += 1;
                (*nth, *seen)
            }
            _ => return false,
        };
        match self.repeat {
            Repeat::Once => now == at,
            Repeat::Always => now >= at,
        }
    }
}

/// A requested operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct SimCall<'a> {
    pub(super) op: SimOp,
    pub(super) path: &'a Path,
    pub(super) to: Option<&'a Path>,
}

impl SimCall<'_> {
    fn mentions(&self, part: &str) -> bool {
        let contains = |path: &Path| path.to_string_lossy().contains(part);
        contains(self.path) || self.to.is_some_and(contains)
    }
}

/// The planned faults, and the operations so far.
#[derive(Debug, Default)]
pub(super) struct FaultPlan {
    rules: Vec<FaultRule>,
    power_off_at: Option<u64>,
    is_off: bool,
    operations: u64,
    trace: Option<Vec<TracedOp>>,
}

impl FaultPlan {
    pub(super) fn fail_at(&mut self, number: u64, fault: Fault, repeat: Repeat) {
        self.rules.push(FaultRule { target: RuleTarget::Number(number), fault, repeat });
    }

    pub(super) fn fail_when(&mut self, op: SimOp, path: &str, nth: u64, fault: Fault, repeat: Repeat) {
        let target = RuleTarget::Match { op, path: path.to_owned(), nth, seen: 0 };
        self.rules.push(FaultRule { target, fault, repeat });
    }

    pub(super) fn power_off_at(&mut self, number: u64) {
        self.power_off_at = Some(number);
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(super) fn start_trace(&mut self) {
        self.trace.get_or_insert_default();
    }

    pub(super) fn trace(&self) -> Vec<TracedOp> {
        self.trace.clone().unwrap_or_default()
    }

    pub(super) fn operations(&self) -> u64 {
        self.operations
    }

    pub(super) fn is_off(&self) -> bool {
        self.is_off
    }

    /// Counts an operation and returns the fault that occurs at it. Fails if the machine is off.
    pub(super) fn admit(&mut self, call: SimCall<'_>) -> io::Result<Option<Fault>> {
        if call.op != SimOp::Read && !self.is_off {
            self.is_off = self.power_off_at.is_some_and(|at| self.operations + 1 >= at);
        }
        if self.is_off {
            return Err(io::Error::other(PowerOff));
        }
        if call.op != SimOp::Read {
            self.operations += 1;
            let (number, op) = (self.operations, call.op);
            if let Some(trace) = &mut self.trace {
                let to = call.to.map(Path::to_path_buf);
                trace.push(TracedOp { number, op, path: call.path.to_path_buf(), to });
            }
        }
        // Every rule sees every operation, so that each counts its own matches.
        let mut struck = None;
        for rule in &mut self.rules {
            if rule.strikes(self.operations, &call) {
                struck = struck.or(Some(rule.fault));
            }
        }
        Ok(struck)
    }
}

impl Fault {
    /// Returns the fault's operating system error; `None` if the operation succeeds.
    pub(super) fn error(self) -> Option<io::Error> {
        match self {
            Fault::Eio => Some(io::Error::from_raw_os_error(5)),
            Fault::Emfile => Some(io::Error::from_raw_os_error(24)),
            Fault::Enospc | Fault::ShortWrite => Some(io::Error::from_raw_os_error(28)),
            Fault::IgnoredSync => None,
        }
    }
}
