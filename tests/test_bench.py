"""The benchmark's own ground: the workload is what it says, and what it expects of others is what lies in the topic."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

pytest.importorskip("confluent_kafka", reason="the bench extra is not installed")

from bench import peers
from bench.stream import shares, through_a_peer
from bench.workload import START, events, fill
from stream.events import decode
from stream.settings import Settings
from stream.stack import embedded_stack
from stream.topics import ensure_topics


class Record:
    key, timestamp = None, 10**14

    def __init__(self, offset: int, value: bytes) -> None:
        self.offset, self.value = offset, value


def test_every_click_is_valid_and_none_is_late() -> None:
    clicks = events(3_000)
    decoded = decode("clicks", [Record(*pair) for pair in enumerate(clicks.payloads())], Settings().ahead_ms)
    assert not decoded.rejects
    newest, behind = START, 0
    for event in decoded.events:
        behind, newest = max(behind, newest - event.ts), max(newest, event.ts)
    assert 0 < behind < Settings().lateness_ms
    assert len({event.event_id for event in decoded.events}) == 2_970


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert list(events(500, seed=3).payloads()) == list(events(500, seed=3).payloads())
    assert list(events(500, seed=3).payloads()) != list(events(500, seed=4).payloads())


@examples(deadline=None, max_examples=30)
@given(st.integers(0, 50), st.integers(1, 5), st.lists(st.integers(0, 400), min_size=3, max_size=3))
def test_the_windows_expected_are_those_of_the_clicks(seed: int, users: int, positions: list[int]) -> None:
    gap, pane = 20_000, 60_000
    clicks = events(600, users=users, products=3, seed=seed, per_second=1)
    partition = clicks.partitions(3)
    last: dict[str, int] = {}
    read: dict[int, int] = defaultdict(int)
    taken = []
    for place, payload in zip(partition.tolist(), clicks.payloads(), strict=True):
        if read[place] < positions[place]:
            taken.append((orjson.loads(payload), place))
        read[place] += 1
    sessions, panes = 0, set()
    for click, place in sorted(taken, key=lambda pair: pair[0]["ts"]):
        sessions += click["ts"] - last.get(click["user_id"], -gap - 1) > gap
        last[click["user_id"]] = click["ts"]
        if "product_id" in click:
            panes.add((place, click["product_id"], click["ts"] // pane))
    assert clicks.windows(partition, positions, gap, pane) == (sessions, len(panes))


def test_peers_make_the_windows_of_a_worker() -> None:
    ours = Settings.model_fields
    assert ours["session_gap_ms"].default == peers.GAP_MS
    assert ours["pane_ms"].default == peers.PANE_MS
    assert ours["lateness_ms"].default == peers.LATENESS_MS


def test_shares_of_a_profile() -> None:
    own, whole = shares(["main;work;parse 6", "main;work 3", "main;work;work 1"])
    assert own == [("parse", 0.6), ("work", 0.4)]
    assert whole == [("main", 1.0), ("work", 1.0), ("parse", 0.6)]


@pytest.mark.stack
def test_peers_find_each_click_in_its_partition(tmp_path: Path) -> None:
    clicks = events(4_000)

    async def work() -> list[dict[str, object]]:
        async with embedded_stack(Settings(home=tmp_path, triton="", prefix="bench-"), workers=0) as stack:
            await ensure_topics(stack.settings)
            await asyncio.to_thread(fill, stack.settings, clicks)
            return [
                await asyncio.to_thread(through_a_peer, name, stack.settings, clicks)
                for name in ("librdkafka", "bytewax")
            ]

    for figures in asyncio.run(work()):
        assert figures["remark"] == ""
        assert figures["events"] == 4_000
        partition = clicks.partitions(4).tolist()
        assert figures["positions"] == [partition.count(number) for number in range(4)]
