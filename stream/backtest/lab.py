"""From events to alerts without servers, in two steps: :func:`signals_of` once, :func:`alerts_of` for each rules.

The lanes are fed as a replay feeds them: keys decide the partition, the same heartbeats lie between the events, one
more at the end closes every window. What they conclude does not depend on where blocks end, so it is what workers of as
many partitions conclude.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from serving.scorer import Scorer
from stream.agents.clicks import Clicks
from stream.agents.fusion import Fusion
from stream.agents.texts import Texts
from stream.catalog import read_product
from stream.detect.policy import Rules
from stream.events import SOURCES, Invalid
from stream.lanes import Effects, Processor
from stream.recommend.catalogue import Catalogue
from stream.replay.events import Event
from stream.replay.metronome import Metronome
from stream.settings import Settings
from stream.sinks.kafka import partition_of
from stream.transport import Block

BLOCK_RECORDS: Final = 4_000
FUSION_RECORDS: Final = 20_000
FAR_MS: Final = 1 << 60  # the time of a record that no event lies ahead of

Rows = list[dict[str, Any]]


class Record(NamedTuple):
    """A Kafka record that never saw Kafka."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes


@dataclass(slots=True)
class Signals:
    """What lies in ``signals``, by partition, and what it came from."""

    partitions: list[list[Record]]
    model: str
    events: Counter[str] = field(default_factory=Counter)
    rejected: int = 0
    first_ts: int = 0
    last_ts: int = 0
    heard: set[str] = field(default_factory=set)  # kinds of messages, and "stock" where any tell of it

    def hear(self, message: Mapping[str, Any]) -> None:
        """Note what a message tells of."""
        self.heard.add(message["kind"])
        if message["kind"] == "panes" and any(each is not None for each in message["columns"].get("stock", ())):
            self.heard.add("stock")


async def signals_of(
    events: Iterable[Event],
    settings: Settings,
    scorer: Scorer,
    progress: Callable[[int], None] = lambda events: None,
) -> Signals:
    """Everything that the source lanes make of ``events``. Raises :class:`~serving.errors.ScoringError`.

    Catalogue records take effect where they stand. ``progress`` gets the number of events now and then.
    """
    lab = _Sources(settings, scorer)
    metronome = Metronome(settings)
    for event in events:
        if event.topic == "catalog":
            await lab.stock(event)
            continue
        if not metronome.clock:
            lab.signals.first_ts = event.ts
            lab.beat(metronome.start(event.ts))
        elif (promise := metronome.advance(event.ts)) is not None:
            lab.beat(promise)
        lab.put(event)
        if lab.waiting >= BLOCK_RECORDS:
            await lab.work()
            progress(lab.signals.events.total())
    if metronome.clock:
        lab.signals.last_ts = metronome.clock
        lab.beat(metronome.end())
    await lab.work()
    return lab.signals


class _Sources:
    """The source lanes of all partitions, and records on their way to them."""

    def __init__(self, settings: Settings, scorer: Scorer) -> None:
        count = range(settings.partitions)
        self._settings = settings
        self._catalogue = Catalogue()
        self._lanes: dict[tuple[str, int], Processor] = {
            **{("clicks", n): Clicks(n, settings, self._catalogue) for n in count},
            **{
                (topic, n): Texts(topic, n, settings, scorer, self._catalogue)
                for topic in ("reviews", "chats")
                for n in count
            },
        }
        self._records: dict[tuple[str, int], list[Record]] = defaultdict(list)
        self._offsets: Counter[tuple[str, int]] = Counter()
        self.waiting = 0
        self.signals = Signals([[] for _ in count], scorer.model)

    async def stock(self, event: Event) -> None:
        """A product changes: what came before is read with what was known before."""
        await self.work()
        self.signals.events["catalog"] += 1
        try:
            self._catalogue.upsert(read_product(event.payload()))
        except Invalid:
            self.signals.rejected += 1

    def put(self, event: Event) -> None:
        place = event.topic, partition_of(event.key, self._settings.partitions)
        self._add(place, event.key.encode() if event.key is not None else None, event.payload())
        self.signals.events[event.topic] += 1

    def beat(self, promise: int) -> None:
        value = orjson.dumps({"heartbeat": promise, "replay": True})
        for topic in SOURCES:
            for partition in range(self._settings.partitions):
                self._add((topic, partition), None, value)

    def _add(self, place: tuple[str, int], key: bytes | None, value: bytes) -> None:
        self._records[place].append(Record(self._offsets[place], FAR_MS, key, value))
        self._offsets[place] += 1
        self.waiting += 1

    async def work(self) -> None:
        """Let the lanes take what waits: texts first, since the clicks wait for what they say."""
        waiting, self._records, self.waiting = self._records, defaultdict(list), 0
        for topic in ("reviews", "chats", "clicks", "said"):
            for place in sorted(place for place in waiting if place[0] == topic):
                lane = self._lanes["clicks" if topic == "said" else topic, place[1]]
                effects = await lane.process(Block(topic, place[1], waiting[place]))
                self._deliver(effects, waiting)

    def _deliver(self, effects: Effects, waiting: dict[tuple[str, int], list[Record]]) -> None:
        self.signals.rejected += len(effects.rejects)
        for topic, key, message, partition in effects.messages:
            if partition is None:
                partition = partition_of(key, self._settings.partitions)
            if topic == "signals":
                self.signals.hear(message)
                into = self.signals.partitions[partition]
                into.append(Record(len(into), 0, None, orjson.dumps(message)))
            elif topic == "said":
                place = topic, partition
                waiting[place].append(Record(self._offsets[place], 0, None, orjson.dumps(message)))
                self._offsets[place] += 1


async def alerts_of(signals: Signals, settings: Settings, rules: Rules) -> Rows:
    """Every state of every alert that ``rules`` tell, as rows of the table ``alerts``, in the order of its change."""
    sources = [f"{topic}/{number}" for topic in SOURCES for number in range(settings.partitions)]
    told: Rows = []
    for partition, records in enumerate(signals.partitions):
        judge = Fusion(settings, sources, signals.model, lambda: rules)
        for start in range(0, len(records), FUSION_RECORDS):
            effects = await judge.process(Block("signals", partition, records[start : start + FUSION_RECORDS]))
            told += effects.rows["alerts"]
    return sorted(told, key=lambda row: (row["updated_at"], row["alert_id"]))
