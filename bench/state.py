"""``make bench-state``: what the state of a click partition costs as the number of open sessions grows.

The click lane alone, fed as the transport feeds it, each size in a process of its own; ids are 16 (shopper) and 32
(session) characters long, clicks go to open sessions at random. Measured at each size:

- *memory*: growth of the process while the sessions open and take :data:`CLICKS` clicks each, without the copy of the
  state in the table's memory store (the segments of the last checkpoint), which is told beside it;
- *cost of a click* in CPU time, decoding included, while every session takes :data:`CLICKS` clicks; small sizes are
  repeated with new sessions, so that sessions are equally old and blocks equally long at each size;
- *changelog*: bytes written at a steady load, checkpoint by checkpoint, heads and folding included;
- *recovery*: a new lane from those segments.

Then recovery as a worker does it: the state lies in the changelog topic of a real broker (``--broker``), and the time
runs from the start of the worker to its readiness. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from confluent_kafka import Producer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.report import result
from bench.stack import servers, tail
from bench.workload import ACTIONS, MIX, START, catalogue, price, title
from stream.agents import clicks as lane
from stream.checkpoint import Checkpoints
from stream.recommend.catalogue import Catalogue, Product
from stream.settings import ROOT, Settings
from stream.stack import WORKER, environment
from stream.status import read_lanes
from stream.topics import ensure_topics
from stream.transport import Block
from stream.windows.behaviour import COUNTS, Pane

SIZES: Final = (1_000, 100_000, 1_000_000)
PRODUCTS: Final = 1_000
CLICKS: Final = 4  # of each session in the stretch that is timed
BLOCK: Final = 4_000
BLOCKS_A_CHECKPOINT: Final = 25  # while sessions open and take their clicks: a second's work
ROUNDS: Final = 200_000  # clicks to be timed at least, whatever the size
RATE: Final = 1_000  # clicks per second of a partition at the steady load; a checkpoint a second
CHECKPOINTS: Final = 200
PANE_PRODUCTS: Final = 200_000
MOST_CLICKS: Final = 4_000_000
FAST: Final = 5_000  # clicks per second of event time; all of it is shorter than the gap, so that no session ends
SURE: Final = 100_000  # sessions from which on a growth of memory means something
BYTES: Final = ("bytes_per_session", "copy_bytes_per_session", "peak_bytes_per_session")
PACKAGES: Final = ("numpy", "orjson", "msgspec", "faust-streaming", "aiokafka")
READY_SECONDS: Final = 300.0

Figures = dict[str, Any]


class Record(NamedTuple):
    """What the click lane needs of a Kafka record."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes


