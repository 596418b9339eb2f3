"""The click lane without servers: sessions, panes and triggers do not depend on arrival, cuts or restarts."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import orjson
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from stream.agents.clicks import Clicks
from stream.lanes import Effects
from stream.recommend.catalogue import Catalogue, Product
from stream.settings import Settings
from stream.transport import Block
from stream.windows.behaviour import PANE_FEATURES

START = 1_772_380_800_000
SETTINGS = Settings(partitions=1)
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


def said_by(user: str, number: int, ts: int, score: float, demands: list[str]) -> dict[str, Any]:
    return {
        "kind": "said", "source": "chats/0", "seq": [number, 0], "ts": ts, "signal_id": f"chat/{number}",
        "user_id": user, "session_id": f"t-{user}", "product_id": "", "score": score, "demands": demands, "late": False,
    }  # fmt: skip


def beat(ts: int) -> dict[str, Any]:
    return {"heartbeat": ts, "replay": True}


def results(
    values: list[dict[str, Any]],
    cut: int = 1_000,
    restart_at: int = -1,
    said: dict[int, list[dict[str, Any]]] | None = None,
    settings: Settings = SETTINGS,
) -> dict[str, Any]:
    """Everything that comes out of a lane: what it reads in blocks of ``cut``, with a restart from its checkpoint, and
    with messages ``said`` before the blocks of these numbers."""

    silent = [{"kind": "watermark", "source": "chats/0", "ts": START + 10**10, "idle": False, "replay": True}]
    heard_before = {0: silent} if said is None else said

    async def work() -> dict[str, Any]:
        lane, segments, position = Clicks(0, settings, CATALOGUE), dict[str, bytes](), 0
        rows: dict[str, dict[str, dict[str, Any]]] = {"sessions": {}, "recommendations": {}}
        panes: dict[Any, dict[str, Any]] = {}
        records = [Record(offset, value) for offset, value in enumerate(values)]

        def keep(effects: Effects) -> None:
            rows["sessions"].update((row["session_key"], row) for part in effects.columns["sessions"] for row in part)
            rows["recommendations"].update((row["trigger_id"], row) for row in effects.rows["recommendations"])
            for _, _, message, _ in effects.messages:
                if message.get("kind") == "panes":
                    panes[message["source"], *message["seq"], _] = message

        for number, start in enumerate(range(0, len(records), cut)):
            if number in heard_before:
                heard = [Record(offset, value) for offset, value in enumerate(heard_before[number])]
                keep(await lane.process(Block("said", 0, heard)))
            keep(await lane.process(Block("clicks", 0, records[start : start + cut])))
            position = start + cut
            changes = lane.dump()
            segments |= {name: data for name, data in changes.items() if data is not None}
            for name in [name for name, data in changes.items() if data is None]:
                segments.pop(name, None)
            if start <= restart_at < start + cut:
                resume = lane.resume("clicks", position)
                lane = Clicks(0, settings, CATALOGUE)
                lane.load(segments)
                if again := records[resume:position]:
                    keep(await lane.process(Block("clicks", 0, again)))
        return {
            "sessions": sorted(rows["sessions"].values(), key=lambda row: row["session_key"]),
            "recommendations": sorted(rows["recommendations"].values(), key=lambda row: row["trigger_id"]),
            "panes": panes,
        }

    return asyncio.run(work())


def totals(found: dict[str, Any], scope: str = "product") -> dict[tuple[int, str], dict[str, int]]:
    """What the panes say, corrections included."""
    summed: dict[tuple[int, str], Counter[str]] = {}
    for message in found["panes"].values():
        if message["scope"] == scope:
            columns = message["columns"]
            for i, name in enumerate(columns["product_id" if scope == "product" else "category"]):
                of = summed.setdefault((message["pane"], name), Counter())
                of.update({feature: columns[feature][i] for feature in PANE_FEATURES if columns[feature][i]})
    return {key: dict(count) for key, count in summed.items()}


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


@examples(max_examples=20, deadline=None)
@given(st.integers(0, 100), st.integers(1, 90), st.integers(0, 300))
def test_arrival_cuts_and_restarts_change_nothing(seed: int, cut: int, restart: int) -> None:
    ordered, dice = shop(seed), random.Random(cut)
    end = beat(ordered[-1]["ts"] + 3 * 3_600_000)
    expected = results([*ordered, end])
    assert expected["sessions"]
    shuffled = sorted(ordered, key=lambda event: event["ts"] + dice.randrange(4_900))
    repeated = [copy for event in shuffled for copy in (event, event)[: 1 + (dice.random() < 0.05)]]
    found = results([*repeated, end], cut, restart)
    for part in expected:
        assert found[part] == expected[part], part


@examples(max_examples=20, deadline=None)
@given(st.integers(0, 100), st.integers(1, 90), st.integers(0, 300))
def test_late_clicks_are_counted_once_whatever_the_cuts_and_restarts(seed: int, cut: int, restart: int) -> None:
    dice, events = random.Random(seed), shop(seed)
    late = sorted(events, key=lambda event: event["ts"] + (dice.randrange(600_000) if dice.random() < 0.1 else 0))
    again = [copy for event in late for copy in (event, event)[: 1 + (dice.random() < 0.1)]]
    end = beat(events[-1]["ts"] + 4 * 3_600_000)
    whole = results([*again, end])
    assert results([*again, end], cut, restart) == whole
    assert any(source.endswith("/late") for source, *_ in whole["panes"])
    views = sum(count.get("views", 0) for count in totals(whole).values())
    assert views == sum(event["action"] == "view" for event in events)


def test_clicks_of_one_millisecond_are_counted_once_each_and_in_one_order() -> None:
    """Two shoppers, all in one millisecond, each click delivered twice, in any order."""
    clicks = [click(n, START, f"u{n % 2}", ["view", "cart", "purchase"][n // 2], f"p{n % 3}") for n in range(6)]
    end = beat(START + 20 * 3_600_000)
    expected = results([*clicks, end])
    assert sum(session["events"] for session in expected["sessions"]) == 6
    dice = random.Random(1)
    for cut in (1, 2, 5, 20):
        delivered = clicks * 2
        dice.shuffle(delivered)
        assert results([*delivered, end], cut) == expected


def test_products_are_forgotten_while_clicks_of_theirs_wait() -> None:
    """Numbers of products are used again; what waits for the watermark meanwhile keeps its own."""
    hour = 60 * MINUTE
    bursts = [click(n, START + n // 8 * hour + n, f"u{n // 8}", "view", f"x{n}") for n in range(160)]
    values = [*bursts, beat(START + 40 * hour)]
    few = SETTINGS.model_copy(update={"max_keys": 4})
    assert results(values, 5, settings=few)["sessions"] == results(values)["sessions"]
    assert results(values, 5, restart_at=80, settings=few)["sessions"] == results(values)["sessions"]


def test_a_gap_ends_a_session_and_not_a_millisecond_earlier() -> None:
    gap = SETTINGS.session_gap_ms
    same = results([click(1, START), click(2, START + gap), beat(START + 10 * gap)])
    two = results([click(1, START), click(2, START + gap + 1), beat(START + 10 * gap)])
    assert [session["views"] for session in same["sessions"]] == [2]
    assert [session["views"] for session in two["sessions"]] == [1, 1]


def test_a_session_is_cut_at_its_longest() -> None:
    longest, gap = SETTINGS.session_max_ms, SETTINGS.session_gap_ms
    clicks = [click(n, START + n * gap // 2) for n in range(2 * longest // gap + 3)]
    sessions = results([*clicks, beat(START + 10 * longest)])["sessions"]
    assert len(sessions) == 2
    assert all(session["ended_at"] - session["started_at"] <= longest for session in sessions)


def test_a_late_click_corrects_its_pane_and_its_session() -> None:
    values = [
        click(1, START + 10 * MINUTE, "u"),
        click(2, START + 6 * MINUTE, "u"),
        click(3, START - 60 * MINUTE, "u"),  # more than correct_ms: dropped
        beat(START + 20 * 3_600_000),
    ]
    found = results(values)
    assert [session["views"] for session in found["sessions"]] == [2]
    panes = totals(found)
    assert panes[START + 10 * MINUTE, "p1"]["views"] == panes[START + 5 * MINUTE, "p1"]["views"] == 1
    assert len(panes) == 2


def test_chats_join_the_session_they_fall_into_or_make_their_own() -> None:
    gap = SETTINGS.session_gap_ms
    clicks = [click(1, START, "u"), click(2, START + 5 * MINUTE, "u"), beat(START), beat(START + 20 * 3_600_000)]
    said = [
        said_by("u", 1, START + 5 * MINUTE + gap, -0.5, ["discount"]),
        said_by("u", 2, START + 6 * MINUTE + 2 * gap, 0.5, ["restock"]),
        said_by("v", 3, START, 0.25, []),
    ]
    end = {"kind": "watermark", "source": "chats/0", "ts": START + 20 * 3_600_000, "idle": False, "replay": True}
    for cut, when in ((1, 0), (1, 3), (2, 1), (9, 0)):
        sessions = results(clicks, cut, said={when: [*said, *said, end]})["sessions"]
        joined = sorted((s["user_id"], s["events"], s["chats"], s["demands"], s["sentiment"]) for s in sessions)
        assert joined == [
            ("u", 0, 1, ["restock"], 0.5),
            ("u", 2, 1, ["discount"], -0.5),
            ("v", 0, 1, [], 0.25),
        ], (cut, when)


@given(
    st.lists(st.tuples(st.sampled_from("uv"), st.integers(0, 400)), min_size=1, max_size=7),
    st.lists(st.tuples(st.sampled_from("uvw"), st.integers(0, 400)), max_size=12),
    st.randoms(use_true_random=False),
)
@examples(max_examples=150, deadline=None)
def test_whatever_comes_first_each_message_finds_the_same_session(
    clicked: list[tuple[str, int]], spoken: list[tuple[str, int]], dice: random.Random
) -> None:
    """Clicks and messages in minutes, in blocks and with watermarks and a restart anywhere, against a plain count."""
    gap, end = SETTINGS.session_gap_ms // MINUTE, 20 * 60
    expected: list[tuple[str, int, int]] = []
    for user in "uvw":
        times = sorted(minute for name, minute in clicked if name == user)
        sessions = [[first, first, 0, 0] for first in times[:1]]
        for minute in times:
            if minute - sessions[-1][1] > gap:
                sessions.append([minute, minute, 0, 0])
            sessions[-1][1], sessions[-1][2] = minute, sessions[-1][2] + 1
        free = []
        for minute in sorted(minute for name, minute in spoken if name == user):
            near = [one for one in sessions if one[0] - gap <= minute <= one[1] + gap]
            if near:
                near[0][3] += 1
            else:
                free.append(minute)
        chains: list[list[int]] = []
        for minute in free:
            if chains and minute - chains[-1][-1] <= gap:
                chains[-1].append(minute)
            else:
                chains.append([minute])
        expected += [(user, events, chats) for _, _, events, chats in sessions]
        expected += [(user, 0, len(chain)) for chain in chains]

    clicked.sort(key=lambda one: one[1])
    values = [click(n, START + minute * MINUTE, user, product="p1") for n, (user, minute) in enumerate(clicked)]
    values += [beat(START + end * MINUTE)]
    spoken.sort(key=lambda one: one[1])
    cut = dice.randrange(1, len(values) + 1)
    blocks = range(-(-len(values) // cut))
    said: dict[int, list[dict[str, Any]]] = {}
    told = {dice.choice(blocks): 0 for _ in range(3)} | {blocks[-1]: 0}  # messages come with some blocks
    begin = 0
    for number, block in enumerate(sorted(told)):
        last = len(spoken) if number == len(told) - 1 else dice.randrange(begin, len(spoken) + 1)
        batch = [
            said_by(user, n, START + spoken[n][1] * MINUTE, 0.0, [])
            for n in range(begin, last)
            for user in [spoken[n][0]]
        ]
        passed = end if last == len(spoken) else spoken[last][1]
        said[block] = [
            *batch,
            {"kind": "watermark", "source": "chats/0", "ts": START + passed * MINUTE, "idle": False, "replay": True},
        ]
        begin = last
    found = results(values, cut, restart_at=dice.randrange(-1, len(values)), said=said)["sessions"]
    assert sorted((s["user_id"], s["events"], s["chats"]) for s in found) == sorted(expected)


def test_clicks_go_on_while_the_chats_are_behind() -> None:
    """A session waits for the chats; its triggers do not."""
    values = [click(1, START, action="cart", product="p2"), beat(START + 20 * 3_600_000)]
    mark = {"kind": "watermark", "source": "chats/0", "ts": START, "idle": False, "replay": True}
    found = results(values, 1, said={0: [mark]})
    assert not found["sessions"]
    assert found["recommendations"]
    assert totals(found)


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
    ((_, counts),) = totals(results(values)).items()
    assert counts == {"empty_searches": 1}


def test_a_pane_tells_what_happened_to_a_product_and_to_its_category() -> None:
    values = [
        click(1, START, "u", "view", "p1", price=10.0),
        click(2, START + 5_000, "u", "view", "p2", price=20.5),
        click(3, START + 7_000, "u", "view", "p3"),
        click(4, START + 8_000, "u", "cart", "p3", price=1.0),
        beat(START + 20 * 3_600_000),
    ]
    found = results(values)
    panes = totals(found)
    assert panes[START, "p1"] == {"views": 1, "dwell_ms": 5_000, "price_cents": 1_000, "priced": 1}
    assert panes[START, "p3"] == {
        "views": 1, "carts": 1, "dwell_ms": 1_000, "comparisons": 1, "price_cents": 100, "priced": 1,
    }  # fmt: skip
    left = (START + 8_000 + SETTINGS.session_gap_ms) // (5 * MINUTE) * 5 * MINUTE
    assert panes[left, "p3"] == {"abandons": 1}
    shelf = totals(found, "category")
    assert shelf[START, "数码"]["views"] == 3
    assert shelf[START, "数码"]["price_cents"] == 3_150


def test_products_beyond_the_room_of_a_pane_are_left_out_the_same_way_each_time() -> None:
    small = SETTINGS.model_copy(update={"max_keys": 3})
    values = [click(n, START + n, f"u{n}", "view", f"x{n % 7}") for n in range(70)] + [beat(START + 20 * 3_600_000)]
    for cut in (1, 7, 100):
        lane, messages = Clicks(0, small, CATALOGUE), []
        for start in range(0, len(values), cut):
            records = [Record(start + i, value) for i, value in enumerate(values[start : start + cut])]
            effects = asyncio.run(lane.process(Block("clicks", 0, records)))
            messages += [message for _, _, message, _ in effects.messages if message["kind"] == "panes"]
        names = sorted(name for message in messages for name in message["columns"]["product_id"])
        assert names == ["x0", "x1", "x2"]
