"""``make bench-stream``: clicks per second through one worker, beside other stream processors on the same topic.

Ours is a real worker: clicks decoded and checked, sessions, product panes, the panes sent through ``signals`` to the
fusion lanes, rows stored in chDB, checkpoints. A second run has a catalogue of 1,000 products, so that it recommends
too; a third has two workers. The peers (``bench/peers``) keep sessions and product panes, nothing else; each takes as
many of the first clicks as it manages in some 15 s. A rate runs to the last click, for ours to the checkpoint that
contains it; beside it stands the one until every window is closed and saved. The limit reads and parses. All run in
turn in one call, and the windows that each found are compared with those that lie in the topic. Rates per second are
of wall time on a machine that broker and store share; rates per CPU second count the process itself and suffer less
from neighbours.

``--profile`` shows where the worker spends its time, ``--keys`` what a click costs the click lane alone at different
numbers of shoppers. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.metadata import version
from itertools import compress, islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console
from rich.table import Table

from bench.report import result
from bench.stack import alive, servers, tail, workers
from bench.workload import START, Clicks, catalogue, events, fill
from stream.agents import clicks as lane
from stream.recommend.catalogue import Catalogue, Product
from stream.settings import ROOT, Settings
from stream.status import read_lanes, totals, wait_until_caught_up
from stream.topics import ensure_topics
from stream.transport import Block

OURS: Final = "demand-radar"
#: Our runs: products of the catalogue, and workers.
RUNS: Final = {"windows": (0, 1), "recommending": (1_000, 1), "two_workers": (0, 2)}
#: How many of the first clicks a peer gets: about 15 s of work on two cores; the limit gets all.
SHARES: Final = {"faust_stock": 60_000, "quix": 150_000, "bytewax": 600_000}
PEERS: Final = ("librdkafka", *SHARES)
#: Quix wants older versions of what the radar uses, so it has an environment of its own.
PYTHON: Final = {"quix": str(ROOT / ".venv/quix/bin/python")}
PEER_SECONDS: Final = 240.0
TOLERANCE: Final = 0.01
PACKAGES: Final = ("faust-streaming", "aiokafka", "chdb", "orjson")
TOP: Final = 25
CLICKED: Final = ("views", "carts", "uncarts", "favorites", "purchases", "returns")
OPEN_SECONDS: Final = 900  # of event time in --keys: shorter than the gap, so that all sessions stay open
BROKERS: Final = {"apache": "Apache Kafka", "embedded": "Tansu, the embedded broker"}
NAMES: Final = {
    "librdkafka": "vs_limit", "faust_stock": "vs_faust", "quix": "vs_quix", "bytewax": "vs_bytewax",
}  # fmt: skip

Figures = dict[str, Any]
Shares = list[tuple[str, float]]


async def compare(broker: str, count: int, peers: Iterable[str], profile: bool) -> list[Figures]:
    """The figures of our worker and of the ``peers``, one after the other on the same topics."""
    clicks = events(count)
    async with servers(broker) as settings:
        rows = []
        for name, (products, count_of_workers) in RUNS.items():
            run = settings.model_copy(update={"prefix": f"{name}-"})
            await ensure_topics(run)
            begun = time.perf_counter()
            await asyncio.to_thread(fill, run, clicks, products)
            say(f"{name}: {count:,} clicks in the topic after {time.perf_counter() - begun:.1f} s")
            rows.append({"peer": name} | await through_the_workers(run, clicks, count_of_workers, profile))
        settings = run
        rows += [await asyncio.to_thread(through_a_peer, name, settings, clicks) for name in peers]
    return rows


async def through_the_workers(settings: Settings, clicks: Clicks, count: int, profile: bool) -> Figures:
    """Workers that find the clicks in the topic, from the readiness of all to the last click durable."""
    async with workers(settings, count) as running:
        with sampled(running[0].pid, settings.home / "profile") if profile else nullcontext():
            begun, done = time.perf_counter(), clicks_saved(settings)
            before = sum(cpu_seconds(worker.pid) for worker in running)
            while clicks_saved(settings) < len(clicks):
                alive(settings, running)
                await asyncio.sleep(0.02)
            seconds = time.perf_counter() - begun
            cpu = sum(cpu_seconds(worker.pid) for worker in running) - before
            if not await wait_until_caught_up(settings, int(clicks.ts.max()) + settings.session_gap_ms):
                raise RuntimeError(f"the workers did not finish: {tail(settings)}")
            closed = time.perf_counter() - begun
        counts = totals(read_lanes(settings))[settings.topic("clicks")]
    figures = {
        "version": f"{OURS} {version(OURS)}",
        "events": len(clicks),
        "seconds": round(seconds, 3),
        "events_per_s": round((len(clicks) - done) / seconds, 1),
        "events_per_cpu_s": round((len(clicks) - done) / cpu, 1),
        "closed_events_per_s": round((len(clicks) - done) / closed, 1),
        "sessions": counts["sessions"],
        "panes": await asyncio.to_thread(panes_sent, settings),
        "positions": [len(clicks)] * settings.partitions,
    }
    return figures | {"remark": remark(figures, settings, clicks)}


def clicks_saved(settings: Settings) -> int:
    """How many records of the clicks topic our checkpoints contain."""
    lanes = read_lanes(settings)
    return sum(lane["saved"] for name, lane in lanes.items() if name.startswith(settings.topic("clicks/")))


def panes_sent(settings: Settings) -> int:
    """How many panes of a clicked product the click lanes have sent; others tell of searches and abandoned carts."""
    consumer = Consumer({"bootstrap.servers": settings.broker, "group.id": OURS, "enable.partition.eof": True})
    topic, partitions = settings.topic("signals"), settings.partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    panes: set[tuple[str, int, str]] = set()
    ended = 0
    while ended < partitions:
        for record in consumer.consume(1_000, timeout=1.0):
            if record.error():  # the end of a partition
                ended += 1
                continue
            message = orjson.loads(record.value())
            if message["kind"] == "panes" and message["scope"] == "product":
                columns = message["columns"]
                clicked = map(any, zip(*(columns[name] for name in CLICKED), strict=True))
                products = compress(columns["product_id"], clicked)
                panes.update((message["source"], message["pane"], product) for product in products)
    consumer.close()
    return len(panes)


def through_a_peer(name: str, settings: Settings, clicks: Clicks) -> Figures:
    """What a peer says of itself, or why it says nothing."""
    count = min(len(clicks), SHARES.get(name, len(clicks)))
    argv = [PYTHON.get(name, sys.executable), "-m", f"bench.peers.{name}", "--broker", settings.broker]
    argv += ["--topic", settings.topic("clicks"), "--partitions", str(settings.partitions), "--events", str(count)]
    say(f"{name}: {count:,} clicks")
    try:
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=PEER_SECONDS)
        figures: Figures = orjson.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"peer": name, "remark": f"did not finish within {PEER_SECONDS:g} s"}
    except FileNotFoundError:
        return {"peer": name, "remark": f"{argv[0]} is missing: make bench-stream sets it up"}
    except (IndexError, ValueError):
        return {"peer": name, "remark": f"failed: {(done.stderr.strip() or 'it said nothing').splitlines()[-1]}"}
    return figures | {"remark": remark(figures, settings, clicks)}


def remark(figures: Figures, settings: Settings, clicks: Clicks) -> str:
    """What is wrong with the windows found in the first ``positions`` clicks of the partitions; empty: nothing."""
    partition = clicks.partitions(settings.partitions)
    wanted = clicks.windows(partition, figures["positions"], settings.session_gap_ms, settings.pane_ms)
    return "; ".join(
        f"{figures[what]:,} {what} instead of {right:,}"
        for what, right in zip(("sessions", "panes"), wanted, strict=True)
        if figures[what] is not None and abs(figures[what] - right) > TOLERANCE * right
    )


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def say(what: str) -> None:
    print(what, file=sys.stderr)


# Where the time goes


@contextmanager
def sampled(pid: int, file: Path) -> Iterator[None]:
    """Samples with py-spy who holds the interpreter in a process; prints the largest shares at the end."""
    spy = Path(sys.executable).with_name("py-spy")
    argv = [str(spy), "record", "--pid", str(pid), "--format", "raw", "--function", "--gil", "--output", str(file)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as profiler:
        try:
            yield
        finally:
            profiler.send_signal(signal.SIGINT)
    own, whole = shares(file.read_text().splitlines())
    for title, found in (("in the function itself", own), ("with what it calls", whole)):
        table = Table("share", "function", title=title)
        for function, share in found[:TOP]:
            table.add_row(f"{share:.1%}", function)
        Console(stderr=True).print(table)


def shares(stacks: Iterable[str]) -> tuple[Shares, Shares]:
    """The share of each function of all samples, largest first: at the top of the stack, and anywhere in it.

    A line is ``outermost;…;innermost COUNT``.
    """
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        functions = stack.split(";")
        own[functions[-1]] += int(count)
        whole.update(dict.fromkeys(functions, int(count)))
    samples = own.total()
    return tuple([(name, count / samples) for name, count in found.most_common()] for found in (own, whole))  # type: ignore[return-value]


# What a click costs at different numbers of shoppers


class Record(NamedTuple):
    """What the click lane needs of a Kafka record."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes


