"""Tumbling panes: the buckets of event time that sliding windows are composed of.

A pane [start, start + length) is open until the watermark reaches its end; what comes later is refused, so a closed
pane never changes. Panes close in order. (Li et al., "No Pane, No Gain", SIGMOD Record 2005.)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
C = TypeVar("C")


class Panes(Generic[K, C]):
    """Open panes of cells by key. ``new_cell`` makes an empty cell; ``length`` is in milliseconds."""

    __slots__ = ("_new_cell", "closed_to", "length", "open")

    def __init__(self, length: int, new_cell: Callable[[], C]) -> None:
        self.length = length
        self._new_cell = new_cell
        self.open: dict[int, dict[K, C]] = {}
        self.closed_to = 0

    def start_of(self, ts: int) -> int:
        return ts - ts % self.length

    def cell(self, ts: int, key: K) -> C | None:
        """The cell of ``key`` in the pane of ``ts``; None when that pane is closed."""
        start = self.start_of(ts)
        if start < self.closed_to:
            return None
        pane = self.open.setdefault(start, {})
        cell = pane.get(key)
        if cell is None:
            cell = pane[key] = self._new_cell()
        return cell

    def close(self, watermark: int) -> Iterator[tuple[int, dict[K, C]]]:
        """Close the panes that end at or before ``watermark``, oldest first.

        Empty panes are left out, except the newest one: it tells how far time has come.
        """
        boundary = self.start_of(watermark)
        if boundary <= self.closed_to:
            return
        self.closed_to = boundary
        newest = boundary - self.length
        for start in sorted({newest, *(start for start in self.open if start < boundary)}):
            yield start, self.open.pop(start, {})
