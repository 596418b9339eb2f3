"""Clicks by the million for ``make bench-stream``: the same seed gives the same bytes, whatever the machine.

A pool of shoppers is active at any time; each click comes from one of them at random, who leaves after it with a
chance of 1 in 12, so sessions have 12 clicks in the mean (geometric). Event time moves at a fixed rate. One click in
twenty arrives up to 2 s late and one in a hundred is delivered twice. Columns come from numpy; only the bytes are made
click by click. How many windows a system should find in any part of the topic is known from the columns
(:meth:`Clicks.windows`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from confluent_kafka import KafkaError, Producer
from numpy.typing import NDArray

from stream.events import SOURCES
from stream.settings import Settings
from stream.sinks.kafka import partition_of

START: Final = 1_772_380_800_000  # 2 March 2026, 00:00 UTC+8
MIX: Final = {
    "view": 0.70, "search": 0.10, "cart": 0.08, "uncart": 0.01,
    "favorite": 0.03, "checkout": 0.02, "purchase": 0.04, "return": 0.02,
}  # fmt: skip
ACTIONS: Final = tuple(MIX)
EMPTY: Final = 0.05  # of the searches
CLICKS: Final = 12  # of a session, in the mean
PAUSE_SECONDS: Final = 30  # from a shopper's click to the next, in the mean
TARDY: Final = 0.05
REDELIVERED: Final = 0.01
MOST_LATE_MS: Final = 2_000
WARES: Final = ("耳机", "面膜", "羽绒服", "电饭煲", "积木", "口红", "机械键盘", "跑步鞋", "保温杯", "台灯")
COLOURS: Final = ("黑色", "白色", "蓝色", "红色", "绿色", "金色", "灰色")
BATCH: Final = 10_000
SEND_SECONDS: Final = 60.0

Column = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Clicks:
    """Clicks in the order of arrival, column by column; all columns are as long."""

    number: Column  # of the event id; a second delivery has the number of the first
    ts: Column  # epoch ms
    user: Column
    session: Column
    action: Column  # index into ACTIONS
    product: Column
    empty: Column  # 1: as a search it found nothing

    def __len__(self) -> int:
        return len(self.ts)

    def payloads(self) -> Iterator[bytes]:
        """Each click as its record's value, see ``docs/events.md``."""
        columns = (self.number, self.ts, self.user, self.session, self.action, self.product, self.empty)
        for number, ts, user, session, action, product, empty in zip(*map(np.ndarray.tolist, columns), strict=True):
            event: dict[str, Any] = {
                "event_id": f"c{number}",
                "ts": ts,
                "user_id": f"u{user}",
                "session_id": f"s{session}",
                "action": ACTIONS[action],
            }
            match ACTIONS[action]:
                case "search":
                    event |= {"query": title(product), "results": 0 if empty else 40}
                case "checkout":
                    pass
                case "view" | "cart":
                    event |= {"product_id": f"p{product}", "price": price(product)}
                case _:
                    event["product_id"] = f"p{product}"
            yield orjson.dumps(event)

    def partitions(self, count: int) -> Column:
        """The partition of each click among ``count``."""
        users, place = np.unique(self.user, return_inverse=True)
        return np.array([partition_of(f"u{user}", count) for user in users.tolist()])[place]

    def windows(self, partition: Column, positions: Sequence[int], gap_ms: int, pane_ms: int) -> tuple[int, int]:
        """Sessions, and panes of a product in a partition, among the first ``positions[p]`` clicks of partition p."""
        sessions = panes = 0
        for number, position in enumerate(positions):
            rows = np.flatnonzero(partition == number)[:position]
            order = rows[np.lexsort((self.ts[rows], self.user[rows]))]
            user, ts = self.user[order], self.ts[order]
            sessions += int(np.sum((np.diff(user) != 0) | (np.diff(ts) > gap_ms))) + (len(order) > 0)
            named = rows[~np.isin(self.action[rows], [ACTIONS.index("search"), ACTIONS.index("checkout")])]
            panes += len(np.unique(self.ts[named] // pane_ms * (self.product.max() + 1) + self.product[named]))
        return sessions, panes


def events(count: int, users: int = 100_000, products: int = 1_000, seed: int = 1, per_second: int = 300) -> Clicks:
    """``count`` clicks of ``users``, who come round in turn, on ``products``; ``per_second`` of event time."""
    dice = np.random.default_rng(seed)
    copies = round(count * REDELIVERED)
    once = count - copies
    number = np.arange(once)
    ts = START + number * 1_000 // per_second
    user, session = _shoppers(dice, once, users, min(users, PAUSE_SECONDS * per_second))
    action = dice.choice(len(ACTIONS), once, p=list(MIX.values()))
    product = dice.integers(products, size=once)
    empty = (dice.random(once) < EMPTY).astype(np.int64)
    arrival = ts + (dice.random(once) < TARDY) * dice.integers(MOST_LATE_MS, size=once)
    again = dice.choice(once, copies, replace=False)
    order = np.argsort(np.concatenate([arrival, ts[again] + dice.integers(MOST_LATE_MS, size=copies)]), kind="stable")
    rows = np.concatenate([number, again])[order]
    return Clicks(number[rows], ts[rows], user[rows], session[rows], action[rows], product[rows], empty[rows])


def _shoppers(dice: np.random.Generator, count: int, users: int, pool: int) -> tuple[Column, Column]:
    """User and session of each click."""
    place = dice.integers(pool, size=count)
    leaves = dice.random(count) < 1 / CLICKS
    order = np.argsort(place, kind="stable")
    begins = np.ones(count, bool)
    begins[1:] = np.diff(place[order]) != 0
    begins[1:] |= leaves[order][:-1]
    first = order[begins]  # the click that begins each session
    turn = np.empty(len(first), np.int64)
    turn[np.argsort(first)] = np.arange(len(first))  # sessions numbered by when they begin
    session = np.empty(count, np.int64)
    session[order] = turn[np.cumsum(begins) - 1]
    return session % users, session


def title(product: int) -> str:
    return f"{COLOURS[product % len(COLOURS)]}{WARES[product % len(WARES)]} {product}"


def price(product: int) -> float:
    return 19.0 + product % 500


def catalogue(products: int) -> Iterator[dict[str, Any]]:
    """The products as records of ``catalog``; one in fifty is sold out."""
    for product in range(products):
        yield {
            "product_id": f"p{product}",
            "title": title(product),
            "category": WARES[product % len(WARES)],
            "price": price(product),
            "stock": 0 if product % 50 == 7 else 100,
        }


def fill(settings: Settings, clicks: Clicks, products: int = 1_000) -> None:
    """Put the catalogue and the clicks into their topics, then heartbeats that close every session and pane.

    The topics must be there (``ensure_topics``). Raises :class:`RuntimeError` when the broker does not take them.
    """
    sender = _Sender(settings)
    for product in catalogue(products):
        key = product["product_id"]
        sender.add("catalog", partition_of(key, settings.partitions), key, orjson.dumps(product))
    partitions = clicks.partitions(settings.partitions).tolist()
    for payload, partition, user in zip(clicks.payloads(), partitions, clicks.user.tolist(), strict=True):
        sender.add("clicks", partition, f"u{user}", payload)
    end = int(clicks.ts.max()) + settings.session_gap_ms + settings.lateness_ms + 2 * settings.pane_ms
    beat = orjson.dumps({"heartbeat": end, "replay": True})
    for topic in SOURCES:
        for partition in range(settings.partitions):
            sender.add(topic, partition, None, beat)
    sender.close()


class _Sender:
    """librdkafka's producer, a batch of records at a time, in order."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.topic
        self._waiting: dict[tuple[str, int], list[dict[str, Any]]] = {}
        self._error: KafkaError | None = None
        self._producer = Producer(
            {
                "bootstrap.servers": settings.broker,
                "linger.ms": 50,
                "batch.size": 500_000,
                "queue.buffering.max.messages": 10 * BATCH,
                "max.in.flight": 1,  # keeps the order
                "log_level": 0,
            }
        )

    def add(self, topic: str, partition: int, key: str | None, value: bytes) -> None:
        waiting = self._waiting.setdefault((topic, partition), [])
        waiting.append({"key": key, "value": value})
        if len(waiting) == BATCH:
            self._send(topic, partition)

    def close(self) -> None:
        for place in list(self._waiting):
            self._send(*place)
        if left := self._producer.flush(SEND_SECONDS):
            raise RuntimeError(f"the broker did not take {left} records within {SEND_SECONDS:g} s; see its log")
        self._producer.close()
        self._raise()

    def _send(self, topic: str, partition: int) -> None:
        batch = self._waiting.pop((topic, partition))
        deadline = time.monotonic() + SEND_SECONDS
        while len(self._producer) > 9 * BATCH and time.monotonic() < deadline:
            self._producer.poll(0.01)
        # The partition is named once for all: what a single message of a batch says of it is ignored.
        self._producer.produce_batch(self._topic(topic), batch, partition=partition, on_delivery=self._delivered)
        self._producer.poll(0)
        self._raise()

    def _delivered(self, error: KafkaError | None, _: Any) -> None:
        self._error = self._error or error

    def _raise(self) -> None:
        if self._error:
            raise RuntimeError(f"the broker did not take a record: {self._error}")