class Store:
    """A table without a broker: what was written last under each key, and how many bytes went to the changelog."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.sent = 0

    async def send_changelog(self, partition: int, key: bytes, data: bytes | None) -> Any:
        self.sent += len(key) + len(data or b"")
        return SimpleNamespace(offset=self.sent)


class Source:
    """Clicks on the open sessions ``0 … size - 1``, block by block; opening them comes first."""

    def __init__(self, size: int, seed: int = 1) -> None:
        self.size = size
        self.offset = 0
        self.ts = START
        self._dice = np.random.default_rng(seed)
        self._now = int(time.time() * 1_000)

    def open(self) -> Iterator[Block]:
        """The first click of each session, within a minute of event time."""
        return self._blocks(np.arange(self.size), 60_000)

    def clicks(self, count: int, rate: int) -> Iterator[Block]:
        """``count`` clicks on sessions drawn at random, ``rate`` a second of event time."""
        return self._blocks(self._dice.integers(self.size, size=count), count * 1_000 // rate)

    def _blocks(self, sessions: NDArray[np.int64], milliseconds: int) -> Iterator[Block]:
        begin, self.ts = self.ts, self.ts + milliseconds
        for start in range(0, len(sessions), BLOCK):
            part = sessions[start : start + BLOCK]
            times = begin + (start + np.arange(len(part))) * milliseconds // len(sessions)
            values = self._payloads(part, times)
            records = [Record(offset, self._now, None, value) for offset, value in enumerate(values, self.offset)]
            self.offset += len(part)
            yield Block("clicks", 0, records)

    def _payloads(self, sessions: NDArray[np.int64], times: NDArray[np.int64]) -> Iterator[bytes]:
        actions = self._dice.choice(len(ACTIONS), len(sessions), p=list(MIX.values())).tolist()
        products = self._dice.integers(PRODUCTS, size=len(sessions)).tolist()
        rows = zip(sessions.tolist(), times.tolist(), actions, products, strict=True)
        for number, (session, ts, action, product) in enumerate(rows, self.offset):
            user, session_id = ids(session)
            event = {
                "event_id": f"c{number}", "ts": ts, "user_id": user, "session_id": session_id,
                "action": ACTIONS[action],
            }  # fmt: skip
            if ACTIONS[action] == "search":
                event |= {"query": title(product), "results": 40}
            elif ACTIONS[action] != "checkout":
                event |= {"product_id": f"p{product}", "price": price(product)}
            yield orjson.dumps(event)


def ids(session: int) -> tuple[str, str]:
    """Shopper (16 characters) and session (32), without any order."""
    mixed = (session + 1) * 0x9E3779B97F4A7C15
    return f"u{mixed & (1 << 60) - 1:015x}", f"{mixed * 0xD1B54A32D192ED03 & (1 << 128) - 1:032x}"


@cache
def shop() -> Catalogue:
    """The catalogue; a worker has one for all its partitions."""
    products = Catalogue()
    for product in catalogue(PRODUCTS):
        products.upsert(Product(**product))
    return products


class Partition:
    """The processor of a click partition and its checkpoints."""

    def __init__(self, size: int) -> None:
        self._settings = Settings(partitions=1, lateness_ms=0, max_sessions=2 * size)
        self.processor = lane.Clicks(0, self._settings, shop())
        self.store = Store()
        self.checkpoints = Checkpoints(self.store, 0)
        self.checkpoints.restore()
        self.position = 0
        self.processing = self.copying = 0.0

    async def take(self, blocks: Iterable[Block]) -> None:
        """Process blocks, with checkpoints between; the CPU seconds of processing are added to ``processing``."""
        for number, block in enumerate(blocks, 1):
            begun = time.process_time()
            await self.processor.process(block)
            self.processing += time.process_time() - begun
            self.position = block.last + 1
            if number % BLOCKS_A_CHECKPOINT == 0:
                await self.save()

    async def save(self) -> None:
        """A checkpoint; the CPU seconds it takes to copy the state out are added to ``copying``."""
        begun = time.process_time()
        changes = self.processor.dump()
        self.copying += time.process_time() - begun
        await self.checkpoints.save({"clicks": self.processor.resume("clicks", self.position)}, changes)

    @property
    def held(self) -> int:
        """Bytes of the checkpoint in the store."""
        return sum(map(len, self.store.data.values()))

    def recover(self) -> float:
        """Seconds for a new processor to come to the last checkpoint, which is in the store; it takes the place."""
        begun = time.perf_counter()
        _, segments = Checkpoints(self.store, 0).restore()
        processor = lane.Clicks(0, self._settings, shop())
        processor.load(segments)
        seconds = time.perf_counter() - begun
        if len(processor._sessions) != len(self.processor._sessions):
            raise RuntimeError(f"{len(processor._sessions)} of {len(self.processor._sessions)} sessions came back")
        self.processor = processor
        return seconds


async def measure(size: int) -> Figures:
    """All figures at one size; to be called once in a process."""
    clicks = min(CLICKS * size, MOST_CLICKS)
    seconds, timed = 0.0, 0
    await opened(Source(SIZES[0]), CLICKS * SIZES[0])  # no size pays for what is made once in a process
    while timed + clicks < ROUNDS:
        partition = await opened(Source(size, timed), clicks)
        seconds, timed = seconds + partition.processing, timed + clicks
    source = Source(size)
    before = resident()
    partition = await opened(source, clicks)
    seconds, timed = seconds + partition.processing, timed + clicks
    await partition.save()
    full = copy = partition.held
    state = resident() - before - copy
    partition.store.sent, partition.copying = 0, 0.0
    for _ in range(CHECKPOINTS):
        await partition.take(source.clicks(RATE, RATE))
        await partition.save()
        copy = max(copy, partition.held)
    changelog = partition.store.sent / CHECKPOINTS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    recovery = partition.recover()
    return {
        "sessions": size,
        "clicks_per_session": round(1 + clicks / size, 2),
        "bytes_per_session": round(state / size, 1),
        "copy_bytes_per_session": round(copy / size, 1),
        "peak_bytes_per_session": round(peak / size, 1),
        "us_per_click": round(1e6 * seconds / timed, 3),
        "us_per_click_copying": round(1e6 * partition.copying / (CHECKPOINTS * RATE), 3),
        "full_state_bytes": full,
        "changelog_bytes_per_s": round(changelog),
        "changelog_bytes_per_click": round(changelog / RATE, 1),
        "recovery_s": round(recovery, 3),
    }


async def opened(source: Source, clicks: int) -> Partition:
    """A partition with all sessions of ``source`` open and so many clicks taken after that, whose seconds it knows."""
    partition = Partition(source.size)
    await partition.take(source.open())
    partition.processing = 0.0
    await partition.take(source.clicks(clicks, FAST))
    return partition


def resident() -> int:
    """Bytes of memory that the process has now; what is free in its heap is given back before, where it can be."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pane_bytes() -> float:
    """Bytes of memory per product of a pane with :data:`PANE_PRODUCTS` of them, each touched."""
    before = resident()
    pane = Pane(0, PANE_PRODUCTS)
    for start in range(0, PANE_PRODUCTS, BLOCK):
        products = np.arange(start, min(start + BLOCK, PANE_PRODUCTS), dtype=np.int32)
        pane.count(products, products % len(COUNTS))
    return (resident() - before) / PANE_PRODUCTS


