"""Where the embedded broker is not Apache Kafka: the same small questions to both, and the answers that we know.

The radar works around the differences of Tansu, or bears them. When an update of one broker changes an answer, the
test of that question fails and says what can go, or has to be looked at; ``docs/production.md`` has the same table.
A question whose answer is the same is here because something relies on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, for_code
from servers import Kafka, Server, start_kafka, start_tansu

pytestmark = pytest.mark.stack

BATCH = 10
COMPACTED = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"}
COMPACTION_SECONDS = 12.0
SILENCE_MS = 6_000  # the shortest session that Kafka allows
#: The questions by what they are called in the docs.
QUESTIONS: dict[str, Question] = {}


@dataclass(frozen=True)
class Question:
    """``remedy`` is what the radar does because of Tansu's answer; empty where both answer alike."""

    ask: Callable[[str, str], Awaitable[Any]]
    tansu: Any
    kafka: Any
    remedy: str


def question(
    title: str, *, tansu: Any, kafka: Any, remedy: str = ""
) -> Callable[[Callable[[str, str], Awaitable[Any]]], None]:
    """The decorated function asks the broker at an address, and may use topics and groups of the name it is given."""

    def add(ask: Callable[[str, str], Awaitable[Any]]) -> None:
        QUESTIONS[title] = Question(ask, tansu, kafka, remedy)

    return add


@asynccontextmanager
async def admin(address: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=address)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def create(address: str, topic: str, partitions: int = 1, copies: int = 1, **configs: str) -> str:
    """What the broker says to it; empty when the topic is there."""
    async with admin(address) as client:
        answer = await client.create_topics([NewTopic(topic, partitions, copies, topic_configs=configs)])
        code = answer.topic_errors[0][1]
        while not code and topic not in await client.list_topics():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return for_code(code).__name__ if code else ""


async def send(address: str, topic: str, values: list[bytes], key: bytes | None = None, **options: Any) -> Any:
    """Send records to partition 0, together where they fit; the error's name or an empty string."""
    options = {"linger_ms": 50, "acks": "all", "request_timeout_ms": 5_000, **options}
    producer = AIOKafkaProducer(bootstrap_servers=address, **options)
    try:
        await producer.start()
        await asyncio.gather(*[await producer.send(topic, value, key=key, partition=0) for value in values])
    except (KafkaError, TimeoutError) as error:
        return type(error).__name__
    finally:
        await producer.stop()
    return ""


@asynccontextmanager
async def reader(address: str, topic: str, **options: Any) -> AsyncIterator[tuple[AIOKafkaConsumer, TopicPartition]]:
    consumer = AIOKafkaConsumer(bootstrap_servers=address, **{"auto_offset_reset": "earliest", **options})
    await consumer.start()
    place = TopicPartition(topic, 0)
    consumer.assign([place])
    try:
        yield consumer, place
    finally:
        await consumer.stop()


@asynccontextmanager
async def member(address: str, topic: str, instance: str | None = None) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of a group of the topic's name, in the group."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=address, group_id=topic, group_instance_id=instance, session_timeout_ms=SILENCE_MS,
        heartbeat_interval_ms=500, enable_auto_commit=False,
    )  # fmt: skip
    await consumer.start()
    try:
        while not consumer.assignment():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        yield consumer
    finally:
        await consumer.stop()


@question(
    f"end offset of a partition with one batch of {BATCH} records",
    tansu=1,
    kafka=BATCH,
    remedy="doctor._ends reads high water marks; app.py switches Faust's recovery_consistency_check off",
)
async def _end_of_a_batch(address: str, name: str) -> int:
    await create(address, name)
    assert not await send(address, name, [b"x"] * BATCH)
    async with reader(address, name) as (consumer, place):
        return (await consumer.end_offsets([place]))[place]


@question(f"end offset after {BATCH} batches of one record", tansu=BATCH, kafka=BATCH)
async def _end_of_single_records(address: str, name: str) -> int:
    await create(address, name)
    for _ in range(BATCH):
        assert not await send(address, name, [b"x"], linger_ms=0)
    async with reader(address, name) as (consumer, place):
        return (await consumer.end_offsets([place]))[place]


@question(f"high water mark in a fetch after one batch of {BATCH} records", tansu=BATCH, kafka=BATCH)
async def _high_water(address: str, name: str) -> int | None:
    await create(address, name)
    assert not await send(address, name, [b"x"] * BATCH)
    async with reader(address, name) as (consumer, place):
        await consumer.getmany(timeout_ms=3_000)
        return consumer.highwater(place)


