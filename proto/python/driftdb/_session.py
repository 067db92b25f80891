"""The rules that all calls follow: where they go, what state reads include, and when a call is made again.

They are those of the Rust client: a write has a request id, so it can be sent again without being done twice; a read waits for
this client's own writes and, with several readers, for the newest state that it has seen.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ._address import Address, checked_token
from ._messages import v1
from ._pauses import TimeLimit
from ._pool import Answers, Backend, Lifetime, Pool, Secrets
from ._transport import Transport
from .errors import (
    ClientClosed,
    ClockJumped,
    ConnectionLost,
    DiskFull,
    DriftError,
    EpochChanged,
    OutcomeUnknown,
    Overloaded,
    ReplicaBehind,
    Standby,
    TlsFailed,
    Unreachable,
)
from .types import Header, Token

T = TypeVar("T")
#: What a state that reads must include is known by: epoch, incarnation, seq.
State = tuple[int, int, int]


class Session:
    """A database: its writers, its readers, and what this client knows of its history."""

    def __init__(self, address: Address, transport: Transport) -> None:
        self.address, self.transport = address, transport
        self._secrets, self._lifetime = Secrets(address.bearer()), Lifetime()
        self.writers = self._pool("writer", address.writers)
        self.readers = self._pool("reader", address.readers)
        self._lock = threading.Lock()
        self._written: State | None = None
        self._seen: State | None = None

    def _pool(self, what: str, addresses: tuple[str, ...]) -> Pool:
        return Pool(what, [self._backend(what, each) for each in addresses])

    def _backend(self, what: str, address: str) -> Backend:
        return Backend(what, address, self.transport, self.address, self._secrets, self._lifetime)

    def set_token(self, token: str | None) -> None:
        """Replaces the token, for calls from now on."""
        self._secrets.token = checked_token(token) if token else ""

    async def close(self) -> None:
        """Closes all connections, and ends what uses them."""
        self._lifetime.end()
        for backend in (*self.writers.all, *self.readers.all):
            await backend.close()

    def limit(self, timeout: float | None) -> TimeLimit:
        """How long a call waits that begins now."""
        return TimeLimit(self.address.timeout if timeout is None else timeout)

    # What reads include.

    def include(self, token: Token) -> None:
        """Makes reads include a commit, which may have been made elsewhere."""
        state = (token.epoch, token.incarnation, token.seq)
        with self._lock:
            # After a restore, seqs start again: a token with another epoch is always newer.
            if self._written is None or self._written[0] != state[0] or self._written[2] < state[2]:
                self._written = state

    def forget(self) -> None:
        """Forgets what was written and read, after a restore."""
        with self._lock:
            self._written = self._seen = None

    def read_at(self, message: Any) -> Header:
        """The state of an answer, which is noted."""
        header = Header._of(message)
        self.saw(header)
        return header

    def saw(self, header: Header) -> None:
        """Notes a state that was read, so that no other reader returns an older one. A single reader never goes back."""
        if len(self.readers.all) < 2:
            return
        with self._lock:
            if self._seen is None or self._seen[0] != header.epoch or self._seen[2] < header.read_seq:
                self._seen = (header.epoch, header.incarnation, header.read_seq)

    def freshness(self, at_least: Header | None = None) -> Any:
        """How fresh a read must be, also after an answer that it continues; `None` if any state will do."""
        with self._lock:
            written, seen = self._written, self._seen
        state = None
        if not self.address.stale:
            is_seen_newer = written and seen and written[0] == seen[0] and seen[2] > written[2]
            state = seen if is_seen_newer or written is None else written
        if at_least is not None and len(self.readers.all) > 1:
            if state is None or state[2] <= at_least.read_seq:
                state = (at_least.epoch, at_least.incarnation, at_least.read_seq)
        if state is None:
            return None
        return v1.Freshness(epoch=state[0], incarnation=state[1], min_seq=state[2])

    def _history_changed(self) -> None:
        with self._lock:
            # Keep the last write, unless its incarnation proves that it is lost: else only the writer can tell.
            self._seen = None
            if self._written is not None and self._written[1] != 0:
                self._written = None

    # Reads.

    async def read(self, call: Callable[[Backend], Awaitable[T]], limit: TimeLimit) -> T:
        """Asks the readers in turn until one answers that is reachable and fresh enough, or the time is over."""
        failed: DriftError | None = None
        # A broken connection may be an old one, to a reader that was restarted since: try again once.
        for _ in range(2):
            # What the second round finds counts more, unless a reader was only behind.
            failed = failed if isinstance(failed, ReplicaBehind) else None
            broken = False
            for backend in self.readers.round():
                try:
                    answer = await call(backend)
                except DriftError as error:
                    if isinstance(error, EpochChanged):
                        self._history_changed()
                    is_late = limit.is_over()
                    if error.code == "UNAVAILABLE" or is_late:
                        backend.set_aside()
                    if error.code != "UNAVAILABLE" or is_late:
                        raise
                    broken |= isinstance(error, ConnectionLost)
                    # That a reader is behind says more than that one cannot be reached.
                    failed = error if failed is None or isinstance(error, ReplicaBehind) else failed
                else:
                    backend.set_healthy()
                    return answer
            if not broken:
                break
        raise failed or ConnectionLost("no reader answered")

    async def open(self, name: str, request: Any, limit: TimeLimit) -> tuple[Any, Answers]:
        """The first message of an answer of many, and the rest. If a reader fails before it, the next one is asked."""

        async def begin(backend: Backend) -> tuple[Any, Answers]:
            answers = backend.stream(name, request, limit)
            try:
                return await answers.read(), answers
            except DriftError:
                answers.cancel()
                raise

        first, answers = await self.read(begin, limit)
        if first is not None and first.HasField("header"):
            self.saw(Header._of(first.header))
        return first, answers

    # Writes.

    def options(self, reason: str = "", actor: str = "", request_id: str = "", timeout: float | None = None) -> Any:
        """The options of a commit, with a request id in any case. The `timeout` is the client's, and not sent."""
        return v1.CommitOptions(request_id=request_id or str(uuid.uuid4()), reason=reason, actor=actor)

    def committed(self, message: Any) -> Token:
        """The token of an answer, which reads from now on include."""
        token = Token._of(message)
        self.include(token)
        return token

    async def write(
        self, call: Callable[[Backend], Awaitable[T]], limit: TimeLimit, is_safe: Callable[[], bool] = lambda: True
    ) -> T:
        """Sends a write until it succeeds, is refused, or its time or the retry timeout is over. `is_safe`: whether it has a request id
        that counts, so that it can be sent again if its answer is lost."""
        pauses, unknown, tries = limit.pauses(self.address.retry_timeout), None, 0
        while True:
            index, backend = self.writers.in_turn()
            tries += 1
            try:
                return await call(backend)
            except DriftError as error:
                failed, writers = error, len(self.writers.all)
            round_done = tries % writers == 0
            if isinstance(failed, ClientClosed):
                raise unknown or failed
            if isinstance(failed, (Unreachable, Standby)):
                # Nothing was done. Try the other writers at once; wait only after all of them.
                self.writers.pass_over(index)
                pause = pauses.next() if round_done else 0.0
            elif isinstance(failed, TlsFailed):
                self.writers.pass_over(index)
                pause = None if round_done else 0.0
            elif isinstance(failed, Overloaded):
                pause = pauses.next(failed.retry_after or 0.0)
            elif _is_lost(failed) and is_safe():
                self.writers.pass_over(index)
                unknown, pause = failed, pauses.next()
            else:
                # Also the result of earlier tries: the request id makes them one write.
                raise failed
            if pause is None or not pauses.allows(pause):
                # That a try may have been executed matters more than the last error.
                raise unknown or failed
            await self.transport.sleep(pause)


def _is_lost(error: DriftError) -> bool:
    """Whether the write may have been done, or would be done by another try."""
    if isinstance(error, (DiskFull, ClockJumped)):
        # A full disk stays full for longer than a call lasts, and a clock is not set right by itself.
        return False
    return isinstance(error, OutcomeUnknown) or error.code in ("UNAVAILABLE", "UNKNOWN")
