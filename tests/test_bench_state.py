"""The benches of state, latency and replay: what they measure is what they say."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("confluent_kafka", reason="the bench extra is not installed")

from bench import state
from bench.latency import Completion, figures_of
from bench.replay import write
from bench.workload import events
from stream.checkpoint import Checkpoints, Log, in_order
from stream.events import decode
from stream.replay import read_events
from stream.windows import sessions


def test_every_session_is_clicked_on_as_itself() -> None:
    source = state.Source(300)
    blocks = [*source.open(), *source.clicks(1_000, 100)]
    records = [record for block in blocks for record in block.records]
    assert [record.offset for record in records] == list(range(1_300))
    decoded = decode("clicks", records, 0)
    assert not decoded.rejects
    clicks = decoded.events
    assert (np.diff([click.ts for click in clicks]) >= 0).all()
    assert {(len(click.user_id), len(click.session_id)) for click in clicks} == {(16, 32)}
    assert len({click.user_id for click in clicks}) == 300
    assert len({(click.user_id, click.session_id) for click in clicks}) == 300


def test_all_figures_come_from_a_partition_that_came_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "ROUNDS", 1_000)
    monkeypatch.setattr(state, "CHECKPOINTS", 3)
    monkeypatch.setattr(state, "RATE", 100)
    figures = asyncio.run(state.measure(200))
    assert figures["sessions"] == 200
    assert figures["clicks_per_session"] == 1 + state.CLICKS
    assert figures["us_per_click"] > 0
    assert figures["full_state_bytes"] > 200 * 48
    assert figures["changelog_bytes_per_click"] > 0


def test_state_in_several_shards_is_saved_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes of one shard are not undone by an older segment of another."""
    monkeypatch.setattr(sessions, "SHARD_ROWS", 64)
    monkeypatch.setattr(sessions, "CARTED", 3)

    async def work() -> None:
        source, partition = state.Source(300), state.Partition(300)
        await partition.take(source.open())
        for _ in range(40):
            await partition.take(source.clicks(20, 1_000))
            await partition.save()
        before = partition.processor._sessions
        partition.recover()
        after = partition.processor._sessions
        assert after is not before
        rows = before._row.rows()
        assert sorted(rows) == sorted(after._row.rows())
        assert after._carts == before._carts
        for name in sessions.COLUMNS:
            assert np.array_equal(getattr(after, name)[rows], getattr(before, name)[rows]), name
        assert [after._names(row) for row in rows] == [before._names(row) for row in rows]

    asyncio.run(work())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1_000), st.integers(1, 60), st.integers(1, 400))
def test_a_log_that_merges_holds_all_rows_in_few_segments(seed: int, rows: int, dumps: int) -> None:
    dice, log, now = random.Random(seed), Log("rows"), dict[str, int]()
    changed: dict[str, int] = {}
    live: dict[str, bytes] = {}
    for dump in range(dumps):
        for _ in range(dice.randrange(1, 4)):
            row = str(dice.randrange(rows))
            now[row], changed[row] = dump, log.next
        since = 0 if log.due() else log.since()
        part = {row: now[row] for row in now if changed[row] >= since}
        for name, data in log.append(orjson.dumps(part), since).items():
            if data is None:
                del live[name]
            else:
                live[name] = data
        if dice.random() < 0.1:
            log = Log("rows")
            for _, number, data in in_order(live, "rows"):
                log.seen(number, len(data))
                changed.update(dict.fromkeys(orjson.loads(data), number))
        assert len(live) <= 34
    found: dict[str, int] = {}
    for _, _, data in in_order(live, "rows"):
        found |= orjson.loads(data)
    assert found == now


async def test_the_store_counts_what_goes_to_the_changelog() -> None:
    store = state.Store()
    checkpoints = Checkpoints(store, 0)
    checkpoints.restore()
    await checkpoints.save({"clicks": 1}, {"a": b"x" * 1_000})
    assert store.sent == sum(len(key) + len(data) for key, data in store.data.items())
    assert Checkpoints(store, 0).restore() == ({"clicks": 1}, {"a": b"x" * 1_000})


def test_a_window_is_complete_with_the_last_source() -> None:
    places = {("reviews", 0), ("clicks", 0)}
    completion = Completion(1_000, 100, places)
    completion.sent(("reviews", 0), 5_000, 5.0)
    completion.sent(("clicks", 0), 5_050, 5.05)
    completion.sent(("clicks", 0), 6_100, 6.1)
    assert completion.of(6_000) is None
    completion.sent(("reviews", 0), 8_099, 8.099)
    assert completion.of(6_000) == 8.099
    assert completion.of(7_000) is None
    seen = {("a", 6_000, "open"): 8.599, ("a", 7_000, "resolved"): 9.0}
    assert figures_of(seen, completion)["all"] == {
        "alerts": 1, "p50_ms": 500, "p95_ms": 500, "p99_ms": 500, "max_ms": 500,
    }  # fmt: skip


def test_an_event_file_holds_the_clicks_and_the_catalogue(tmp_path: Path) -> None:
    clicks = events(50, products=10)
    write(clicks, tmp_path / "events.jsonl")
    found = list(read_events([tmp_path / "events.jsonl"]))
    assert [event.payload() for event in found if event.topic == "clicks"] == list(clicks.payloads())
    assert [event.key for event in found if event.topic == "clicks"] == [f"u{user}" for user in clicks.user]
    assert sum(event.topic == "catalog" for event in found) == 1_000
