//! The error type of every fallible function: what a caller can do, a reason that is API, and a message for people.
//!
//! An [`Error`] is cloned to every request that one failed write concerns, so it cannot own an [`std::io::Error`]; it
//! keeps a shared or copied source instead.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Stands before the part of a message that tells what lies behind the error. That part can name files and tables that the caller must
/// not know of, so only an administrator gets it.
pub const CAUSE: &str = "; cause: ";

/// The result of every fallible function of DriftDB.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an error. Each kind maps to one gRPC code (see `service::status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong, whatever the state of the database. Change the request.
    Invalid,
    /// The named table or row does not exist at the requested point in time.
    NotFound,
    /// The named table or row already exists.
    AlreadyExists,
    /// The current state of the database does not allow the request. Read the state, then decide.
    Conflict,
    /// The requested point in time is before the oldest kept history or after the last commit.
    OutOfRange,
    /// This replica has not caught up. Retry, or ask another reader.
    Behind,
    /// Another process has the database open for writing.
    Locked,
    /// Bytes on disk are not the bytes that were written.
    Corrupt,
    /// The caller has not proved who it is. Send a token or a client certificate that is valid.
    Unauthenticated,
    /// The caller may not do this. Ask whoever grants permissions.
    Denied,
    /// The daemon has too much work. Retry later.
    Exhausted,
    /// The work took longer than it may. Ask for less, or allow more time.
    TimedOut,
    /// The caller has left.
    Cancelled,
    /// The write may or may not have taken effect.
    Unknown,
    /// The daemon cannot serve the request now. Retry, or ask another daemon.
    Unavailable,
    /// This version or this machine does not support the request.
    Unsupported,
    /// A bug in DriftDB, or an operating system error without a more exact kind.
    Internal,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal : $kind:ident,)*) => {
        /// Why a request failed, as a stable word: clients may match on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// The word that `google.rpc.ErrorInfo` carries, such as `ROW_EXISTS`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }

            /// The kind of every error with this reason.
            pub const fn kind(self) -> ErrorKind {
                match self { $(Reason::$name => ErrorKind::$kind,)* }
            }

            /// The reason with this word; `None` if this version does not know the word.
            pub fn parse(text: &str) -> Option<Reason> {
                match text { $($text => Some(Reason::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// An insert found a live row with the same key. Use upsert or patch, or choose another key.
    RowExists = "ROW_EXISTS": AlreadyExists,
    /// A table with this name already exists. Choose another name, or drop the table first.
    TableExists = "TABLE_EXISTS": AlreadyExists,
    /// A patch or delete found no live row with this key. Insert the row first, or treat it as deleted.
    RowNotFound = "ROW_NOT_FOUND": NotFound,
    /// The table does not exist at the requested point in time. The message suggests the nearest name.
    TableNotFound = "TABLE_NOT_FOUND": NotFound,
    /// A precondition of a write is false. The violations list what was expected and found; read the rows and retry.
    PreconditionFailed = "PRECONDITION_FAILED": Conflict,
    /// A write requires that no row of a condition has changed since a commit, and the writer no longer knows every change since
    /// then. Nothing was done. Read the rows again, and name the commit of that read.
    BoundaryTooOld = "BOUNDARY_TOO_OLD": Conflict,
    /// A reader received a write. Send it to the writer, whose address the metadata contains.
    NotWriter = "NOT_WRITER": Conflict,
    /// The token or seq belongs to another history of this database, such as the one before a restore. Start over
    /// without it.
    EpochChanged = "EPOCH_CHANGED": Conflict,
    /// Compaction has discarded the requested point in time. Read at the floor, which the metadata contains, or later.
    BelowFloor = "BELOW_FLOOR": OutOfRange,
    /// The requested seq is greater than the last commit's. Use a seq that a commit receipt or an answer contained.
    BeyondHead = "BEYOND_HEAD": OutOfRange,
    /// The reader did not apply the requested commit within the allowed time. Retry, or ask another reader.
    ReplicaBehind = "REPLICA_BEHIND": Behind,
    /// The DriftQL statement cannot be parsed. The error contains the position and a hint.
    QuerySyntax = "QUERY_SYNTAX": Invalid,
    /// The DriftQL statement parses, but it cannot be executed: a clause or value does not fit. Change the statement.
    QueryInvalid = "QUERY_INVALID": Invalid,
    /// The document cannot be stored: it is not a JSON object, or has duplicate fields or unsupported values.
    DocumentInvalid = "DOCUMENT_INVALID": Invalid,
    /// The key is missing, has the wrong type, or is too long for the table.
    KeyInvalid = "KEY_INVALID": Invalid,
    /// The name is not allowed for a table, a column or an index path.
    NameInvalid = "NAME_INVALID": Invalid,
    /// A value exceeds a limit. The message contains the limit and the actual size.
    TooLarge = "TOO_LARGE": Invalid,
    /// Another request already used this request id. Retry only identical requests with one id.
    RequestIdReused = "REQUEST_ID_REUSED": Invalid,
    /// The resume token belongs to a Select or a watch with other fields. Send the original fields, or start without
    /// the token.
    FilterMismatch = "FILTER_MISMATCH": Invalid,
    /// A field of the request is missing or has an invalid value. Change the request.
    ArgumentInvalid = "ARGUMENT_INVALID": Invalid,
    /// This writer is a standby: another writer holds the database. Connect to that one; the metadata contains its
    /// address.
    Standby = "STANDBY": Unavailable,
    /// Another writer has taken over the database, so this writer has stopped. Connect to the new writer.
    Fenced = "FENCED": Unavailable,
    /// Too many writes, jobs or watches wait, writes wait for a snapshot, or too many files are open. Nothing was done.
    /// Retry after the delay in the error.
    Overloaded = "OVERLOADED": Exhausted,
    /// ORDER BY, DISTINCT, GROUP BY or an aggregate needs more memory than one query may use. Add a WHERE or a LIMIT, or
    /// group by less.
    QueryMemoryExceeded = "QUERY_MEMORY_EXCEEDED": Exhausted,
    /// The request took longer than --statement-timeout or its own deadline. Ask for less, or allow more time.
    StatementTimeout = "STATEMENT_TIMEOUT": TimedOut,
    /// The caller left before the request was served. Nothing was done.
    Cancelled = "CANCELLED": Cancelled,
    /// The system's clock jumped far ahead of the last commit, whose time would then be fixed for ever. Correct the
    /// clock, or confirm it.
    ClockJumped = "CLOCK_JUMPED": Unavailable,
    /// The write was appended, but syncing it failed. It may become visible after a restart; retry it with its
    /// request id.
    OutcomeUnknown = "OUTCOME_UNKNOWN": Unknown,
    /// The writer has stopped accepting writes after a disk failure, or because it was fenced. This write was not
    /// done. Restart the writer, or use the one that took over.
    WriterStopped = "WRITER_STOPPED": Unavailable,
    /// The disk or quota is full. Free space, then retry.
    DiskFull = "DISK_FULL": Unavailable,
    /// The daemon is shutting down, or the connection has reached its greatest age. Retry with another daemon or over a new
    /// connection, or after the restart.
    ShuttingDown = "SHUTTING_DOWN": Unavailable,
    /// A file was replaced while it was read, or the storage is not mounted. Retry; if that does not help, check the
    /// mount.
    FileGone = "FILE_GONE": Unavailable,
    /// No daemon answers at the address, or the answer did not arrive in time. Check the address and that the daemon
    /// runs.
    Unreachable = "UNREACHABLE": Unavailable,
    /// The daemon needs a valid token or client certificate, and the call had none. Set a token, or renew it.
    Unauthenticated = "UNAUTHENTICATED": Unauthenticated,
    /// The token of the call was valid once, and its time is over. Get a new token; resume tokens stay valid.
    TokenExpired = "TOKEN_EXPIRED": Unauthenticated,
    /// The principal may not do this. The message says which role is missing; an administrator can grant it.
    PermissionDenied = "PERMISSION_DENIED": Denied,
    /// The TLS handshake failed: one side does not trust the certificate of the other, a file cannot be used, or the daemon has no TLS.
    /// Nothing was sent. The message says what to change.
    TlsFailed = "TLS_FAILED": Unavailable,
    /// The daemon requires TLS, and the client does not use it. Connect to https://.
    TlsRequired = "TLS_REQUIRED": Conflict,
    /// Another writer holds the database's lock. Stop that writer first; the metadata contains its address.
    DatabaseLocked = "DATABASE_LOCKED": Locked,
    /// The table is being compacted already. Wait for that job to end.
    JobRunning = "JOB_RUNNING": Conflict,
    /// Bytes on disk are damaged. The error contains the file and the offset; run `driftctl doctor`.
    Corrupt = "CORRUPT": Corrupt,
    /// This version, file system or machine does not support the request.
    NotSupported = "NOT_SUPPORTED": Unsupported,
    /// An operating system call failed. The message contains the file and the system's error.
    Io = "IO": Internal,
    /// A bug in DriftDB. Please report it with the message.
    Internal = "INTERNAL": Internal,
}

/// The error numbers of an open when the process, or the machine, has too many open files. The standard library has no name for
/// them.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;
/// How long a client waits before it retries when too many files are open.
const DESCRIPTORS_RETRY_AFTER: Duration = Duration::from_millis(500);

/// The position of an error in a DriftQL statement.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueryPlace {
    /// Byte offset of the first affected byte.
    pub start: u32,
    /// Byte offset after the last affected byte.
    pub end: u32,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What the parser accepts at this position, as a phrase; may be empty.
    pub hint: String,
}

/// One false precondition, in the shape of `google.rpc.PreconditionFailure`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// `seq_is`, `exists`, `unchanged_since` or `no_change`.
    pub check: String,
    /// `table/key`, or `table WHERE condition`.
    pub subject: String,
    /// The expected and the actual value.
    pub description: String,
}

/// The file that an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileError {
    /// The file's path.
    pub file: String,
    /// The byte offset of the damage; `None` if the error is about the whole file.
    pub offset: Option<u64>,
    /// What is wrong with the file, without its name and offset.
    pub detail: String,
}

type SharedSource = Arc<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Clone)]
struct ErrorBody {
    reason: Reason,
    message: String,
    metadata: BTreeMap<&'static str, String>,
    file_error: Option<FileError>,
    place: Option<QueryPlace>,
    violations: Vec<Violation>,
    retry_after: Option<Duration>,
    source: Option<SharedSource>,
}

