"""How long a call waits: for an answer, and between retries."""

from __future__ import annotations

import random
import time

from .errors import ArgumentInvalid

_SHORTEST, _LONGEST = 0.01, 1.0
# A longer time limit is none: 12 days.
_LIMIT_MAX = 1e6


class TimeLimit:
    """How long a call waits: up to a deadline for its first answer, retries included, and then as long for each further one."""

    def __init__(self, seconds: float) -> None:
        self.each = None if checked_timeout(seconds) > _LIMIT_MAX else seconds
        self._deadline = None if self.each is None else time.monotonic() + self.each

    def remaining(self) -> float | None:
        """The seconds up to the deadline; `None` for no limit."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def is_over(self) -> bool:
        """Whether the deadline has passed."""
        return self.remaining() == 0.0

    def pauses(self, retry_timeout: float) -> Pauses:
        """Pauses that end with the deadline."""
        remaining = self.remaining()
        return Pauses(retry_timeout if remaining is None else min(retry_timeout, remaining))


def checked_timeout(seconds: float) -> float:
    """A time limit. `ArgumentInvalid` if no call could keep it."""
    if not seconds > 0:
        raise ArgumentInvalid(f"timeout must be a number of seconds above 0; got {seconds!r}")
    return seconds


class Pauses:
    """The pauses of one call, up to its retry timeout; `None` for no limit. They grow exponentially with jitter, so that clients that
    failed together do not retry together."""

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout
        self._next = _SHORTEST

    def next(self, asked: float = 0.0) -> float | None:
        """The next pause, at least as long as the daemon asked for; `None` if it would exceed the timeout."""
        pause = max(self._next * random.uniform(1, 2), asked)
        self._next = min(self._next * 2, _LONGEST)
        return pause if self.allows(pause) else None

    def allows(self, pause: float) -> bool:
        """Whether a pause ends within the timeout."""
        return self._end is None or time.monotonic() + pause <= self._end
