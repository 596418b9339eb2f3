"""Sends recorded, imported or simulated events to the Kafka topics again, at any speed.

An *event file* is JSONL in the order of arrival, ``{"topic", "key", "value"}`` a line (``docs/events.md``). Several
files are merged by event time while they are read, so memory stays small whatever their size.

What the worker may rely on:

* One producer, at most one request under way per partition: the order in each partition is the order of sending.
* ``{"heartbeat": ts, "replay": true}`` goes to every partition of reviews, chats and clicks at the start and once per
  minute of event time, or once per pane at maximum speed. ``ts`` is ``lateness_ms`` behind the newest event sent, so it
  never claims more than the worker's watermark would; events older than a heartbeat before them count as ``late``.
* Before the first event, :class:`Handshake` waits until the report of every source lane lies in every partition of
  ``signals``: from then on no fusion lane can close a pane before it has all of it.
* A replay that reaches its end sends one heartbeat far enough ahead to close every window and session. However it
  ends, ``"replay": false`` hands the idle-partition clock back.

Kafka timestamps are the time of sending. The number of records under way is bounded: a slow broker slows the replay.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder

from stream.events import SOURCES
from stream.security import client_security
from stream.settings import Settings
from stream.sinks.kafka import partition_of
from stream.topics import ensure_topics

log = logging.getLogger(__name__)

TOPICS: Final = (*SOURCES, "catalog")
MINUTE_MS: Final = 60_000
FLUSH_RECORDS: Final = 4_000
BATCH_BYTES: Final = 512 * 1024
AWAY_MS: Final = 120_000  # a broker that starts again within this time holds a replay up and does not end it
SLEEP_SECONDS: Final = 0.5  # the paced clock and the progress are looked at this often


class Event(NamedTuple):
    """One record before it is one: ``value`` is the event, or text that is sent just as it is (an invalid record)."""

    topic: str
    key: str | None
    value: dict[str, Any] | str
    ts: int

    def line(self) -> bytes:
        """This event as a line of an event file."""
        return orjson.dumps(
            {"topic": self.topic, "key": self.key, "value": self.value}, option=orjson.OPT_APPEND_NEWLINE
        )

    def payload(self) -> bytes:
        return self.value.encode() if isinstance(self.value, str) else orjson.dumps(self.value)


class BadEventFile(ValueError):
    """A line that is no event; the message names file and line and says what to do."""


@dataclass(slots=True)
class ReplaySummary:
    """What was sent so far; a progress callback gets it several times a second."""

    sent: Counter[str] = field(default_factory=Counter)
    heartbeats: int = 0  # records; one heartbeat is a record in each partition
    late: int = 0  # events older than a heartbeat sent before them
    first_ts: int = 0
    last_ts: int = 0
    seconds: float = 0.0

    @property
    def events(self) -> int:
        return self.sent.total()

    @property
    def rate(self) -> float:
        """Events per wall second."""
        return self.events / self.seconds if self.seconds else 0.0


Progress = Callable[[ReplaySummary], None]


async def replay(
    files: Sequence[Path],
    settings: Settings,
    speed: float | None = None,
    progress: Progress | None = None,
    keep_invalid: bool = False,
    patience: float = 0.0,
) -> ReplaySummary:
    """Sends the events of ``files`` at ``speed`` times real time, or as fast as the broker takes them (None).

    ``patience`` is how many seconds to wait for the workers before the first event; 0: there need not be any.
    """
    return await replay_events(read_events(files, keep_invalid), settings, speed, progress, patience)


async def replay_events(
    events: Iterable[Event],
    settings: Settings,
    speed: float | None = None,
    progress: Progress | None = None,
    patience: float = 0.0,
) -> ReplaySummary:
    """The same for events from anywhere, e.g. ``Shop().generate()``; an empty stream sends nothing."""
    if speed is not None and speed <= 0:
        raise ValueError(f"the speed is a positive factor of real time, not {speed:g}; leave it out for the maximum")
    await ensure_topics(settings)
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.brokers,
        max_batch_size=BATCH_BYTES,
        request_timeout_ms=AWAY_MS,
        acks="all",
        **client_security(settings),
    )
    await producer.start()
    try:
        return await _Sender(producer, settings, speed, progress, patience).run(events)
    finally:
        await producer.stop()


class _Sender:
    """Paces the events, puts heartbeats between them and keeps the batches of all partitions moving."""

    def __init__(
        self,
        producer: AIOKafkaProducer,
        settings: Settings,
        speed: float | None,
        progress: Progress | None,
        patience: float,
    ) -> None:
        self.settings = settings
        self.speed = speed
        self.progress = progress
        self.patience = patience
        self.beat_ms = MINUTE_MS if speed else settings.pane_ms
        self.summary = ReplaySummary()
        self.batches = _Batches(producer, settings)
        self.started = time.monotonic()
        self.clock = 0  # newest event time that was sent or, in a pause between events, has passed
        self.promised = 0  # the last heartbeat
        self.beat_at = 0  # the clock at which the next one is due

    async def run(self, events: Iterable[Event]) -> ReplaySummary:
        completed = False
        try:
            for event in events:
                await self._send(event)
            completed = True
        finally:
            if self.clock:
                await self._close(completed)
        return self._report()

    async def _send(self, event: Event) -> None:
        topic, key, _, ts = event
        if topic in SOURCES:
            if not self.clock:
                self.clock = self.summary.first_ts = self.summary.last_ts = ts
                await self._first_beat()
            elif self.speed:
                await self._pace(ts)
            if ts > self.clock:
                self.clock = self.summary.last_ts = ts
                if ts >= self.beat_at:
                    await self._beat()
            self.summary.late += ts < self.promised
        await self.batches.add(topic, key, event.payload())
        self.summary.sent[topic] += 1
        if self.batches.waiting >= FLUSH_RECORDS:
            await self._flush()

    async def _pace(self, ts: int) -> None:
        """Waits until ``ts`` is due; event time goes on meanwhile, also where nobody says anything for hours."""
        assert self.speed
        while True:
            passed = self.summary.first_ts + int((time.monotonic() - self.started) * self.speed * 1_000)
            wait = (ts - passed) / self.speed / 1_000
            if wait < 0.005:
                return
            if passed > self.clock:
                self.clock = passed
                if passed >= self.beat_at:
                    await self._beat()
            await self._flush()
            await asyncio.sleep(min(wait, SLEEP_SECONDS))

    def _behind(self) -> int:
        return self.clock - self.settings.lateness_ms

    async def _first_beat(self) -> None:
        if not self.patience:
            await self._beat()
            return
        async with Handshake(self.settings) as handshake:
            await self._beat()
            await self._flush()
            await self.batches.settled()
            if not await handshake.completed(self.patience):
                log.warning("No worker has answered within %g s: the events are sent all the same", self.patience)
        self.started = time.monotonic()

    async def _beat(self, ts: int | None = None, replay: bool = True) -> None:
        self.promised = ts or self._behind()
        self.beat_at = self.promised - self.promised % self.beat_ms + self.beat_ms + self.settings.lateness_ms
        self.summary.heartbeats += await self.batches.add_everywhere(self.promised, replay)

    async def _close(self, completed: bool) -> None:
        """The last heartbeat. What was interrupted promises nothing new."""
        settings, ts = self.settings, self.promised
        if completed:
            ts = (
                max(self.clock, self.summary.last_ts)
                + settings.session_gap_ms
                + settings.lateness_ms
                + settings.pane_ms
            )
            await self._beat(ts)
        await self._beat(ts, replay=False)
        await self._flush()
        await self.batches.settled()

    async def _flush(self) -> None:
        await self.batches.flush()
        if self.progress:
            self.progress(self._report())

    def _report(self) -> ReplaySummary:
        self.summary.seconds = time.monotonic() - self.started
        return self.summary


class Handshake:
    """Watches ``signals`` until every source lane has said in every partition that it replays."""

    def __init__(self, settings: Settings) -> None:
        partitions = range(settings.partitions)
        self._signals = [TopicPartition(settings.topic("signals"), partition) for partition in partitions]
        self._missing = {
            (signals, f"{topic}/{partition}") for signals in partitions for topic in SOURCES for partition in partitions
        }
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.brokers, enable_auto_commit=False, **client_security(settings)
        )

    async def __aenter__(self) -> Handshake:
        await self._consumer.start()
        self._consumer.assign(self._signals)
        await self._consumer.seek_to_end(*self._signals)
        for partition in self._signals:
            await self._consumer.position(partition)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def completed(self, patience: float) -> bool:
        """True when all have answered, False when some have not within ``patience`` seconds."""
        deadline = time.monotonic() + patience
        while self._missing and time.monotonic() < deadline:
            for partition, records in (await self._consumer.getmany(timeout_ms=100)).items():
                for record in records:
                    message = orjson.loads(record.value)
                    if message["kind"] == "watermark" and message["replay"]:
                        self._missing.discard((partition.partition, message["source"]))
        return not self._missing


class _Batches:
    """One open batch per partition, closed together; at most two generations of them are under way."""

    def __init__(self, producer: AIOKafkaProducer, settings: Settings) -> None:
        self.producer = producer
        self.settings = settings
        self.partitions = settings.partitions
        self.waiting = 0
        self.open: dict[tuple[str, int], BatchBuilder] = {}
        self.flying: list[asyncio.Future[Any]] = []

    async def add(self, topic: str, key: str | None, value: bytes) -> None:
        place = topic, partition_of(key, self.partitions)
        encoded = key.encode() if key is not None else None
        batch = self.open.get(place)
        if batch is None or batch.append(timestamp=None, key=encoded, value=value) is None:
            await self._begin(place, encoded, value)
        self.waiting += 1

    async def add_everywhere(self, ts: int, replay: bool) -> int:
        """A heartbeat in every partition; it may lie ahead of the clock, so it carries its own time."""
        value = orjson.dumps({"heartbeat": ts, "replay": replay})
        sent_at = max(ts, int(time.time() * 1_000))
        for topic in SOURCES:
            for partition in range(self.settings.partitions):
                place = topic, partition
                batch = self.open.get(place)
                if batch is None or batch.append(timestamp=sent_at, key=None, value=value) is None:
                    await self._begin(place, None, value, sent_at)
                self.waiting += 1
        return len(SOURCES) * self.settings.partitions

    async def _begin(self, place: tuple[str, int], key: bytes | None, value: bytes, at: int | None = None) -> None:
        """Open a batch with this record; the one before is full."""
        if place in self.open:
            await self._dispatch(place)
        batch = self.open[place] = self.producer.create_batch()
        batch.append(timestamp=at, key=key, value=value)

    async def _dispatch(self, place: tuple[str, int]) -> None:
        topic, partition = place
        batch = self.open.pop(place)
        self.flying.append(await self.producer.send_batch(batch, self.settings.topic(topic), partition=partition))

    async def flush(self) -> None:
        """Sends every open batch, after the ones before have been acknowledged."""
        await self.settled()
        for place in list(self.open):
            await self._dispatch(place)
        self.waiting = 0

    async def settled(self) -> None:
        """Returns when what is under way has been acknowledged. Raises what the broker says against it."""
        flying, self.flying = self.flying, []
        await asyncio.gather(*flying)


def read_events(files: Sequence[Path], keep_invalid: bool = False) -> Iterator[Event]:
    """The events of several files, merged by event time. Raises :class:`BadEventFile` at a line that is none.

    With ``keep_invalid`` a value that is not a readable event is passed on as it is, for the worker to reject.
    """
    if len(files) == 1:
        return _read_file(files[0], keep_invalid)
    return merge(*(_read_file(path, keep_invalid) for path in files), key=lambda event: event.ts)


def _read_file(path: Path, keep_invalid: bool) -> Iterator[Event]:
    ts = 0  # a record without a time belongs where it stands
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            try:
                event = _read_line(line, ts, keep_invalid)
            except ValueError as error:
                raise BadEventFile(f"{path}:{number}: {error}") from error
            ts = event.ts
            yield event


def _read_line(line: bytes, ts: int, keep_invalid: bool) -> Event:
    try:
        record = orjson.loads(line)
        topic, key, value = record["topic"], record["key"], record["value"]
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error}); remove the line or record it again") from error
    except (TypeError, KeyError) as error:
        raise ValueError('expected {"topic": …, "key": …, "value": …}; is this an event file?') from error
    if topic not in TOPICS:
        raise ValueError(f"unknown topic {topic!r}; expected one of {', '.join(TOPICS)}")
    if key is not None and type(key) is not str:
        raise ValueError(f"the key has to be text or null, not {key!r}")
    if type(value) is dict and topic == "catalog":
        return Event(topic, key, value, ts)
    if type(value) is dict and type(value.get("ts")) is int:
        return Event(topic, key, value, value["ts"])
    if not keep_invalid:
        raise ValueError(
            "the value is no event with a time 'ts' in epoch milliseconds; --keep-invalid sends it as it is"
        )
    return Event(topic, key, value if type(value) in (dict, str) else orjson.dumps(value).decode(), ts)


def write_events(events: Iterable[Event], path: Path) -> Counter[str]:
    """Writes an event file; returns the number of events per topic."""
    written: Counter[str] = Counter()
    with path.open("wb") as file:
        for event in events:
            file.write(event.line())
            written[event.topic] += 1
    return written
