"""What lies in the topics, as event files: a stretch of them is copied once and can be played any number of times.

One file per partition keeps the order of each partition, which is what lateness depends on; :class:`EventFiles` merges
them. With keys and partition counts as they were, every partition of the replay gets its events in the recorded order.
Left out are heartbeats (a replay makes its own) and, where no ``keep_invalid`` is asked for, what cannot be read.

The catalogue has no event time, so the time of its Kafka records stands in: changes within the stretch come where
they stand. Before all events comes each product's last record from before the stretch, or else its first one.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from stream.events import SOURCES
from stream.replay.events import Event
from stream.security import client_security
from stream.settings import Settings
from stream.topics import TopicsError, topic_partitions

POLL_MS: Final = 500
FETCH_RECORDS: Final = 20_000


class BadStretch(ValueError):
    """Not a range of offsets; the message says what is one."""


class Offsets(NamedTuple):
    """A range of one partition; ``end`` is exclusive, None means open."""

    begin: int | None
    end: int | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """What to read: event times in [begin, end); where partitions are named only those, between these offsets."""

    begin: int | None = None
    end: int | None = None
    offsets: Mapping[tuple[str, int], Offsets] = field(default_factory=dict)


@dataclass(slots=True)
class Recording:
    """Event files and what is in them."""

    files: list[Path]
    counts: Counter[str]
    unreadable: int


def read_offsets(texts: Sequence[str]) -> dict[tuple[str, int], Offsets]:
    """``clicks/0:100-200``, ``reviews/1:500-`` or ``chats/2:-900`` each. Raises :class:`BadStretch`."""
    found = {}
    for text in texts:
        match = re.fullmatch(r"(\w+)/(\d+):(\d*)-(\d*)", text)
        if not match or match[1] not in SOURCES or not (match[3] or match[4]):
            raise BadStretch(f"offsets {text!r}: say e.g. clicks/0:100-200, reviews/1:500- or chats/2:-900")
        begin, end = (int(number) if number else None for number in match.group(3, 4))
        if begin is not None and end is not None and begin >= end:
            raise BadStretch(f"offsets {text!r}: the end ({end}, exclusive) has to lie after the begin")
        found[match[1], int(match[2])] = Offsets(begin, end)
    return found


async def record(settings: Settings, stretch: Stretch, folder: Path, keep_invalid: bool = False) -> Recording:
    """Copy a stretch of the topics of ``settings`` into event files in ``folder``.

    Raises :class:`~stream.topics.TopicsError` where there are no topics.
    """
    await _check(settings)
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
    async with _consumer(settings) as consumer:
        reading = _Reading(settings, stretch, folder, keep_invalid)
        await reading.read(consumer)
        catalogue = _as_of(await _catalogue(consumer, settings), reading.first, reading.last)
    path = folder / "catalog.jsonl"
    with path.open("wb") as file:
        for stocked in catalogue:
            file.write(stocked.line())
    reading.counts["catalog"] = len(catalogue)
    return Recording([path, *reading.files], reading.counts, reading.unreadable)


async def _check(settings: Settings) -> None:
    there = await topic_partitions(settings)
    if missing := [topic for topic in (*SOURCES, "catalog") if topic not in there]:
        names = ", ".join(map(settings.topic, missing))
        raise TopicsError(f"No topics {names} at {settings.broker}: RADAR_PREFIX names what is put before them")
    if odd := {topic: there[topic] for topic in SOURCES if there[topic] != settings.partitions}:
        raise TopicsError(f"RADAR_PARTITIONS is {settings.partitions}, but the broker has {odd}: set it to that")


def _consumer(settings: Settings) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        bootstrap_servers=settings.brokers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_poll_records=FETCH_RECORDS,
        **client_security(settings),
    )


class _Reading:
    """The partitions of the sources on their way into files."""

    def __init__(self, settings: Settings, stretch: Stretch, folder: Path, keep_invalid: bool) -> None:
        self.counts: Counter[str] = Counter()
        self.unreadable = 0
        self.first: int | None = None  # the span of event times that were copied
        self.last: int | None = None
        self._newest: dict[TopicPartition, int] = {}  # event time seen
        self._ends: dict[TopicPartition, int] = {}  # offsets, when the reading began
        self._stretch, self._keep_invalid = stretch, keep_invalid
        self._ahead = settings.ahead_ms
        self._slack = settings.ahead_ms + settings.lateness_ms + settings.correct_ms + settings.pane_ms
        self._began = int(time.time() * 1_000)
        self._place = {
            TopicPartition(settings.topic(topic), number): (topic, number)
            for topic in SOURCES
            for number in range(settings.partitions)
            if not stretch.offsets or (topic, number) in stretch.offsets
        }
        self.files = [folder / f"{topic}-{number}.jsonl" for topic, number in self._place.values()]

    async def read(self, consumer: AIOKafkaConsumer) -> None:
        consumer.assign(list(self._place))
        await self._seek(consumer)
        self._ends = await consumer.end_offsets(list(self._place))
        open_ = set(self._place)
        with ExitStack() as files:
            out = {tp: files.enter_context(path.open("wb")) for tp, path in zip(self._place, self.files, strict=True)}
            while open_:
                batches = await consumer.getmany(timeout_ms=POLL_MS)
                for tp, records in batches.items():
                    if tp in open_ and not self._copy(tp, records, out[tp]):
                        open_.discard(tp)
                        consumer.pause(tp)
                # What a broker says is the end may be short of it (Tansu): a partition ends where nothing more comes.
                if not batches:
                    open_ -= {tp for tp in open_ if await consumer.position(tp) >= self._ends[tp]}

    async def _seek(self, consumer: AIOKafkaConsumer) -> None:
        """To the begin of the stretch. No event lies more than ``ahead_ms`` after the time of its record."""
        await consumer.seek_to_beginning(*self._place)
        begin = self._stretch.begin
        if begin is not None:
            wanted = max(0, begin - self._ahead)
            found = await consumer.offsets_for_times(dict.fromkeys(self._place, wanted))
            for tp, offset in found.items():
                if offset is None:
                    await consumer.seek_to_end(tp)
                else:
                    consumer.seek(tp, offset.offset)
        for tp, place in self._place.items():
            if (offsets := self._stretch.offsets.get(place)) and offsets.begin is not None:
                consumer.seek(tp, offsets.begin)

    def _copy(self, tp: TopicPartition, records: Sequence[Any], file: IO[bytes]) -> bool:
        """Write what belongs to the stretch; False when nothing more can come."""
        begin, end = self._stretch.begin, self._stretch.end
        offsets = self._stretch.offsets.get(self._place[tp], Offsets(None, None))
        topic = self._place[tp][0]
        for record in records:
            if offsets.end is not None and record.offset >= offsets.end:
                return False
            if offsets.begin is not None and record.offset < offsets.begin:  # there are none from there on
                continue
            key = record.key.decode("utf-8", "replace") if record.key is not None else None
            event = _event(topic, key, record.value)
            if event is None:
                continue
            if isinstance(event.value, str):
                self.unreadable += 1
                if self._keep_invalid:
                    file.write(event.line())
                continue
            if record.offset >= self._ends[tp] and record.timestamp > self._began:
                return False  # it came in since
            self._newest[tp] = max(self._newest.get(tp, 0), event.ts)
            if end is not None and self._newest[tp] >= end + self._slack:
                return False
            if (begin is None or event.ts >= begin) and (end is None or event.ts < end):
                self.first = min(self.first or event.ts, event.ts)
                self.last = max(self.last or event.ts, event.ts)
                self.counts[topic] += 1
                file.write(event.line())
        return offsets.end is None or records[-1].offset + 1 < offsets.end


def _event(topic: str, key: str | None, value: bytes | None) -> Event | None:
    """A record as an event, as text if it cannot be read; None for a heartbeat."""
    try:
        data = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        data = None
    if isinstance(data, dict):
        if key is None and "heartbeat" in data:
            return None
        if type(data.get("ts")) is int:
            return Event(topic, key, data, data["ts"])
    return Event(topic, key, (value or b"").decode("utf-8", "replace"), 0)


class Stocked(NamedTuple):
    """A record of the catalogue; ``at`` is its Kafka timestamp, 0: before all events."""

    at: int
    key: str
    value: dict[str, Any]

    def line(self) -> bytes:
        """A line of an event file that says where it stands."""
        record = {"topic": "catalog", "key": self.key, "value": self.value, "ts": self.at}
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


async def _catalogue(consumer: AIOKafkaConsumer, settings: Settings) -> list[Stocked]:
    partitions = [TopicPartition(settings.topic("catalog"), number) for number in range(settings.partitions)]
    consumer.assign(partitions)
    await consumer.seek_to_beginning(*partitions)
    ends = await consumer.end_offsets(partitions)
    found = []
    while True:
        batches = await consumer.getmany(timeout_ms=POLL_MS)
        for record in (record for records in batches.values() for record in records):
            value = orjson.loads(record.value) if record.value and record.key else None
            if isinstance(value, dict):
                found.append(Stocked(record.timestamp, record.key.decode("utf-8", "replace"), value))
        if not batches and all([await consumer.position(tp) >= end for tp, end in ends.items()]):
            return sorted(found, key=lambda stocked: stocked.at)


def _as_of(records: Sequence[Stocked], first: int | None, last: int | None) -> list[Stocked]:
    """The catalogue for a stretch of events from ``first`` to ``last`` (see the module)."""
    before: dict[str, Stocked] = {}
    for stocked in records:
        if stocked.key not in before or (first is not None and stocked.at <= first):
            before[stocked.key] = stocked
    within = [
        stocked for stocked in records
        if first is not None and last is not None and first < stocked.at <= last and stocked is not before[stocked.key]
    ]  # fmt: skip
    return [stocked._replace(at=0) for stocked in before.values()] + within
