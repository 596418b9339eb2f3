"""Three brokers of Apache Kafka, of which one after the other is killed: the workers leave what they would have left.

Topics have three replicas, two of which must have a message before it counts as sent. The one that is killed leads
the most partitions, so its end moves leaders; with luck the group's coordinator too.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from servers import Kafka, start_kafka
from sites import PACE, Site, Tables, assert_equal, feed, progress, without_offsets, workers

from stream.events import SOURCES
from stream.settings import Settings

pytestmark = [pytest.mark.stack, pytest.mark.kafka]
NODES = 3


@pytest.fixture(scope="module")
def cluster(stores: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with start_kafka(tmp_path_factory.mktemp("cluster"), NODES) as cluster:
        yield cluster


async def test_leaders_killed_in_the_middle_change_nothing(
    stores: Site, cluster: Kafka, embedded: Tables, tmp_path: Path
) -> None:
    """One is killed and comes back, then another one."""
    site = stores.fresh("leaders", tmp_path, broker=cluster.address, replication=NODES)
    async with workers(site, 2):
        go_on = threading.Event()
        feeding = asyncio.create_task(asyncio.to_thread(asyncio.run, feed(site.read, PACE, go_on)))
        await progress(site, 0.15)
        first = await leader(site.read)
        cluster.nodes[first].stop(signal.SIGKILL)
        await progress(site, 0.4)
        await asyncio.to_thread(cluster.nodes[first].start)
        await in_sync(site.read)
        second = await leader(site.read)
        assert second != first  # the returned one leads nothing yet
        cluster.nodes[second].stop(signal.SIGKILL)
        go_on.set()
        await feeding
        assert_equal(without_offsets(await site.contents()), without_offsets(embedded))


async def partitions(settings: Settings) -> list[dict[str, Any]]:
    """Leader and replicas of every partition the workers read."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.brokers)
    await admin.start()
    try:
        topics = await admin.describe_topics([settings.topic(name) for name in (*SOURCES, "signals")])
    finally:
        await admin.close()
    return [partition for topic in topics for partition in topic["partitions"]]


async def leader(settings: Settings) -> int:
    """The node that leads the most partitions."""
    return Counter(partition["leader"] for partition in await partitions(settings)).most_common(1)[0][0]


async def in_sync(settings: Settings) -> None:
    """Return when every replica has everything."""
    async with asyncio.timeout(60):
        while any(len(partition["isr"]) < NODES for partition in await partitions(settings)):  # noqa: ASYNC110
            await asyncio.sleep(0.5)
