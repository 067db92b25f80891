//! The one error type: a kind that says what a caller can do, a reason that is API, a message for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What every fallible function of DriftDB returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an error. Each maps to one gRPC code (see `service::status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong, whatever the state of the database.
    Invalid,
    /// The named table or row does not exist at the moment asked about.
    NotFound,
    /// The named table or row exists already.
    AlreadyExists,
    /// The state of the database does not allow the request.
    Conflict,
    /// The moment asked about is outside what is kept or has happened.
    OutOfRange,
    /// This replica has not caught up yet: try again, or elsewhere.
    Behind,
    /// Another process holds the database.
    Locked,
    /// Bytes on disk are not what was written.
    Corrupt,
    /// Too much at once: try again later.
    Exhausted,
    /// Whether the write took effect is not known.
    Unknown,
    /// The daemon cannot serve now.
    Unavailable,
    /// This version cannot do what was asked.
    Unsupported,
    /// A defect in DriftDB, or an operating system error with no better name.
    Internal,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal : $kind:ident,)*) => {
        /// Why, in a word that is API: clients may match on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// The word that goes on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }

            /// The kind that errors of this reason have.
            pub const fn kind(self) -> ErrorKind {
                match self { $(Reason::$name => ErrorKind::$kind,)* }
            }

            /// The reason that a word from the wire names.
            pub fn parse(text: &str) -> Option<Reason> {
                match text { $($text => Some(Reason::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// An insert on a live key.
    RowExists = "ROW_EXISTS": AlreadyExists,
    /// The table to create is there.
    TableExists = "TABLE_EXISTS": AlreadyExists,
    /// A patch or delete of no row.
    RowNotFound = "ROW_NOT_FOUND": NotFound,
    /// No such table at that moment.
    TableNotFound = "TABLE_NOT_FOUND": NotFound,
    /// A precondition of a write does not hold.
    PreconditionFailed = "PRECONDITION_FAILED": Conflict,
    /// A write was sent to a reader.
    NotWriter = "NOT_WRITER": Conflict,
    /// A token of another history of this database.
    EpochChanged = "EPOCH_CHANGED": Conflict,
    /// The moment lies below what compaction kept.
    BelowFloor = "BELOW_FLOOR": OutOfRange,
    /// The sequence number has not been given out yet.
    BeyondHead = "BEYOND_HEAD": OutOfRange,
    /// The replica did not get there in the time allowed.
    ReplicaBehind = "REPLICA_BEHIND": Behind,
    /// The statement cannot be parsed.
    QuerySyntax = "QUERY_SYNTAX": Invalid,
    /// The statement parses but has no meaning.
    QueryInvalid = "QUERY_INVALID": Invalid,
    /// A document that cannot be stored.
    DocumentInvalid = "DOCUMENT_INVALID": Invalid,
    /// A key that cannot be stored.
    KeyInvalid = "KEY_INVALID": Invalid,
    /// A name that tables or columns cannot have.
    NameInvalid = "NAME_INVALID": Invalid,
    /// Over a limit.
    TooLarge = "TOO_LARGE": Invalid,
    /// A request id that another request has used.
    RequestIdReused = "REQUEST_ID_REUSED": Invalid,
    /// A resume token of another question.
    FilterMismatch = "FILTER_MISMATCH": Invalid,
    /// A field of the request that has no meaning.
    ArgumentInvalid = "ARGUMENT_INVALID": Invalid,
    /// A writer that waits for another's end: the metadata says where that one is.
    Standby = "STANDBY": Unavailable,
    /// Another writer has taken the database over.
    Fenced = "FENCED": Unavailable,
    /// The queue of writes is full.
    Overloaded = "OVERLOADED": Exhausted,
    /// Appended, but durability was not confirmed.
    OutcomeUnknown = "OUTCOME_UNKNOWN": Unknown,
    /// The writer has stopped taking writes.
    WriterStopped = "WRITER_STOPPED": Unavailable,
    /// No space for the write.
    DiskFull = "DISK_FULL": Unavailable,
    /// The daemon is going down.
    ShuttingDown = "SHUTTING_DOWN": Unavailable,
    /// A file that has been replaced meanwhile: look again.
    FileGone = "FILE_GONE": Unavailable,
    /// Nothing answers at the address.
    Unreachable = "UNREACHABLE": Unavailable,
    /// Another writer holds the lock.
    DatabaseLocked = "DATABASE_LOCKED": Locked,
    /// A job that is running already.
    JobRunning = "JOB_RUNNING": Conflict,
    /// Bytes on disk are damaged.
    Corrupt = "CORRUPT": Corrupt,
    /// What this version, or this machine, cannot do.
    NotSupported = "NOT_SUPPORTED": Unsupported,
    /// An operating system error.
    Io = "IO": Internal,
    /// A defect in DriftDB.
    Internal = "INTERNAL": Internal,
}

/// Where in a statement an error lies, and what would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueryPlace {
    /// Byte offset of the first byte concerned.
    pub start: u32,
    /// Byte offset after the last byte concerned.
    pub end: u32,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What would do, as a phrase; may be empty.
    pub hint: String,
}

/// One precondition that did not hold, as google.rpc.PreconditionFailure has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// `seq_is`, `exists` or `unchanged_since`.
    pub check: String,
    /// `table/key`.
    pub subject: String,
    /// What was expected and what was found.
    pub description: String,
}

#[derive(Debug, Clone)]
struct Inner {
    reason: Reason,
    message: String,
    metadata: BTreeMap<&'static str, String>,
    place: Option<QueryPlace>,
    violations: Vec<Violation>,
    retry_after: Option<Duration>,
}

/// An error of any part of DriftDB. One word wide, so that results stay small.
#[derive(Debug, Clone)]
pub struct Error(Box<Inner>);

impl Error {
    /// An error of a reason, with a message for people that names the thing and what would do.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            reason,
            message: message.into(),
            metadata: BTreeMap::new(),
            place: None,
            violations: Vec::new(),
            retry_after: None,
        }))
    }

    /// Damage found on disk: names the file and the byte offset.
    pub fn corrupt(file: impl fmt::Display, offset: u64, what: impl fmt::Display) -> Self {
        Error::new(Reason::Corrupt, format!("{file}: damaged at byte {offset}: {what}"))
            .with("file", file.to_string())
            .with("offset", offset.to_string())
    }

    /// A table that is not there, with the nearest name that is.
    pub fn unknown_table<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Self {
        let near = nearest(name, names);
        let hint = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        let error = Error::new(Reason::TableNotFound, format!("unknown table {name:?}{hint}"));
        let error = error.with("table", name);
        match near {
            Some(near) => error.with("nearest", near),
            None => error,
        }
    }

    /// An operating system error, with what was tried.
    pub fn io(what: impl fmt::Display, source: &std::io::Error) -> Self {
        if let Some(ours) = source.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            // It only came by way of the operating system's type.
            return ours.clone().context(what);
        }
        let reason = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Reason::DiskFull,
            _ => Reason::Io,
        };
        Error::new(reason, format!("{what}: {source}"))
    }

    /// Adds a machine-readable detail (`google.rpc.ErrorInfo` metadata).
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.0.metadata.insert(key, value.into());
        self
    }

    /// Adds the place in the statement.
    #[must_use]
    pub fn at(mut self, place: QueryPlace) -> Self {
        self.0.place = Some(place);
        self
    }

    /// Adds the preconditions that did not hold.
    #[must_use]
    pub fn violating(mut self, violations: Vec<Violation>) -> Self {
        self.0.violations = violations;
        self
    }

    /// Adds how long to wait before another try.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Puts `context: ` before the message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.reason.kind()
    }

    /// Why, in a word that is API.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The message for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Machine-readable details.
    pub fn metadata(&self) -> &BTreeMap<&'static str, String> {
        &self.0.metadata
    }

    /// The place in the statement, for errors of DriftQL.
    pub fn place(&self) -> Option<&QueryPlace> {
        self.0.place.as_ref()
    }

    /// The preconditions that did not hold.
    pub fn violations(&self) -> &[Violation] {
        &self.0.violations
    }

    /// How long to wait before another try, where that is known.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

/// The candidate nearest to a word that was not found, where one is near enough to suggest.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let allowed = 1 + word.chars().count() / 4;
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance in characters; words over 64 characters count as infinitely far.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(65).collect();
    if b.len() > 64 || a.chars().take(65).count() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = *cell;
            left = substituted.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_only_when_it_is_near() {
        assert_eq!(nearest("ordes", ["users", "orders"]), Some("orders"));
        assert_eq!(nearest("SELCT", ["SHOW", "SELECT"]), Some("SELECT"));
        assert_eq!(nearest("invoices", ["users", "orders"]), None);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }

    #[test]
    fn every_reason_survives_the_wire() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
    }
}
