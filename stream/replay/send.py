"""Sends events to the topics: pace, heartbeats, and the batches of all partitions under way side by side.

Kafka timestamps are the time of sending; those of moved events that lie ahead of it are the event's own. The number of
records under way is bounded: a slow broker slows the replay.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder

from stream.events import SOURCES
from stream.replay.control import Control
from stream.replay.events import Event, read_events
from stream.replay.metronome import Metronome
from stream.security import client_security
from stream.settings import Settings
from stream.sinks.kafka import partition_of
from stream.topics import ensure_topics

log = logging.getLogger(__name__)

FLUSH_RECORDS: Final = 4_000
BATCH_BYTES: Final = 512 * 1024
AWAY_MS: Final = 120_000  # a broker that starts again within this time holds a replay up and does not end it
SLEEP_SECONDS: Final = 0.5  # the paced clock and the progress are looked at this often
NEAR_SECONDS: Final = 0.005  # an event due so soon is not waited for


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
    control: Control | None = None,
    remap: Mapping[str, str] | None = None,
) -> ReplaySummary:
    """The same for events from anywhere, e.g. ``Shop().generate()``; an empty stream sends nothing.

    ``control`` may change its speed, hold and stop it while it runs. ``remap`` names other topics to send to, by
    ``reviews``, ``chats``, ``clicks`` or ``catalog``; they have to be there, with as many partitions.
    """
    if speed is not None and speed <= 0:
        raise ValueError(f"the speed is a positive factor of real time, not {speed:g}; leave it out for the maximum")
    names = {topic: settings.topic(topic) for topic in (*SOURCES, "catalog")} | dict(remap or {})
    if len(remap or {}) < len(names):
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
        control = control or Control(speed)
        batches = _Batches(producer, names, settings.partitions, control)
        return await _Sender(batches, settings, control, progress, patience).run(events)
    finally:
        await producer.stop()


class _Sender:
    """Paces the events, puts heartbeats between them and keeps the batches of all partitions moving."""

    def __init__(
        self,
        batches: _Batches,
        settings: Settings,
        control: Control,
        progress: Progress | None,
        patience: float,
    ) -> None:
        self.settings = settings
        self.control = control
        self.progress = progress
        self.patience = patience
        self.summary = ReplaySummary()
        self.batches = batches
        self.metronome = Metronome(settings)
        self.started = time.monotonic()
        self.anchor = 0, self.started  # event time and wall time from which the pace is counted
        self.seen = self.wound = 0  # version and turn of the control that the anchor belongs to

    async def run(self, events: Iterable[Event]) -> ReplaySummary:
        completed = False
        control = self.control
        try:
            for event in events:
                if control.attentive and not await self._due(event):
                    if control.stopped:
                        break
                    if control.tape is not None:
                        control.tape.put_back()
                    continue
                await self._send(event)
            completed = True
        finally:
            if self.metronome.clock:
                await self._close(completed)
        return self._report()

    async def _send(self, event: Event) -> None:
        topic, key, _, ts = event
        metronome = self.metronome
        if topic in SOURCES:
            if self.control.tape is not None:
                self.control.tape.sent(ts)
            if not metronome.clock:
                self.summary.first_ts = self.summary.last_ts = ts
                await self._first_beat(ts)
            elif ts > metronome.clock:
                self.summary.last_ts = ts
                if (promise := metronome.advance(ts)) is not None:
                    await self._beat(promise)
            self.summary.late += ts < metronome.promised
        await self.batches.add(topic, key, event.payload(), ts)
        self.summary.sent[topic] += 1
        if self.batches.waiting >= FLUSH_RECORDS:
            await self._flush()

    async def _due(self, event: Event) -> bool:
        """Wait until it is the event's turn; False when it is not to be sent any more: the tape was wound, or stopped.

        Event time goes on meanwhile, also where nobody says anything for hours, but not while it is paused.
        """
        control, metronome = self.control, self.metronome
        ts = event.ts
        turn = control.turn
        while not control.stopped and control.turn == turn:
            if self.seen != control.version or not metronome.clock:
                jumped = self.wound != control.turn or not metronome.clock
                self.anchor = ts if jumped else metronome.clock, time.monotonic()
                self.seen, self.wound = control.version, control.turn
            if control.paused:
                if control.steps:
                    control.steps -= 1
                    return True
                await self._flush()
                await self.batches.settled()
                await control.changed()
                continue
            if event.topic not in SOURCES or control.speed is None:
                return True
            begin, since = self.anchor
            passed = begin + int((time.monotonic() - since) * control.speed * 1_000)
            wait = (ts - passed) / control.speed / 1_000
            if wait < NEAR_SECONDS:
                return True
            if passed > metronome.clock and (promise := metronome.advance(passed)) is not None:
                await self._beat(promise)
            await self._flush()
            await control.changed(min(wait, SLEEP_SECONDS))
        return False

    async def _first_beat(self, ts: int) -> None:
        promise = self.metronome.start(ts)
        if not self.patience:
            await self._beat(promise)
            return
        async with Handshake(self.settings) as handshake:
            await self._beat(promise)
            await self._flush()
            await self.batches.settled()
            if not await handshake.completed(self.patience):
                log.warning("No worker has answered within %g s: the events are sent all the same", self.patience)
        self.started = time.monotonic()
        self.anchor = ts, self.started

    async def _beat(self, promise: int, replay: bool = True) -> None:
        self.summary.heartbeats += await self.batches.add_everywhere(promise, replay)

    async def _close(self, completed: bool) -> None:
        """The last heartbeat. What was interrupted promises nothing new."""
        if completed:
            await self._beat(self.metronome.end())
        await self._beat(self.metronome.promised, replay=False)
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

    def __init__(self, producer: AIOKafkaProducer, names: Mapping[str, str], partitions: int, control: Control) -> None:
        self.producer = producer
        self.control = control
        self.names = names
        self.partitions = partitions
        self.waiting = 0
        self.open: dict[tuple[str, int], BatchBuilder] = {}
        self.flying: list[asyncio.Future[Any]] = []
        self.now = int(time.time() * 1_000)

    async def add(self, topic: str, key: str | None, value: bytes, ts: int) -> None:
        place = topic, partition_of(key, self.partitions)
        encoded = key.encode() if key is not None else None
        at = ts if ts > self.now and self.control.moved else None  # or it would be a dead letter before its time
        batch = self.open.get(place)
        if batch is None or batch.append(timestamp=at, key=encoded, value=value) is None:
            await self._begin(place, encoded, value, at)
        self.waiting += 1

    async def add_everywhere(self, ts: int, replay: bool) -> int:
        """A heartbeat in every partition; it may lie ahead of the clock, so it carries its own time."""
        value = orjson.dumps({"heartbeat": ts, "replay": replay})
        sent_at = max(ts, int(time.time() * 1_000))
        for topic in SOURCES:
            for partition in range(self.partitions):
                place = topic, partition
                batch = self.open.get(place)
                if batch is None or batch.append(timestamp=sent_at, key=None, value=value) is None:
                    await self._begin(place, None, value, sent_at)
                self.waiting += 1
        return len(SOURCES) * self.partitions

    async def _begin(self, place: tuple[str, int], key: bytes | None, value: bytes, at: int | None) -> None:
        """Open a batch with this record; the one before is full."""
        if place in self.open:
            await self._dispatch(place)
        batch = self.open[place] = self.producer.create_batch()
        batch.append(timestamp=at, key=key, value=value)

    async def _dispatch(self, place: tuple[str, int]) -> None:
        topic, partition = place
        batch = self.open.pop(place)
        self.flying.append(await self.producer.send_batch(batch, self.names[topic], partition=partition))

    async def flush(self) -> None:
        """Sends every open batch, after the ones before have been acknowledged."""
        await self.settled()
        for place in list(self.open):
            await self._dispatch(place)
        self.waiting = 0
        self.now = int(time.time() * 1_000)

    async def settled(self) -> None:
        """Returns when what is under way has been acknowledged. Raises what the broker says against it."""
        flying, self.flying = self.flying, []
        await asyncio.gather(*flying)