# Recovery as a worker does it


async def through_faust(size: int, broker: str) -> Figures:
    """Seconds from the start of a worker to its readiness when the state of ``size`` sessions lies in its changelog."""
    source, partition = Source(size), Partition(size)
    chats = {"kind": "watermark", "source": "chats/0", "ts": START + 10**9, "idle": False, "replay": True}
    await partition.processor.process(Block("said", 0, [Record(0, 0, None, orjson.dumps(chats))]))
    await partition.take(source.open())
    await partition.save()
    for _ in range(CHECKPOINTS):
        await partition.take(source.clicks(RATE, RATE))
        await partition.save()
    data = partition.store.data
    async with servers(broker, partitions=1, group="state") as settings:
        await ensure_topics(settings)
        empty = await started(settings)
        topic = f"{settings.topic(settings.group)}-clicks-state-changelog"
        await asyncio.to_thread(fill, settings, topic, data)
        full = await started(settings, partition.processor.watermark)
    return {
        "broker": broker,
        "sessions": size,
        "records": len(data),
        "bytes": sum(map(len, data.values())),
        "ready_s": round(full, 2),
        "ready_empty_s": round(empty, 2),
    }


def fill(settings: Settings, topic: str, data: dict[bytes, bytes]) -> None:
    """Write the records one by one: Tansu tells a short end of a topic whose last batch is long."""
    producer = Producer({"bootstrap.servers": settings.broker, "linger.ms": 0, "log_level": 0})
    heads = [key for key in data if key.count(b"/") == 1]
    for key in [*(key for key in data if key not in heads), *heads]:
        producer.produce(topic, data[key], key, partition=0)
        if producer.flush(60):
            raise RuntimeError(f"the broker at {settings.broker} did not take a record of {topic} within a minute")


