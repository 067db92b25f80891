"""DriftDB: an append-only document database with time travel.

    import driftdb

    db = driftdb.connect("driftdb://127.0.0.1:7401,127.0.0.1:7402")
    orders = db.create_table("orders", if_not_exists=True)
    placed = orders.put({"id": "o1", "status": "pending", "amount": 100})
    orders.patch("o1", {"status": "paid"})
    orders.get("o1")                # paid: a client reads its own writes
    orders.get("o1", as_of=placed)  # pending
    for change in orders.watch(after_seq=0):
        print(change.seq, change.kind, change.key, change.after)

`driftdb.aio` has the same for asyncio, and `driftdb.testing` a database for tests. docs/python.md is the guide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import errors
from ._blocking import Committer, Database, Query, Results, Rows, Table, Watch
from ._documents import Document
from ._watch import Event
from .aio import (
    AsyncCommitter,
    AsyncDatabase,
    AsyncQuery,
    AsyncResults,
    AsyncRows,
    AsyncTable,
    AsyncWatch,
    connect_async,
)
from .errors import (
    ArgumentInvalid,
    BelowFloor,
    BeyondHead,
    BoundaryTooOld,
    Cancelled,
    ClockJumped,
    ClientClosed,
    ConnectionLost,
    Corrupt,
    DatabaseLocked,
    DiskFull,
    DocumentInvalid,
    DriftError,
    EpochChanged,
    Fenced,
    FileGone,
    FilterMismatch,
    InternalError,
    IoError,
    JobRunning,
    KeyInvalid,
    NameInvalid,
    NotSupported,
    NotWriter,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    PreconditionFailed,
    QueryInvalid,
    QueryMemoryExceeded,
    QueryPlace,
    QuerySyntax,
    ReplicaBehind,
    RequestIdReused,
    RowExists,
    RowNotFound,
    ShuttingDown,
    Standby,
    StatementTimeout,
    TableExists,
    TableNotFound,
    TlsFailed,
    TlsRequired,
    TokenExpired,
    TooLarge,
    Unauthenticated,
    Unreachable,
    Violation,
    WriterStopped,
)
from .types import (
    Change,
    Commit,
    CommitOptions,
    Executed,
    Header,
    Ingested,
    Kind,
    Receipt,
    Refused,
    Row,
    RowDiff,
    TableInfo,
    Token,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._address import Options

__version__ = "0.1.0"


def connect(url: str, **options: Unpack[Options]) -> Database:
    """A client of a database. It connects when a call needs it.

    The address is `driftdb://WRITER,READER[,READER…]`, each HOST or HOST:PORT; the default ports are 7401 and 7402. A single host
    without a port means both there. `driftdbs://` uses TLS. Options follow as `?name=value&…`, or are arguments:

    - `standby=HOST:PORT`: another writer, which can become the active one; only in the address, any number of times
    - `ca=FILE`: the certificates of the CAs to trust; required with TLS
    - `cert=FILE`, `key=FILE`: the client's own certificate, for daemons that ask for one
    - `server_name=NAME`: the name in the daemons' certificates, if it is not the host
    - `token_file=FILE`: the access token; `token`, as an argument only, is the token itself. It is sent over TLS or to this machine
    - `time_zone=NAME`: what "yesterday" means in conditions; by default in UTC
    - `stale=true`: reads take what the reader has, and need not include this client's writes
    - `retry_timeout=SECONDS`: how long a write is retried; by default 30
    - `timeout=SECONDS`: how long a call waits for its first answer, retries included, and then for each further one; by default without
      limit. Each call has it as an argument, too; `math.inf` is no limit. A write whose time is over is `OutcomeUnknown`, a read
      `StatementTimeout`. A watch has none: it waits for changes

    Raises `ArgumentInvalid` if the address or an option is wrong.
    """
    return Database(url, **options)


__all__ = [
    "ArgumentInvalid",
    "AsyncCommitter",
    "AsyncDatabase",
    "AsyncQuery",
    "AsyncResults",
    "AsyncRows",
    "AsyncTable",
    "AsyncWatch",
    "BelowFloor",
    "BeyondHead",
    "BoundaryTooOld",
    "Cancelled",
    "Change",
    "ClockJumped",
    "Commit",
    "CommitOptions",
    "Committer",
    "ClientClosed",
    "ConnectionLost",
    "Corrupt",
    "Database",
    "DatabaseLocked",
    "DiskFull",
    "Document",
    "DocumentInvalid",
    "DriftError",
    "EpochChanged",
    "Event",
    "Executed",
    "Fenced",
    "FileGone",
    "FilterMismatch",
    "Header",
    "Ingested",
    "InternalError",
    "IoError",
    "JobRunning",
    "KeyInvalid",
    "Kind",
    "NameInvalid",
    "NotSupported",
    "NotWriter",
    "OutcomeUnknown",
    "Overloaded",
    "PermissionDenied",
    "PreconditionFailed",
    "Query",
    "QueryInvalid",
    "QueryMemoryExceeded",
    "QueryPlace",
    "QuerySyntax",
    "Receipt",
    "Refused",
    "ReplicaBehind",
    "RequestIdReused",
    "Results",
    "Row",
    "RowDiff",
    "RowExists",
    "RowNotFound",
    "Rows",
    "ShuttingDown",
    "Standby",
    "StatementTimeout",
    "Table",
    "TableExists",
    "TableInfo",
    "TableNotFound",
    "TlsFailed",
    "TlsRequired",
    "Token",
    "TokenExpired",
    "TooLarge",
    "Unauthenticated",
    "Unreachable",
    "Violation",
    "Watch",
    "WriterStopped",
    "connect",
    "connect_async",
    "errors",
]
