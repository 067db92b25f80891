"""The exceptions of this package: `DriftError`, and a subclass for each reason in docs/errors.md.

    try:
        orders.insert({"id": "o1"})
    except driftdb.RowExists as error:
        print(error.reason, error.metadata["key"])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class QueryPlace:
    """Where in a DriftQL text a problem is: byte offsets, a line and a column from 1, and how to fix it."""

    start: int
    end: int
    line: int
    column: int
    hint: str


@dataclass(frozen=True)
class Violation:
    """A condition of a commit that does not hold: its kind, the row or condition, and what was found."""

    type: str
    subject: str
    description: str


class DriftError(Exception):
    """A call that failed. Also the class of errors without a reason of their own.

    `reason` is a stable word, empty if there is none; `code` is the gRPC code; `message` is for people and may change;
    `metadata` has values from the message, as text; `retry_after` is the pause in seconds that the daemon asked for.
    """

    reason: str = ""
    code: str = "UNKNOWN"
    #: Whether the same request can succeed later, or at another daemon.
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        code: str | None = None,
        metadata: dict[str, str] | None = None,
        retry_after: float | None = None,
        violations: tuple[Violation, ...] = (),
        query: QueryPlace | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason
        if code is not None:
            self.code = code
        self.metadata = metadata or {}
        self.retry_after = retry_after
        self.violations = violations
        self.query = query

    def __str__(self) -> str:
        return f"{self.message} ({self.reason or self.code})"


class ConnectionLost(DriftError):
    """The connection to a reader broke during a call, and no other reader answered. The call can be repeated."""

    code = "UNAVAILABLE"
    retryable = True


class ArgumentInvalid(DriftError):
    """A field of the request has a value without meaning. Correct the field that the message names."""

    reason = "ARGUMENT_INVALID"
    code = "INVALID_ARGUMENT"


class DocumentInvalid(DriftError):
    """A document is not one JSON object that DriftDB can store. Correct it."""

    reason = "DOCUMENT_INVALID"
    code = "INVALID_ARGUMENT"


class KeyInvalid(DriftError):
    """A key is missing, empty, too long, of the wrong type, or not the one in the document."""

    reason = "KEY_INVALID"
    code = "INVALID_ARGUMENT"


class NameInvalid(DriftError):
    """A table, primary key or index cannot have this name."""

    reason = "NAME_INVALID"
    code = "INVALID_ARGUMENT"


class TooLarge(DriftError):
    """Something is over a limit. Make it smaller, or split the request."""

    reason = "TOO_LARGE"
    code = "INVALID_ARGUMENT"


class QuerySyntax(DriftError):
    """A DriftQL text cannot be parsed. `query` has the place and a hint."""

    reason = "QUERY_SYNTAX"
    code = "INVALID_ARGUMENT"


class QueryInvalid(DriftError):
    """A DriftQL text parses but cannot be run, or was sent to the wrong daemon."""

    reason = "QUERY_INVALID"
    code = "INVALID_ARGUMENT"


class RequestIdReused(DriftError):
    """Another request used this request id. Give each request its own."""

    reason = "REQUEST_ID_REUSED"
    code = "INVALID_ARGUMENT"


class FilterMismatch(DriftError):
    """A resume token belongs to a select or a watch with other fields. Use those, or start without it."""

    reason = "FILTER_MISMATCH"
    code = "INVALID_ARGUMENT"


class NotWriter(DriftError):
    """A statement that writes was sent to a reader: use `execute`."""

    reason = "NOT_WRITER"
    code = "FAILED_PRECONDITION"


class NotSupported(DriftError):
    """This version, or this machine, cannot do it."""

    reason = "NOT_SUPPORTED"
    code = "UNIMPLEMENTED"


class Unauthenticated(DriftError):
    """The daemon asks who calls, and the call has no token or certificate that it knows."""

    reason = "UNAUTHENTICATED"
    code = "UNAUTHENTICATED"


class TokenExpired(DriftError):
    """The time of the token is over. Set a new one; resume tokens stay valid."""

    reason = "TOKEN_EXPIRED"
    code = "UNAUTHENTICATED"


class PermissionDenied(DriftError):
    """The principal may not do this. The message names the role that is missing."""

    reason = "PERMISSION_DENIED"
    code = "PERMISSION_DENIED"


class TableNotFound(DriftError):
    """The table does not exist at this point in time. `metadata` can have the `nearest` name."""

    reason = "TABLE_NOT_FOUND"
    code = "NOT_FOUND"


class RowNotFound(DriftError):
    """A patch, delete or revert finds no live row with the key."""

    reason = "ROW_NOT_FOUND"
    code = "NOT_FOUND"


class TableExists(DriftError):
    """A table of this name exists."""

    reason = "TABLE_EXISTS"
    code = "ALREADY_EXISTS"


class RowExists(DriftError):
    """An insert finds a live row with the key. `put` replaces it."""

    reason = "ROW_EXISTS"
    code = "ALREADY_EXISTS"


class PreconditionFailed(DriftError):
    """A condition of the commit does not hold; nothing was written. `violations` says which."""

    reason = "PRECONDITION_FAILED"
    code = "FAILED_PRECONDITION"


class BoundaryTooOld(DriftError):
    """The writer does not know every change since the commit of an `if_no_change`. Read the rows again."""

    reason = "BOUNDARY_TOO_OLD"
    code = "FAILED_PRECONDITION"


class JobRunning(DriftError):
    """The table is being compacted already. Wait for the job to end."""

    reason = "JOB_RUNNING"
    code = "FAILED_PRECONDITION"
    retryable = True


class DatabaseLocked(DriftError):
    """Another writer holds the data directory."""

    reason = "DATABASE_LOCKED"
    code = "FAILED_PRECONDITION"
    retryable = True


class BelowFloor(DriftError):
    """Compaction has discarded this point in time. `metadata` has the `floor_seq`; restart a watch with initial rows."""

    reason = "BELOW_FLOOR"
    code = "OUT_OF_RANGE"


class BeyondHead(DriftError):
    """The commit has not happened yet. `metadata` has the `last_seq`."""

    reason = "BEYOND_HEAD"
    code = "OUT_OF_RANGE"
    retryable = True


class EpochChanged(DriftError):
    """A token belongs to another history: the database was restored or replaced. Start again without it."""

    reason = "EPOCH_CHANGED"
    code = "FAILED_PRECONDITION"


class ReplicaBehind(DriftError):
    """The reader did not get fresh enough in time. Retry, or ask another one."""

    reason = "REPLICA_BEHIND"
    code = "UNAVAILABLE"
    retryable = True


class Overloaded(DriftError):
    """Too much at once. Nothing was done. Retry after `retry_after` seconds."""

    reason = "OVERLOADED"
    code = "RESOURCE_EXHAUSTED"
    retryable = True


class QueryMemoryExceeded(DriftError):
    """One query needs more memory than it may have. Add a WHERE or a LIMIT."""

    reason = "QUERY_MEMORY_EXCEEDED"
    code = "RESOURCE_EXHAUSTED"


class Standby(DriftError):
    """This writer waits for another one to end. Nothing was done."""

    reason = "STANDBY"
    code = "UNAVAILABLE"
    retryable = True


class Fenced(DriftError):
    """Another writer has taken the database over. Send the request there."""

    reason = "FENCED"
    code = "UNAVAILABLE"
    retryable = True


class WriterStopped(DriftError):
    """The writer stopped after an error of the disk, or because it was fenced. Nothing was done."""

    reason = "WRITER_STOPPED"
    code = "UNAVAILABLE"
    retryable = True


class ShuttingDown(DriftError):
    """The daemon is shutting down. Nothing was done."""

    reason = "SHUTTING_DOWN"
    code = "UNAVAILABLE"
    retryable = True


class StatementTimeout(DriftError):
    """The request took longer than the daemon allows."""

    reason = "STATEMENT_TIMEOUT"
    code = "DEADLINE_EXCEEDED"


class Cancelled(DriftError):
    """The caller left before the answer. Nothing was done."""

    reason = "CANCELLED"
    code = "CANCELLED"
    retryable = True


class ClockJumped(DriftError):
    """The writer's clock jumped ahead. Nothing was done. Correct the clock, or confirm it."""

    reason = "CLOCK_JUMPED"
    code = "UNAVAILABLE"
    retryable = True


