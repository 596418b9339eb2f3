"""Which events of a pane were counted, for as long as a late one may still correct it.

A late event may be new or a second delivery (a producer that tries again after a minute). Each pane keeps a 32-bit
checksum of the id of every event in it: four bytes an event, and one late event in a thousand million per counted event
is taken for a second delivery by mistake. At most :data:`MOST` are kept; the oldest panes go first and can then not be
corrected any more.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

import numpy as np
import numpy.typing as npt

from stream.checkpoint import Changes, Segments, in_order, pack, unpack

MOST: Final = 4_000_000


class Counted:
    """Checksums by pane, in pieces."""

    def __init__(self, pane_ms: int) -> None:
        self.forgotten = 0  # panes that begin before this are not known any more
        self._pane_ms = pane_ms
        self._pieces: dict[int, list[npt.NDArray[np.uint32]]] = {}
        self._saved: dict[int, int] = {}  # pieces that a dump has given
        self._next: dict[int, int] = {}  # segments of a pane
        self._size = 0
        self._dropped: dict[str, bytes | None] = {}

    def add(self, ts: npt.NDArray[np.int64], sums: npt.NDArray[np.uint32]) -> None:
        """Events in the order of their time, by the checksums of their ids."""
        starts = ts - ts % self._pane_ms
        cuts = np.flatnonzero(np.diff(starts)) + 1
        for first, piece in zip(np.append(0, cuts), np.split(sums, cuts), strict=True):
            self._pieces.setdefault(int(starts[first]), []).append(piece)
        self._size += len(sums)

    def seen(self, ts: int, event_id: str) -> bool | None:
        """Whether an event was counted; None when nobody knows any more. One that was not is from now on."""
        start = ts - ts % self._pane_ms
        if start < self.forgotten:
            return None
        pieces = self._pieces.get(start)
        checksum = np.uint32(crc32(event_id.encode()))
        if any((piece == checksum).any() for piece in pieces or ()):
            return True
        self._pieces.setdefault(start, []).append(np.array([checksum], np.uint32))
        self._size += 1
        return False

    def forget(self, before: int) -> None:
        """Panes that began before ``before`` can no longer be corrected."""
        self.forgotten = max(self.forgotten, before)
        for start in sorted(self._pieces):
            if start >= before and self._size <= MOST:
                break
            self.forgotten = max(self.forgotten, start + self._pane_ms)
            self._size -= sum(map(len, self._pieces.pop(start)))
            self._saved.pop(start, None)
            self._dropped |= {f"counted/{start}/{number}": None for number in range(self._next.pop(start, 0))}

    def dump(self) -> Changes:
        changes, self._dropped = self._dropped, {}
        for start, pieces in self._pieces.items():
            new = pieces[self._saved.get(start, 0) :]
            if new:
                number = self._next.get(start, 0)
                changes[f"counted/{start}/{number}"] = pack(None, [np.concatenate(new)])
                self._saved[start], self._next[start] = len(pieces), number + 1
        return changes

    def load(self, segments: Segments) -> None:
        for start, number, data in in_order(segments, "counted/"):
            _, (piece,) = unpack(data)
            pieces = self._pieces.setdefault(int(start), [])
            pieces.append(piece)
            self._saved[int(start)], self._next[int(start)] = len(pieces), number + 1
            self._size += len(piece)
