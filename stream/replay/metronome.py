"""When a heartbeat is due and what it promises, from event times alone.

A promise lies ``lateness_ms`` behind the newest event, rounded down to the end of a pane, so it never claims more than
the worker's watermark would, and what was promised before an event depends on the events before it and on its own
time, not on the speed: a paced replay only gives the same promises bit by bit while nobody says anything.
"""

from __future__ import annotations

from stream.settings import Settings


class Metronome:
    """The clock of a replay. ``clock`` is the newest event time that was sent or has passed in a silence."""

    def __init__(self, settings: Settings) -> None:
        self._pane, self._lateness = settings.pane_ms, settings.lateness_ms
        self._to_the_end = settings.session_gap_ms + settings.lateness_ms + settings.pane_ms
        self.clock = 0  # 0: nothing was sent yet
        self.promised = 0
        self._due = 0  # the clock at which the next promise is due

    def start(self, ts: int) -> int:
        """The promise before the first event, which is of ``ts``."""
        self.clock = ts
        return self._promise(ts - self._lateness)

    def advance(self, ts: int) -> int | None:
        """Event time comes to ``ts``; the promise to give before anything that happens then, if one is due."""
        self.clock = max(self.clock, ts)
        if self.clock < self._due:
            return None
        behind = self.clock - self._lateness
        return self._promise(behind - behind % self._pane)

    def end(self) -> int:
        """The promise that closes every window and session."""
        return self._promise(self.clock + self._to_the_end)

    def _promise(self, ts: int) -> int:
        self.promised = ts
        self._due = ts - ts % self._pane + self._pane + self._lateness
        return ts
