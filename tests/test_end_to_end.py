"""The whole way on the real embedded servers: what goes in comes out once, whatever is killed on the way."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from stream.alerts import list_alerts
from stream.replay import Event, replay_events
from stream.settings import Settings
from stream.simulate import Shop
from stream.simulate.incidents import HOUR, Incident
from stream.sinks import open_sink
from stream.stack import Stack, embedded_stack
from stream.status import read_lanes, totals, wait_until_caught_up

pytestmark = pytest.mark.stack

START = 1_772_380_800_000
TABLES = {
    "signals": "SELECT * EXCEPT (ingested_at) FROM signals ORDER BY signal_id",
    "alerts": "SELECT * EXCEPT (ingested_at) FROM alerts ORDER BY alert_id, updated_at",
    "sessions": "SELECT * EXCEPT (ingested_at) FROM sessions ORDER BY session_key",
    "windows": "SELECT * EXCEPT (ingested_at) FROM windows ORDER BY pane_start, scope, product_id, category",
    "recommendations": "SELECT * EXCEPT (ingested_at) FROM recommendations ORDER BY trigger_id",
    "deadletters": "SELECT * EXCEPT (ingested_at) FROM deadletters ORDER BY topic, `partition`, `offset`",
}


def shop() -> Shop:
    incident = Incident("negative_spike", "packaging", "p002", "美妆", START + 2 * HOUR, START + 3 * HOUR, rate=60)
    return Shop(seed=3, start=START, hours=4, texts_per_hour=60, clicks_per_hour=800, dirty=0.01, scenario=[incident])


def hostile() -> list[Event]:
    """Records that no shop should send, between good ones, all on one product."""
    ts = START + 90 * 60_000
    good = {"ts": ts, "user_id": "u", "product_id": "px", "rating": 1, "text": "太差了"}
    values: list[dict[str, Any] | str] = [
        {"event_id": "h1", **good},
        "{",
        "\x00\x01",
        "[1, 2]",
        {"event_id": "h2", **good, "ts": 4_102_444_800_000},
        {"event_id": "h3", **good, "ts": 0},
        {"event_id": "h4", **good, "rating": "five"},
        {"event_id": "h5", **good, "text": "包装破了" * 70_000},
        {"event_id": "h6", **good, "text": "😡" * 20_000},
        {"event_id": "h7", **good, "text": "坏\x00了\u202e\ufeff"},
        {"event_id": "h8", **good, "text": "   "},
        {"event_id": "h9", **good},
    ]
    return [Event("reviews", "px", value, ts) for value in values]


def events() -> list[Event]:
    """The shop with the hostile records in the middle."""
    simulated = list(shop().generate())
    place = next(i for i, event in enumerate(simulated) if event.ts >= START + 90 * 60_000)
    return simulated[:place] + hostile() + simulated[place:]


def settings(home: Path) -> Settings:
    return Settings(home=home, partitions=2, idle_seconds=0, checkpoint_seconds=0.2, block_texts=32)


async def contents(stack: Stack) -> dict[str, list[dict[str, Any]]]:
    sink = open_sink(stack.settings)
    await sink.open()
    try:
        return {name: await sink.query(sql) for name, sql in TABLES.items()}
    finally:
        await sink.close()


async def feed(stack: Stack, events: Iterable[Event]) -> tuple[int, dict[str, int]]:
    summary = await replay_events(events, stack.settings, patience=30)
    assert await wait_until_caught_up(stack.settings, summary.last_ts + stack.settings.session_gap_ms)
    return summary.heartbeats, dict(summary.sent)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run in which nothing happens, and what it left."""

    async def work() -> dict[str, Any]:
        async with embedded_stack(settings(tmp_path_factory.mktemp("undisturbed"))) as stack:
            heartbeats, sent = await feed(stack, events())
            stages = totals(read_lanes(stack.settings))
            sink = open_sink(stack.settings)
            await sink.open()
            alerts = await list_alerts(sink)
            await sink.close()
            return {
                "tables": await contents(stack),
                "heartbeats": heartbeats,
                "sent": sent,
                "stages": stages,
                "alerts": alerts,
                "topic": await messages(stack.settings, "alerts"),
            }

    return asyncio.run(work())


