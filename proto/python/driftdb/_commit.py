"""One atomic commit: its operations and conditions, collected and then sent together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._documents import as_of_to_wire, document_to_wire, key_to_wire
from ._messages import v1
from ._params import bind
from ._session import Session
from .errors import DriftError
from .types import Receipt

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .types import CommitOptions


class Operations:
    """Collects operations on rows, which happen together or not at all, and conditions that must hold before."""

    def __init__(
        self, reason: str = "", actor: str = "", request_id: str = "", timeout: float | None = None
    ) -> None:
        self._reason, self._actor, self._request_id, self._timeout = reason, actor, request_id, timeout
        self._operations: list[Any] = []
        self._conditions: list[Any] = []
        self._receipt: Receipt | None = None

    @property
    def receipt(self) -> Receipt:
        """The commit, once it is on disk. `DriftError` before."""
        if self._receipt is None:
            raise DriftError("the commit has not been sent yet", code="FAILED_PRECONDITION")
        return self._receipt

    def insert(self, table: str, document: Mapping[str, Any]) -> None:
        """Creates a row. The commit fails with `RowExists` if a live row has the key."""
        self._operations.append(v1.Operation(table=table, insert=document_to_wire(document)))

    def put(self, table: str, document: Mapping[str, Any]) -> None:
        """Creates a row, or replaces it as a whole."""
        self._operations.append(v1.Operation(table=table, put=document_to_wire(document)))

    def patch(self, table: str, key: Any, patch: Mapping[str, Any]) -> None:
        """Changes fields of a row: a merge patch (RFC 7396), in which `None` removes a field. `RowNotFound` if there is no live row."""
        self._operations.append(v1.Operation(table=table, key=key_to_wire(key), patch=document_to_wire(patch)))

    def delete(self, table: str, key: Any) -> None:
        """Deletes a row; its history stays. `RowNotFound` if there is no live row."""
        operation = v1.Operation(table=table, key=key_to_wire(key))
        operation.soft_delete.SetInParent()
        self._operations.append(operation)

    def revert(self, table: str, key: Any, to: Any) -> None:
        """Writes a row again as it was at a point in time. `BelowFloor` if that history was compacted."""
        operation = v1.Operation(table=table, key=key_to_wire(key))
        operation.revert.to.CopyFrom(as_of_to_wire(to))
        self._operations.append(operation)

    def if_seq(self, table: str, key: Any, seq: int) -> None:
        """Requires that the last change of a row is this commit: the `seq` of the row that was read. Else `PreconditionFailed`."""
        self._conditions.append(v1.Precondition(table=table, key=key_to_wire(key), seq_is=seq))

    def if_exists(self, table: str, key: Any, exists: bool = True) -> None:
        """Requires that a live row has the key, or that none has. Else `PreconditionFailed`."""
        self._conditions.append(v1.Precondition(table=table, key=key_to_wire(key), exists=exists))

    def if_unchanged(self, table: str, key: Any, since: int) -> None:
        """Requires that a row has not changed after a commit. Else `PreconditionFailed`."""
        self._conditions.append(v1.Precondition(table=table, key=key_to_wire(key), unchanged_since=since))

    def if_no_change(self, table: str, where: str, *params: Any, since: int, **named: Any) -> None:
        """Requires that no row that matches a condition, before or after its change, has changed after a commit: the `read_seq` of
        what was read. Else `PreconditionFailed`; `BoundaryTooOld` if the writer cannot tell any more."""
        text, values = bind(where, params, named)
        self._conditions.append(v1.Precondition(table=table, where=text, params=values, unchanged_since=since))

    async def _send(self, session: Session) -> Receipt:
        options = session.options(self._reason, self._actor, self._request_id)
        request = v1.ApplyRequest(operations=self._operations, preconditions=self._conditions, options=options)
        limit = session.limit(self._timeout)
        answer = await session.write(lambda writer: writer.unary("WriterService/Apply", request, limit, writes=True), limit)
        keys = tuple(made.key for made in answer.made_keys)
        self._receipt = Receipt(session.committed(answer.token), answer.replayed, keys)
        return self._receipt


class AsyncCommitter(Operations):
    """A commit as the body of an `async with`. It is sent at the end, unless the body fails."""

    def __init__(self, session: Session, **options: Unpack[CommitOptions]) -> None:
        super().__init__(**options)
        self._session = session

    async def __aenter__(self) -> AsyncCommitter:
        return self

    async def __aexit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is None:
            await self._send(self._session)
