"""``radar worker`` on the servers of production: Apache Kafka, Triton and ClickHouse, each a process of its own.

The end-to-end suite of the embedded stack runs here once more, on what two workers made of the same events; and what
they leave in ClickHouse, with one of them killed in the middle or stopped for good, or with the broker gone for a
while, is what the embedded stack leaves. Skipped where Java or Maven is missing. Without a clickhouse-server the rows
go to the chDB store: Kafka and Triton are the same then. One of 2018 keeps whole seconds, so seconds are compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from servers import Kafka, start_kafka
from sites import PACE, RETURNED, Site, Tables, assert_equal, feed, progress, without_offsets, workers
from test_end_to_end import (
    START,
    messages,
    test_every_record_is_accounted_for,
    test_hostile_records_hold_up_none_of_their_neighbours,
    test_no_personal_data_leaves_the_worker,
    test_what_cannot_be_read_is_a_dead_letter_with_place_and_reason,
)

from stream.alerts import list_alerts
from stream.events import SOURCES
from stream.simulate.incidents import HOUR
from stream.status import read_lanes, totals

__all__ = [  # the suite that this module runs on Kafka
    "test_every_record_is_accounted_for",
    "test_hostile_records_hold_up_none_of_their_neighbours",
    "test_no_personal_data_leaves_the_worker",
    "test_what_cannot_be_read_is_a_dead_letter_with_place_and_reason",
]
pytestmark = [pytest.mark.stack, pytest.mark.kafka]

EXIT_SECONDS = 10.0
AWAY_SECONDS = 30.0


@pytest.fixture(scope="module")
def kafka(stores: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with start_kafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka


@pytest.fixture(scope="module")
def site(stores: Site, kafka: Kafka) -> Site:
    return Site({**stores.settings, "broker": kafka.address}, stores.old)


@pytest.fixture(scope="module")
def undisturbed(site: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run with two workers in which nothing happens, what it left and how they ended."""
    site = site.fresh("two", tmp_path_factory.mktemp("two"))
    prefix = site.read.prefix

    async def work() -> dict[str, Any]:
        async with workers(site, 2) as running:
            lanes = [orjson.loads((worker.home / f"worker-{worker.index}.json").read_bytes()) for worker in running]
            summary = await feed(site.read)
            stages = totals(read_lanes(site.read))
            async with site.sink() as sink:
                alerts = await list_alerts(sink)
            left = {
                "tables": await site.contents(),
                "heartbeats": summary.heartbeats,
                "sent": dict(summary.sent),
                "stages": {name.removeprefix(prefix): counts for name, counts in stages.items()},
                "alerts": alerts,
                "topic": await messages(site.read, "alerts"),
                "lanes": [len(each) for each in lanes],
            }
            await asyncio.sleep(2)  # Faust commits each second
            return left | {"committed": await committed(site), "exits": [worker.stop() for worker in running]}

    return asyncio.run(work())


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


def test_two_workers_share_the_lanes_and_leave_what_the_embedded_stack_leaves(
    undisturbed: dict[str, Any], embedded: Tables
) -> None:
    assert undisturbed["lanes"] == [8, 8]
    assert_equal(undisturbed["tables"], embedded)


def test_products_that_come_back_are_alerts_of_clicks_alone(undisturbed: dict[str, Any]) -> None:
    known = {(alert["product_id"], alert.get("demand")): alert for alert in undisturbed["alerts"]}
    for product in RETURNED:
        alert = known[product, "return_refund"]
        assert alert["state"] == "resolved"
        assert alert["closed_at"] > alert["opened_at"] > START + 2 * HOUR
        assert alert["contributions"]["clicks"] == 1


def test_what_is_durable_is_committed_and_workers_end_in_time(undisturbed: dict[str, Any]) -> None:
    assert len(undisturbed["committed"]) == 16
    assert all(offset == saved > 0 for offset, saved in undisturbed["committed"].values())
    assert max(undisturbed["exits"]) < EXIT_SECONDS


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
        assert_equal(await site.contents(), embedded)


async def test_with_the_broker_away_in_the_middle_they_leave_the_same(
    site: Site, kafka: Kafka, embedded: Tables, tmp_path: Path
) -> None:
    """It stops while a replay sends, and starts again on its data."""
    site = site.fresh("away", tmp_path)
    async with workers(site, 2):
        feeding = asyncio.create_task(feed(site.read, PACE))
        await progress(site, 0.2)
        broker = kafka.nodes[1]
        await asyncio.to_thread(broker.stop)
        await asyncio.sleep(AWAY_SECONDS)
        await asyncio.to_thread(broker.start)
        assert not feeding.done()
        await feeding
        assert_equal(without_offsets(await site.contents()), without_offsets(embedded))


async def test_told_to_end_while_no_broker_answers_a_worker_ends(site: Site, kafka: Kafka, tmp_path: Path) -> None:
    async with workers(site.fresh("alone", tmp_path), 1) as (worker,):
        broker = kafka.nodes[1]
        await asyncio.to_thread(broker.stop)
        try:
            await asyncio.to_thread(worker.stop)
        finally:
            await asyncio.to_thread(broker.start)


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