async def messages(where: Settings, topic: str) -> int:
    """Records in a topic."""
    consumer = AIOKafkaConsumer(where.topic(topic), bootstrap_servers=where.brokers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        count = 0
        while batch := await consumer.getmany(timeout_ms=2_000):
            count += sum(map(len, batch.values()))
        return count
    finally:
        await consumer.stop()


def test_every_record_is_accounted_for(undisturbed: dict[str, Any]) -> None:
    stages, sent, beats = undisturbed["stages"], undisturbed["sent"], undisturbed["heartbeats"] // 3
    for topic in ("reviews", "chats", "clicks"):
        assert stages[topic]["records"] == sent[topic] + beats
        assert stages[topic]["heartbeats"] == beats
    for topic in ("reviews", "chats"):
        read = stages[topic]
        assert read["signals"] + read["agent_messages"] + read["rejected"] == sent[topic]
    clicks = stages["clicks"]
    assert clicks["clicks"] + clicks["redelivered"] + clicks["late"] + clicks["rejected"] == sent["clicks"]
    assert stages["signals"]["panes"] == clicks["panes"]


def test_what_cannot_be_read_is_a_dead_letter_with_place_and_reason(undisturbed: dict[str, Any]) -> None:
    letters = undisturbed["tables"]["deadletters"]
    rejected = sum(undisturbed["stages"][topic]["rejected"] for topic in ("reviews", "chats", "clicks"))
    assert len(letters) == rejected > 10
    assert all(letter["reason"] and letter["topic"] in ("reviews", "chats", "clicks") for letter in letters)


def test_hostile_records_hold_up_none_of_their_neighbours(undisturbed: dict[str, Any]) -> None:
    kept = {row["event_id"] for row in undisturbed["tables"]["signals"] if row["product_id"] == "px"}
    assert kept == {"h1", "h5", "h6", "h7", "h8", "h9"}
    reasons = [letter["reason"] for letter in undisturbed["tables"]["deadletters"]]
    for said in ("not JSON", "expected a JSON object", "check the clock", "before the year 2000", "rating"):
        assert any(said in reason for reason in reasons), said


def test_the_incident_is_an_alert_that_explains_itself(undisturbed: dict[str, Any]) -> None:
    (alert,) = [
        alert for alert in undisturbed["alerts"] if alert["product_id"] == "p002" and alert.get("aspect") == "packaging"
    ]
    assert alert["state"] == "resolved"
    assert START + 2 * HOUR < alert["opened_at"] <= START + 3 * HOUR
    assert alert["observed"] > alert["band"][1] >= alert["expected"]
    assert alert["contributions"]["reviews"] > 0
    assert sum(alert["contributions"].values()) == pytest.approx(1)
    quote = alert["evidence"][0]
    assert any(quote["text"][start:end] for start, end in quote["spans"])
    assert undisturbed["topic"] >= 2  # open and resolved, in Kafka too


def test_no_personal_data_leaves_the_worker(undisturbed: dict[str, Any]) -> None:
    texts = [row["text"] for row in undisturbed["tables"]["signals"]]
    assert any("[PHONE]" in text or "[EMAIL]" in text or "[ORDER_NO]" in text for text in texts)
    assert not any("@" in text and ".com" in text for text in texts)


async def test_a_worker_killed_again_and_again_leaves_the_same(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    async with embedded_stack(settings(tmp_path)) as stack:
        feeding = asyncio.create_task(feed(stack, events()))
        for wait in (3.0, 1.5):
            await asyncio.sleep(wait)
            pid = stack.pid("worker-0")
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
            while stack.pid("worker-0") in (pid, None):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await feeding
        disturbed = await contents(stack)
    for table, rows in undisturbed["tables"].items():
        assert disturbed[table] == rows, table
