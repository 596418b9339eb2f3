"""A radar on the servers of production, for tests: topics and tables of its own, workers as compose runs them.

The test of everything here is one comparison: what workers leave in the store, whatever happened to them and to the
brokers meanwhile, is what the embedded stack leaves of the same events (:func:`assert_equal`).
"""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from heapq import merge
from pathlib import Path
from typing import Any

import orjson
from servers import LoweredSink, radar, radar_environment
from test_end_to_end import START, events

from stream.replay import Event, ReplaySummary, replay_events
from stream.settings import Settings
from stream.simulate.incidents import HOUR
from stream.sinks import open_sink
from stream.sinks.base import Sink
from stream.sinks.rows import ddl
from stream.status import read_lanes, wait_until_caught_up

RETURNED = ("p001", "p004", "p007", "p010")
WORKER_SECONDS = 60.0
COMMON = {"partitions": 4, "idle_seconds": 0, "checkpoint_seconds": 0.2, "block_texts": 32, "rebalance_seconds": 5}
PACE = 480.0  # times real time: half a minute for the four hours, enough for something to happen meanwhile
Tables = dict[str, list[dict[str, Any]]]


def views() -> dict[str, str]:
    """The query for every row of each view of a whole table: all columns but the time of writing, times in whole
    seconds, because a server of 2018 keeps no more."""
    text = "\n".join(ddl())
    tables = dict(re.findall(r"^CREATE TABLE IF NOT EXISTS (\w+) \((.*?)^\)", text, re.MULTILINE | re.DOTALL))
    found = {}
    for view, table in re.findall(r"^CREATE VIEW IF NOT EXISTS (\w+) AS\s+SELECT \* FROM (\w+)", text, re.MULTILINE):
        columns = re.findall(r"^    (\w+) (.+?),?$", tables[table], re.MULTILINE)
        read = [_column(name, kind) for name, kind in columns if name != "ingested_at"]
        found[view] = f"SELECT {', '.join(read)} FROM {view}"
    assert {"signals", "alerts", "sessions", "recommendations", "deadletters"} <= set(found)
    return found


def _column(name: str, kind: str) -> str:
    if "DateTime64" in kind:
        return f"toUnixTimestamp({name}) AS {name}_s"
    if kind.startswith("Array(LowCardinality"):  # a server of 2018 sends a block of empty ones with bytes too many
        return f"arrayMap(x -> toString(x), {name}) AS {name}_a"
    return f"`{name}`"


async def contents(sink: Sink, prefix: str = "") -> Tables:
    """Every row of every view; dead letters name their topic without the ``prefix`` of its site."""
    found = {view: orjson.loads(orjson.dumps(await sink.query(sql))) for view, sql in views().items()}
    for letter in found["deadletters"]:
        letter["topic"] = letter["topic"].removeprefix(prefix)
    return found


def assert_equal(found: Tables, expected: Tables) -> None:
    """Fail with the first rows that only one of the two has, in any view."""
    said = []
    for view, rows in expected.items():
        missing = [row for row in rows if row not in found[view]]
        odd = [row for row in found[view] if row not in rows]
        if missing or odd or len(found[view]) != len(rows):
            said.append(f"{view}: {len(rows)} rows expected, {len(found[view])} found")
            said += [f"  missing: {row}" for row in missing[:2]] + [f"  unexpected: {row}" for row in odd[:2]]
    assert not said, "\n".join(said)


def without_offsets(tables: Tables) -> Tables:
    """A paced replay sends other heartbeats between the events, which puts dead letters at other offsets."""
    letters = [{name: value for name, value in row.items() if name != "offset"} for row in tables["deadletters"]]
    return tables | {"deadletters": letters}


