"""A circuit breaker: after a row of failures, stop knocking for a while, then let one caller try.

Closed, it lets every call through. After ``failures`` failures in a row it opens: calls fail at once. When the pause is
over it is half open: one call is the probe, the others still fail at once. A good probe closes it, a bad one opens it
for twice as long. The clock is passed in, so tests need no waiting.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from serving.errors import ScorerUnavailable, ScoringError

LONGEST_PAUSE: Final = 10.0


class Breaker:
    """Put ``with breaker.guard():`` around each call; only errors worth another try count as failures."""

    def __init__(self, failures: int = 5, pause: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowed, self._first_pause, self._clock = failures, pause, clock
        self._failed = 0
        self._pause = pause
        self._tries_at = 0.0
        self._probing = False

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        if self._failed < self._allowed:
            return "closed"
        return "open" if self._clock() < self._tries_at else "half-open"

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Lets the body run, or raises :class:`ScorerUnavailable` at once; learns from how the body ends."""
        state = self.state
        if state == "open" or self._probing:
            wait = max(self._tries_at - self._clock(), 0.1)
            raise ScorerUnavailable(f"Triton failed {self._failed} times in a row; next try in {wait:.1f} s.", wait)
        probe = self._probing = state == "half-open"
        try:
            yield
        except ScoringError as error:
            if error.again:
                self._count_failure(probe)
            raise
        else:
            self._failed, self._pause = 0, self._first_pause
        finally:
            if probe:
                self._probing = False

    def _count_failure(self, probe: bool) -> None:
        self._failed += 1
        if probe:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        if probe or self._failed == self._allowed:
            self._tries_at = self._clock() + self._pause
