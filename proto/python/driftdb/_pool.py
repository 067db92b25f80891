"""Interchangeable daemons, and calls to each of them."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from ._address import Address, is_safe
from ._messages import METHODS
from ._pauses import TimeLimit
from ._status import error_of, late
from ._transport import Ended, Metadata, Silence, Stream, Transport
from .errors import ArgumentInvalid, ClientClosed, ConnectionLost, DriftError, OutcomeUnknown, TlsFailed, Unreachable

# How long a daemon that failed or was behind is used only after the others.
_ASIDE = 5.0
_OPTIONS: list[tuple[str, Any]] = [
    # A connection with open calls that is silent for this long gets a ping, and is broken if that is not answered in time.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # How long connecting may take, and the pauses after it failed.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    # The limit of the daemons.
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    # A token for this machine must not pass through a proxy, and daemons are not behind one.
    ("grpc.enable_http_proxy", 0),
    # A connection is not shared with other clients of the process, which may have other keepalive.
    ("grpc.use_local_subchannel_pool", 1),
]


class Secrets:
    """The token of a client, which can be replaced while the client is in use."""

    def __init__(self, token: str) -> None:
        self.token = token

    def metadata(self, address: str, tls: bool) -> Metadata:
        """What is sent along with a call. `ArgumentInvalid` if others could read the token on its way."""
        if not self.token:
            return ()
        if not is_safe(address, tls):
            raise ArgumentInvalid(
                f"the token was not sent to {address}: the connection is not encrypted, and leaves this machine; use driftdbs://"
            )
        return (("authorization", f"Bearer {self.token}"),)


class Lifetime:
    """Whether a client is in use: what it has under way, and that it was closed."""

    def __init__(self) -> None:
        self.closed = False
        self._lock = threading.Lock()
        self._streams: weakref.WeakSet[Answers] = weakref.WeakSet()

    def begin(self, answers: Answers) -> None:
        """A stream is open. If the client was closed meanwhile, it ends at once."""
        with self._lock:
            closed = self.closed
            if not closed:
                self._streams.add(answers)
        if closed:
            answers.cancel()
            raise self.error()

    def check(self) -> None:
        """`ClientClosed` if nothing may be sent any more."""
        if self.closed:
            raise self.error()

    def error(self, writes: bool = False) -> DriftError:
        """What a call says that the end of the client has cut off."""
        if writes:
            return OutcomeUnknown("the client was closed before the answer, so the outcome of the write is unknown")
        return ClientClosed("the client was closed")

    def end(self) -> None:
        """Ends all streams."""
        with self._lock:
            self.closed = True
            streams = list(self._streams)
        for answers in streams:
            answers.cancel()


class Backend:
    """A daemon: its address, and a connection that is opened when it is first needed."""

    def __init__(
        self, what: str, address: str, transport: Transport, settings: Address, secrets: Secrets, lifetime: Lifetime
    ) -> None:
        self.what, self.address, self.lifetime = what, address, lifetime
        self._transport, self._settings, self._secrets = transport, settings, secrets
        self._lock = threading.Lock()
        self._channel: Any = None
        self._aside = 0.0

    async def unary(self, name: str, request: Any, limit: TimeLimit, writes: bool = False) -> Any:
        """A call with one answer. `writes`: if the answer is lost, something may have been done."""
        metadata = self._secrets.metadata(self.address, self._settings.tls)
        try:
            return await self._transport.unary(self._connection(), METHODS[name], request, metadata, limit.remaining())
        except grpc.RpcError as error:
            failure = self._failure(error, writes)
            if isinstance(failure, ConnectionLost) and limit.is_over():
                # The daemon has ended it a moment earlier.
                failure = late(self.what, self.address, writes)
            raise failure from None
        except asyncio.CancelledError:
            # The end of the connection cancels its calls, and nobody has cancelled this task.
            if not self.lifetime.closed or _is_cancelled():
                raise
            raise self.lifetime.error(writes) from None

    def stream(self, name: str, request: Any, limit: TimeLimit | None, writes: bool = False) -> Answers:
        """A call with many answers. Without a request it also takes many."""
        metadata = self._secrets.metadata(self.address, self._settings.tls)
        opened = self._transport.stream(self._connection(), METHODS[name], request, metadata)
        # A call that takes many is sent at the pace of its caller: each answer of it has the whole time.
        answers = Answers(self, opened, writes, limit, begun=request is None)
        self.lifetime.begin(answers)
        return answers

    async def close(self) -> None:
        """Closes the connection."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await self._transport.close(channel)

    def set_aside(self) -> None:
        """Notes that the daemon failed or is behind, so that others are preferred for some seconds."""
        self._aside = time.monotonic() + _ASIDE

    def set_healthy(self) -> None:
        """Notes that the daemon answered."""
        self._aside = 0.0

    def is_aside(self) -> bool:
        """Whether others are preferred."""
        return time.monotonic() < self._aside

    def _failure(self, error: Any, writes: bool) -> Exception:
        if self.lifetime.closed and error.code() is grpc.StatusCode.CANCELLED:
            return self.lifetime.error(writes)
        failure = error_of(error, self.what, self.address, writes)
        if isinstance(failure, (TlsFailed, Unreachable)):
            # The library would wait for a while before it tries again, and fail all calls meanwhile. A new connection is tried at
            # once, and reads the files again: the certificate may have been renewed. Calls on the old one keep it.
            self._channel = None
        return failure

    def _connection(self) -> Any:
        with self._lock:
            self.lifetime.check()
            if self._channel is None:
                settings = self._settings
                options = list(_OPTIONS)
                if settings.server_name:
                    options.append(("grpc.ssl_target_name_override", settings.server_name))
                self._channel = self._transport.open(self.address, _credentials(settings), options)
            return self._channel