def returns() -> list[Event]:
    """Four products come back for an hour: alerts that need no trained model, in several partitions of signals."""
    return [
        Event(
            "clicks",
            user,
            {
                "event_id": user,
                "user_id": user,
                "session_id": user,
                "action": "return",
                "product_id": product,
                "ts": ts,
            },
            ts,
        )
        for number in range(60)
        for product in RETURNED
        for user, ts in [(f"back-{product}-{number}", START + 2 * HOUR + number * HOUR // 60)]
    ]


async def feed(settings: Settings, speed: float | None = None, go_on: threading.Event | None = None) -> ReplaySummary:
    """Send all events, at ``speed`` times real time or at once, and wait until the workers are through with them.

    At two thirds it waits for ``go_on``, and its event loop with it, which therefore has to be one of its own.
    """
    both = merge(events(), returns(), key=lambda event: event.ts)
    if go_on is not None:
        both = _held(both, START + 160 * HOUR // 60, go_on)
    summary = await replay_events(both, settings, speed, patience=60)
    assert await wait_until_caught_up(settings, summary.last_ts + settings.session_gap_ms, patience=120)
    return summary


def _held(events: Iterable[Event], ts: int, go_on: threading.Event) -> Iterator[Event]:
    for event in events:
        if event.ts >= ts:
            assert go_on.wait(300)
        yield event


@dataclass(frozen=True)
class Site:
    """The servers and one set of topics and tables on them; ``old`` is a ClickHouse that needs the lowered sink."""

    settings: dict[str, Any]
    old: bool

    def fresh(self, name: str, home: Path, **settings: Any) -> Site:
        own = {"prefix": f"{name}-", "database": name, "home": home}
        return replace(self, settings={**self.settings, **own, **settings})

    @property
    def read(self) -> Settings:
        return Settings(**self.settings)

    def command(self, *arguments: str, index: int = 0) -> tuple[list[str], dict[str, str]]:
        return radar(*arguments, lowered=self.old), radar_environment(**self.settings, worker_index=index)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``radar ARGUMENTS`` to its end."""
        argv, environment = self.command(*arguments)
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=90)

    @asynccontextmanager
    async def sink(self) -> AsyncIterator[Sink]:
        sink = open_sink(self.read)
        if self.old:
            read = self.read
            sink = LoweredSink(read.clickhouse, user="radar", password="sesame", database=read.database)
        await sink.open()
        try:
            yield sink
        finally:
            await sink.close()

    async def contents(self) -> Tables:
        async with self.sink() as sink:
            return await contents(sink, self.read.prefix)


class Worker:
    """``radar worker`` as compose runs it: one that crashes starts again."""

    def __init__(self, site: Site, index: int) -> None:
        self.site, self.index = site, index
        self.home = site.settings["home"]
        self.crashes = 0
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Return when it has its partitions."""
        self.ready = self.home / f"worker-{self.index}.ready"
        self.ready.unlink(missing_ok=True)
        self._launch()
        deadline = time.monotonic() + WORKER_SECONDS
        while not self.ready.exists():
            assert self.process and self.process.poll() is None and time.monotonic() < deadline, self.log()
            await asyncio.sleep(0.1)

    def _launch(self) -> None:
        argv, environment = self.site.command("worker", index=self.index)
        with (self.home / f"worker-{self.index}.log").open("ab") as log:
            self.process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)

    async def keep(self) -> None:
        """Start it again whenever it has crashed, until cancelled."""
        while True:
            if self.process and self.process.poll() == 1:
                self.crashes += 1
                self._launch()
            await asyncio.sleep(0.5)

    def log(self) -> str:
        return (self.home / f"worker-{self.index}.log").read_text()[-3_000:]

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> float:
        """Seconds until it ended after SIGTERM, with exit code 0."""
        assert self.process
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log()
        return time.monotonic() - begun


@asynccontextmanager
async def workers(site: Site, count: int) -> AsyncIterator[list[Worker]]:
    """The topics and tables made, and workers that have their partitions."""
    site.settings["home"].mkdir(parents=True, exist_ok=True)
    made = await asyncio.to_thread(site.run, "schema", "--apply")
    assert made.returncode == 0, made.stderr
    running = [Worker(site, index) for index in range(count)]
    try:
        await asyncio.gather(*(worker.start() for worker in running))
        yield running
    finally:
        for worker in running:
            if worker.process and worker.process.poll() is None:
                worker.kill()


async def progress(site: Site, share: float) -> None:
    """Return when this share of the texts is durable."""
    texts = sum(event.topic in ("reviews", "chats") for event in events())
    names = {site.read.topic(topic) for topic in ("reviews", "chats")}
    async with asyncio.timeout(120):
        while True:
            lanes = read_lanes(site.read)
            done = sum(lane["saved"] for name, lane in lanes.items() if name.rpartition("/")[0] in names)
            if done >= share * texts:
                return
            await asyncio.sleep(0.05)
