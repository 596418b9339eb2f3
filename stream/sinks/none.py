"""No tables: results go to the Kafka topics alone (``RADAR_SINK=none``).

For sites whose tables are filled from Kafka by others. What has no topic of its own, sessions and windows, is then only
counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stream.sinks.base import Row, Sink, SinkRejected


class NoSink(Sink):
    async def open(self) -> None:
        """Nothing to open."""

    async def write(self, table: str, rows: Sequence[Row]) -> None:
        """Rows are not kept."""

    async def query(self, sql: str) -> list[dict[str, Any]]:
        """Always :class:`SinkRejected`."""
        raise SinkRejected("RADAR_SINK=none keeps no tables: set it to 'chdb' or 'clickhouse' to query results")

    async def close(self) -> None:
        """Nothing to close."""
