"""``make bench-latency``: how long after the event that completes a window its alerts can be read from the store.

A live shop on the embedded stack (Tansu, Triton, one worker, chDB): reviews, chats and clicks carry the time at which
they are sent, and nothing is late. After a stretch of ordinary days in small (:data:`HISTORY_SECONDS`), so that the
detectors know what is normal, some products get a burst of complaints in every pane. Rules and thresholds are the
shipped ones; panes are of seconds, so that many windows close in a short run.

A window is complete when every partition of every source has an event past its end by the allowed lateness. *Latency*
runs from the sending of the last of these events to the first query that returns the alert, and queries follow each
other by 20 ms: the wait for a batch, the model, both hops through Kafka, the detectors and the insert are all in it.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from aiokafka import AIOKafkaProducer
from rich.console import Console
from rich.table import Table

from bench.report import result
from stream.events import SOURCES
from stream.settings import Settings
from stream.simulate import texts
from stream.simulate.catalog import CATEGORY_ASPECTS, Product, make_catalog
from stream.simulate.dice import Dice
from stream.sinks import open_sink
from stream.sinks.base import Sink
from stream.sinks.kafka import partition_of
from stream.stack import embedded_stack

PANE_MS: Final = 3_000
LATENESS_MS: Final = 500
WINDOW_PANES: Final = 3
PARTITIONS: Final = 2
PRODUCTS: Final = 60
HISTORY_SECONDS: Final = 45.0
BURSTS: Final = 2  # products with complaints in a pane
COMPLAINTS: Final = 14  # about each
ASPECTS: Final = ("price", "logistics", "after-sales", "authenticity")  # which the model recognises nearly always
BURST_SHARE: Final = 0.6  # of the pane in which they come
POLL_SECONDS: Final = 0.02
STEP_SECONDS: Final = 0.01
DRAIN_SECONDS: Final = 5.0
LEAST: Final = 50  # alerts for a figure that means something
MIX: Final = {"clicks": 0.95, "reviews": 0.025, "chats": 0.025}
PACKAGES: Final = ("faust-streaming", "aiokafka", "nvidia-pytriton", "tritonclient", "onnxruntime", "chdb")

Figures = dict[str, Any]


class Completion:
    """When each window became complete: the sending of the last event that a source partition owed it."""

    def __init__(self, pane_ms: int, lateness_ms: int, places: set[tuple[str, int]]) -> None:
        self._pane, self._lateness, self._places = pane_ms, lateness_ms, places
        self._passed: dict[tuple[str, int], int] = {}
        self._at: dict[int, dict[tuple[str, int], float]] = defaultdict(dict)

    def sent(self, place: tuple[str, int], ts: int, now: float) -> None:
        """An event of event time ``ts`` (epoch ms) went to ``place`` at ``now`` (seconds)."""
        mark = ts - self._lateness
        last = mark - mark % self._pane
        for end in range(self._passed.get(place, last) + self._pane, last + 1, self._pane):
            self._at[end][place] = now
        self._passed[place] = max(last, self._passed.get(place, last))

    def of(self, end: int) -> float | None:
        """When the window that ends at ``end`` was complete; None if it is not (or began before all of it was seen)."""
        at = self._at.get(end, {})
        return max(at.values()) if at.keys() == self._places else None


class Shop:
    """Makes events and sends them, each with the time of sending."""

    def __init__(self, producer: AIOKafkaProducer, settings: Settings, completion: Completion) -> None:
        self._producer, self._settings, self._completion = producer, settings, completion
        self._dice = Dice(1)
        self.products = make_catalog(PRODUCTS)
        self.sent = 0

    async def catalogue(self) -> None:
        for product in self.products:
            await self._producer.send_and_wait(
                self._settings.topic("catalog"), orjson.dumps(product.record()), key=product.product_id.encode()
            )

    async def ordinary(self, topic: str) -> None:
        """One event of the kind of every day."""
        dice, product, user = self._dice, self._dice.pick(self.products), f"u{self._dice.below(5_000)}"
        if topic == "clicks":
            event: dict[str, Any] = {"session_id": f"s{user}", "action": "view", "product_id": product.product_id}
        elif topic == "chats":
            text = texts.ask(dice, product, "en", "product_question")
            event = {"session_id": f"t{user}", "role": "customer", "product_id": product.product_id, "text": text}
        else:
            aspect = dice.pick(CATEGORY_ASPECTS[product.category])
            text = texts.review(dice, product, "en", [("positive", aspect)])
            event = {"product_id": product.product_id, "rating": 5, "text": text}
        await self._send(topic, product.product_id if topic == "reviews" else user, user, event)

    async def complain(self, product: Product, aspect: str) -> None:
        text = texts.review(self._dice, product, "en", [("negative", aspect)])
        event = {"product_id": product.product_id, "rating": 1, "text": text}
        await self._send("reviews", product.product_id, f"u{self._dice.below(5_000)}", event)

    async def _send(self, topic: str, key: str, user: str, event: dict[str, Any]) -> None:
        now = time.time()
        self.sent += 1
        value = {"event_id": f"{topic}{self.sent}", "ts": int(now * 1_000), "user_id": user, **event}
        partition = partition_of(key, self._settings.partitions)
        self._completion.sent((topic, partition), int(now * 1_000), now)
        await self._producer.send(
            self._settings.topic(topic), orjson.dumps(value), key=key.encode(), partition=partition
        )


async def live(shop: Shop, rate: float, seconds: float) -> None:
    """Ordinary events at ``rate`` a second, and after :data:`HISTORY_SECONDS` complaints as well."""
    begun = time.time()
    owed = dict.fromkeys(MIX, 0.0)
    pane, plan = 0, list[tuple[float, Product, str]]()
    number, before = 0, begun
    while (now := time.time()) < begun + HISTORY_SECONDS + seconds:
        for topic, share in MIX.items():
            owed[topic] += rate * share * (now - before)
            while owed[topic] >= 1:
                owed[topic] -= 1
                await shop.ordinary(topic)
        before = now
        start = int(now * 1_000) // PANE_MS * PANE_MS
        if start != pane and now > begun + HISTORY_SECONDS:
            pane = start
            for _ in range(BURSTS):
                product, aspect = shop.products[number % len(shop.products)], ASPECTS[number % len(ASPECTS)]
                span = PANE_MS * BURST_SHARE / 1_000 / COMPLAINTS
                plan += [(start / 1_000 + n * span, product, aspect) for n in range(COMPLAINTS)]
                number += 1
            plan.sort(key=lambda planned: planned[0])
        while plan and plan[0][0] <= now:
            _, product, aspect = plan.pop(0)
            await shop.complain(product, aspect)
        await asyncio.sleep(STEP_SECONDS)


async def watch(sink: Sink, seen: dict[tuple[str, int, str], float]) -> None:
    """Note when each state of each alert was first returned by a query."""
    since = int(time.time() * 1_000) - PANE_MS
    sql = "SELECT alert_id, state, toUnixTimestamp64Milli(updated_at) AS updated FROM alert_transitions"
    while True:
        newest = max((updated for _, updated, _ in seen), default=since) - 10 * PANE_MS
        rows = await sink.query(f"{sql} WHERE updated_at >= fromUnixTimestamp64Milli({newest}, 'UTC')")
        now = time.time()
        for row in rows:
            seen.setdefault((row["alert_id"], int(row["updated"]), row["state"]), now)
        await asyncio.sleep(POLL_SECONDS)


async def measure(rate: float, seconds: float, in_process: bool) -> Figures:
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(
            home=Path(home), partitions=PARTITIONS, pane_ms=PANE_MS, lateness_ms=LATENESS_MS,
            window_panes=WINDOW_PANES, correct_ms=0, session_gap_ms=10_000,
        )  # fmt: skip
        if in_process:
            settings.triton = ""
        async with embedded_stack(settings) as stack:
            return await run(stack.settings, rate, seconds)


async def run(settings: Settings, rate: float, seconds: float) -> Figures:
    places = {(topic, partition) for topic in SOURCES for partition in range(settings.partitions)}
    completion = Completion(settings.pane_ms, settings.lateness_ms, places)
    seen: dict[tuple[str, int, str], float] = {}
    producer = AIOKafkaProducer(bootstrap_servers=settings.brokers, linger_ms=0)
    await producer.start()
    try:
        shop = Shop(producer, settings, completion)
        await shop.catalogue()
        async with open_sink(settings) as sink:
            watcher = asyncio.create_task(watch(sink, seen))
            try:
                await live(shop, rate, seconds)
                await asyncio.sleep(DRAIN_SECONDS)
            finally:
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)
    finally:
        await producer.stop()
    return figures_of(seen, completion) | {
        "events_per_s": round(shop.sent / (HISTORY_SECONDS + seconds), 1),
        "scorer": "triton" if settings.triton else "in process",
    }


def figures_of(seen: dict[tuple[str, int, str], float], completion: Completion) -> Figures:
    """Percentiles in milliseconds, of alerts that opened and of all states (told again, resolved)."""
    figures: Figures = {}
    for name, states in (("opened", ("open",)), ("all", ("open", "resolved"))):
        waits = [
            1_000 * (at - complete)
            for (_, end, state), at in seen.items()
            if state in states and (complete := completion.of(end)) is not None
        ]
        figures[name] = {"alerts": len(waits)} | (
            {f"p{p}_ms": round(float(np.percentile(waits, p))) for p in (50, 95, 99)} | {"max_ms": round(max(waits))}
            if waits
            else {}
        )
    return figures


def show(figures: Figures) -> None:
    table = Table("alert rows", "number", "p50 ms", "p95 ms", "p99 ms", "max ms")
    for name in ("opened", "all"):
        found = figures[name]
        table.add_row(
            name, str(found["alerts"]), *(f"{found.get(key, '')}" for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms"))
        )
    console = Console(width=120)
    console.print(table)
    if figures["opened"]["alerts"] < LEAST:
        console.print(f"[yellow]fewer than {LEAST} alerts opened: run it longer (--seconds)[/]")
    console.print(
        f"{figures['events_per_s']} events/s (95 % clicks), panes of {PANE_MS / 1_000:g} s, lateness {LATENESS_MS} ms, "
        f"{PARTITIONS} partitions, scorer: {figures['scorer']}; sender, watcher, broker, store and worker share the "
        "machine. Not measured: Apache Kafka, ClickHouse server, a model that is the bottleneck."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=300.0, help="ordinary events a second")
    parser.add_argument("--seconds", type=float, default=150.0, help="with complaints")
    parser.add_argument("--in-process", action="store_true", help="score in the worker instead of Triton")
    options = parser.parse_args()
    figures = asyncio.run(measure(options.rate, options.seconds, options.in_process))
    show(figures)
    print(result("latency", figures, PACKAGES))


if __name__ == "__main__":
    main()
