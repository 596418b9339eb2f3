"""The Faust application: topics, tables, agents and lanes, wired from settings. Nothing happens at import time.

Faust brings membership, assignment, table recovery and supervision; each agent only hands blocks to the lane of their
partition. A failure in a lane crashes the app (its supervisor starts it again) and nothing is acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import faust
from faust.tables import TableManager
from faust.types import TP
from mode.supervisors import CrashingSupervisor

from serving.scorer import Scorer
from stream.agents.clicks import Clicks
from stream.agents.fusion import Fusion
from stream.agents.texts import Texts
from stream.catalog import CatalogReader
from stream.checkpoint import Checkpoints
from stream.detect.rules import RulesFile
from stream.events import SOURCES
from stream.lanes import RETRY_SECONDS, Flood, Lane, Processor
from stream.security import client_security, faust_credentials
from stream.settings import Settings
from stream.sinks import open_sink
from stream.sinks.base import SinkUnavailable
from stream.sinks.kafka import KafkaOut
from stream.transport import Limit, Place, block_transport

log = logging.getLogger(__name__)

#: The topics of a lane, by the one that names it: they are joined by partition.
LANES = {"reviews": ("reviews",), "chats": ("chats",), "clicks": ("clicks", "said"), "signals": ("signals",)}
#: Most unprocessed blocks of a partition: texts are slow to score, the rest is light.
TEXT_BLOCKS = 4
LIGHT_BLOCKS = 6
FETCH_BYTES = 2 * 1024 * 1024
FINISH_SECONDS = 8.0
WATCH_SECONDS = 5.0
STALLED_SECONDS = 30.0
#: Kafka does not compact the segment it writes to, keeps tombstones for a day and half of a log uncompacted, and
#: recovery reads all of it: this keeps it short.
CHANGELOG = {
    "segment.bytes": 16 * 1024 * 1024,
    "segment.ms": 600_000,
    "delete.retention.ms": 60_000,
    "min.cleanable.dirty.ratio": 0.2,
}


class Tables(TableManager):  # type: ignore[misc]
    """Faust's, without its pause of a second for tables that come late: ours are there."""

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class Radar:
    """A Faust app and the lanes it feeds."""

    def __init__(self, settings: Settings, scorer: Scorer) -> None:
        self.settings = settings
        self.scorer = scorer
        self.catalog = CatalogReader(settings)
        self.rules = RulesFile(settings.rules)
        self.out = KafkaOut(settings.brokers, client_security(settings))
        self.sink = open_sink(settings)
        self.lanes: dict[TP, Lane] = {}
        self.ready = asyncio.Event()
        self._tasks: dict[TP, asyncio.Task[None]] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._lane_of = {settings.topic(name): lane for lane, names in LANES.items() for name in names}
        self.app = self._create_app()
        self.tables = {name: self._table(name) for name in LANES}
        for topic in self._lane_of:
            self._agent(topic)
        self.app.on_partitions_revoked.connect(self._revoked, weak=False)
        self.app.on_rebalance_complete.connect(self._assigned, weak=False)
        self.app.on_before_shutdown.connect(self._shutdown, weak=False)

    async def start(self) -> None:
        """Open the store, for which this waits, and join the group."""
        while True:
            try:
                await self.sink.open()
                break
            except SinkUnavailable as error:
                log.warning("waits for the store: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
        await self.app.start()

    def _create_app(self) -> faust.App:
        settings = self.settings
        app = faust.App(
            settings.topic(settings.group),
            broker=";".join(f"kafka://{address}" for address in settings.brokers),
            broker_credentials=faust_credentials(settings),
            store="memory://",
            datadir=str(settings.home / "faust"),  # of which Faust makes empty folders, by default where it is started
            TableManager=Tables,
            key_serializer="raw",
            value_serializer="raw",
            autodiscover=False,
            topic_partitions=settings.partitions,
            topic_replication_factor=settings.replication,
            topic_disable_leader=True,
            table_standby_replicas=0,
            consumer_auto_offset_reset="earliest",
            broker_max_poll_records=max(settings.block_records, settings.block_texts),
            consumer_max_fetch_size=FETCH_BYTES,
            recovery_consistency_check=False,  # Tansu's end offsets are short of what we know to be written
            broker_session_timeout=settings.session_seconds,
            broker_heartbeat_interval=1.0,
            broker_rebalance_timeout=settings.rebalance_seconds,
            broker_commit_interval=1.0,
            stream_wait_empty=False,
            web_enabled=False,
            worker_redirect_stdouts=False,
        )
        limits = {
            topic: Limit(settings.block_texts, TEXT_BLOCKS)
            if lane in ("reviews", "chats")
            else Limit(settings.block_records, LIGHT_BLOCKS)
            for topic, lane in self._lane_of.items()
        }
        app.transport = block_transport(limits, self._position)(app.conf.broker, app, loop=app.loop)
        return app

    def _table(self, name: str) -> Any:
        return self.app.Table(f"{name}-state", key_type=bytes, value_type=bytes, extra_topic_configs=CHANGELOG)

    def _agent(self, topic: str) -> None:
        async def take(stream: faust.StreamT[Any]) -> None:
            async for event in stream.noack().events():
                lane = self.lanes.get(self._key(event.message.tp))
                if lane is not None and self.app.consumer.is_current(event.value):
                    lane.put(event.value, event.ack)

        name = topic.removeprefix(self.settings.prefix)
        self.app.agent(self.app.topic(topic), name=name, supervisor_strategy=CrashingSupervisor)(take)

    def _key(self, tp: TP) -> TP:
        """The lane of a partition, by its first topic."""
        return TP(self.settings.topic(self._lane_of[tp.topic]), tp.partition)

    # Lanes follow the assignment

    def _position(self, tp: TP) -> Place | None:
        head = Checkpoints.head(self.tables[self._lane_of[tp.topic]], tp.partition)
        durable = head["positions"].get(tp.topic) if head else None
        lane = self.lanes.get(self._key(tp))
        read = lane.position(tp.topic) if lane is not None else durable
        return Place(read, durable) if read is not None else None

    async def _revoked(self, *args: Any, **kwargs: Any) -> None:
        """A rebalance begins: nobody works until it is known who keeps what."""
        await self._pause()
        offsets = self.app.tables.recovery.active_offsets
        for lane in self.lanes.values():
            tp = TP(lane.checkpoints.table.changelog_topic.get_topic_name(), lane.partition)
            offsets[tp] = max(offsets.get(tp, -1), lane.checkpoints.written)  # no need to read again what we wrote

    async def _pause(self) -> None:
        await self._stop(set(self._tasks))
        for lane in self.lanes.values():
            lane.pause()

    async def _assigned(self, *args: Any, **kwargs: Any) -> None:
        """A rebalance is over. Partitions that stayed go on where they were; their state never left."""
        self._watcher = self._watcher or asyncio.create_task(self._watch(), name="watchdog")
        await self._pause()  # Faust may say so of one rebalance when the next has begun, and then of that one
        assigned = {tp for tp in self.app.consumer.assignment() if tp.topic in self._lane_of}
        mine = {self._key(tp) for tp in assigned}
        self._check_joined(assigned, mine)
        kept = {key for key in mine & set(self.lanes) if self.lanes[key].whole}
        for key in set(self.lanes) - kept:
            lane = self.lanes.pop(key)
            if key not in mine:
                lane.checkpoints.forget()
        for key in mine - kept:
            self.lanes[key] = self._lane(key)
        for key, lane in self.lanes.items():
            self._tasks[key] = asyncio.create_task(self._guard(lane), name=f"lane {key.topic}/{key.partition}")
        log.info(
            "lanes: %s; %d kept",
            ", ".join(sorted(lane.name for lane in self.lanes.values())) or "none",
            len(kept),
        )
        self.ready.set()

    def _check_joined(self, assigned: set[TP], mine: set[TP]) -> None:
        for topic, lane in self._lane_of.items():
            parted = {key.partition for key in mine if key.topic == self.settings.topic(lane)}
            if parted != {tp.partition for tp in assigned if tp.topic == topic}:
                raise RuntimeError(
                    f"partitions of {topic} and {self.settings.topic(lane)} are on different workers; do all topics "
                    "have the same number of partitions? 'radar schema --apply' tells."
                )

    def _lane(self, key: TP) -> Lane:
        name = self._lane_of[key.topic]
        lane = Lane(
            [self.settings.topic(topic) for topic in LANES[name]],
            key.partition,
            self._processor(name, key.partition),
            Checkpoints(self.tables[name], key.partition),
            self.sink,
            self.out,
            Flood(self.settings.deadletter_ratio, self.settings.deadletter_run),
            self.settings.checkpoint_seconds,
            self.settings.topic,
            self._is_member,
        )
        lane.restore(self.app.consumer_generation_id)
        return lane

    def _is_member(self) -> bool:
        """Whether the group cannot have given our partitions away: after a hang nothing is written on trust."""
        silent: float = time.monotonic() - self.app.consumer.member_at
        return silent < self.settings.session_seconds

    def _processor(self, name: str, partition: int) -> Processor:
        if name == "signals":
            sources = [f"{topic}/{number}" for topic in SOURCES for number in range(self.settings.partitions)]
            return Fusion(self.settings, sources, self.scorer.model, lambda: self.rules.rules)
        if name == "clicks":
            return Clicks(partition, self.settings, self.catalog.catalogue)
        return Texts(name, partition, self.settings, self.scorer, self.catalog.catalogue)

    async def _guard(self, lane: Lane) -> None:
        try:
            await lane.run()
        except Exception as error:
            log.exception("lane %s failed", lane.name)
            await self.app.crash(error)

    async def _shutdown(self, *args: Any, **kwargs: Any) -> None:
        """Each lane may end its block and make a last checkpoint; after a crash all of it comes again."""
        for lane in self.lanes.values():
            lane.stop_soon()
        if self._tasks and not self.app.crashed:
            await asyncio.wait(self._tasks.values(), timeout=FINISH_SECONDS)
        await self._stop(set(self._tasks))
        if self._watcher is not None:
            self._watcher.cancel()
        self.lanes.clear()

    async def _stop(self, keys: set[TP]) -> None:
        tasks = [self._tasks.pop(key) for key in keys]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        """Say which partition does not move, and what it waits for; ``stalled_seconds`` of its status tells too."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self.rules.poll():
                log.info("other rules are in force from the next pane on: %s", self.rules.rules.version)
            for lane in self.lanes.values():
                if lane.stalled_seconds > STALLED_SECONDS:
                    log.warning("%s has not moved for %.0f s: %s", lane.name, lane.stalled_seconds, lane.doing)
            if not self.app.rebalancing:
                for tp in self.app.consumer.assignment():
                    if tp.topic in self._lane_of and self._key(tp) in self.lanes:
                        self._watch_fetching(tp, self.lanes[self._key(tp)])

    def _watch_fetching(self, tp: TP, lane: Lane) -> None:
        end, position = self.app.consumer.highwater(tp), lane.position(tp.topic) or 0
        if lane.idle_seconds > STALLED_SECONDS and end and end > position + 1:  # one may be a control record
            log.error(
                "%s/%d: no record has come for %.0f s although the topic ends at %d and the lane is at %d",
                tp.topic, tp.partition, lane.idle_seconds, end, position,
            )  # fmt: skip


def create_app(settings: Settings, scorer: Scorer) -> Radar:
    """The application for ``settings``. ``scorer`` reads texts (Triton's client, or in process)."""
    return Radar(settings, scorer)
