"""Answers of many messages as asynchronous iterators."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from . import _frames
from ._documents import document_of
from ._messages import v1
from ._pauses import Pauses, TimeLimit
from ._pool import Answers
from ._session import Session
from .errors import DriftError
from .types import Commit, Header, Row, RowDiff, TableInfo

T = TypeVar("T")
# How often rows are requested again without receiving a message.
_TRIES = 5


class AsyncResults(Generic[T]):
    """The results of a read, all of one point in time. Nothing is sent before the first is asked for; then they arrive as they are
    taken, and none is kept. If a reader fails before the first message, the next one is asked.

    Iterating, `header` and `all` raise a `DriftError` if the read fails.
    """

    def __init__(
        self, session: Session, name: str, request: Any, convert: Callable[[Any], Iterable[T]], timeout: float | None
    ) -> None:
        self._session, self._name, self._request, self._convert = session, name, request, convert
        # A wrong one is refused here.
        self._timeout = session.limit(timeout).each or math.inf
        self._answers: Answers | None = None
        self._header: Header | None = None
        self._ready: list[T] = []
        self._complete = False
        #: What in the request is probably a mistake, for people. Known after the last result.
        self.notes: tuple[str, ...] = ()
        #: Whether compaction has removed the oldest part of a history that was asked for.
        self.truncated = False

    def __aiter__(self) -> AsyncResults[T]:
        return self

    async def __anext__(self) -> T:
        while not self._ready:
            if self._complete:
                raise StopAsyncIteration
            await self._receive()
        return self._ready.pop()

    async def header(self) -> Header:
        """The point in time of the results."""
        while self._header is None and not self._complete:
            await self._receive()
        if self._header is None:
            raise DriftError("the answer has no header", code="INTERNAL")
        return self._header

    async def all(self) -> list[T]:
        """The remaining results, in memory."""
        return [item async for item in self]

    async def to_pandas(self) -> Any:
        """The remaining results as a `pandas.DataFrame`. `ImportError` if pandas is not installed."""
        return _frames.to_pandas(await self.all())

    async def to_arrow(self) -> Any:
        """The remaining results as a `pyarrow.Table`. `ImportError` if pyarrow is not installed."""
        return _frames.to_arrow(await self.all())

    def close(self) -> None:
        """Ends the read. Leaving a loop early does this, too, once nothing refers to the results."""
        self._complete, self._ready = True, []
        if self._answers is not None:
            self._answers.cancel()

    async def _receive(self) -> None:
        message = await self._next_message()
        if message is None:
            self._complete = True
            return
        self._take(message)

    async def _next_message(self) -> Any:
        if self._answers is not None:
            return await self._answers.read()
        self._request.freshness.MergeFrom(self._session.freshness() or v1.Freshness())
        first, self._answers = await self._session.open(self._name, self._request, TimeLimit(self._timeout))
        return first

    def _take(self, message: Any) -> None:
        if self._header is None and message.HasField("header"):
            self._header = Header._of(message.header)
        self.notes = tuple(getattr(message, "notes", ())) or self.notes
        self.truncated |= getattr(message, "truncated", False)
        # The last first, so that taking one is cheap.
        self._ready = list(self._convert(message))[::-1]


class AsyncRows(AsyncResults[Row]):
    """The rows of a select, in order. If a connection breaks, they continue after the last one at the next reader."""

    def __init__(self, session: Session, request: Any, timeout: float | None) -> None:
        super().__init__(session, "ReaderService/Select", request, lambda message: map(Row._of, message.rows), timeout)
        self._count = 0

    async def count(self) -> int:
        """How many rows match; of a select of rows, those before are read to the end."""
        while not self._complete:
            await self._receive()
        return self._count

    async def _receive(self) -> None:
        tries, pauses = 0, Pauses(None)
        while True:
            try:
                message = await self._next_message()
                break
            except DriftError as error:
                # Without an answer, the session has tried all readers already.
                if error.code != "UNAVAILABLE" or self._answers is None or tries == _TRIES:
                    raise
                self._answers.backend.set_aside()
                self._answers = None
                tries += 1
                await self._session.transport.sleep(pauses.next() or 0.0)
        if message is None:
            self._complete = True
            return
        self._take(message)
        # Only the last message has no token.
        self._request.resume_token = message.resume_token
        if not message.resume_token:
            self._complete, self._count = True, message.count

    async def _next_message(self) -> Any:
        if self._answers is None:
            self._request.ClearField("freshness")
            fresh = self._session.freshness(self._header)
            if fresh is not None:
                self._request.freshness.CopyFrom(fresh)
            first, self._answers = await self._session.open(self._name, self._request, TimeLimit(self._timeout))
            return first
        return await self._answers.read()


class AsyncQuery(AsyncResults[Any]):
    """The results of a statement, by its kind: `Row`, `Commit`, `RowDiff`, `TableInfo`, a count, a line of text, or a dict of columns."""

    def __init__(self, session: Session, request: Any, timeout: float | None) -> None:
        super().__init__(session, "ReaderService/Execute", request, self._results_of, timeout)
        #: The names of the columns of groups and aggregates, in order. Known with the first result.
        self.columns: tuple[str, ...] = ()

    def _results_of(self, message: Any) -> Iterable[Any]:
        kind = message.WhichOneof("result")
        if kind == "rows":
            return map(Row._of, message.rows.rows)
        if kind == "commit":
            return [Commit._of(message.commit)]
        if kind == "diff":
            return [RowDiff._of(message.diff)]
        if kind == "table":
            return [TableInfo._of(message.table)]
        if kind == "results":
            self.columns = tuple(message.results.columns) or self.columns
            return map(document_of, message.results.results)
        return [getattr(message, kind)] if kind else []


class CommitJoiner:
    """Puts the parts of large commits together."""

    def __init__(self) -> None:
        self._parts: Any = None

    def join(self, part: Any) -> Any:
        """The whole commit; `None` if this was not its last part."""
        if self._parts is not None and self._parts.seq == part.seq:
            self._parts.changes.extend(part.changes)
            self._parts.more = part.more
        elif self._parts is not None:
            raise DriftError(
                f"the daemon sent commit {part.seq} before the end of commit {self._parts.seq}; this is a defect of the daemon",
                code="INTERNAL",
            )
        else:
            self._parts = part
        if self._parts.more:
            return None
        whole, self._parts = self._parts, None
        return whole

    def commits(self, message: Any) -> Iterable[Commit]:
        """The commits that a message completes."""
        for part in message.commits:
            whole = self.join(part)
            if whole is not None:
                yield Commit._of(whole)
