"""``radar worker`` on the servers of production: Apache Kafka, Triton and ClickHouse, each a process of its own.

What two workers leave in ClickHouse, with one of them killed in the middle or stopped for good, is what the embedded
stack leaves of the same events. Skipped where Java or Maven is missing. Without a clickhouse-server the rows go to the
chDB store: Kafka and Triton are the same then. One of 2018 keeps whole seconds,
so seconds are compared.
"""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from heapq import merge
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from servers import (
    CLICKHOUSE,
    LoweredSink,
    Server,
    is_old,
    radar,
    radar_environment,
    start_clickhouse,
    start_kafka,
    start_triton,
)
from test_end_to_end import START, events

from stream.alerts import list_alerts
from stream.events import SOURCES
from stream.replay import Event, replay_events
from stream.settings import Settings
from stream.simulate.incidents import HOUR
from stream.sinks import open_sink
from stream.sinks.base import Sink
from stream.sinks.rows import ddl
from stream.stack import embedded_stack
from stream.status import read_lanes, wait_until_caught_up
from stream.supervise import free_ports

pytestmark = pytest.mark.stack

ORDER = {
    "signals": "signal_id",
    "alert_transitions": "alert_id, updated_at",
    "alerts": "alert_id",
    "sessions": "session_key",
    "recommendations": "trigger_id",
    "deadletters": "topic, `partition`, `offset`",
}
RETURNED = ("p001", "p004", "p007", "p010")
WORKER_SECONDS = 40.0
EXIT_SECONDS = 10.0
COMMON = {"partitions": 4, "idle_seconds": 0, "checkpoint_seconds": 0.2, "block_texts": 32, "rebalance_seconds": 5}
Tables = dict[str, list[dict[str, Any]]]


def select(view: str) -> str:
    """All columns but the time of writing; times in whole seconds."""
    table = f"CREATE TABLE IF NOT EXISTS {'alerts' if view == 'alert_transitions' else view}_v1 ("
    (statement,) = (statement for statement in ddl() if statement.startswith(table))
    columns = re.findall(r"^    (\w+) (.+?),?$", statement, re.MULTILINE)
    read = [column(name, kind) for name, kind in columns if name != "ingested_at"]
    return f"SELECT {', '.join(read)} FROM {view} ORDER BY {ORDER[view]}"


def column(name: str, kind: str) -> str:
    if "DateTime64" in kind:
        return f"toUnixTimestamp({name}) AS {name}_s"
    if kind.startswith("Array(LowCardinality"):  # a server of 2018 sends a block of empty ones with bytes too many
        return f"arrayMap(x -> toString(x), {name}) AS {name}_a"
    return f"`{name}`"


async def contents(sink: Sink, prefix: str = "") -> Tables:
    """Every row of every view; dead letters name their topic without the ``prefix`` of its site."""
    found = {view: orjson.loads(orjson.dumps(await sink.query(select(view)))) for view in ORDER}
    for letter in found["deadletters"]:
        letter["topic"] = letter["topic"].removeprefix(prefix)
    return found