/// An error of any part of DriftDB.
///
/// The body is boxed, so that `Result<T, Error>` stays small. The message already contains the text of the source: print
/// the message alone.
#[derive(Debug, Clone)]
pub struct Error(Box<ErrorBody>);

impl Error {
    /// An error with a message for people: `what failed: why; what to do`, lower case, without a full stop.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Error(Box::new(ErrorBody {
            reason,
            message: message.into(),
            metadata: BTreeMap::new(),
            file_error: None,
            place: None,
            violations: Vec::new(),
            retry_after: None,
            source: None,
        }))
    }

    /// Damage in a file, at a byte offset.
    pub fn corrupt(file: impl fmt::Display, offset: u64, what: impl fmt::Display) -> Self {
        let (file, detail) = (file.to_string(), what.to_string());
        let message = format!("{file}: damaged at byte {offset}: {detail}");
        let error =
            Error::new(Reason::Corrupt, message).with("file", &file).with("offset", offset.to_string());
        error.about(FileError { file, offset: Some(offset), detail })
    }

    /// Damage in a file, at a byte offset, that a decoder reported: its error becomes the source.
    pub fn corrupt_by(
        file: impl fmt::Display,
        offset: u64,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Error::corrupt(file, offset, &source).caused_by(source)
    }

    /// A file that was removed or replaced while it was in use.
    pub fn file_gone(file: impl fmt::Display, what: impl fmt::Display) -> Self {
        let (file, detail) = (file.to_string(), what.to_string());
        let error = Error::new(Reason::FileGone, format!("{file} is gone: {detail}")).with("file", &file);
        error.about(FileError { file, offset: None, detail })
    }

    fn about(mut self, file_error: FileError) -> Self {
        self.0.file_error = Some(file_error);
        self
    }

    /// The table does not exist. Suggests the nearest name of those that do.
    pub fn unknown_table<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Self {
        let near = nearest(name, names);
        let hint = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        let error = Error::new(Reason::TableNotFound, format!("table {name:?} does not exist{hint}"));
        let error = error.with("table", name);
        match near {
            Some(near) => error.with("nearest", near),
            None => error,
        }
    }

    /// The error of an unknown table with the name that the table has since a RENAME.
    #[must_use]
    pub fn renamed_to(mut self, name: &str) -> Self {
        self.0.message = format!("{}: it was renamed to {name:?}; use that name", self.0.message);
        self.with("renamed_to", name)
    }

    /// The error with the nearest of some names, if it is of an unknown table and suggests none yet.
    #[must_use]
    pub fn suggesting<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        if self.0.reason != Reason::TableNotFound || self.0.metadata.contains_key("nearest") {
            return self;
        }
        let near = self.0.metadata.get("table").and_then(|name| nearest(name, names));
        let Some(near) = near else { return self };
        self.0.message = format!("{}; did you mean {near:?}?", self.0.message);
        self.with("nearest", near)
    }

    /// An operating system error, with what failed. A full disk or quota becomes [`Reason::DiskFull`], and too many open files
    /// become [`Reason::Overloaded`].
    pub fn io(what: impl fmt::Display, source: &std::io::Error) -> Self {
        if let Some(ours) = source.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            // An `Error` that passed through an interface of `std::io`.
            return ours.clone().context(what);
        }
        if let Some(EMFILE | ENFILE) = source.raw_os_error() {
            let message = format!("{what}: {source}; retry later, or raise the limit of open files");
            let error = Error::new(Reason::Overloaded, message).caused_by(copy_of(source));
            return error.retry_after(DESCRIPTORS_RETRY_AFTER);
        }
        let reason = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Reason::DiskFull,
            _ => Reason::Io,
        };
        Error::new(reason, format!("{what}: {source}")).caused_by(copy_of(source))
    }

    /// Adds a machine-readable detail (`google.rpc.ErrorInfo` metadata).
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.0.metadata.insert(key, value.into());
        self
    }

    /// Adds the file to a [`Reason::Corrupt`] error of a decoder, which does not know the file. Other errors, and errors
    /// with a file, stay as they are.
    #[must_use]
    pub fn in_file(self, file: impl fmt::Display, offset: u64) -> Self {
        match self.0.reason {
            Reason::Corrupt if self.0.file_error.is_none() => Error::corrupt_by(file, offset, self),
            _ => self,
        }
    }

    /// Adds the error that caused this one, for [`std::error::Error::source`].
    #[must_use]
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Adds the position in the statement.
    #[must_use]
    pub fn at(mut self, place: QueryPlace) -> Self {
        self.0.place = Some(place);
        self
    }

    /// Puts the hint of the position into the message, and drops the position: it is one in a parameter or a field, and callers would take
    /// it for one in the statement.
    #[must_use]
    pub fn without_place(mut self) -> Self {
        if let Some(place) = self.0.place.take().filter(|place| !place.hint.is_empty()) {
            self.0.message = format!("{}; {}", self.0.message, place.hint);
        }
        self
    }

    /// Adds the false preconditions.
    #[must_use]
    pub fn violating(mut self, violations: Vec<Violation>) -> Self {
        self.0.violations = violations;
        self
    }

    /// Adds how long the caller should wait before a retry.
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

    /// Adds to the message of damage which tool examines it. Other errors stay as they are.
    #[must_use]
    pub fn advising_doctor(mut self) -> Self {
        if self.0.reason == Reason::Corrupt && !self.0.message.contains("driftctl doctor") {
            self.0.message.push_str("; run `driftctl doctor`");
        }
        self
    }

    /// What a caller can do about the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.reason.kind()
    }

    /// Why the request failed, as a stable word.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The message for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Machine-readable details, by key.
    pub fn metadata(&self) -> &BTreeMap<&'static str, String> {
        &self.0.metadata
    }

    /// The file that the error is about, if it is about one.
    pub fn file_error(&self) -> Option<&FileError> {
        self.0.file_error.as_ref()
    }

    /// The byte offset of the damage, if the error is about damage in a file.
    pub fn offset(&self) -> Option<u64> {
        self.file_error().and_then(|error| error.offset)
    }

    /// The position in the statement, for errors of DriftQL.
    pub fn place(&self) -> Option<&QueryPlace> {
        self.0.place.as_ref()
    }

    /// The false preconditions; empty for errors other than [`Reason::PreconditionFailed`].
    pub fn violations(&self) -> &[Violation] {
        &self.0.violations
    }

    /// How long the caller should wait before a retry, if known.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// [`std::io::Error`] cannot be cloned. The copy has the same kind, code and text.
