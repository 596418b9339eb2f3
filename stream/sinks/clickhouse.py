"""The production sink: a ClickHouse server by its native protocol, columns at a time.

clickhouse-driver blocks and is not thread-safe, so each sink has one client in one thread of its own. A lost
connection is :class:`SinkUnavailable` within the timeouts below, and the next call connects again.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

import numpy as np
from clickhouse_driver import Client, errors

from stream.columns import Column, Columns
from stream.sinks import refusals, rows
from stream.sinks.base import Row, Sink, SinkRejected, SinkUnavailable

CONNECT_SECONDS = 5
ANSWER_SECONDS = 30
T = TypeVar("T")


class ClickHouseSink(Sink):
    #: Sent with every query. Asynchronous inserts would wait for company; a replay may touch many months at once.
    tick_ms: ClassVar[int] = 1  # of a time in the tables
    settings: ClassVar[dict[str, Any]] = {"async_insert": 0, "max_partitions_per_insert_block": 0}

    def __init__(self, address: str, *, user: str, password: str, database: str) -> None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"RADAR_CLICKHOUSE is {address!r}: give host:port, e.g. 127.0.0.1:9000")
        self.address, self.database = address, database
        self._client_arguments = {
            "host": host,
            "port": int(port),
            "user": user,
            "password": password,
            "client_name": "demand-radar",
            "connect_timeout": CONNECT_SECONDS,
            "send_receive_timeout": ANSWER_SECONDS,
            "sync_request_timeout": CONNECT_SECONDS,
            "settings": self.settings,
        }
        self._client: Client | None = None
        self._thread: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="clickhouse")
        await self._call(self._create_tables)

    async def write(self, table: str, records: Sequence[Row] | Columns) -> None:
        target = rows.table(table)
        if records:
            await refusals.write_or_name_the_bad_row(
                target,
                refusals.to_columns(target, records),
                lambda part: self._call(self._insert, target.physical, part),
            )

    async def query(self, sql: str) -> list[dict[str, Any]]:
        return await self._call(self._select, sql)

    async def close(self) -> None:
        if self._thread is not None:
            thread, self._thread = self._thread, None
            if self._client is not None:
                await asyncio.get_running_loop().run_in_executor(thread, self._client.disconnect)
            await asyncio.to_thread(thread.shutdown)

    def ddl(self) -> list[str]:
        """The statements that make the tables."""
        return rows.ddl()

    # Below: what runs in the sink's thread.

    def _create_tables(self) -> None:
        with Client(**self._client_arguments) as anywhere:
            anywhere.execute(f"CREATE DATABASE IF NOT EXISTS `{self.database}`")
        self._client = Client(database=self.database, **self._client_arguments)
        for statement in self.ddl():
            self._client.execute(statement)

    def _insert(self, table: str, part: Columns) -> None:
        values = [self._values(column) for _, column in part.items()]
        self._connected().execute(f"INSERT INTO {table} ({', '.join(part.names)}) VALUES", values, columnar=True)

    def _values(self, column: Column) -> list[Any]:
        """A list of its own: the driver writes into it."""
        if isinstance(column, list):
            return list(column)
        ticks = column.astype(np.int64) // self.tick_ms if column.dtype.kind == "M" else column
        values: list[Any] = ticks.tolist()
        return values

    def _select(self, sql: str) -> list[dict[str, Any]]:
        found, columns = self._connected().execute(sql, with_column_types=True)
        names = [name for name, _ in columns]
        return [dict(zip(names, row, strict=True)) for row in found]

    def _connected(self) -> Client:
        if self._client is None:
            raise RuntimeError("call open() first")
        return self._client

    async def _call(self, work: Callable[..., T], *arguments: Any) -> T:
        """``work`` in the sink's thread, its exceptions in the words of :mod:`stream.sinks.base`."""
        if self._thread is None:
            raise RuntimeError("call open() first")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        except errors.ServerException as error:
            raise refusals.refusal(error.code, error.message) from error
        except (errors.NetworkError, errors.SocketTimeoutError, EOFError, OSError) as error:
            raise SinkUnavailable(
                f"ClickHouse does not answer at {self.address} ({' '.join(str(error).split())}). "
                "Is it running? RADAR_CLICKHOUSE names the address."
            ) from error
        except (
            errors.UnexpectedPacketFromServerError,
            errors.UnknownPacketFromServerError,
            errors.PartiallyConsumedQueryError,
        ) as error:
            raise SinkUnavailable(f"ClickHouse at {self.address} broke off: {error}") from error
        except (errors.Error, struct.error, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise SinkRejected(f"cannot be encoded: {' '.join(str(error).split())}") from error