async def cost(users: int, count: int) -> float:
    """Clicks per second of a click lane with ``users`` open sessions, which are clicked on at random.

    It saves its state as often as a worker does; nothing is sent or stored.
    """
    settings = Settings()
    products = Catalogue()
    for product in catalogue(1_000):
        products.upsert(Product(**product))
    processor = lane.Clicks(0, settings, products)
    number = np.arange(users)
    once = events(users)
    opening = replace(once, number=number + count, ts=START - settings.pane_ms + number % settings.pane_ms, user=number)
    opening.ts.sort()
    clicks = replace(
        events(count, per_second=max(1, count // OPEN_SECONDS)),
        user=np.random.default_rng(1).integers(users, size=count),
    )
    for block in blocks(opening, 0, settings.block_records):
        await processor.process(block)
    processor.dump()
    work = list(blocks(clicks, users, settings.block_records))
    begun = saved = time.perf_counter()
    for block in work:
        await processor.process(block)
        if time.perf_counter() - saved >= settings.checkpoint_seconds:
            processor.dump()
            saved = time.perf_counter()
    processor.dump()
    return count / (time.perf_counter() - begun)


def blocks(clicks: Clicks, offset: int, size: int) -> Iterator[Block]:
    """``clicks`` as the transport hands them over; the first has the offset ``offset``."""
    now = int(time.time() * 1_000)
    records = (Record(number, now, None, value) for number, value in enumerate(clicks.payloads(), offset))
    while chunk := list(islice(records, size)):
        yield Block("clicks", 0, chunk)


# What is shown


def show(rows: list[Figures], clicks: int, broker: str) -> Figures:
    """The table, and the figures of its rows by name."""
    table = Table(
        "", "clicks", "seconds", "clicks/s", "clicks/CPU s", "sessions", "panes", "ours is", "per CPU", "remark"
    )
    ours = rows[0]
    for row in rows:
        if "events" not in row:
            table.add_row(row["peer"], *[""] * 8, row["remark"])
            continue
        closed = row.get("closed_events_per_s")
        table.add_row(
            row["peer"],
            f"{row['events']:,}",
            f"{row['seconds']:.1f}",
            f"{row['events_per_s']:,.0f}",
            f"{row['events_per_cpu_s']:,.0f}",
            *("" if row[what] is None else f"{row[what]:,}" for what in ("sessions", "panes")),
            *(
                "" if row["peer"] in RUNS else f"× {ours[rate] / row[rate]:.2f}"
                for rate in ("events_per_s", "events_per_cpu_s")
            ),
            row["remark"] or (f"{closed:,.0f} clicks/s until all is closed and saved" if closed else ""),
        )
    Console(width=150).print(table)
    print(
        f"{clicks:,} clicks lie in the topic ({BROKERS[broker]}). A peer gets the first of them, for about 15 s.\n"
        "A rate runs from the first click to the last, for ours to the checkpoint that contains it."
    )
    figures: Figures = {
        "clicks_events_per_s": ours["events_per_s"],
        "clicks_events_per_cpu_s": ours["events_per_cpu_s"],
        "clicks_closed_events_per_s": ours["closed_events_per_s"],
        **{
            f"{row['peer']}_{rate}": row[rate]
            for row in rows[1 : len(RUNS)]
            for rate in ("events_per_s", "events_per_cpu_s")
        },
        "clicks": ours["events"],
        "broker": broker,
    }
    for row in rows[len(RUNS) :]:
        if "events" in row:
            name = NAMES[row["peer"]]
            figures[name] = round(ours["events_per_s"] / row["events_per_s"], 3)
            figures[f"{name}_per_cpu"] = round(ours["events_per_cpu_s"] / row["events_per_cpu_s"], 3)
            figures[f"{row['peer']}_events_per_s"] = row["events_per_s"]
            figures[f"{row['peer']}_events_per_cpu_s"] = row["events_per_cpu_s"]
            if row["closed_events_per_s"]:
                figures[f"{row['peer']}_closed_events_per_s"] = row["closed_events_per_s"]
    return figures | {"remarks": {row["peer"]: row["remark"] for row in rows if row["remark"]}}


def show_cost(rates: dict[int, float]) -> Figures:
    table = Table("shoppers", "clicks/s", "µs a click", "of the rate at the fewest")
    fewest = rates[min(rates)]
    for users, rate in rates.items():
        table.add_row(f"{users:,}", f"{rate:,.0f}", f"{1e6 / rate:.1f}", f"{rate / fewest:.2f}")
    Console().print(table)
    return {
        "lane_events_per_s": {str(users): round(rate) for users, rate in rates.items()},
        "lane_vs_fewest": {str(users): round(rate / fewest, 3) for users, rate in rates.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000, help="clicks in the topic")
    parser.add_argument("--broker", choices=BROKERS, default="apache" if has_java() else "embedded")
    parser.add_argument("--peers", default=",".join(PEERS), help="which to run, comma separated; may be empty")
    parser.add_argument("--profile", action="store_true", help="our worker alone, sampled by py-spy")
    parser.add_argument("--keys", help="only the click lane in this process, e.g. 1000,100000,1000000 shoppers")
    options = parser.parse_args()
    peers = [name for name in options.peers.split(",") if name and not options.profile]
    if unknown := set(peers) - set(PEERS):
        parser.error(f"unknown peers {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    versions: dict[str, str] = {}
    if options.keys:
        sizes = [int(size) for size in options.keys.split(",")]
        figures = show_cost({size: asyncio.run(cost(size, options.events)) for size in sizes})
    else:
        rows = asyncio.run(compare(options.broker, options.events, peers, options.profile))
        figures = show(rows, options.events, options.broker)
        versions = dict(row["version"].split() for row in rows if "version" in row)
    print(result("stream", figures, PACKAGES, versions))


def has_java() -> bool:
    return all(shutil.which(tool) for tool in ("java", "mvn"))


if __name__ == "__main__":
    main()
