"""The state of many series as one matrix: a row per number, a column per series.

A step over all series reads and writes whole rows, which lie together in memory; a column is all there is to save of a
series. What is not in the matrix is not remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Matrix:
    """Named rows of one matrix of 64-bit floats."""

    def __init__(self, fields: Mapping[str, int]) -> None:
        """``fields``: how many numbers each name stands for."""
        self._places: dict[str, slice | int] = {}
        height = 0
        for name, size in fields.items():
            self._places[name] = height if size == 1 else slice(height, height + size)
            height += size
        self._matrix: Floats = np.zeros((height, 0))
        self.size = 0

    def __getitem__(self, name: str) -> Floats:
        """A view: one row (series) for a field of one number, else (numbers, series)."""
        return self._matrix[self._places[name], : self.size]

    def __setitem__(self, name: str, value: Any) -> None:
        self._matrix[self._places[name], : self.size] = value

    @property
    def bytes_a_series(self) -> int:
        return self._matrix.shape[0] * self._matrix.itemsize

    def grow(self, size: int) -> None:
        """Make room for ``size`` series; new ones are zero."""
        room = self._matrix.shape[1]
        if size > room:
            wider = np.zeros((self._matrix.shape[0], max(size, room + room // 4)))
            wider[:, :room] = self._matrix
            self._matrix = wider
        self.size = max(size, self.size)

    def clear(self, series: int) -> None:
        self._matrix[:, series] = 0

    def save(self) -> Floats:
        """All that is remembered: numbers by series."""
        return self._matrix[:, : self.size].copy()

    def restore(self, saved: Floats) -> None:
        """Put back what :meth:`save` gave. Raises ValueError for what another layout has saved."""
        if len(saved) != len(self._matrix):
            raise ValueError(f"saved series of {len(saved)} numbers, not {len(self._matrix)}: of other settings?")
        self.grow(saved.shape[1])
        self._matrix[:, : saved.shape[1]] = saved
