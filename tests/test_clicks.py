"""The click lane without servers: sessions, panes and triggers do not depend on arrival, cuts or restarts."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.agents.clicks import Clicks
from stream.recommend.catalogue import Catalogue, Product
from stream.settings import Settings
from stream.transport import Block

START = 1_772_380_800_000
MINUTE = 60_000
CATALOGUE = Catalogue()
for number in range(6):
    CATALOGUE.upsert(Product(f"p{number}", f"耳机 {number}", "数码", price=100.0 + number, stock=number))


class Record:
    def __init__(self, offset: int, value: dict[str, Any]) -> None:
        self.offset, self.timestamp, self.key, self.value = offset, 10**14, None, orjson.dumps(value)


def click(
    number: int, ts: int, user: str = "u", action: str = "view", product: str = "p1", **more: Any
) -> dict[str, Any]:
    event = {"event_id": f"e{number}", "ts": ts, "user_id": user, "session_id": f"s-{user}", "action": action, **more}
    return event if action == "search" else event | {"product_id": product}


def beat(ts: int) -> dict[str, Any]:
    return {"heartbeat": ts, "replay": True}


def results(values: list[dict[str, Any]], cut: int = 1_000, restart_at: int = -1) -> dict[str, Any]:
    async def work() -> dict[str, Any]:
        lane, shards = Clicks(0, Settings(), CATALOGUE), {}
        rows: dict[str, list[dict[str, Any]]] = {"sessions": [], "recommendations": []}
        panes: list[dict[str, Any]] = []
        records = [Record(offset, value) for offset, value in enumerate(values)]
        for start in range(0, len(records), cut):
            effects = await lane.process(Block("clicks", 0, records[start : start + cut]))
            for table in rows:
                rows[table] += effects.rows[table]
            panes += [message for _, _, message, _ in effects.messages if message.get("kind") == "pane"]
            shards |= lane.dump()
            if start <= restart_at < start + cut:
                lane = Clicks(0, Settings(), CATALOGUE)
                lane.load(shards)
        return {
            "sessions": sorted(rows["sessions"], key=lambda row: row["session_key"]),
            "recommendations": sorted(rows["recommendations"], key=lambda row: row["trigger_id"]),
            "panes": panes,
        }

    return asyncio.run(work())


def shop(seed: int) -> list[dict[str, Any]]:
    dice = random.Random(seed)
    events, ts = [], START
    for number in range(400):
        ts += dice.randrange(20_000)
        user = f"u{dice.randrange(12)}"
        if dice.random() < 0.1:
            events.append(click(number, ts, user, "search", query="耳机 3", results=dice.choice([0, 5])))
        else:
            action = dice.choice(["view", "view", "view", "cart", "uncart", "purchase", "return"])
            events.append(click(number, ts, user, action, f"p{dice.randrange(6)}"))
    return events


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100), st.integers(1, 90), st.integers(0, 300))
def test_arrival_cuts_and_restarts_change_nothing(seed: int, cut: int, restart: int) -> None:
    ordered, dice = shop(seed), random.Random(cut)
    end = beat(ordered[-1]["ts"] + 3 * 3_600_000)
    expected = results([*ordered, end])
    assert expected["sessions"]
    shuffled = sorted(ordered, key=lambda event: event["ts"] + dice.randrange(4_900))
    repeated = [copy for event in shuffled for copy in (event, event)[: 1 + (dice.random() < 0.05)]]
    assert results([*repeated, end], cut, restart) == expected


def test_a_gap_ends_a_session_and_not_a_millisecond_earlier() -> None:
    gap = Settings().session_gap_ms
    same = results([click(1, START), click(2, START + gap), beat(START + 10 * gap)])
    two = results([click(1, START), click(2, START + gap + 1), beat(START + 10 * gap)])
    assert [session["views"] for session in same["sessions"]] == [2]
    assert [session["views"] for session in two["sessions"]] == [1, 1]


def test_a_session_is_cut_at_its_longest() -> None:
    longest, gap = Settings().session_max_ms, Settings().session_gap_ms
    clicks = [click(n, START + n * gap // 2) for n in range(2 * longest // gap + 3)]
    sessions = results([*clicks, beat(START + 10 * longest)])["sessions"]
    assert len(sessions) == 2
    assert all(session["ended_at"] - session["started_at"] <= longest for session in sessions)


def test_a_late_click_is_not_counted() -> None:
    values = [click(1, START + 10 * MINUTE), click(2, START, "late"), beat(START + 20 * 3_600_000)]
    assert [session["user_id"] for session in results(values)["sessions"]] == ["u"]


def test_an_abandoned_cart_triggers_with_products_in_stock() -> None:
    values = [click(1, START, action="cart", product="p2"), beat(START + 20 * 3_600_000)]
    (trigger,) = results(values)["recommendations"]
    assert trigger["intent"] == "abandoned_cart"
    shown = [product["product_id"] for product in trigger["products"]]
    assert shown
    assert "p0" not in shown  # sold out
    assert "p2" not in shown  # the product itself


def test_an_empty_search_counts_for_the_product_it_meant() -> None:
    values = [click(1, START, action="search", query="耳机 3", results=0), beat(START + 20 * 3_600_000)]
    (pane,) = results(values)["panes"]
    assert pane["counts"] == {"empty_search": 1}
