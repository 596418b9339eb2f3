"""The contract of a sink: rows in, durable before it returns.

A worker calls ``write`` before it saves state and before it acknowledges the block the rows come from, so a crash
anywhere leads to the same rows again; every table therefore replaces rows with equal keys. The lanes of a worker share
one sink.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

from stream.columns import Columns

Row = Mapping[str, Any]


class SinkError(Exception):
    """Base of what a sink raises."""


class SinkUnavailable(SinkError):
    """The server cannot be reached or is overloaded: the same rows may be written again later."""


class SinkRejected(SinkError):
    """The server refuses these rows; writing them again will not help. The message shows the first bad row."""


class Sink(ABC):
    """Writes rows of :mod:`stream.records` into tables of ``schema/*.sql``; an ``async with`` opens and closes it."""

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @abstractmethod
    async def open(self) -> None:
        """Connect and create the database and tables that are missing. Raises :class:`SinkUnavailable`."""

    @abstractmethod
    async def write(self, table: str, rows: Sequence[Row] | Columns) -> None:
        """Make ``rows`` durable. Returning means that a query sees them. Raises :class:`SinkError`."""

    @abstractmethod
    async def query(self, sql: str) -> list[dict[str, Any]]:
        """Rows of a SELECT as dictionaries. Raises :class:`SinkError`."""

    @abstractmethod
    async def close(self) -> None:
        """Release the connection; a second call does nothing."""
