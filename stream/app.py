"""The Faust application: topics, tables, agents and lanes, wired from settings. Nothing happens at import time.

Faust brings membership, assignment, table recovery and supervision; each agent only hands blocks to the lane of their
partition. A failure in a lane crashes the app (its supervisor starts it again) and nothing is acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import faust
from faust.types import TP
from mode.supervisors import CrashingSupervisor

from serving.scorer import Scorer
from stream.agents.clicks import Clicks
from stream.agents.fusion import Fusion
from stream.agents.texts import Texts
from stream.catalog import CatalogReader
from stream.checkpoint import Checkpoints
from stream.events import SOURCES
from stream.lanes import Flood, Lane, Processor
from stream.settings import Settings
from stream.sinks import open_sink
from stream.sinks.kafka import KafkaOut
from stream.transport import Limit, block_transport

log = logging.getLogger(__name__)

#: Most unacknowledged blocks of a partition: texts are slow to score, the rest is light.
TEXT_BLOCKS = 4
LIGHT_BLOCKS = 64
FINISH_SECONDS = 8.0
#: Kafka does not compact the segment it writes to, and recovery reads all of it: the default of 1 GiB would take long.
CHANGELOG = {"segment.bytes": 16 * 1024 * 1024}


class Radar:
    """A Faust app and the lanes it feeds."""

    def __init__(self, settings: Settings, scorer: Scorer) -> None:
        self.settings = settings
        self.scorer = scorer
        self.catalog = CatalogReader(settings.brokers, settings.topic("catalog"), settings.partitions)
        self.out = KafkaOut(settings.brokers)
        self.lanes: dict[TP, Lane] = {}
        self.ready = asyncio.Event()
        self._tasks: dict[TP, asyncio.Task[None]] = {}
        self._names = {settings.topic(name): name for name in (*SOURCES, "signals")}
        self.app = self._create_app()
        self.tables = {name: self._table(name) for name in self._names.values()}
        for topic in self._names:
            self._agent(topic)
        self.app.on_partitions_revoked.connect(self._revoked, weak=False)
        self.app.on_rebalance_complete.connect(self._assigned, weak=False)
        self.app.on_before_shutdown.connect(self._shutdown, weak=False)

    def _create_app(self) -> faust.App:
        settings = self.settings
        app = faust.App(
            settings.topic(settings.group),
            broker=";".join(f"kafka://{address}" for address in settings.brokers),
            store="memory://",
            key_serializer="raw",
            value_serializer="raw",
            autodiscover=False,
            topic_partitions=settings.partitions,
            topic_replication_factor=settings.replication,
            topic_disable_leader=True,
            table_standby_replicas=0,
            consumer_auto_offset_reset="earliest",
            broker_max_poll_records=max(settings.block_records, settings.block_texts),
            broker_session_timeout=10.0,
            broker_heartbeat_interval=1.0,
            broker_rebalance_timeout=settings.rebalance_seconds,
            broker_commit_interval=1.0,
            stream_wait_empty=False,
            web_enabled=False,
            worker_redirect_stdouts=False,
        )
        limits = {
            topic: Limit(settings.block_texts, TEXT_BLOCKS)
            if name in ("reviews", "chats")
            else Limit(settings.block_records, LIGHT_BLOCKS)
            for topic, name in self._names.items()
        }
        app.transport = block_transport(limits, self._position)(app.conf.broker, app, loop=app.loop)
        return app

    def _table(self, name: str) -> Any:
        return self.app.Table(f"{name}-state", key_type=bytes, value_type=bytes, extra_topic_configs=CHANGELOG)

    def _agent(self, topic: str) -> None:
        async def take(stream: faust.StreamT[Any]) -> None:
            async for event in stream.noack().events():
                lane = self.lanes.get(event.message.tp)
                if lane is not None:
                    lane.put(event.value, event.ack)

        self.app.agent(self.app.topic(topic), name=self._names[topic], supervisor_strategy=CrashingSupervisor)(take)

    # Lanes follow the assignment

    def _position(self, tp: TP) -> int | None:
        return Checkpoints.position(self.tables[self._names[tp.topic]], tp.partition)

    async def _assigned(self, *args: Any, **kwargs: Any) -> None:
        for tp in self.app.consumer.assignment():
            if tp.topic in self._names and tp not in self.lanes:
                lane = self.lanes[tp] = await self._lane(tp)
                self._tasks[tp] = asyncio.create_task(self._guard(tp, lane), name=f"lane {tp.topic}/{tp.partition}")
        log.info("lanes: %s", ", ".join(sorted(f"{tp.topic}/{tp.partition}" for tp in self.lanes)) or "none")
        self.ready.set()

    async def _lane(self, tp: TP) -> Lane:
        name = self._names[tp.topic]
        sink = open_sink(self.settings)
        await sink.open()
        lane = Lane(
            tp.topic,
            tp.partition,
            self._processor(name, tp.partition),
            Checkpoints(self.tables[name], tp.partition),
            sink,
            self.out,
            Flood(self.settings.deadletter_ratio, self.settings.deadletter_run),
            self.settings.checkpoint_seconds,
            self.settings.topic,
        )
        lane.restore()
        return lane

    def _processor(self, name: str, partition: int) -> Processor:
        if name == "signals":
            sources = [f"{topic}/{number}" for topic in SOURCES for number in range(self.settings.partitions)]
            return Fusion(self.settings, sources, self.scorer.model)
        if name == "clicks":
            return Clicks(partition, self.settings, self.catalog.catalogue)
        return Texts(name, partition, self.settings, self.scorer, self.catalog.catalogue)

    async def _guard(self, tp: TP, lane: Lane) -> None:
        try:
            await lane.run()
        except Exception as error:
            log.exception("lane %s/%d failed", tp.topic, tp.partition)
            await self.app.crash(error)
        finally:
            await lane.close()

    async def _revoked(self, app: Any, revoked: set[TP], **kwargs: Any) -> None:
        await self._end(set(revoked) & set(self.lanes))

    async def _shutdown(self, *args: Any, **kwargs: Any) -> None:
        await self._end(set(self.lanes), finish=True)

    async def _end(self, tps: set[TP], finish: bool = False) -> None:
        """Stop lanes; with ``finish`` each may end its block and make a last checkpoint."""
        lanes = [self.lanes.pop(tp) for tp in tps]
        tasks = [self._tasks.pop(tp) for tp in tps]
        if finish and tasks:
            for lane in lanes:
                lane.stop_soon()
            await asyncio.wait(tasks, timeout=FINISH_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def create_app(settings: Settings, scorer: Scorer) -> Radar:
    """The application for ``settings``. ``scorer`` reads texts (Triton's client, or in process)."""
    return Radar(settings, scorer)