@question(
    "idempotent producer", tansu="UnknownError", kafka="", remedy="KafkaOut goes on without (_can_do_idempotence)"
)
async def _idempotence(address: str, name: str) -> str:
    await create(address, name)
    return await send(address, name, [b"x"], enable_idempotence=True)


@question(
    "old values of a compacted topic go",
    tansu=False,
    kafka=True,
    remedy="none: topics and changelogs of the embedded stack grow in memory for as long as it runs",
)
async def _compaction(address: str, name: str) -> bool:
    await create(address, name, **COMPACTED)
    first = 0
    for number in range(int(COMPACTION_SECONDS / 0.5)):  # Kafka compacts no segment that it still writes to
        assert not await send(address, name, [str(number).encode()], key=b"k")
        async with reader(address, name) as (consumer, _):
            records = await consumer.getmany(timeout_ms=3_000)
            first = min(record.offset for found in records.values() for record in found)
        if first:
            break
        await asyncio.sleep(0.5)
    return first > 0


@question(
    "a record without key in a compacted topic",
    tansu="",
    kafka="UnknownError",  # INVALID_RECORD, for which aiokafka has no name
    remedy="none: the radar writes catalogue records with their key",
)
async def _without_key(address: str, name: str) -> str:
    await create(address, name, **COMPACTED)
    return await send(address, name, [b"x"])


@question(
    "describing a topic makes it, where nobody switched that on",
    tansu=True,
    kafka=False,
    remedy="topics._partitions lists the topics before it describes any",
)
async def _made_by_describing(address: str, name: str) -> bool:
    async with admin(address) as client:
        await client.describe_topics([name])
        return name in await client.list_topics()


@question(
    "three replicas on one broker",
    tansu="",
    kafka="InvalidReplicationFactorError",
    remedy="none: RADAR_REPLICATION means nothing to the embedded stack",
)
async def _replicas(address: str, name: str) -> str:
    return await create(address, name, copies=3)


@question(
    "a topic setting that does not exist",
    tansu="",
    kafka="InvalidConfigurationError",
    remedy="none: only Kafka checks what app.py and topics.py ask for",
)
async def _unknown_setting(address: str, name: str) -> str:
    return await create(address, name, **{"no.such": "1"})


@question("topic settings include the defaults", tansu=False, kafka=True, remedy="tests read them with .get()")
async def _default_settings(address: str, name: str) -> bool:
    await create(address, name)
    async with admin(address) as client:
        [answer] = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    return "segment.bytes" in {entry[0] for entry in answer.resources[0][4]}


@question(
    "settings and partitions of a topic can be changed",
    tansu=["IncompatibleBrokerVersion"] * 2,
    kafka=["", ""],
    remedy="none: topics of the embedded stack are made anew",
)
async def _changes(address: str, name: str) -> list[str]:
    await create(address, name)
    said = []
    async with admin(address) as client:
        topic = ConfigResource(ConfigResourceType.TOPIC, name, configs={"retention.ms": "1000"})
        for change in (client.alter_configs([topic]), client.create_partitions({name: NewPartitions(2)})):
            try:
                await change
                said.append("")
            except KafkaError as error:
                said.append(type(error).__name__)
    return said


@question(
    "records can be deleted",
    tansu="KafkaConnectionError",
    kafka="",
    remedy="none: nothing here deletes records; Tansu hangs up",
)
async def _deletion(address: str, name: str) -> str:
    await create(address, name)
    assert not await send(address, name, [b"x"] * BATCH)
    async with admin(address) as client:
        try:
            await client.delete_records({TopicPartition(name, 0): RecordsToDelete(before_offset=1)})
        except KafkaError as error:
            return type(error).__name__
    return ""


@question(
    "most bytes of a partition in a fetch are kept to",
    tansu=False,
    kafka=True,
    remedy="none: memory of a worker is bounded by broker_max_poll_records and the blocks, not by bytes",
)
async def _fetch_size(address: str, name: str) -> bool:
    await create(address, name)
    assert not await send(address, name, [b"x" * 1_000] * 2_000, max_batch_size=64 * 1024)
    async with reader(address, name, max_partition_fetch_bytes=64 * 1024) as (consumer, place):
        return len((await consumer.getmany(timeout_ms=5_000))[place]) < 200