class Answers:
    """The answers of one call, with errors as exceptions of this package."""

    def __init__(self, backend: Backend, stream: Stream, writes: bool, limit: TimeLimit | None, begun: bool) -> None:
        self.backend = backend
        self._stream, self._writes, self._limit = stream, writes, limit
        self._begun = begun

    async def read(self, silence: float | None = None) -> Any:
        """The next message; `None` at the end. If none comes in the time that the call has, the error is that of `late`; if none comes
        within `silence` seconds, it is `ConnectionLost`."""
        backend, limit = self.backend, self._limit
        if limit is not None:
            silence = limit.each if self._begun else limit.remaining()
        try:
            message = await self._stream.read(silence)
        except Silence:
            if limit is not None:
                raise late(backend.what, backend.address, self._writes) from None
            raise ConnectionLost(f"the {backend.what} at {backend.address} has not responded for {silence} s") from None
        except Ended:
            self.backend.lifetime.check()
            raise ConnectionLost("the call was ended by this program") from None
        except grpc.RpcError as error:
            raise self.backend._failure(error, self._writes) from None
        self._begun = True
        return message

    async def send(self, message: Any) -> None:
        """Sends a message, if the call takes many. `None` says that there are no more."""
        try:
            await self._stream.send(message)
        except grpc.RpcError as error:
            raise self.backend._failure(error, self._writes) from None

    def cancel(self) -> None:
        """Ends the call."""
        self._stream.cancel()


class Pool:
    """Interchangeable daemons. Never empty when it is used."""

    def __init__(self, what: str, backends: list[Backend]) -> None:
        self.what, self.all = what, backends
        self._first = 0

    def in_turn(self) -> tuple[int, Backend]:
        """The daemon to use first."""
        if not self.all:
            raise ArgumentInvalid(f"the address names no {self.what}; for example driftdb://writer:7401,reader:7402")
        index = self._first % len(self.all)
        return index, self.all[index]

    def pass_over(self, index: int) -> None:
        """Makes the next daemon the first one, unless another call has already chosen one."""
        if self._first % len(self.all) == index:
            self._first = index + 1

    def round(self) -> Iterator[Backend]:
        """All daemons, starting with the next one in turn; those set aside come last."""
        first, _ = self.in_turn()
        self._first = first + 1
        turned = self.all[first:] + self.all[:first]
        return iter(sorted(turned, key=Backend.is_aside))


def _is_cancelled() -> bool:
    """Whether somebody cancels the running task."""
    task = asyncio.current_task()
    # Before Python 3.11 a task does not tell.
    cancelling = getattr(task, "cancelling", None)
    return bool(cancelling and cancelling())


def _credentials(settings: Address) -> grpc.ChannelCredentials | None:
    if not settings.tls:
        return None
    ca, key, cert = (_pem(path) for path in (settings.ca, settings.key, settings.cert))
    return grpc.ssl_channel_credentials(ca, key, cert)


def _pem(path: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise TlsFailed(f"cannot read {path!r}: {error.strerror}") from error
