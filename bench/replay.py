"""``make bench-replay``: how many times faster than it happened a recorded stretch goes through the radar.

The stretch is :data:`RATE` events a second, nearly all of them clicks (``bench/workload.py``). The runs on one broker
go into workers that store, recommend and save as they do in production, and are over when every window of the stretch
is closed, stored and saved:

- *from the topic*: the events are there before one worker, or two, start; the time runs from their readiness;
- *from a file*: an event file through the code of ``radar replay`` at maximum speed, reading, sending and working side
  by side; the time runs from the first line read.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table

from bench.report import result
from bench.stack import servers, tail, workers
from bench.workload import Clicks, catalogue, events
from stream.replay import replay
from stream.settings import Settings
from stream.status import read_lanes, totals, wait_until_caught_up
from stream.topics import ensure_topics

RATE: Final = 300
PRODUCTS: Final = 1_000
PACKAGES: Final = ("faust-streaming", "aiokafka", "numpy", "orjson", "chdb")

Figures = dict[str, Any]


def write(clicks: Clicks, path: Path) -> None:
    """The catalogue and the clicks as an event file (``docs/events.md``)."""
    with path.open("wb") as file:
        for product in catalogue(PRODUCTS):
            file.write(_line("catalog", product["product_id"], orjson.dumps(product)))
        for user, value in zip(clicks.user.tolist(), clicks.payloads(), strict=True):
            file.write(_line("clicks", f"u{user}", value))


def _line(topic: str, key: str, value: bytes) -> bytes:
    record = {"topic": topic, "key": key, "value": orjson.Fragment(value)}
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


async def measure(count: int, broker: str) -> Figures:
    clicks = events(count, per_second=RATE, products=PRODUCTS)
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "events.jsonl"
        write(clicks, file)
        async with servers(broker) as settings:
            first = settings.model_copy(update={"prefix": "first-"})
            summary = await replay([file], first)
            async with workers(first, 1):
                begun = time.perf_counter()
                topic = await finished(first, summary.last_ts, begun)
            both = settings.model_copy(update={"prefix": "both-"})
            await replay([file], both)
            async with workers(both, 2):
                begun = time.perf_counter()
                two = await finished(both, summary.last_ts, begun)
            second = settings.model_copy(update={"prefix": "second-"})
            await ensure_topics(second)
            async with workers(second, 1):
                begun = time.perf_counter()
                sending = await replay([file], second)
                whole = await finished(second, sending.last_ts, begun)
    seconds = (int(clicks.ts.max()) - int(clicks.ts.min())) / 1_000
    return {
        "broker": broker,
        "events": count,
        "events_per_s_of_the_stretch": RATE,
        "stretch_s": round(seconds, 1),
        "topic_s": round(topic, 2),
        "topic_speedup": round(seconds / topic, 1),
        "two_s": round(two, 2),
        "two_speedup": round(seconds / two, 1),
        "file_s": round(whole, 2),
        "file_speedup": round(seconds / whole, 1),
        "sending_alone_events_per_s": round(summary.rate),
        "sending_beside_the_worker_events_per_s": round(sending.rate),
    }


async def finished(settings: Settings, last_ts: int, begun: float) -> float:
    """Seconds since ``begun`` when all of it is durable."""
    if not await wait_until_caught_up(settings, last_ts + settings.session_gap_ms):
        raise RuntimeError(f"the workers did not finish: {tail(settings)}")
    seconds = time.perf_counter() - begun
    if not totals(read_lanes(settings))[settings.topic("clicks")]["sessions"]:
        raise RuntimeError("the worker found no sessions")
    return seconds


def show(figures: Figures) -> None:
    table = Table("the stretch", "seconds", "times real time", "events/s")
    runs = {
        "topic": "from the topic, one worker",
        "two": "from the topic, two workers",
        "file": "from a file, with sending, one worker",
    }
    for name, words in runs.items():
        seconds = figures[f"{name}_s"]
        table.add_row(
            words, f"{seconds:.1f}", f"{figures[f'{name}_speedup']:,.0f}", f"{figures['events'] / seconds:,.0f}"
        )
    console = Console(width=120)
    console.print(table)
    console.print(
        f"{figures['events']:,} events, {RATE} a second: {figures['stretch_s'] / 60:.0f} minutes "
        f"({figures['broker']} broker). Sending alone: {figures['sending_alone_events_per_s']:,} events/s. "
        "Not measured: reviews and chats (the model bounds those, see bench-smoke), a remote broker."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=600_000)
    parser.add_argument("--broker", choices=("apache", "embedded"), default="embedded")
    options = parser.parse_args()
    figures = asyncio.run(measure(options.events, options.broker))
    show(figures)
    print(result("replay", figures, PACKAGES))


if __name__ == "__main__":
    main()
