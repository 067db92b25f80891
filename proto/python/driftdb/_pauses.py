"""The pauses between retries: exponential with jitter, so that clients that failed together do not retry together."""

from __future__ import annotations

import random
import time

_SHORTEST, _LONGEST = 0.01, 1.0


class Pauses:
    """The pauses of one call, up to its retry timeout; `None` for no limit."""

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
