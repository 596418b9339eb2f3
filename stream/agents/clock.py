"""The watermark of a source lane and its reports to the fusion lanes.

A report goes to every partition of the topics that join the source (:data:`READERS`) whenever the lane's clock crosses
the end of a pane, falls silent or comes back. Because a lane's own messages precede the report in each partition, a
lane that has seen the report has seen all the messages before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.events import Heartbeat
from stream.lanes import Effects
from stream.settings import Settings
from stream.windows.watermark import BEGINNING, Watermark

#: The topics whose lanes wait for the clock of a source: chats are joined with clicks, everything is fused.
READERS: Final = {"reviews": ("signals",), "chats": ("signals", "said"), "clicks": ("signals",)}


class SourceClock:
    """Watermark of ``source`` (such as ``reviews/0``), reported at pane boundaries."""

    def __init__(self, source: str, settings: Settings) -> None:
        self.source = source
        self._readers = READERS[source.partition("/")[0]]
        self.watermark = Watermark(settings.lateness_ms)
        self._pane = settings.pane_ms
        self._partitions = settings.partitions
        self._idle_after = settings.idle_seconds
        self._reported: list[Any] = []

    def observe(self, events: Sequence[Any]) -> list[bool]:
        return self.watermark.observe(events)

    def advance(self, ts: npt.NDArray[np.int64], beats: Sequence[tuple[int, Heartbeat]]) -> npt.NDArray[np.int64]:
        return self.watermark.advance(ts, beats)

    def report(self, effects: Effects, idle: bool = False) -> None:
        """Add the reports that are due to ``effects``."""
        mark = self.watermark
        state = [mark.value - mark.value % self._pane, idle, mark.replay]
        if state == self._reported:
            return
        self._reported = state
        message = {"kind": "watermark", "source": self.source, "ts": state[0], "idle": idle, "replay": mark.replay}
        effects.messages.extend(
            (topic, None, message, partition) for topic in self._readers for partition in range(self._partitions)
        )

    def run_on(self, silent_seconds: float, elapsed_seconds: float) -> bool:
        """Let the clock run on if the partition is live and silent; True if it is."""
        if self.watermark.replay or not self._idle_after or silent_seconds < self._idle_after:
            return False
        if self.watermark.newest != BEGINNING:
            self.watermark.run_on(int(elapsed_seconds * 1000))
        return True

    def dump(self) -> list[Any]:
        return [self.watermark.dump(), self._reported]

    def load(self, state: Sequence[Any]) -> None:
        self.watermark.load(state[0])
        self._reported = state[1]