async def started(settings: Settings, watermark: int = 0) -> float:
    """Start a worker; seconds to its readiness. Raises unless it has a watermark of at least ``watermark`` then."""
    begun = time.perf_counter()
    with (settings.home / "worker.log").open("wb") as output:
        worker = await asyncio.create_subprocess_exec(*WORKER, env=environment(settings), stderr=output)
    try:
        while not (settings.home / "worker-0.ready").exists():
            if worker.returncode is not None or time.perf_counter() - begun > READY_SECONDS:
                raise RuntimeError(f"the worker is not ready: {tail(settings)}")
            await asyncio.sleep(0.02)
        seconds = time.perf_counter() - begun
        while not (lanes := read_lanes(settings)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        if (found := lanes[f"{settings.topic('clicks')}/0"]["watermark"]) < watermark:
            raise RuntimeError(f"the worker began at {found} and not at {watermark}: it did not find its state")
        return seconds
    finally:
        if worker.returncode is None:
            worker.terminate()
        await worker.wait()


# What is shown


def show(rows: list[Figures], pane: float, recovered: Figures | None) -> Figures:
    """The table, and the figures by name."""
    table = Table(
        "open sessions", "clicks each", "memory B", "copy B", "peak B", "µs/click", "of the rate at the fewest",
        "copying µs/click", "changelog kB/s", "B/click", "full state MB", "recovery s",
        title=f"one partition; per session: memory, copy in the table, peak of both; {RATE:,} clicks/s and a "
        "checkpoint a second",
    )  # fmt: skip
    for row in rows:
        many = row["sessions"] >= SURE
        table.add_row(
            f"{row['sessions']:,}",
            f"{row['clicks_per_session']:g}",
            *(f"{row[name]:.0f}" if many else "" for name in BYTES),
            f"{row['us_per_click']:.2f}",
            f"{rows[0]['us_per_click'] / row['us_per_click']:.2f}",
            f"{row['us_per_click_copying']:.2f}",
            f"{row['changelog_bytes_per_s'] / 1e3:,.0f}",
            f"{row['changelog_bytes_per_click']:,.0f}",
            f"{row['full_state_bytes'] / 1e6:,.1f}",
            f"{row['recovery_s']:.2f}",
        )
    console = Console(width=160)
    console.print(table)
    console.print(f"{pane:.0f} bytes per product of a pane, {PANE_PRODUCTS:,} products in it.")
    if recovered:
        console.print(
            f"Worker with {recovered['sessions']:,} sessions in its changelog ({recovered['bytes'] / 1e6:,.0f} MB, "
            f"{recovered['broker']} broker): ready after {recovered['ready_s']:.1f} s; with an empty one after "
            f"{recovered['ready_empty_s']:.1f} s."
        )
    console.print(
        "Memory is what the process grew by, per session; below 100,000 sessions it says nothing. Not measured: chats "
        "and late clicks, sessions that end, the catalogue, a broker's own memory and disk."
    )
    largest = rows[-1]
    figures: Figures = {
        "bytes_per_session": largest["bytes_per_session"],
        "copy_bytes_per_session": largest["copy_bytes_per_session"],
        "bytes_per_product_pane": round(pane, 1),
        "cost_vs_fewest": {
            str(row["sessions"]): round(row["us_per_click"] / rows[0]["us_per_click"], 3) for row in rows
        },
        "sizes": rows,
    }
    return figures | ({"worker_recovery": recovered} if recovered else {})


def apart(*arguments: str) -> Figures:
    """This program in a process of its own, so that its memory is that of one measurement."""
    argv = [sys.executable, "-m", "bench.state", *arguments]
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    figures: Figures = orjson.loads(done.stdout.splitlines()[-1])
    return figures


def default_broker() -> str:
    return "apache" if shutil.which("java") and shutil.which("mvn") else "embedded"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of open sessions")
    parser.add_argument("--broker", choices=("apache", "embedded", "none"), default=default_broker())
    parser.add_argument("--broker-sessions", type=int, default=1_000_000)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--pane", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(orjson.dumps(asyncio.run(measure(options.one))).decode())
    elif options.pane:
        print(orjson.dumps({"pane": pane_bytes()}).decode())
    else:
        rows = [apart("--one", size) for size in options.sizes.split(",")]
        pane = apart("--pane")["pane"]
        recovered = None
        if options.broker != "none":
            recovered = asyncio.run(through_faust(options.broker_sessions, options.broker))
        print(result("state", show(rows, pane, recovered), PACKAGES))


if __name__ == "__main__":
    main()
