"""Watches: changes as they happen, each once and in order, across broken connections and readers."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from ._documents import duration_to_wire, some_key, time_to_wire
from ._messages import v1
from ._pauses import Pauses
from ._pool import Answers
from ._results import CommitJoiner
from ._session import Session
from .errors import ClientClosed, ConnectionLost, DriftError, Overloaded, TlsFailed, Unreachable
from .types import Change, Commit, Header

# After this many missing heartbeats the connection is considered broken.
_SILENT_BEATS = 3
# The shortest silence after which it is, and how long a reader may take to open a stream, in seconds.
_SILENCE_MIN, _OPEN = 2.0, 30.0


@dataclass(frozen=True)
class Event:
    """Something that a watch reports. `kind` says what:

    - `opened`: the watch starts after `header.read_seq`
    - `rows`: rows as of the start, in `changes`; `rows_done`: all were sent
    - `commit`: a whole commit, in `commit` and `changes`
    - `progress`: everything up to `header.read_seq` was sent
    - `caught_up`, `fell_behind`: the stream follows new commits, or reads older ones from files
    - `interrupted`: the connection broke, for the reason `error`; `resumed`: the watch goes on after `header.read_seq`
    """

    kind: str
    header: Header | None = None
    changes: tuple[Change, ...] = ()
    commit: Commit | None = None
    error: DriftError | None = None


def watch_request(
    tables: Sequence[str],
    condition: tuple[str, list[str]],
    *,
    keys: Sequence[Any] = (),
    key_prefix: str = "",
    after_seq: int | None = None,
    after_time: datetime | None = None,
    token: bytes | None = None,
    initial_rows: bool = False,
    before: bool = True,
    after: bool = True,
    until_seq: int = 0,
    heartbeat: timedelta | float = 10.0,
    time_zone: str = "",
) -> Any:
    """The request of a watch; `condition` with its parameters, if there is one."""
    text, values = condition
    request = v1.WatchDriftRequest(
        tables=tables,
        keys=[some_key(key) for key in keys],
        key_prefix=key_prefix,
        where=text,
        params=values,
        initial_rows=initial_rows,
        with_before=before,
        with_after=after,
        until_seq=until_seq,
        heartbeat=duration_to_wire(heartbeat),
        time_zone=time_zone,
    )
    if token is not None:
        request.resume_token = token
    elif after_seq is not None:
        request.after_seq = after_seq
    elif after_time is not None:
        request.after_time.CopyFrom(v1.AsOf(time=time_to_wire(after_time)).time)
    return request


class AsyncWatch:
    """Changes as they happen: in order, each once. If a connection breaks or a reader stops, the watch resumes at the next reader,
    after what was delivered, for as long as it takes.

    It opens when the first of them is asked for, or with `open()`: without a start of its own it delivers what is committed after that.
    Iterate over it for changes, over `commits()` for whole commits, or over `events()` for everything; over one of them only.
    A loop ends with an error if the watch cannot go on: `BelowFloor` if the commits that come next were compacted, `EpochChanged` if
    the database was restored, and others that resuming does not help.
    """

    def __init__(self, session: Session, request: Any) -> None:
        self._session, self._request = session, request
        beat = request.heartbeat.seconds + request.heartbeat.nanos / 1e9
        self._silence = max(beat * _SILENT_BEATS, _SILENCE_MIN)
        self._answers: Answers | None = None
        self._is_open = False  # the first message of this stream has come
        self._was_open = False  # the first message of any stream has come
        self._start: Header | None = None
        self._header: Header | None = None
        # What came while the watch was opened.
        self._early: deque[Event] = deque()
        self._joiner = CommitJoiner()
        self._pauses: Pauses | None = None
        self._pause: float | None = None
        self._is_reported = False
        self._rows_pending = request.initial_rows
        self._delivered = self._last_commit = 0
        self._ended = False
        self._pending: list[Change] = []
        # The token after the changes in `_pending`.
        self._next_token: bytes | None = request.resume_token or None
        self._token = self._next_token

    @property
    def token(self) -> bytes | None:
        """The resume token after the last commit whose changes were all delivered, and taken: of a loop over changes, when the next
        one is asked for. Store it together with what you made of them, and pass it as `token` to continue there, at any reader."""
        return self._token

    def __aiter__(self) -> AsyncWatch:
        return self

    async def __anext__(self) -> Change:
        while not self._pending:
            self._token = self._next_token
            event = await self.next_event()
            if event is None:
                raise StopAsyncIteration
            self._pending = list(event.changes)[::-1]
        return self._pending.pop()

    async def commits(self) -> AsyncIterator[Commit]:
        """Whole commits, with the changes that pass the filter. Initial rows are not among them."""
        async for event in self.events():
            if event.commit is not None:
                yield event.commit

    async def events(self) -> AsyncIterator[Event]:
        """Everything that the watch reports."""
        while (event := await self.next_event()) is not None:
            self._token = self._next_token
            yield event

    async def open(self) -> Header:
        """Opens the watch now, and returns where it starts: it delivers every commit after `read_seq`. Without this call a watch opens
        when the first change is asked for, and "now" is then. It waits for a reader for as long as it takes. `ClientClosed` if the watch
        has ended."""
        while self._start is None:
            event = await self._receive()
            if event is None:
                raise ClientClosed("the watch has ended")
            self._early.append(event)
        return self._start

    def close(self) -> None:
        """Ends the watch."""
        self._ended = True
        if self._answers is not None:
            self._answers.cancel()
            self._answers = None

    async def next_event(self) -> Event | None:
        """The next event; `None` at the end. Cancelling the call, for example with a timeout, loses nothing."""
        if self._early and not self._ended:
            return self._early.popleft()
        return await self._receive()

    async def _receive(self) -> Event | None:
        while not self._ended:
            answers = self._answers
            try:
                if answers is None:
                    await self._open()
                    continue
                message = await answers.read(self._silence if self._is_open else _OPEN)
                if message is None and not self._is_complete():
                    # A reader that shuts down may end its streams without an error.
                    raise ConnectionLost("the reader ended the stream")
            except DriftError as error:
                if self._ended or isinstance(error, ClientClosed):
                    # It was closed while it waited, or its client was.
                    self._ended = True
                    break
                interrupted = self._handle_break(error)
                if interrupted is not None:
                    return interrupted
                continue
            if message is None:
                self._ended = True
                break
            event = self._accept(message)
            if event is not None:
                return event
        return None

    async def _open(self) -> None:
        if self._pause is not None:
            await self._session.transport.sleep(self._pause)
            self._pause = None
        if self._ended:
            # It was closed during the pause.
            return
        reader = next(self._session.readers.round())
        self._answers, self._is_open = reader.stream("ReaderService/WatchDrift", self._request, None), False

    def _handle_break(self, error: DriftError) -> Event | None:
        if self._answers is not None:
            if _is_retryable(error):
                self._answers.backend.set_aside()
            self._answers.cancel()
            self._answers = None
        self._joiner = CommitJoiner()
        # Before the first opening it is a mistake of the user; after it, a certificate that is being renewed.
        is_mistake = not self._was_open and isinstance(error, TlsFailed)
        if is_mistake or not _is_retryable(error):
            self._ended = True
            raise error
        self._pauses = self._pauses or Pauses(None)
        is_reachable_elsewhere = isinstance(error, Unreachable) and not all(map(_aside, self._session.readers.all))
        self._pause = 0.0 if is_reachable_elsewhere else self._pauses.next(error.retry_after or 0.0)
        reported, self._is_reported = self._is_reported, True
        return None if reported else Event("interrupted", error=error)

    def _accept(self, message: Any) -> Event | None:
        kind = message.WhichOneof("event")
        event = self._event(kind, message)
        if kind == "commit" and message.commit.more:
            return None
        if kind != "opened":
            self._pauses, self._is_reported = None, False
        if not message.resume_token:
            raise self._violation("sent an event without a resume token")
        for start in ("after_seq", "after_time"):
            self._request.ClearField(start)
        self._request.resume_token = self._next_token = message.resume_token
        return event

    def _event(self, kind: str | None, message: Any) -> Event | None:
        if kind == "commit":
            whole = self._joiner.join(message.commit)
            return None if whole is None else self._commit(Commit._of(whole))
        if kind == "rows":
            # A batch without rows is a heartbeat.
            rows = tuple(Change._initial(message.rows.table, row) for row in message.rows.rows)
            return Event("rows", changes=rows) if rows else None
        if kind is None:
            # An event of an unknown kind, from a newer reader.
            return None
        header = self._header = Header._of(getattr(message, kind))
        self._session.saw(header)
        if kind == "opened":
            return self._opened(header)
        if kind == "rows_done":
            self._rows_pending = False
        if kind == "progress":
            self._delivered = max(self._delivered, header.read_seq)
            self._ended = self._is_complete()
        return Event(kind, header=header)

    def _opened(self, header: Header) -> Event:
        if self._answers is not None:
            self._answers.backend.set_healthy()
        self._start = self._start or header
        kind = "resumed" if self._was_open else "opened"
        self._is_open = self._was_open = True
        self._is_reported = False
        if not self._rows_pending:
            self._delivered = max(self._delivered, header.read_seq)
        return Event(kind, header=header)

    def _commit(self, commit: Commit) -> Event:
        if commit.seq <= self._last_commit:
            raise self._violation("sent a commit twice or out of order")
        self._last_commit, self._rows_pending = commit.seq, False
        self._delivered = max(self._delivered, commit.seq)
        if self._header is not None:
            # Whoever reads after a change must not get the state before it from another reader.
            self._session.saw(replace(self._header, read_seq=commit.seq))
        return Event("commit", changes=commit.changes, commit=commit)

    def _is_complete(self) -> bool:
        until: int = self._request.until_seq
        return 0 < until <= self._delivered

    def _violation(self, what: str) -> DriftError:
        address = self._answers.backend.address if self._answers is not None else "?"
        self.close()
        return DriftError(f"the reader at {address} {what}", code="INTERNAL")


def _is_retryable(error: DriftError) -> bool:
    return error.code == "UNAVAILABLE" or isinstance(error, Overloaded)


def _aside(reader: Any) -> bool:
    return bool(reader.is_aside())
