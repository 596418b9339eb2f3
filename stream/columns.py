"""Rows side by side: what many rows of one table have in common is said once.

Thousands of sessions end in a second, and a dictionary for each of them costs more than all that was counted in it.
Numbers lie in numpy arrays, texts and lists in lists; all columns are of one length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Column = list[Any] | npt.NDArray[Any]


class Columns:
    """A table in memory; ``columns[name]`` is a column. Iterating gives the rows as dictionaries, for who has few."""

    __slots__ = ("_columns",)

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._columns = dict(columns)

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Columns:
        """Rows of one shape, at least one; every column is a list. Raises ``KeyError`` where one has another."""
        names = list(rows[0])
        for row in rows:
            if len(row) != len(names):
                raise KeyError(f"a row has {len(row)} fields, the first one {len(names)}")
        return cls({name: [row[name] for row in rows] for name in names})

    @classmethod
    def concat(cls, parts: Sequence[Columns]) -> Columns:
        """One under the other; at least one."""
        if len(parts) == 1:
            return parts[0]
        return cls({name: _concat([part[name] for part in parts]) for name in parts[0].names})

    @property
    def names(self) -> list[str]:
        return list(self._columns)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()), ()))

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        plain = [column if isinstance(column, list) else column.tolist() for column in self._columns.values()]
        return (dict(zip(self._columns, values, strict=True)) for values in zip(*plain, strict=True))

    def items(self) -> Iterable[tuple[str, Column]]:
        return self._columns.items()

    def take(self, places: npt.NDArray[np.int64]) -> Columns:
        """The rows at these places."""
        at = places.tolist()
        return Columns({
            name: [column[i] for i in at] if isinstance(column, list) else column[places]
            for name, column in self._columns.items()
        })  # fmt: skip

    def cut(self, first: int, end: int) -> Columns:
        """The rows from ``first`` up to ``end``, not included."""
        return Columns({name: column[first:end] for name, column in self._columns.items()})


def _concat(columns: list[Any]) -> Column:
    if isinstance(columns[0], list):
        return [value for column in columns for value in column]
    whole: npt.NDArray[Any] = np.concatenate(columns)
    return whole
