"""Loads: many commits over one stream, with several batches on their way at a time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from ._documents import document_to_wire
from ._messages import v1
from ._pauses import Pauses, TimeLimit
from ._pool import Answers
from ._session import Session
from .errors import ArgumentInvalid, DriftError, OutcomeUnknown, Standby, TlsFailed, Unreachable
from .types import Ingested, Refused, Token

# The batches on their way, and the most operations of one.
_WINDOW, _BATCH_MAX = 8, 10_000


def batches_of(table: str, rows: Iterable[Mapping[str, Any]], action: str, size: int) -> Iterator[list[Any]]:
    """Batches of operations that write rows."""
    if action not in ("insert", "put"):
        raise ArgumentInvalid(f"an ingest inserts or puts rows; got {action!r}")
    if not 1 <= size <= _BATCH_MAX:
        raise ArgumentInvalid(f"a batch has 1 to {_BATCH_MAX} rows; got {size}")
    operations = (v1.Operation(table=table, **{action: document_to_wire(row)}) for row in rows)
    while batch := list(islice(operations, size)):
        yield batch


class Ingest:
    """A stream of batches. With a producer it resumes by itself if a connection breaks, and a batch is never applied twice."""

    def __init__(self, session: Session, batches: Iterator[list[Any]], producer: str, size: int, atomic: bool, timeout: float | None) -> None:
        self._session, self._batches = session, batches
        # A wrong one is refused here.
        self._timeout = session.limit(timeout).each or math.inf
        self._producer, self._size, self._atomic = producer, size, atomic
        # Batches that are sent, or to be sent again, and not acknowledged.
        self._waiting: deque[tuple[int, list[Any]]] = deque()
        self._next = 1
        self._done = False
        self._operations = self._skipped = 0
        self._token: Token | None = None
        self._refused: dict[tuple[int, int], Refused] = {}
        self._keys: list[str] = []

    async def run(self) -> Ingested:
        """Sends everything, and waits until it is on disk."""
        pauses = Pauses(self._session.address.retry_timeout)
        while not self._done:
            index, writer = self._session.writers.in_turn()
            limit, before = TimeLimit(self._timeout), self._next - len(self._waiting)
            answers = writer.stream("WriterService/Ingest", None, limit, writes=True)
            try:
                await self._send_all(answers)
            except DriftError as error:
                if error.code not in ("UNAVAILABLE", "UNKNOWN", "RESOURCE_EXHAUSTED"):
                    raise
                if isinstance(error, TlsFailed) and not self._producer:
                    raise
                if not self._producer and self._waiting and not isinstance(error, (Standby, Unreachable)):
                    raise OutcomeUnknown(f"the load was cut off, and cannot be resumed without a producer: {error}") from error
                if self._next - len(self._waiting) > before:
                    pauses = Pauses(self._session.address.retry_timeout)
                pause = pauses.next(error.retry_after or 0.0)
                if pause is None:
                    raise
                self._session.writers.pass_over(index)
                await self._session.transport.sleep(pause)
        if self._token is not None:
            self._session.include(self._token)
        refused = tuple(self._refused[place] for place in sorted(self._refused))
        return Ingested(self._operations, self._token, refused, tuple(self._keys), self._skipped)

    async def _send_all(self, answers: Answers) -> None:
        try:
            await self._send_batches(answers)
            self._done = True
            await answers.send(None)
        finally:
            # Also if the source of the rows fails, or the caller is cancelled: else the stream and its thread would stay.
            answers.cancel()

    async def _send_batches(self, answers: Answers) -> None:
        if self._producer:
            await answers.send(v1.IngestRequest(producer_id=self._producer))
            self._acknowledge(await self._answer(answers))
        for number, batch in self._waiting:
            await self._send(answers, number, batch)
        for batch in self._batches:
            self._waiting.append((self._next, batch))
            self._operations += len(batch)
            self._next += 1
            await self._send(answers, *self._waiting[-1])
            while len(self._waiting) >= _WINDOW:
                self._acknowledge(await self._answer(answers))
        while self._waiting:
            self._acknowledge(await self._answer(answers))

    async def _send(self, answers: Answers, number: int, batch: list[Any]) -> None:
        await answers.send(v1.IngestRequest(batch_id=number, operations=batch, atomic=self._atomic))

    async def _answer(self, answers: Answers) -> Any:
        answer = await answers.read()
        if answer is None:
            raise OutcomeUnknown("the writer ended the stream before it acknowledged every batch")
        return answer

    def _acknowledge(self, answer: Any) -> None:
        """Notes what is on disk. A producer that was used before has batches that are passed over: they are on disk already."""
        durable = answer.durable_batch_id
        while self._waiting and self._waiting[0][0] <= durable:
            self._waiting.popleft()
        while self._next <= durable:
            batch = next(self._batches, None)
            if batch is None:
                break
            self._operations += len(batch)
            self._skipped += len(batch)
            self._next += 1
        if answer.HasField("token"):
            self._token = Token._of(answer.token)
        for error in answer.errors:
            position = (error.batch_id - 1) * self._size + error.index
            self._refused[error.batch_id, error.index] = Refused(position, error.code, error.reason, error.message)
        self._keys += [made.key for made in answer.made_keys]