class OutcomeUnknown(DriftError):
    """The write was sent and not confirmed: it may have been done. `find_commit` tells whether it was."""

    reason = "OUTCOME_UNKNOWN"
    code = "UNKNOWN"
    retryable = True


class DiskFull(DriftError):
    """The disk has no space for the write. Nothing was written."""

    reason = "DISK_FULL"
    code = "UNAVAILABLE"
    retryable = True


class FileGone(DriftError):
    """A file was replaced or is missing while it was read. Retry; if that does not help, check the mount."""

    reason = "FILE_GONE"
    code = "UNAVAILABLE"
    retryable = True


class TlsFailed(DriftError):
    """There is no TLS connection: one side does not trust the other. Nothing was sent."""

    reason = "TLS_FAILED"
    code = "UNAVAILABLE"
    retryable = True


class TlsRequired(DriftError):
    """The daemon requires TLS. Use `driftdbs://`."""

    reason = "TLS_REQUIRED"
    code = "FAILED_PRECONDITION"


class Unreachable(DriftError):
    """Nothing answers at the address, or there is no database yet."""

    reason = "UNREACHABLE"
    code = "UNAVAILABLE"
    retryable = True


class Corrupt(DriftError):
    """Bytes on disk are not what was written. `metadata` has the `file` and the `offset`."""

    reason = "CORRUPT"
    code = "DATA_LOSS"


class IoError(DriftError):
    """The operating system reported an error to the daemon."""

    reason = "IO"
    code = "INTERNAL"


class InternalError(DriftError):
    """A defect in DriftDB."""

    reason = "INTERNAL"
    code = "INTERNAL"


class ClientClosed(DriftError):
    """The client was closed by this program. Nothing is sent any more."""

    code = "CANCELLED"


#: The class of each reason.
BY_REASON: dict[str, type[DriftError]] = {
    error.reason: error for error in DriftError.__subclasses__() if error.reason
}
