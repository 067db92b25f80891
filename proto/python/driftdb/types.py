"""What calls return: rows, commits, changes, receipts. All are immutable."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict

from ._documents import Document, document_of, optional_document, time_of


@dataclass(frozen=True)
class Token:
    """Names a commit beyond doubt. A client that gets it with `Database.include` reads at least that state."""

    seq: int
    time: datetime | None
    epoch: int
    incarnation: int

    @classmethod
    def _of(cls, message: Any) -> Token:
        return cls(message.seq, time_of(message), message.epoch, message.incarnation)


@dataclass(frozen=True)
class Receipt:
    """A commit that is on disk. `keys` are those that the writer made; `replayed`: the request id had been used before."""

    token: Token
    replayed: bool = False
    keys: tuple[str, ...] = ()

    @property
    def seq(self) -> int:
        """The sequence number of the commit."""
        return self.token.seq


@dataclass(frozen=True)
class Header:
    """The point in time of an answer: the state after exactly the commit `read_seq`."""

    read_seq: int
    read_time: datetime | None
    applied_seq: int
    floor_seq: int
    database_id: str
    epoch: int
    incarnation: int
    notes: tuple[str, ...] = ()

    @classmethod
    def _of(cls, message: Any) -> Header:
        return cls(
            message.read_seq,
            time_of(message, "read_time"),
            message.applied_seq,
            message.floor_seq,
            message.database_id,
            message.epoch,
            message.incarnation,
            tuple(message.notes),
        )


@dataclass(frozen=True)
class Row:
    """A live row: its key, its document, and the commit that last changed it. `row["field"]` is a field of the document."""

    key: str
    seq: int
    time: datetime | None
    document: Document

    @classmethod
    def _of(cls, message: Any) -> Row:
        return cls(message.key, message.seq, time_of(message), document_of(message.document))

    def __getitem__(self, field: str) -> Any:
        return self.document[field]

    def get(self, field: str, default: Any = None) -> Any:
        """A field of the document, or the default."""
        return self.document.get(field, default)


class Kind(str, enum.Enum):
    """What a change did."""

    #: The row was created, or replaced as a whole.
    INSERT = "insert"
    #: The row was changed by a merge patch.
    PATCH = "patch"
    #: The row was deleted; its history stays.
    DELETE = "delete"
    #: A table was created, altered, renamed or dropped.
    SCHEMA = "schema"
    #: No change: a row as it was when a watch with initial rows began.
    INITIAL = "initial"

    def __str__(self) -> str:
        return self.value


_KINDS = {1: Kind.INSERT, 2: Kind.PATCH, 3: Kind.DELETE, 4: Kind.SCHEMA}


@dataclass(frozen=True)
class Change:
    """One change of one row or schema, and the commit that made it.

    `payload` is what was written: the document, the patch, or the schema. `before` and `after` are the row before and after it,
    if the request asked for them and the row existed.
    """

    table: str
    key: str
    kind: Kind
    payload: Document | None
    before: Document | None
    after: Document | None
    seq: int
    time: datetime | None
    actor: str = ""
    reason: str = ""
    principal: str = ""
    replaced: bool = False
    reverted: bool = False

    @classmethod
    def _of(cls, message: Any, commit: Any) -> Change:
        payload, before, after = (optional_document(message, field) for field in ("payload", "before", "after"))
        return cls(
            message.table,
            message.key,
            _KINDS[message.kind],
            payload,
            before,
            after,
            commit.seq,
            time_of(commit),
            commit.actor,
            commit.reason,
            commit.principal,
            message.replaced,
            message.reverted,
        )

    @classmethod
    def _initial(cls, table: str, row: Any) -> Change:
        document = document_of(row.document)
        return cls(table, row.key, Kind.INITIAL, document, None, document, row.seq, time_of(row))


@dataclass(frozen=True)
class Commit:
    """All changes of one sequence number that the request selects."""

    seq: int
    time: datetime | None
    actor: str
    reason: str
    principal: str
    changes: tuple[Change, ...]

    @classmethod
    def _of(cls, message: Any) -> Commit:
        changes = tuple(Change._of(change, message) for change in message.changes)
        return cls(message.seq, time_of(message), message.actor, message.reason, message.principal, changes)


@dataclass(frozen=True)
class RowDiff:
    """A row that differs between two points in time. `patch` is a JSON Patch (RFC 6902); `None` if the row was added or removed, or if the
    patch would be too large: then `patch_omitted` is true."""

    key: str
    before: Document | None
    after: Document | None
    patch: list[dict[str, Any]] | None
    patch_omitted: bool = False

    @classmethod
    def _of(cls, message: Any) -> RowDiff:
        patch = json.loads(message.json_patch) if message.json_patch else None
        before, after = optional_document(message, "before"), optional_document(message, "after")
        return cls(message.key, before, after, patch, message.json_patch_omitted)


@dataclass(frozen=True)
class TableInfo:
    """A table's schema and figures. `indexes` has a tuple of paths for each index; `key_type` is STRING, INT or COMPOSITE."""

    name: str
    primary_key: str
    key_type: str
    indexes: tuple[tuple[str, ...], ...]
    rows: int
    created_seq: int
    last_seq: int
    floor_seq: int
    auto_key: bool
    problem: str

    @classmethod
    def _of(cls, message: Any) -> TableInfo:
        single = tuple((path,) for path in message.indexes)
        composite = tuple(tuple(index.paths) for index in message.composite_indexes)
        kind = {2: "INT", 3: "COMPOSITE"}.get(message.key_type, "STRING")
        return cls(
            message.table,
            message.primary_key,
            kind,
            single + composite,
            message.rows,
            message.created_seq,
            message.last_seq,
            message.floor_seq,
            message.auto_key,
            message.problem,
        )


class CommitOptions(TypedDict, total=False):
    """The options of a write: why it is made and by whom, stored with the commit; an id with which it is not done twice; and how many
    seconds the call waits."""

    reason: str
    actor: str
    request_id: str
    timeout: float | None


@dataclass(frozen=True)
class Executed:
    """What a statement at the writer did. `token` is `None` if it made no commit; `rows` counts those that a statement with WHERE changed."""

    token: Token | None
    keys: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    rows: int | None = None


@dataclass(frozen=True)
class Refused:
    """An operation that an ingest refused: its position in the whole stream from 0, and why."""

    position: int
    code: int
    reason: str
    message: str


@dataclass(frozen=True)
class Ingested:
    """What an ingest did. All operations are on disk, except those in `refused`. The first `skipped` ones were not sent, because the
    producer had sent as many before."""

    operations: int
    token: Token | None
    refused: tuple[Refused, ...]
    keys: tuple[str, ...]
    skipped: int = 0