def returns() -> list[Event]:
    """Four products come back for an hour: alerts that need no trained model, in several partitions of signals."""
    return [
        Event(
            "clicks",
            user,
            {
                "event_id": user,
                "user_id": user,
                "session_id": user,
                "action": "return",
                "product_id": product,
                "ts": ts,
            },
            ts,
        )
        for number in range(60)
        for product in RETURNED
        for user, ts in [(f"back-{product}-{number}", START + 2 * HOUR + number * HOUR // 60)]
    ]


async def feed(settings: Settings) -> None:
    both = merge(events(), returns(), key=lambda event: event.ts)
    summary = await replay_events(both, settings, patience=60)
    assert await wait_until_caught_up(settings, summary.last_ts + settings.session_gap_ms)


@pytest.fixture(scope="module")
def embedded(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """What the embedded stack makes of the events."""

    async def work() -> Tables:
        settings = Settings(home=tmp_path_factory.mktemp("embedded"), **COMMON)
        async with embedded_stack(settings) as stack:
            await feed(stack.settings)
            sink = open_sink(stack.settings)
            await sink.open()
            try:
                return await contents(sink)
            finally:
                await sink.close()

    return asyncio.run(work())


@dataclass(frozen=True)
class Site:
    """The servers and one set of topics and tables on them."""

    settings: dict[str, Any]
    old: bool

    def fresh(self, name: str, home: Path) -> Site:
        return replace(self, settings={**self.settings, "prefix": f"{name}-", "database": name, "home": home})

    @property
    def read(self) -> Settings:
        return Settings(**self.settings)

    def command(self, *arguments: str, index: int = 0) -> tuple[list[str], dict[str, str]]:
        return radar(*arguments, lowered=self.old), radar_environment(**self.settings, worker_index=index)

    @asynccontextmanager
    async def sink(self) -> AsyncIterator[Sink]:
        sink = open_sink(self.read)
        if self.old:
            read = self.read
            sink = LoweredSink(read.clickhouse, user="radar", password="sesame", database=read.database)
        await sink.open()
        try:
            yield sink
        finally:
            await sink.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("site")
    with ExitStack() as servers:
        kafka = servers.enter_context(start_kafka(home / "kafka"))
        triton = servers.enter_context(start_triton(home / "triton", Settings().model_repo))
        settings = {**COMMON, "broker": kafka.address, "triton": triton.address}
        if CLICKHOUSE:
            store = servers.enter_context(start_clickhouse(home / "clickhouse"))
            settings |= {"sink": "clickhouse", "clickhouse": store.address, "clickhouse_user": "radar"}
            settings["clickhouse_password"] = "sesame"
            yield Site(settings, is_old(store))
        else:
            (port,) = free_ports(1)
            argv = [sys.executable, "-m", "stream.sinks.chdb", "--path", str(home / "chdb"), "--port", str(port)]
            store = servers.enter_context(Server(home / "store", argv, port))
            yield Site({**settings, "sink": "chdb", "store": f"http://{store.address}"}, False)


class Worker:
    """``radar worker`` as compose runs it."""

    def __init__(self, site: Site, index: int) -> None:
        self.site, self.index = site, index
        self.home = site.settings["home"]
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.ready = self.home / f"worker-{self.index}.ready"
        self.ready.unlink(missing_ok=True)
        argv, environment = self.site.command("worker", index=self.index)
        with (self.home / f"worker-{self.index}.log").open("ab") as log:
            self.process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)  # noqa: ASYNC220
        deadline = time.monotonic() + WORKER_SECONDS
        while not self.ready.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            await asyncio.sleep(0.1)

    def log(self) -> str:
        return (self.home / f"worker-{self.index}.log").read_text()[-3_000:]

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> float:
        """Seconds until it ended after SIGTERM, with exit code 0."""
        assert self.process
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log()
        return time.monotonic() - begun


@asynccontextmanager
async def workers(site: Site, count: int) -> AsyncIterator[list[Worker]]:
    """The topics and tables made, and workers that have their partitions."""
    site.settings["home"].mkdir(parents=True, exist_ok=True)
    argv, environment = site.command("schema", "--apply")
    made = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)  # noqa: ASYNC221
    assert made.returncode == 0, made.stderr
    running = [Worker(site, index) for index in range(count)]
    try:
        await asyncio.gather(*(worker.start() for worker in running))
        yield running
    finally:
        for worker in running:
            if worker.process and worker.process.poll() is None:
                worker.kill()


async def progress(site: Site, share: float) -> None:
    """Return when the workers have counted this share of the texts."""
    texts = sum(event.topic in ("reviews", "chats") for event in events())
    names = {site.read.topic(topic) for topic in ("reviews", "chats")}
    async with asyncio.timeout(60):
        while True:
            lanes = read_lanes(site.read)
            done = sum(lane["saved"] for name, lane in lanes.items() if name.rpartition("/")[0] in names)
            if done >= share * texts:
                return
            await asyncio.sleep(0.05)


async def committed(site: Site) -> dict[str, tuple[int, int]]:
    """Per source partition: what Kafka says the group has committed, and what the lane says is durable."""
    read = site.read
    admin = AIOKafkaAdminClient(bootstrap_servers=read.brokers)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(read.topic(read.group))
    finally:
        await admin.close()
    lanes = read_lanes(read)
    return {name: (offsets[_place(name)].offset, lane["saved"]) for name, lane in lanes.items()}


def _place(name: str) -> TopicPartition:
    topic, _, partition = name.rpartition("/")
    return TopicPartition(topic, int(partition))


async def test_two_workers_leave_what_the_embedded_stack_leaves(site: Site, embedded: Tables, tmp_path: Path) -> None:
    site = site.fresh("two", tmp_path)
    async with workers(site, 2) as running:
        lanes = [orjson.loads((tmp_path / f"worker-{worker.index}.json").read_bytes()) for worker in running]
        assert [len(each) for each in lanes] == [8, 8]
        await feed(site.read)
        async with site.sink() as sink:
            found, alerts = await contents(sink, site.read.prefix), await list_alerts(sink)
        for view, rows in embedded.items():
            assert found[view] == rows, view
        known = {(alert["product_id"], alert.get("demand")): alert for alert in alerts}
        for product in RETURNED:
            alert = known[product, "return_refund"]
            assert alert["state"] == "resolved"
            assert alert["closed_at"] > alert["opened_at"] > START + 2 * HOUR
            assert alert["contributions"]["clicks"] == 1

        await asyncio.sleep(2)  # Faust commits each second
        assert all(offset == saved > 0 for offset, saved in (await committed(site)).values())
        assert max([worker.stop() for worker in running]) < EXIT_SECONDS


async def test_killed_and_stopped_in_the_middle_they_leave_the_same(
    site: Site, embedded: Tables, tmp_path: Path
) -> None:
    """One is killed and comes back; then the other is told to end and comes back: each time partitions move."""
    site = site.fresh("killed", tmp_path)
    async with workers(site, 2) as running:
        feeding = asyncio.create_task(feed(site.read))
        await progress(site, 0.15)
        running[1].kill()
        await running[1].start()
        await progress(site, 0.5)
        assert running[0].stop() < EXIT_SECONDS
        assert not feeding.done()
        await running[0].start()
        await feeding
        async with site.sink() as sink:
            found = await contents(sink, site.read.prefix)
    for view, rows in embedded.items():
        assert found[view] == rows, view


async def test_state_topics_are_compacted_and_follow_the_partitions(site: Site, tmp_path: Path) -> None:
    site = site.fresh("topics", tmp_path)
    async with workers(site, 1):
        names = [f"{site.read.topic(site.read.group)}-{source}-state-changelog" for source in (*SOURCES, "signals")]
        admin = AIOKafkaAdminClient(bootstrap_servers=site.read.brokers)
        await admin.start()
        try:
            topics = await admin.describe_topics(names)
            assert [len(topic["partitions"]) for topic in topics] == [4] * 4
            (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, n) for n in names])
        finally:
            await admin.close()
    for _, _, _, _, entries in answer.resources:
        config = {entry[0]: entry[1] for entry in entries}
        assert config["cleanup.policy"] == "compact"
        assert int(config["segment.bytes"]) < 1 << 30
