"""What may go wrong, done on purpose, while workers read a recorded stream (``test_faults.py``).

Every run reads the same records from topics of its own on one broker, so that whatever happens to it, its dump
(``stream/dump.py``) has to be that of the undisturbed run, byte for byte.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from heapq import merge
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from servers import LoweredSink, Server, radar, radar_environment
from sites import returns
from test_end_to_end import events

from stream.dump import TABLES, _types, canonical
from stream.events import SOURCES
from stream.replay import Event
from stream.settings import Settings
from stream.sinks.kafka import partition_of
from stream.status import read_lanes, wait_until_caught_up
from stream.supervise import free_ports
from stream.topics import ensure_topics

PARTITIONS = 2
COMMON: dict[str, Any] = {
    "partitions": PARTITIONS, "idle_seconds": 0, "checkpoint_seconds": 0.2, "block_texts": 16, "triton": "",
    "session_seconds": 3, "rebalance_seconds": 5,
}  # fmt: skip
BEAT_MS = 60_000
START_SECONDS = 90.0
PATIENCE_SECONDS = 90.0
CLOCK = """
import os, time
_path, _now = os.environ["SHIFTED_CLOCK"], time.time
def _shifted():
    try:
        with open(_path) as file:
            return _now() + float(file.read() or 0)
    except OSError:
        return _now()
time.time = _shifted
time.time_ns = lambda: int(_shifted() * 1e9)
"""


class Record(NamedTuple):
    """What is sent: ``at`` is the event time at which it is due."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    at: int


@cache
def shop() -> list[Event]:
    """Four hours of a small shop with incidents, repeated and hostile records."""
    return list(merge(events(), returns(), key=lambda event: event.ts))


def catalogue() -> list[Record]:
    return [
        Record("catalog", partition_of(event.key, PARTITIONS), (event.key or "").encode(), event.payload(), 0)
        for event in shop()
        if event.topic == "catalog"
    ]


def script(arriving: Iterable[Event]) -> list[Record]:
    """The records of ``arriving`` events, with a heartbeat a minute and the last one that closes everything. (A replay
    puts its heartbeats by the clock too, and then dead letters lie at other offsets each time.)"""
    settings = Settings(**COMMON)
    records: list[Record] = []
    newest = promised = 0

    def beat(ts: int) -> None:
        value = orjson.dumps({"heartbeat": ts, "replay": True})
        records.extend(Record(topic, n, None, value, newest) for topic in SOURCES for n in range(PARTITIONS))

    for event in arriving:
        if event.topic not in SOURCES:
            continue
        newest = max(newest, event.ts)
        if (newest - settings.lateness_ms) // BEAT_MS > promised // BEAT_MS:
            promised = newest - settings.lateness_ms
            beat(promised)
        key = None if event.key is None else event.key.encode()
        records.append(Record(event.topic, partition_of(event.key, PARTITIONS), key, event.payload(), newest))
    beat(newest + settings.session_gap_ms + settings.lateness_ms + settings.pane_ms)
    return records


def parts(records: Sequence[Record], count: int, dice: Random | None = None) -> list[Sequence[Record]]:
    """The records in consecutive parts: of one size, or cut at random."""
    cuts = [len(records) * n // count for n in range(1, count)]
    if dice:
        cuts = sorted(dice.sample(range(1, len(records)), count - 1))
    return [records[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(records)], strict=True)]


