"""How far event time has come, in one partition and across many.

A watermark W promises that events before W are complete. Within a partition it trails the newest timestamp by the
allowed lateness and it depends on the order of the records alone, never on where a block ends; across partitions it
is the minimum (Akidau et al., "The Dataflow Model", VLDB 2015).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.events import Heartbeat

BEGINNING: Final = 0


class Watermark:
    """The clock of one partition. ``value`` is in epoch milliseconds; :data:`BEGINNING` before the first record."""

    __slots__ = ("lateness", "newest", "replay")

    def __init__(self, lateness: int) -> None:
        self.lateness = lateness
        self.newest = BEGINNING
        self.replay = False

    @property
    def value(self) -> int:
        return max(self.newest - self.lateness, BEGINNING)

    def observe(self, events: Sequence[Any]) -> list[bool]:
        """Advance over ``events`` in order; True for each that was late, that is behind the watermark before it."""
        ts = np.fromiter((event.ts for event in events), np.int64, len(events))
        places = [i for i, event in enumerate(events) if type(event) is Heartbeat]
        beats = [(place - n, events[place]) for n, place in enumerate(places)]
        late = np.zeros(len(events), np.bool_)
        spoken = np.delete(np.arange(len(events)), places)
        late[spoken] = ts[spoken] < self.advance(ts[spoken], beats)
        return [bool(each) for each in late]

    def advance(self, ts: npt.NDArray[np.int64], beats: Sequence[tuple[int, Heartbeat]]) -> npt.NDArray[np.int64]:
        """Advance over the times of events in order, with each heartbeat before the event of its number.

        Gives the watermark before each event; an event earlier than that is late.
        """
        if beats:
            ts = np.insert(ts, [place for place, _ in beats], [beat.ts + self.lateness for _, beat in beats])
            self.replay = beats[-1][1].replay
        newest = np.maximum.accumulate(np.concatenate(([self.newest], ts)))
        self.newest = int(newest[-1])
        before = np.maximum(newest[:-1] - self.lateness, BEGINNING)
        return np.delete(before, [place + n for n, (place, _) in enumerate(beats)]) if beats else before

    def run_on(self, milliseconds: int) -> None:
        """Let a silent partition's clock run on."""
        self.newest += milliseconds

    def dump(self) -> list[Any]:
        return [self.newest, self.replay]

    def load(self, state: Sequence[Any]) -> None:
        self.newest, self.replay = state


class MinWatermark:
    """The joint clock of several sources, each of which reports its own.

    A source that has not reported yet holds the clock. An idle source (a silent live partition) does not, unless some
    source is replaying: then nobody may be left behind. When all are idle the clock follows the furthest of them.
    """

    __slots__ = ("_sources", "value")

    def __init__(self, sources: Iterable[str]) -> None:
        self._sources: dict[str, tuple[int, bool, bool] | None] = dict.fromkeys(sources)
        self.value = BEGINNING

    def report(self, source: str, ts: int, idle: bool, replay: bool) -> int:
        """Take a source's watermark; gives the joint one, which never goes back."""
        last = self._sources.get(source)
        self._sources[source] = (max(ts, last[0] if last else BEGINNING), idle, replay)
        self.value = max(self.value, self._minimum())
        return self.value

    def _minimum(self) -> int:
        reports = list(self._sources.values())
        if any(report is None for report in reports):
            return BEGINNING
        known = [report for report in reports if report is not None]
        if any(replay for _, _, replay in known):
            return min(ts for ts, _, _ in known)
        busy = [ts for ts, idle, _ in known if not idle]
        return min(busy) if busy else max(ts for ts, _, _ in known)

    def dump(self) -> list[Any]:
        return [self.value, self._sources]

    def load(self, state: Sequence[Any]) -> None:
        self.value = state[0]
        self._sources.update({name: tuple(report) if report else None for name, report in state[1].items()})