@question(
    "a fetch beyond the end",
    tansu="nothing",
    kafka="OffsetOutOfRangeError",
    remedy="Stack makes workers anew with the broker (part_of): old positions would wait for ever",
)
async def _beyond_the_end(address: str, name: str) -> str:
    await create(address, name)
    async with reader(address, name, auto_offset_reset="none") as (consumer, place):
        consumer.seek(place, 1_000)
        try:
            return str(await consumer.getmany(timeout_ms=2_000) or "nothing")
        except OffsetOutOfRangeError as error:
            return type(error).__name__


@question(
    "a message of 2 MB",
    tansu="",
    kafka="MessageSizeTooLargeError",
    remedy="none: KafkaOut refuses what is larger than 1 MiB itself",
)
async def _large(address: str, name: str) -> str:
    await create(address, name)
    return await send(address, name, [b"x" * 2_000_000], max_request_size=3_000_000, max_batch_size=3_000_000)


@question("state of a group that never was", tansu="Empty", kafka="Dead", remedy="none: doctor looks at the members")
async def _unknown_group(address: str, name: str) -> str:
    await create(address, name)
    async with member(address, name):
        pass  # a broker that has never seen any group has no coordinator
    async with admin(address) as client:
        [answer] = await client.describe_consumer_groups([f"{name}-never"])
    return str(answer.groups[0][2])


@question(
    "members of a group when its only one has left",
    tansu=1,
    kafka=0,
    remedy="none: who joins waits until the session of the one that left has run out",
)
async def _after_leaving(address: str, name: str) -> int:
    await create(address, name)
    async with member(address, name):
        pass
    async with admin(address) as client:
        [answer] = await client.describe_consumer_groups([name])
    return len(answer.groups[0][5])


@question(
    "a member with a group.instance.id comes back without a rebalance",
    tansu=False,
    kafka=True,
    remedy="none: workers have no instance id, so both brokers rebalance",
)
async def _static_member(address: str, name: str) -> bool:
    await create(address, name, partitions=2)
    async with member(address, name, "stays") as stays:
        async with member(address, name, "returns"):
            while len(stays.assignment()) != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            before = stays._coordinator.generation
        async with member(address, name, "returns") as returned:
            return bool(returned._coordinator.generation == before)


@pytest.fixture(scope="module")
def tansu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_tansu(tmp_path_factory.mktemp("tansu")) as server:
        yield server


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with start_kafka(tmp_path_factory.mktemp("kafka"), more="log.cleaner.backoff.ms=200\n") as kafka:
        yield kafka


async def answer(title: str, address: str) -> Any:
    async with asyncio.timeout(60):
        return await QUESTIONS[title].ask(address, f"q{list(QUESTIONS).index(title)}")


@pytest.mark.parametrize("title", QUESTIONS)
async def test_tansu_answers_as_ever(title: str, tansu: Server) -> None:
    known, given = QUESTIONS[title], await answer(title, tansu.address)
    if given != known.tansu and given == known.kafka:
        pytest.fail(f"{title}: Tansu answers {given!r} now, as Apache Kafka does. What can go: {known.remedy}")
    assert given == known.tansu, f"{title}: neither Tansu's known answer nor Kafka's ({known.kafka!r}); {known.remedy}"


@pytest.mark.kafka
@pytest.mark.parametrize("title", QUESTIONS)
async def test_apache_kafka_answers_as_ever(title: str, kafka: Kafka) -> None:
    assert await answer(title, kafka.address) == QUESTIONS[title].kafka


async def test_tansu_forgets_its_topics_when_it_ends(tmp_path: Path) -> None:
    """What can go when this fails: part_of=('broker',) in stack.py, the payload in the key of deadletters."""
    with start_tansu(tmp_path) as broker:
        await create(broker.address, "kept")
        broker.stop()
        broker.start()
        async with admin(broker.address) as client:
            assert "kept" not in await client.list_topics()


@pytest.mark.kafka
async def test_apache_kafka_keeps_its_topics(kafka: Kafka) -> None:
    await create(kafka.address, "kept")
    await asyncio.to_thread(kafka.nodes[1].stop)
    await asyncio.to_thread(kafka.nodes[1].start)
    async with admin(kafka.address) as client:
        assert "kept" in await client.list_topics()


def test_the_table_in_the_docs_has_every_difference() -> None:
    docs = (Path(__file__).parent.parent / "docs/production.md").read_text()
    differences = [title for title, known in QUESTIONS.items() if known.tansu != known.kafka]
    assert [title for title in differences if f"| {title} |" not in docs] == []
