"""How calls reach a daemon: by threads that wait, or on an asyncio loop.

The code above is written once, as coroutines. Those of `BlockingTransport` never suspend, so `run` can drive everything that uses
them to its end without an event loop.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio

from ._messages import Method

T = TypeVar("T")
#: What is sent along with a call.
Metadata = tuple[tuple[str, str], ...]
# How often silent streams are looked for.
_LOOK = 0.25


class Silence(Exception):
    """A stream sent nothing for too long."""


class Ended(Exception):
    """A call was ended by `cancel` while its next message was waited for."""


class Stream(Protocol):
    """The answers of a call, one by one. Errors are `grpc.RpcError`, `Silence` or `Ended`."""

    async def read(self, limit: float | None = None) -> Any:
        """The next message; `None` at the end. `Silence` if none comes within `limit` seconds."""

    async def send(self, message: Any) -> None:
        """Sends a message, if the call takes many. `None` says that there are no more."""

    def cancel(self) -> None:
        """Ends the call."""


class Transport(Protocol):
    """Opens connections and makes calls."""

    def open(self, address: str, credentials: grpc.ChannelCredentials | None, options: list[tuple[str, Any]]) -> Any:
        """A connection, which is made when it is first needed."""

    async def unary(self, channel: Any, method: Method, request: Any, metadata: Metadata, limit: float | None) -> Any:
        """A call with one answer, which must come within `limit` seconds."""

    def stream(self, channel: Any, method: Method, request: Any, metadata: Metadata) -> Stream:
        """A call with many answers. Without a request it also takes many."""

    async def sleep(self, seconds: float) -> None:
        """Waits."""

    async def close(self, channel: Any) -> None:
        """Closes a connection and ends its calls."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Drives a coroutine on a `BlockingTransport` to its end."""
    try:
        work.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    work.close()
    raise RuntimeError("a blocking call was suspended")


class BlockingTransport:
    """Calls that block their thread."""

    def open(self, address: str, credentials: grpc.ChannelCredentials | None, options: list[tuple[str, Any]]) -> Any:
        if credentials is None:
            return grpc.insecure_channel(address, options)
        return grpc.secure_channel(address, credentials, options)

    async def unary(self, channel: Any, method: Method, request: Any, metadata: Metadata, limit: float | None) -> Any:
        call = channel.unary_unary(method.path, method.serialize, method.parse)
        return call(request, metadata=metadata, timeout=limit)

    def stream(self, channel: Any, method: Method, request: Any, metadata: Metadata) -> Stream:
        return _BlockingStream(channel, method, request, metadata)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def close(self, channel: Any) -> None:
        channel.close()


class _BlockingStream:
    def __init__(self, channel: Any, method: Method, request: Any, metadata: Metadata) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        if request is None:
            call = channel.stream_stream(method.path, method.serialize, method.parse)
            self._call = call(iter(self._requests.get, None), metadata=metadata)
        else:
            call = channel.unary_stream(method.path, method.serialize, method.parse)
            self._call = call(request, metadata=metadata)
        self._silent = False

    async def read(self, limit: float | None = None) -> Any:
        if limit is None:
            return next(self._call, None)
        with _WATCHDOG.guard(self, time.monotonic() + limit):
            try:
                return next(self._call, None)
            except grpc.RpcError as error:
                if self._silent:
                    raise Silence from error
                raise

    async def send(self, message: Any) -> None:
        self._requests.put(message)

    def cancel(self) -> None:
        self._requests.put(None)
        self._call.cancel()

    def end_for_silence(self) -> None:
        self._silent = True
        self._call.cancel()


class _Watchdog:
    """Ends streams that are silent for too long: a blocked thread cannot do that itself. One thread, which ends when no stream is read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deadlines: dict[_BlockingStream, float] = {}
        self._running = False

    def forget(self) -> None:
        """Starts anew in a process that was forked, which has the streams but not the thread."""
        self._lock, self._deadlines, self._running = threading.Lock(), {}, False

    def guard(self, stream: _BlockingStream, deadline: float) -> _Guard:
        return _Guard(self, stream, deadline)

    def begin(self, stream: _BlockingStream, deadline: float) -> None:
        with self._lock:
            self._deadlines[stream] = deadline
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="driftdb-watchdog", daemon=True).start()

    def end(self, stream: _BlockingStream) -> None:
        with self._lock:
            self._deadlines.pop(stream, None)

    def _run(self) -> None:
        idle = 0
        while True:
            time.sleep(_LOOK)
            now = time.monotonic()
            with self._lock:
                late = [stream for stream, deadline in self._deadlines.items() if deadline <= now]
                idle = 0 if self._deadlines else idle + 1
                if idle > 20:
                    self._running = False
                    return
            for stream in late:
                stream.end_for_silence()


class _Guard:
    def __init__(self, watchdog: _Watchdog, stream: _BlockingStream, deadline: float) -> None:
        self._watchdog, self._stream, self._deadline = watchdog, stream, deadline

    def __enter__(self) -> None:
        self._watchdog.begin(self._stream, self._deadline)

    def __exit__(self, *_: object) -> None:
        self._watchdog.end(self._stream)


_WATCHDOG = _Watchdog()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_WATCHDOG.forget)


class AsyncioTransport:
    """Calls on the running event loop."""

    def open(self, address: str, credentials: grpc.ChannelCredentials | None, options: list[tuple[str, Any]]) -> Any:
        if credentials is None:
            return grpc.aio.insecure_channel(address, options)
        return grpc.aio.secure_channel(address, credentials, options)

    async def unary(self, channel: Any, method: Method, request: Any, metadata: Metadata, limit: float | None) -> Any:
        call = channel.unary_unary(method.path, method.serialize, method.parse)
        return await call(request, metadata=metadata, timeout=limit)

    def stream(self, channel: Any, method: Method, request: Any, metadata: Metadata) -> Stream:
        return _AsyncioStream(channel, method, request, metadata)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self, channel: Any) -> None:
        await channel.close()


class _AsyncioStream:
    def __init__(self, channel: Any, method: Method, request: Any, metadata: Metadata) -> None:
        if request is None:
            self._call = channel.stream_stream(method.path, method.serialize, method.parse)(metadata=metadata)
        else:
            self._call = channel.unary_stream(method.path, method.serialize, method.parse)(request, metadata=metadata)
        self._reading: asyncio.Task[Any] | None = None

    async def read(self, limit: float | None = None) -> Any:
        # A read that is cancelled would cancel the call. So it is a task, which outlives a caller that stops waiting.
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read())
        reading = self._reading
        done, _ = await asyncio.wait([reading], timeout=limit)
        if not done:
            self.cancel()
            raise Silence
        self._reading = None
        if reading.cancelled():
            raise Ended
        return reading.result()

    async def _read(self) -> Any:
        message = await self._call.read()
        return None if message is grpc.aio.EOF else message

    async def send(self, message: Any) -> None:
        try:
            if message is None:
                await self._call.done_writing()
            else:
                await self._call.write(message)
        except asyncio.InvalidStateError:
            # The call has ended; the next answer says why.
            pass

    def cancel(self) -> None:
        self._call.cancel()
        if self._reading is not None:
            # Nobody waits for its error.
            self._reading.add_done_callback(lambda reading: reading.cancelled() or reading.exception())
            self._reading = None