class Run:
    """Workers on topics and tables of their own."""

    def __init__(self, broker: str, home: Path, **settings: Any) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home, self.lowered = home, bool(settings.pop("lowered", False))
        name = re.sub(r"\W", "_", home.name)
        own = {"broker": broker, "home": home, "prefix": f"{name}-", "database": name}
        self.given = {**COMMON, **own, **settings}
        self.workers: dict[int, Worker] = {}

    @property
    def settings(self) -> Settings:
        return Settings(**self.given)

    async def __aenter__(self) -> Run:
        await ensure_topics(self.settings)
        await self.feed(catalogue())  # before any worker reads it
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.kill()

    def launch(self, index: int, **environment: str) -> Worker:
        """Start a worker and do not wait for it."""
        worker = self.workers[index] = Worker(self, index, environment)
        return worker

    async def start(self, *indexes: int, **environment: str) -> None:
        """Start workers; return when each has its partitions."""
        for worker in [self.launch(index, **environment) for index in indexes]:
            await worker.ready()

    async def feed(self, records: Sequence[Record], seconds: float = 0.0) -> None:
        """Send records, spread over some seconds in the pace of event time."""
        producer = AIOKafkaProducer(bootstrap_servers=self.settings.brokers, acks="all")
        await producer.start()
        try:
            begun, first, span = time.monotonic(), records[0].at, max(records[-1].at - records[0].at, 1)
            for topic, partition, key, value, at in records:
                wait = begun + seconds * (at - first) / span - time.monotonic()
                if wait > 0.01:
                    await asyncio.sleep(wait)
                stamp = json.loads(value)["heartbeat"] if value.startswith(b'{"heartbeat"') else 0
                await producer.send(
                    self.settings.topic(topic), value, key, partition, max(stamp, int(time.time() * 1_000))
                )
            await producer.flush()
        finally:
            await producer.stop()

    async def finish(self, **settings: Any) -> list[bytes]:
        """Wait until everything is through; the dump, read with these ``settings``."""
        end = max(event.ts for event in shop() if event.topic in SOURCES) + self.settings.session_gap_ms
        moved = await wait_until_caught_up(self.settings, end, PATIENCE_SECONDS)
        assert moved, f"{read_lanes(self.settings)}\n{self.log()}"
        return [line async for _, line in canonical(Settings(**{**self.given, **settings}))]

    def log(self, index: int | None = None) -> str:
        """What workers have said."""
        paths = sorted(self.home.glob("worker-*.log" if index is None else f"worker-{index}.log"))
        return "\n".join(path.read_text(errors="replace") for path in paths)

    async def until(self, what: Any) -> None:
        """Wait until ``what()`` is true."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not what():  # noqa: ASYNC110
                await asyncio.sleep(0.05)


class Worker:
    """One ``radar worker``."""

    def __init__(self, run: Run, index: int, environment: dict[str, str]) -> None:
        self._run, self.index = run, index
        self._ready, self._status = (run.home / f"worker-{index}.{kind}" for kind in ("ready", "json"))
        self._forget()
        ours = radar_environment(**run.given, worker_index=index) | {"PYTHONUNBUFFERED": "1"} | environment
        with (run.home / f"worker-{index}.log").open("ab") as log:
            self.process = subprocess.Popen(radar("worker", lowered=run.lowered), env=ours, stdout=log, stderr=log)

    async def ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._ready.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, self._run.log(self.index)[-3_000:]
            await asyncio.sleep(0.05)

    def lanes(self) -> int:
        """How many lanes it says it has."""
        try:
            return len(json.loads(self._status.read_bytes()))
        except (OSError, ValueError):
            return 0

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._forget()

    async def exit(self, seconds: float = 60.0) -> int:
        """The exit code, once it ends."""
        code = await asyncio.to_thread(self.process.wait, seconds)
        self._forget()
        return code

    def _forget(self) -> None:
        """The dead say nothing."""
        self._ready.unlink(missing_ok=True)
        self._status.unlink(missing_ok=True)


def start_store(home: Path, path: Path | None = None) -> Server:
    """A chDB store, of ``<home>/chdb`` or of ``path``."""
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", "stream.sinks.chdb", "--path", str(path or home / "chdb"), "--port", str(port)]
    return Server(home, argv, port)


class Cutter:
    """A proxy on loopback that, once ``armed``, cuts connections after a random number of bytes of either side."""

    def __init__(self, port: int, dice: Random) -> None:
        self._to, self._dice = port, dice
        self.armed = False
        self.cuts = self.port = 0
        self._pipes: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Cutter:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._pipes.add(task)
        back, forth = await asyncio.open_connection("127.0.0.1", self._to)
        left = [self._dice.randrange(1, 60_000)]
        both = [asyncio.ensure_future(self._pipe(*ends, left)) for ends in ((reader, forth), (back, writer))]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._pipes.discard(task)
            for pipe in both:
                pipe.cancel()
            for end in (writer, forth):
                end.transport.abort()

    async def _pipe(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, left: list[int]) -> None:
        while data := await source.read(65_536):
            to.write(data[: max(left[0], 0)] if self.armed else data)
            await to.drain()
            left[0] -= len(data)
            if self.armed and left[0] < 0:
                self.cuts += 1
                return


class OldSink(LoweredSink):
    """The lowered sink for the dump: a server of 2018 sends a block of empty arrays with bytes too many."""

    async def query(self, sql: str) -> list[dict[str, Any]]:
        for table in [table for table, (view, _) in TABLES.items() if f"FROM {view} " in sql]:
            for name in [name for name, kind in _types(table) if kind.startswith("Array(LowCardinality")]:
                sql = sql.replace(f"`{name}` AS", f"arrayMap(x -> toString(x), `{name}`) AS")
        return await super().query(sql)


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own in memory; skips where only root may make one."""
    place.mkdir(parents=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)], capture_output=True
    )
    if made.returncode:
        pytest.skip(f"no small file system here: {made.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> Path:
    """Leave no byte on the file system of ``place``; the file to remove."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4_096))
        except OSError:
            return ballast


def clock_that_can_be_shifted(home: Path) -> tuple[Path, dict[str, str]]:
    """The file that says by how many seconds, and the environment of a process whose wall clock obeys it."""
    hook, by = home / "hook", home / "shift"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(CLOCK)
    path = os.pathsep.join(filter(None, [str(hook), os.environ.get("PYTHONPATH", "")]))
    return by, {"PYTHONPATH": path, "SHIFTED_CLOCK": str(by)}


def whole_seconds(lines: Iterable[bytes]) -> list[bytes]:
    """A dump as a server of 2018 would give it."""
    rows = [orjson.loads(line) for line in lines]
    for row in rows:
        row |= {name: v - v % 1_000 for name, v in row.items() if type(v) is int and v > 1_000_000_000_000}
    return sorted(_line(row) for row in rows)


def without_offsets(lines: Iterable[bytes]) -> list[bytes]:
    """Where records lie at other offsets, because others lie between."""
    rows = [orjson.loads(line) for line in lines]
    return sorted(_line({name: v for name, v in row.items() if name != "offset"}) for row in rows)


def _line(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_SORT_KEYS)


def assert_same(found: Sequence[bytes], expected: Sequence[bytes]) -> None:
    """Fail with the first lines that only one of the two dumps has."""
    if found == expected:
        return
    missing, odd = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    said = [f"{len(found)} rows instead of {len(expected)}: {len(missing)} missing, {len(odd)} unexpected"]
    said += [f"missing: {line.decode()}" for line in missing[:3]] + [f"unexpected: {line.decode()}" for line in odd[:3]]
    raise AssertionError("\n".join(said))
