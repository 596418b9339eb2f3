"""Rows by the hash of their key: a hash table in two numpy columns, looked up a block at a time.

A dictionary of Python strings costs some 150 bytes a key; this takes 16 to 24, and the key itself stays with its owner,
or nowhere. Keys are known by 64 bits of a hash alone (Python's own, keyed by a secret of the process): among a million
keys, a new one is taken for another once in 10^13.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.windows.behaviour import NONE, Ints, Longs, grown

GONE: Final = -2  # a slot that a removed row leaves: those behind it are still found


class Index:
    """Open addressing with linear probing (Knuth, The Art of Computer Programming 3, 6.4), at most half full."""

    def __init__(self) -> None:
        self._slots: Ints = np.full(64, NONE, np.int32)
        self._used = self._size = 0  # slots that are not NONE; rows
        self._hash: Longs = np.zeros(64, np.int64)  # by row

    def __len__(self) -> int:
        return self._size

    def rows(self) -> Longs:
        """All rows, in no order that means anything."""
        return self._slots[self._slots >= 0].astype(np.int64)

    def find(self, hashes: Longs) -> Longs:
        """The row of each hash, :data:`NONE` where there is none."""
        return self._slots[self._probe(hashes)].astype(np.int64)

    def put(self, hashes: Longs, rows: Longs) -> None:
        """Each hash leads to its row from now on; of equal ones the last counts."""
        last = len(hashes) - 1 - np.unique(hashes[::-1], return_index=True)[1]
        hashes, rows = hashes[last], rows[last]
        if 2 * (self._used + len(rows)) > len(self._slots):
            self._rebuild(len(rows))
        if len(rows) and rows.max() >= len(self._hash):
            self._hash = grown(self._hash, int(rows.max()) + 1)
        self._hash[rows] = hashes
        before = self._slots[self._probe(hashes)]
        while len(rows):
            at = self._probe(self._hash[rows])
            self._slots[at] = rows
            rows = rows[self._slots[at] != rows]  # of several for one free slot one has got it
        self._size += int((before == NONE).sum())
        self._used += int((before == NONE).sum())

    def remove(self, rows: Longs) -> None:
        """Forget rows; those whose hash leads elsewhere by now are none."""
        at = self._probe(self._hash[rows])
        at = at[self._slots[at] == rows]
        self._slots[at] = GONE
        self._size -= len(at)

    def _probe(self, hashes: Longs) -> Longs:
        """The slot of each hash: where it is or, if it is not there, the free one where it would be."""
        mask = len(self._slots) - 1
        at = hashes & mask
        todo = np.arange(len(at))
        while len(todo):
            row = self._slots[at[todo]]
            other: npt.NDArray[Any] = (row == GONE) | ((row != NONE) & (self._hash[row] != hashes[todo]))
            todo = todo[other]
            at[todo] = (at[todo] + 1) & mask
        return at

    def _rebuild(self, more: int) -> None:
        rows = self.rows()
        size = 64
        while size < 3 * (len(rows) + more):
            size *= 2
        self._slots = np.full(size, NONE, np.int32)
        self._used = self._size = 0
        self.put(self._hash[rows], rows)