fn copy_of(error: &std::io::Error) -> std::io::Error {
    match error.raw_os_error() {
        Some(code) => std::io::Error::from_raw_os_error(code),
        None => std::io::Error::new(error.kind(), error.to_string()),
    }
}

/// Longer words are never suggested: comparing them costs time, and a typo in them is not the likely cause.
const LONGEST_SUGGESTION: usize = 64;

/// A number and its noun for a message: `1 problem`, `2 problems`.
pub fn counted(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// The candidate nearest to an unknown word, ignoring case. `None` if none differs by at most one character plus one
/// for every four characters of the word.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let too_long = |text: &str| text.chars().nth(LONGEST_SUGGESTION).is_some();
    let word = word.to_lowercase();
    if too_long(&word) {
        return None;
    }
    let allowed = 1 + word.chars().count() / 4;
    candidates
        .into_iter()
        .map(|candidate| (candidate, candidate.to_lowercase()))
        .filter(|(_, lower)| !too_long(lower))
        .map(|(candidate, lower)| (strsim::levenshtein(&word, &lower), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn nearest_suggests_only_similar_names() {
        assert_eq!(nearest("ordes", ["users", "orders"]), Some("orders"));
        assert_eq!(nearest("SELCT", ["SHOW", "SELECT"]), Some("SELECT"));
        assert_eq!(nearest("invoices", ["users", "orders"]), None);
    }

    #[test]
    fn nearest_ignores_words_over_64_characters() {
        let (at_limit, over_limit) = ("é".repeat(64), "é".repeat(65));
        assert_eq!(nearest(&at_limit, [at_limit.as_str()]), Some(at_limit.as_str()));
        assert_eq!(nearest(&over_limit, [over_limit.as_str()]), None);
        assert_eq!(nearest(&at_limit, [over_limit.as_str()]), None);
    }

    #[test]
    fn every_reason_parses_from_its_word() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
    }

    #[test]
    fn an_io_error_keeps_its_source() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = Error::io("cannot write \"a\"", &full);
        assert_eq!(error.reason(), Reason::DiskFull);
        assert_eq!(error.message(), format!("cannot write \"a\": {full}"));
        let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
        assert_eq!(source.map(std::io::Error::kind), Some(std::io::ErrorKind::StorageFull));
    }

    #[test]
    fn a_decoder_error_gets_its_file_once() {
        let error = Error::new(Reason::Corrupt, "bad length").in_file("a.snap", 13).in_file("b.snap", 0);
        assert_eq!(error.message(), "a.snap: damaged at byte 13: bad length");
        let expected = FileError { file: "a.snap".into(), offset: Some(13), detail: "bad length".into() };
        assert_eq!((error.file_error(), error.offset()), (Some(&expected), Some(13)));
        assert_eq!(error.source().map(ToString::to_string), Some("bad length".to_owned()));
        let other = Error::new(Reason::ShuttingDown, "the writer is shutting down").in_file("a.snap", 13);
        assert_eq!(other.file_error(), None);
    }
}
