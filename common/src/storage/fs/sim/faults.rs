//! When a simulated disk fails: rules by operation number or by kind and path, and the power switch.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What was asked of the disk. Those that change it are numbered; `Read` is known to rules only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is named as the method of Disk or File that it stands for")]
pub enum Op {
    Create,
    Write,
    Truncate,
    Sync,
    Rename,
    Remove,
    CreateDir,
    RemoveDir,
    SyncDir,
    /// Opening, reading, measuring or listing: not numbered, not in the trace.
    Read,
}

/// How an operation goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An input/output error; nothing is done. A sync that fails so loses what it was to make durable.
    Eio,
    /// No space left; nothing is done. A sync that fails so loses what it was to make durable.
    Enospc,
    /// A write does its first half, then finds no space left. Other operations: as `Enospc`.
    ShortWrite,
    /// A sync says OK and makes nothing durable: the control that shows that a test sees a missing sync.
    /// Other operations go well.
    Lie,
}

/// How often a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Once, then never again.
    Once,
    /// At this operation, and at every later one that the rule is about.
    ForEver,
}

/// One operation as the trace has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its number, from 1.
    pub number: u64,
    /// What was asked.
    pub op: Op,
    /// The path asked about; for writes and syncs, the one that the file was opened under.
    pub path: PathBuf,
    /// Where a rename went.
    pub to: Option<PathBuf>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.number, self.op, self.path.display())?;
        match &self.to {
            Some(to) => write!(f, " -> {}", to.display()),
            None => Ok(()),
        }
    }
}

/// The error of every operation once the machine is off.
#[derive(Debug)]
struct PowerOff;

impl fmt::Display for PowerOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the simulated machine is off")
    }
}

impl std::error::Error for PowerOff {}

/// Whether an error says that the machine is off (see [`super::SimDisk::stop_at`]).
pub fn is_power_off(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<PowerOff>())
}

/// Which operations a rule is about.
#[derive(Debug)]
enum Aim {
    Number(u64),
    Match { op: Op, path: String, nth: u64, seen: u64 },
}

#[derive(Debug)]
struct Rule {
    aim: Aim,
    fault: Fault,
    repeat: Repeat,
}

impl Rule {
    fn strikes(&mut self, number: u64, asked: &Asked<'_>) -> bool {
        let (at, now) = match &mut self.aim {
            Aim::Number(at) if asked.op != Op::Read => (*at, number),
            Aim::Match { op, path, nth, seen } if *op == asked.op && asked.names(path) => {
                *seen += 1;
                (*nth, *seen)
            }
            _ => return false,
        };
        match self.repeat {
            Repeat::Once => now == at,
            Repeat::ForEver => now >= at,
        }
    }
}

/// An operation about to happen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) op: Op,
    pub(super) path: &'a Path,
    pub(super) to: Option<&'a Path>,
}

impl Asked<'_> {
    fn names(&self, part: &str) -> bool {
        let holds = |path: &Path| path.to_string_lossy().contains(part);
        holds(self.path) || self.to.is_some_and(holds)
    }
}

/// What is planned to go wrong, and what has been asked so far.
#[derive(Debug, Default)]
pub(super) struct Plan {
    rules: Vec<Rule>,
    stop_at: Option<u64>,
    off: bool,
    asked: u64,
    trace: Option<Vec<Step>>,
}

impl Plan {
    pub(super) fn fail_at(&mut self, number: u64, fault: Fault, repeat: Repeat) {
        self.rules.push(Rule { aim: Aim::Number(number), fault, repeat });
    }

    pub(super) fn fail_when(&mut self, op: Op, path: &str, nth: u64, fault: Fault, repeat: Repeat) {
        let aim = Aim::Match { op, path: path.to_owned(), nth, seen: 0 };
        self.rules.push(Rule { aim, fault, repeat });
    }

    pub(super) fn stop_at(&mut self, number: u64) {
        self.stop_at = Some(number);
    }

    pub(super) fn heal(&mut self) {
        self.rules.clear();
    }

    pub(super) fn record(&mut self) {
        self.trace.get_or_insert_default();
    }

    pub(super) fn trace(&self) -> Vec<Step> {
        self.trace.clone().unwrap_or_default()
    }

    pub(super) fn operations(&self) -> u64 {
        self.asked
    }

    pub(super) fn is_off(&self) -> bool {
        self.off
    }

    /// Counts an operation and says how it goes: an error where the machine is off, else the fault that strikes it.
    pub(super) fn meet(&mut self, asked: Asked<'_>) -> io::Result<Option<Fault>> {
        if asked.op != Op::Read && !self.off {
            self.off = self.stop_at.is_some_and(|at| self.asked + 1 >= at);
        }
        if self.off {
            return Err(io::Error::other(PowerOff));
        }
        if asked.op != Op::Read {
            self.asked += 1;
            let (number, op) = (self.asked, asked.op);
            if let Some(trace) = &mut self.trace {
                let to = asked.to.map(Path::to_path_buf);
                trace.push(Step { number, op, path: asked.path.to_path_buf(), to });
            }
        }
        // Every rule sees every operation, so that each counts its own matches.
        let mut struck = None;
        for rule in &mut self.rules {
            if rule.strikes(self.asked, &asked) {
                struck = struck.or(Some(rule.fault));
            }
        }
        Ok(struck)
    }
}

impl Fault {
    /// The operating system's error, where there is one.
    pub(super) fn error(self) -> Option<io::Error> {
        match self {
            Fault::Eio => Some(io::Error::from_raw_os_error(5)),
            Fault::Enospc | Fault::ShortWrite => Some(io::Error::from_raw_os_error(28)),
            Fault::Lie => None,
        }
    }
}
