"""The embedded sink: ClickHouse in a process of its own, with no server to install.

One process owns a data directory, so :class:`Store` owns it and serves it on loopback in the essential words of
ClickHouse's HTTP interface; workers write through :class:`ChdbSink`. A write that returned survives ``kill -9`` of the
store (its files are with the operating system by then; a power cut may still take the last seconds).

    python -m stream.sinks.chdb --path DIR --port 8123
    curl http://127.0.0.1:8123/?database=radar -d "SELECT count() FROM signals"

When no store runs, :func:`query_directory` reads the directory.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import click
import orjson
from aiohttp import web
from chdb._exceptions import ChdbError  # what queries raise; chdb.ChdbError is another class of the same name
from chdb.session import Session

from stream.columns import Columns
from stream.sinks import refusals, rows
from stream.sinks.base import Row, Sink, SinkRejected, SinkUnavailable

HOST = "127.0.0.1"
MAX_BODY = 1 << 28
CHUNK_ROWS = 10_000
ANSWER_SECONDS = 60
log = logging.getLogger(__name__)
T = TypeVar("T")


class ChdbSink(Sink):
    """Client of a :class:`Store`."""

    def __init__(self, address: str, *, database: str) -> None:
        self.address, self.database = address.rstrip("/"), database
        self._http: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._http = self._http or aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(ANSWER_SECONDS, sock_connect=5))
        await self._post("default", f"CREATE DATABASE IF NOT EXISTS `{self.database}`")
        for statement in rows.ddl():
            await self._post(self.database, statement)

    async def write(self, table: str, records: Sequence[Row] | Columns) -> None:
        target = rows.table(table)
        columns = refusals.to_columns(target, records) if records else Columns({})
        for start in range(0, len(columns), CHUNK_ROWS):
            await refusals.write_or_name_the_bad_row(
                target, columns.cut(start, start + CHUNK_ROWS), lambda part: self._insert(target.physical, part)
            )

    async def query(self, sql: str) -> list[dict[str, Any]]:
        return lines(await self._post(self.database, sql))

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def _insert(self, table: str, part: Columns) -> None:
        try:
            data = orjson.dumps(dict(part.items()), option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NAIVE_UTC)
        except TypeError as error:  # orjson.JSONEncodeError: e.g. half a surrogate pair
            raise SinkRejected(f"cannot be encoded: {error}") from error
        await self._post(self.database, f"INSERT INTO {table} ({', '.join(part.names)}) FORMAT JSONColumns", data)

    async def _post(self, database: str, sql: str, data: bytes = b"") -> bytes:
        if self._http is None:
            raise RuntimeError("call open() first")
        question = {"database": database, "default_format": "JSONEachRow"}
        if data:
            question["query"] = sql
        try:
            async with self._http.post(f"{self.address}/", params=question, data=data or sql.encode()) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise SinkUnavailable(
                f"No chDB store answers at {self.address} ({error or type(error).__name__}). "
                "Start one with `radar up`; RADAR_STORE names the address."
            ) from error
        if answer.status == 200:
            return body
        text = body.decode(errors="replace")
        code = re.match(r"Code: (\d+)", text)
        if code is None:
            raise SinkUnavailable(f"{self.address} answered {answer.status}: {text[:500]}")
        raise refusals.refusal(int(code[1]), text)


class Directory:
    """A chDB data directory, owned by this object until ``close``. Not for several threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = (path / "owner").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "another process"
            self._lock.close()
            raise SinkUnavailable(f"{path} is in use by {owner}: ask that one, or stop it first") from None
        self.call_me(f"process {os.getpid()}")
        self._session = Session(str(path))
        # Rows are to be there when the call returns, with no wait for company; a replay may touch many months at once.
        self._session.query("SET async_insert = 0, max_partitions_per_insert_block = 0")

    def call_me(self, owner: str) -> None:
        """Say who owns the directory, for the error message of the next one who wants it."""
        self._lock.truncate(0)
        self._lock.write(owner)
        self._lock.flush()

    def run(self, sql: str, database: str, format: str) -> bytes:
        """The answer to one statement. Raises ``chdb.ChdbError`` with ClickHouse's text."""
        self._session.query(f"USE `{database.replace('`', '')}`")
        return bytes(self._session.query(sql, format).bytes())

    def close(self) -> None:
        self._session.close()
        self._lock.close()


def query_directory(path: Path, sql: str, database: str = "radar") -> list[dict[str, Any]]:
    """Rows of a SELECT from a directory that no store has open now. Raises :class:`~stream.sinks.base.SinkError`."""
    if not (path / "metadata").is_dir():
        raise SinkUnavailable(f"{path} holds no chDB data yet: `radar up` starts a stack that writes some")
    directory = Directory(path)
    try:
        return lines(directory.run(sql, database, "JSONEachRow"))
    except ChdbError as error:
        raise SinkRejected(str(error)) from error
    finally:
        directory.close()


def lines(body: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in body.splitlines() if line]


class Store:
    """Serves a :class:`Directory` over HTTP on loopback; chDB runs in one thread, requests take turns."""

    def __init__(self, path: Path, port: int) -> None:
        self.path, self.port = path, port
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chdb")

    async def serve(self, stop: asyncio.Event) -> None:
        """Until ``stop``. Raises :class:`SinkUnavailable` when the directory, ``OSError`` when the port is taken."""
        directory = await self._in_thread(Directory, self.path)
        app = web.Application(client_max_size=MAX_BODY)
        app.add_routes([web.get("/ping", self._ping), web.post("/", lambda request: self._answer(directory, request))])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=5)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, self.port).start()
            port = runner.addresses[0][1]
            directory.call_me(f"process {os.getpid()}, which serves it at http://{HOST}:{port}")
            log.info("chDB store of %s at http://%s:%d", self.path, HOST, port)
            await stop.wait()
        finally:
            await runner.cleanup()
            await self._in_thread(directory.close)
            self._thread.shutdown()

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _answer(self, directory: Directory, request: web.Request) -> web.Response:
        if "Origin" in request.headers:  # a page in somebody's browser: the store has no password
            return web.Response(status=403, text="The store answers programs, not web pages.\n")
        asked = request.query
        try:
            sql = "\n".join(part for part in (asked.get("query"), (await request.read()).decode()) if part)
        except UnicodeDecodeError as error:
            return web.Response(status=400, text=f"The query is not UTF-8: {error}\n")
        database = asked.get("database", "default")
        format = asked.get("default_format", "TabSeparated")
        try:
            return web.Response(body=await self._in_thread(directory.run, sql, database, format))
        except ChdbError as error:
            text, code = str(error), re.match(r"Code: (\d+)", str(error))
            headers = {"X-ClickHouse-Exception-Code": code[1]} if code else {}
            if code and int(code[1]) in refusals.DISK:
                text = f"{code[0]}. Cannot write in {self.path.absolute()}: {text}"
            return web.Response(status=400 if code else 500, text=f"{text}\n", headers=headers)

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


@click.command()
@click.option("--path", type=click.Path(file_okay=False, path_type=Path), required=True, help="data directory")
@click.option("--port", type=click.IntRange(0, 65535), default=8123, show_default=True, help="0: any free one")
def main(path: Path, port: int) -> None:
    """Serve a chDB data directory on 127.0.0.1 until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await Store(path, port).serve(stop)

    try:
        asyncio.run(serve())
    except (SinkUnavailable, OSError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
