"""The fusion lane without servers: the same windows and alerts whatever the order, cuts, repetitions and restarts."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stream.agents.clicks import Clicks
from stream.agents.fusion import Fusion, quote
from stream.detect.rules import RulesFile
from stream.recommend.catalogue import Catalogue, Product
from stream.records import Window
from stream.settings import Settings
from stream.transport import Block
from stream.windows.behaviour import PANE_FEATURES
from stream.windows.tallies import BEHAVIOUR, TEXT_FEATURES, rank
from stream.windows.watermark import Watermark

MINUTE = 60_000
START = 1_772_380_800_000
TEXT_SOURCES = ["reviews/0", "chats/0"]
SOURCES = [*TEXT_SOURCES, "clicks/0"]
FAR = 10**9
SETTINGS = Settings(pane_ms=MINUTE, window_panes=4, lateness_ms=5_000, correct_ms=3 * MINUTE)

Message = dict[str, Any]


class Record:
    def __init__(self, offset: int, message: Message) -> None:
        self.offset, self.timestamp, self.value = offset, 10**14, orjson.dumps(message)


# What source lanes send


def text(source: str, number: int, ts: int, mark: int = 0, **changes: Any) -> Message:
    """A text with a negative aspect; ``number`` is its offset."""
    words = changes.get("text", f"包装破了 {random.Random(f'{source} {number}').getrandbits(60):x}")
    return {
        "kind": "text", "source": source, "seq": [number, 0], "mark": mark, "scope": "product",
        "signal_id": f"{source}-{number}", "event_id": f"{source}-{number}", "ts": ts,
        "channel": "review" if source.startswith("reviews") else "chat", "product_id": "p1", "category": "c",
        "user_id": f"u{number}", "rating": 4, "text": words, "sentiment": {"label": "negative", "score": -0.9},
        "aspects": [{"aspect": "packaging", "sentiment": "negative", "prob": 0.9, "evidence": [[0, 4]]}],
        "demands": [], "fingerprint": f"{random.Random(words).getrandbits(64):016x}", "late": ts < mark,
    } | changes  # fmt: skip


def panes(source: str, seq: list[int], start: int, rows: Mapping[tuple[str, str], Mapping[str, int]]) -> Message:
    """Behaviour by (product, category)."""
    columns: dict[str, list[Any]] = {
        "product_id": [product for product, _ in rows],
        "category": [category for _, category in rows],
    }
    columns |= {name: [row.get(name, 0) for row in rows.values()] for name in PANE_FEATURES}
    return {"kind": "panes", "source": source, "seq": seq, "pane": start, "scope": "product", "columns": columns}


def mark(source: str, ts: int) -> Message:
    return {"kind": "watermark", "source": source, "ts": ts, "idle": False, "replay": True}


@dataclass
class Shop:
    """Twenty-five minutes of a shop in which packaging is bad for a while, as each source saw it arrive."""

    seed: int
    cuts: random.Random  # where the source lanes cut their blocks
    sent: dict[str, list[Message]] = field(default_factory=dict)
    counted: dict[tuple[int, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # pane, product
    dropped: int = 0
    late: int = 0

    def __post_init__(self) -> None:
        for source in SOURCES:
            dice = random.Random(f"{self.seed} {source}")
            times = sorted(dice.randrange(25 * MINUTE) for _ in range(120))
            times += [dice.randrange(14 * MINUTE, 16 * MINUTE) for _ in range(12)]  # the incident
            delays = [dice.choice([0, 0, 1_000, 70_000, 150_000, 400_000]) for _ in times]
            arrivals = sorted((ts + delay, ts) for ts, delay in zip(times, delays, strict=True))
            events = [(START + ts, 14 <= ts // MINUTE < 16, dice.choice(["p1", "p1", "p2"])) for _, ts in arrivals]
            self.sent[source] = self._clicks(events) if source == "clicks/0" else self._texts(source, events, dice)

    def _counts(self, ts: int, mark: int, product: str, counts: Mapping[str, int]) -> bool:
        """Note what must come out of an event; False if it is too late."""
        end, edge = ts - ts % MINUTE + MINUTE, mark - mark % MINUTE
        self.late += end <= edge
        if end + SETTINGS.correct_ms <= edge:
            self.dropped += 1
            return False
        self.counted[ts - ts % MINUTE, product].update(counts)
        return True

    def _texts(self, source: str, events: list[tuple[int, bool, str]], dice: random.Random) -> list[Message]:
        clock, messages, told = Watermark(SETTINGS.lateness_ms), [], 0
        for place in dice.sample(range(len(events)), 10):  # second deliveries
            events.insert(place + dice.randrange(1, 20), events[place])
        first: dict[tuple[int, bool, str], int] = {}
        for offset, (ts, bad, product) in enumerate(events):
            before = clock.value
            clock.observe([_Event(ts)])
            number = first.setdefault((ts, bad, product), offset)
            aspects = text(source, 0, ts)["aspects"] if bad else []
            demands = [{"demand": "restock", "prob": 0.8, "evidence": []}] * (dice.random() < 0.1)
            counts = {"reviews" if source == "reviews/0" else "chats": 1, "negative/packaging": len(aspects)}
            if number == offset and not self._counts(ts, before, product, counts | {"demand/restock": len(demands)}):
                del first[ts, bad, product]
            words = {"text": "包装太差大家别买"} if bad and self.seed % 2 else {}
            messages.append(
                text(source, offset, ts, before, signal_id=f"{source}-{number}", event_id=f"{source}-{number}",
                     product_id=product, aspects=aspects, demands=demands, **words)
            )  # fmt: skip
            if self.cuts.random() < 0.3 and clock.value - clock.value % MINUTE > told:
                told = clock.value - clock.value % MINUTE
                messages.append(mark(source, told))
        return [*messages, mark(source, START + FAR)]

    def _clicks(self, events: list[tuple[int, bool, str]]) -> list[Message]:
        clock, messages, told = Watermark(SETTINGS.lateness_ms), [], START
        panes_open: dict[int, dict[tuple[str, str], Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        late: dict[int, dict[int, dict[tuple[str, str], Counter[str]]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(Counter))
        )

        def report(upto: int) -> None:
            nonlocal told
            for boundary in sorted({*late, *(start + MINUTE for start in panes_open)}):
                if boundary <= upto:
                    for start, rows in sorted(late.pop(boundary, {}).items()):
                        messages.append(panes("clicks/0/late", [boundary, start, 0], start, rows))
                    if boundary - MINUTE in panes_open:
                        start = boundary - MINUTE
                        messages.append(panes("clicks/0", [start, 0], start, panes_open.pop(start)))
            told = upto
            messages.append(mark("clicks/0", upto))

        for ts, _, product in events:
            before = clock.value
            clock.observe([_Event(ts)])
            start, edge = ts - ts % MINUTE, before - before % MINUTE
            counts = {"views": 1, "price_cents": ts % 1_000, "returns": ts % 2}
            if self._counts(ts, before, product, counts):
                target = panes_open[start] if start >= edge else late[edge + MINUTE][start]
                target[product, "c"].update(counts)
            edge = clock.value - clock.value % MINUTE
            if edge > told and (self.cuts.random() < 0.3):
                report(edge)
        report(START + FAR)
        return messages


@dataclass
class _Event:
    ts: int


# Running a lane


def interleave(parts: Iterable[list[Message]], dice: random.Random) -> list[Message]:
    left, mixed = [list(part) for part in parts], []
    while any(left):
        part = dice.choice([part for part in left if part])
        mixed.append(part.pop(0))
    return mixed


def run(
    messages: list[Message],
    settings: Settings = SETTINGS,
    sources: list[str] = SOURCES,
    dice: random.Random | None = None,
    restarts: bool = False,
) -> tuple[dict[tuple[Any, ...], Message], list[Message], Counter[str]]:
    """The rows of ``windows`` by place and revision, the states of the alerts, and the counts.

    With ``dice`` in blocks of any size; with ``restarts`` lanes are lost at any time and go on from a checkpoint.
    """
    records = [Record(offset, message) for offset, message in enumerate(messages)]
    windows: dict[tuple[Any, ...], Message] = {}
    alerts: dict[tuple[str, int], Message] = {}
    counts: Counter[str] = Counter()
    fusion, segments = Fusion(settings, sources, "m"), {}
    position, saved = 0, (0, dict(segments))
    while position < len(records):
        size = dice.randrange(1, 80) if dice else len(records)
        effects = asyncio.run(fusion.process(Block("signals", 0, records[position : position + size])))
        position += size
        assert not effects.rejects, effects.rejects[0].reason
        counts.update(effects.counts)
        for row in chain(*effects.columns["windows"]):
            place = tuple(row[name] for name in ("pane_start", "scope", "product_id", "category", "revision"))
            assert windows.setdefault(place, row) == row
        for row in effects.rows["alerts"]:
            assert alerts.setdefault((row["alert_id"], row["updated_at"]), row) == row
        if dice and dice.random() < 0.4:
            for name, data in fusion.dump().items():
                if data is None:
                    segments.pop(name, None)
                else:
                    segments[name] = data
            saved = position, dict(segments)
        if restarts and dice and dice.random() < 0.1:
            fusion = Fusion(settings, sources, "m")
            position, segments = saved[0], dict(saved[1])
            if segments:
                fusion.load(segments)
    return windows, [alerts[key] for key in sorted(alerts)], counts


def newest(windows: Mapping[tuple[Any, ...], Message]) -> dict[tuple[Any, ...], Message]:
    return {place[:-1]: windows[place] for place in sorted(windows)}


def repeated(part: list[Message], dice: random.Random) -> list[Message]:
    """A source that goes back twice to an earlier checkpoint."""
    for _ in range(2):
        end = dice.randrange(len(part))
        part = part[:end] + part[dice.randrange(end + 1) :]
    return part


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.integers(0, 1 << 32))
def test_only_the_sequence_of_each_source_counts(seed: int, chance: int) -> None:
    """Not how they interleave, what they repeat, where they or the lane cut their blocks, or when a lane restarts."""
    dice = random.Random(chance)
    usual = Shop(seed, random.Random(1))
    windows, alerts, _ = run(interleave(usual.sent.values(), random.Random(2)))
    other = Shop(seed, dice)
    parts = [repeated(part, dice) for part in other.sent.values()]
    windows_too, alerts_too, _ = run(interleave(parts, dice), dice=dice, restarts=True)
    assert windows_too == windows
    assert alerts_too == alerts


@pytest.mark.parametrize("seed", range(6))
def test_the_newest_rows_hold_every_event_that_was_not_too_late_once(seed: int) -> None:
    shop = Shop(seed, random.Random(1))
    windows, alerts, counts = run(interleave(shop.sent.values(), random.Random(2)))
    found = {
        (row["pane_start"], row["product_id"]): row | dict(zip(row["label"], row["label_count"], strict=True))
        for row in newest(windows).values()
    }
    assert set(found) == set(shop.counted)
    for place, expected in shop.counted.items():
        assert {name: found[place].get(name, 0) for name in expected} == expected
    # and the shop has what this is about
    assert shop.late > shop.dropped > 0
    assert max(place[-1] for place in windows) >= 2
    assert counts["redelivered"] > 0
    assert {"open", "resolved"} <= {row["state"] for row in alerts}
    assert any(row["note"] for row in alerts if row["state"] == "resolved") == (seed % 2)


# Late texts


def test_a_late_text_corrects_the_row_and_is_seen_by_the_detectors() -> None:
    """Twelve complaints about a closed pane open an alert at the next boundary; without them nothing happens."""
    quiet = [text("r", n, START + n * MINUTE, aspects=[]) for n in range(60)]
    late = [text("r", 100 + n, START + 59 * MINUTE + n, START + 61 * MINUTE) for n in range(12)]
    last = [mark("r", START + 61 * MINUTE), *late, mark("r", START + 62 * MINUTE)]
    windows, alerts, counts = run([*quiet, *last], sources=["r"])
    assert counts["late"] == 12 and counts["corrected"] == 1
    start = START + 59 * MINUTE
    first, second = (windows[start, "product", "p1", "c", revision] for revision in (0, 1))
    assert (first["chats"], second["chats"], second["label"], second["label_count"]) == (
        1, 13, ["negative/packaging"], [12]
    )  # fmt: skip
    assert [(row["label"], row["opened_at"]) for row in alerts] == [("packaging", START + 62 * MINUTE)]
    assert alerts[0]["observed"] == 12
    assert run([*quiet, mark("r", START + 62 * MINUTE)], sources=["r"])[1] == []


@pytest.mark.parametrize(("panes_behind", "counted"), [(1, True), (2, True), (3, True), (4, False)])
def test_a_text_corrects_as_long_as_correct_ms_says(panes_behind: int, counted: bool) -> None:
    now = START + 10 * MINUTE
    late = text("r", 1, now - panes_behind * MINUTE, now)
    windows, _, counts = run([mark("r", now), late, mark("r", now + FAR)], sources=["r"])
    assert [row["revision"] for row in windows.values()] == [1] * counted
    assert counts["dropped_late"] == (not counted)


def test_a_text_behind_the_watermark_whose_pane_is_open_simply_counts() -> None:
    windows, _, _ = run([text("r", 1, START, START + 30_000), mark("r", START + MINUTE)], sources=["r"])
    assert [(row["revision"], row["chats"]) for row in windows.values()] == [(0, 1)]


def test_what_comes_late_twice_counts_once() -> None:
    now = START + 10 * MINUTE
    on_time = text("r", 1, now - MINUTE, now - MINUTE)
    again = [text("r", n, now - MINUTE, now, signal_id=on_time["signal_id"]) for n in (2, 3)]
    late = [text("r", n, now - MINUTE + 1, now, signal_id="late") for n in (4, 5)]
    windows, _, counts = run([on_time, mark("r", now), *again, *late, mark("r", now + MINUTE)], sources=["r"])
    assert [row["chats"] for row in windows.values()] == [1, 2]
    assert counts["redelivered"] == 3


def live(source: str, ts: int, idle: bool = False) -> Message:
    return mark(source, ts) | {"idle": idle, "replay": False}


@pytest.mark.parametrize("seed", range(4))
def test_where_the_clock_runs_past_a_silent_source_what_it_says_is_a_correction(seed: int) -> None:
    now = START + 10 * MINUTE
    messages = [
        live("a", now),
        live("b", now - 5 * MINUTE, idle=True),
        text("b", 1, now - MINUTE, now - 5 * MINUTE),
        text("b", 2, now - 4 * MINUTE, now - 5 * MINUTE),
        live("a", now + MINUTE),
    ]
    windows, _, counts = run(messages, sources=["a", "b"], dice=random.Random(seed), restarts=True)
    assert [(place[0], place[-1]) for place in windows] == [(now - MINUTE, 1)]
    assert counts["dropped_late"] > 0


# Behaviour


def test_behaviour_of_all_click_lanes_adds_up_and_speaks_for_demands() -> None:
    names = [PANE_FEATURES[place] for place, _, _ in BEHAVIOUR]
    assert names == ["returns", "empty_searches"]
    rows = {("p1", "c"): {"views": 5, "returns": 8, "dwell_ms": 70_000}, ("p2", ""): {"empty_searches": 12}}
    sources = ["clicks/0", "clicks/1"]
    told = [panes(source, [START, 0], START, rows) for source in sources]
    windows, alerts, _ = run([*told, *(mark(source, START + MINUTE) for source in sources)], sources=sources)
    first = windows[START, "product", "p1", "c", 0]
    assert (first["views"], first["returns"], first["dwell_ms"]) == (10, 16, 140_000)
    assert {name: first[name] for name in TEXT_FEATURES} == dict.fromkeys(TEXT_FEATURES, 0)
    found = {(row["product_id"], row["label"]): (row["observed"], row["contributions"]["clicks"]) for row in alerts}
    assert found == {("p1", "return_refund"): (8, 1), ("p2", "restock"): (12, 1)}


@pytest.mark.parametrize("cut", [1, 2, 100])
def test_a_click_that_comes_late_corrects_its_product_and_its_category(cut: int) -> None:
    """The click lane and this one together."""
    settings = SETTINGS.model_copy(update={"partitions": 1})
    catalogue = Catalogue()
    catalogue.upsert(Product("p1", "耳机", "数码", price=100.0, stock=1))

    def click(number: int, ts: int, action: str = "view") -> Message:
        return {"event_id": f"e{number}", "ts": ts, "user_id": "u", "session_id": "s", "action": action,
                "product_id": "p1", "price": 99.5}  # fmt: skip

    now = START + 2 * MINUTE
    arrivals = [click(1, START), click(2, now + 30_000), click(3, START + 1_000, "return"), click(1, START)]
    arrivals += [click(4, START + MINUTE), click(5, now + 10_000), {"heartbeat": START + FAR, "replay": True}]
    records = [Record(offset, value) for offset, value in enumerate(arrivals)]
    lane, messages = Clicks(0, settings, catalogue), []
    for start in range(0, len(records), cut):
        effects = asyncio.run(lane.process(Block("clicks", 0, records[start : start + cut])))
        messages += [message for topic, _, message, _ in effects.messages if topic == "signals"]
    windows, _, _ = run(messages, settings, ["clicks/0"])
    for place in (("product", "p1", "数码"), ("category", "", "数码")):
        rows = {((at - START) // MINUTE, revision): row for (at, *where, revision), row in windows.items()
                if tuple(where) == place}  # fmt: skip
        found = {key: (row["views"], row["returns"], row["price_cents"], row["priced"]) for key, row in rows.items()}
        assert found == {
            (0, 0): (1, 0, 9_950, 1),
            (0, 1): (1, 1, 19_900, 2),
            (1, 1): (1, 0, 9_950, 1),
            (2, 0): (2, 0, 19_900, 2),
        }


def test_behaviour_of_a_category_goes_to_the_table_alone() -> None:
    message = panes("clicks/0", [START, 0], START, {("", "c"): {"returns": 50}}) | {"scope": "category"}
    windows, alerts, _ = run([message, mark("clicks/0", START + MINUTE)], sources=["clicks/0"])
    assert [(row["scope"], row["returns"]) for row in windows.values()] == [("category", 50)]
    assert alerts == []


def test_the_columns_of_a_row_are_those_of_the_record() -> None:
    windows, _, _ = run([text("r", 1, START), mark("r", START + MINUTE)], sources=["r"])
    (row,) = windows.values()
    assert tuple(row) == Window._fields


# Alerts


def test_copied_texts_are_told() -> None:
    def note(words: str) -> str:
        quiet = [text("r", n, START + n * MINUTE, aspects=[]) for n in range(30)]
        wave = [text("r", 100 + n, START + 30 * MINUTE + n, **({"text": words} if words else {})) for n in range(12)]
        (opened,) = run([*quiet, *wave, mark("r", START + 31 * MINUTE)], sources=["r"])[1]
        return str(opened["note"])

    assert note("包装太差大家别买") == "11 of 12 texts repeat another one"
    assert note("") == ""


def test_a_long_quote_is_cut_around_its_evidence() -> None:
    long = "好" * 500 + "包装破了" + "好" * 500
    candidate = quote({"text": long, "event_id": "e"}, 0.9, [(500, 504)])
    ((start, end),) = candidate.spans
    assert candidate.text[start:end] == "包装破了"
    assert len(candidate.text) <= 280


def test_an_alert_says_whether_many_or_few_made_it() -> None:
    def origin(**changes: Any) -> tuple[str, float]:
        wave = [text("r", 100 + n, START + 30 * MINUTE + n, **changes) for n in range(12)]
        quiet = [text("r", n, START + n * MINUTE, aspects=[]) for n in range(30)]
        (opened,) = run([*quiet, *wave, mark("r", START + 31 * MINUTE)], sources=["r"])[1]
        return opened["origin"], opened["origin_figures"]["authors_per_text"]

    assert origin() == ("organic", 1.0)
    assert origin(text="包装太差大家别买") == ("coordinated", 1.0)
    assert origin(user_id="troll") == ("coordinated", pytest.approx(1 / 12, abs=1e-3))


# Actions and rules


def action(alert: Message, verb: str, ts: int = 1, **more: Any) -> Message:
    return {"kind": "action", "alert_id": alert["alert_id"], "action": verb, "ts": ts, "by": "ann"} | more


def waves() -> list[Message]:
    """An hour of quiet, a wave, and calm after it."""
    quiet = [text("r", n, START + n * MINUTE, aspects=[]) for n in range(60)]
    return [*quiet, *(text("r", 100 + n, START + 60 * MINUTE + n) for n in range(12)), mark("r", START + 61 * MINUTE)]


@pytest.mark.parametrize("seed", range(4))
def test_an_action_counts_at_its_place_among_the_messages_whatever_is_restarted(seed: int) -> None:
    (opened,) = run(waves(), sources=["r"])[1]
    said = [action(opened, "ack"), action(opened, "ack"), action(opened, "useful", 2), action({"alert_id": "x"}, "ack")]
    messages = [*waves(), *said, mark("r", START + FAR)]
    _, alerts, counts = run(messages, sources=["r"], dice=random.Random(seed), restarts=True)
    assert [row["state"] for row in alerts] == ["open", "acknowledged", "acknowledged", "resolved"]
    assert [row["verdict"] for row in alerts] == ["", "", "useful", "useful"]
    assert len({row["alert_id"] for row in alerts}) == 1
    assert counts["actions"] >= 4


def test_every_action_is_a_row_and_one_that_is_none_is_refused() -> None:
    fusion = Fusion(SETTINGS, ["r"], "m")
    said = [action({"alert_id": "x"}, "snooze", 5, duration=60_000), action({"alert_id": "x"}, "dance")]
    effects = asyncio.run(fusion.process(Block("signals", 0, [Record(n, each) for n, each in enumerate(said)])))
    (row,) = effects.rows["alert_actions"]
    assert (row["alert_id"], row["action"], row["ts"], row["duration"]) == ("x", "snooze", 5, 60_000)
    assert [reject.offset for reject in effects.rejects] == [1]


def test_other_rules_are_in_force_from_the_next_boundary_on(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("rules: {old: {kind: negative_spike}}")
    file = RulesFile(str(path))
    fusion = Fusion(SETTINGS, ["r"], "m", lambda: file.rules)

    def alerts(messages: list[Message]) -> list[tuple[str, str, str]]:
        effects = asyncio.run(fusion.process(Block("signals", 0, [Record(0, message) for message in messages])))
        return [(row["rule"], row["state"], row["cause"].split(":")[0]) for row in effects.rows["alerts"]]

    assert alerts(waves()) == [("old", "open", "opened")]
    path.write_text("rules: {new: {kind: negative_spike}}")
    assert file.poll()
    assert alerts([mark("r", START + 62 * MINUTE)])[0] == ("old", "resolved", "packaging is watched by rule new now")


# Limits


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 1 << 32))
def test_which_keys_stay_does_not_depend_on_the_order_and_known_products_come_first(limit: int, chance: int) -> None:
    dice = random.Random(chance)
    settings = SETTINGS.model_copy(update={"max_keys": limit})
    parts = [
        [
            *(
                panes(source, [START, n], START, {(f"p{n}", "c" if n % 5 == 0 else ""): {"views": 1}})
                for n in range(40)
            ),
            mark(source, START + MINUTE),
        ]
        for source in ("clicks/0", "clicks/1")
    ]
    windows, _, counts = run(interleave(parts, dice), settings, ["clicks/0", "clicks/1"], dice, restarts=True)
    places = [("product", f"p{n}", "c" if n % 5 == 0 else "") for n in range(40)]
    assert {place[1:4] for place in windows} == set(sorted(places, key=rank)[:limit])
    assert {row["views"] for row in windows.values()} == {2}
    assert {row["category"] for row in windows.values()} == ({"c"} if limit <= 8 else {"c", ""})
    assert counts["overflow"] >= 40 - limit


def test_a_closed_pane_that_is_full_takes_no_new_keys_and_known_products_come_first() -> None:
    settings = SETTINGS.model_copy(update={"max_keys": 2})
    late = [
        text("r", 2, START, START + MINUTE, product_id="unknown", category=""),
        text("r", 3, START, START + MINUTE, product_id="known"),
        text("r", 4, START, START + MINUTE, product_id="p2"),
    ]
    messages = [text("r", 1, START, product_id="p2"), mark("r", START + MINUTE), *late, mark("r", START + 2 * MINUTE)]
    windows, _, counts = run(messages, settings, ["r"])
    assert {product: row["chats"] for (_, _, product, _), row in newest(windows).items()} == {"p2": 2, "known": 1}
    assert counts["overflow"] == 1


# State


def test_a_dump_costs_what_changed() -> None:
    fusion = Fusion(SETTINGS, ["r", "clicks/0"], "m")
    rows = {(f"p{n}", "c"): {"views": n} for n in range(5_000)}
    messages = [panes("clicks/0", [START, 0], START, rows), *(text("r", n, START + n) for n in range(1_000))]
    records = [Record(n, message) for n, message in enumerate(messages)]
    asyncio.run(fusion.process(Block("signals", 0, records)))
    whole = fusion.dump()
    assert fusion.dump() == {}
    more = Record(9_999, text("r", 1_000, START))
    asyncio.run(fusion.process(Block("signals", 0, [more])))
    little = fusion.dump()
    assert sum(len(data or b"") for data in whole.values()) > 300_000
    assert sum(len(data or b"") for data in little.values()) < 3_000
    assert {name for name in little if name in whole} == {"clock"}


def test_what_no_correction_and_no_window_can_touch_is_dropped() -> None:
    fusion = Fusion(SETTINGS, ["r"], "m")
    segments: dict[str, bytes] = {}
    for n in range(20):
        messages = [text("r", 2 * n + 1, START + n * MINUTE), mark("r", START + n * MINUTE)]
        messages.append(text("r", 2 * n + 2, START + (n - 2) * MINUTE, START + n * MINUTE))
        asyncio.run(fusion.process(Block("signals", 0, [Record(0, message) for message in messages])))
        for name, data in fusion.dump().items():
            segments.update({name: data} if data is not None else {})
            if data is None:
                segments.pop(name)
    held: dict[str, set[int]] = defaultdict(set)
    for name in segments:
        kind, *part = name.split("/")
        held[kind].add((int(part[0]) - START) // MINUTE if len(part) == 2 and part[0] != "0" else -1)
    assert held["panes"] == {16, 17, 18, 19}  # closed to minute 19, corrections reach back three minutes
    assert held["texts"] == {16, 17, 18, 19}
    assert held["late"] == {20}


def test_a_message_that_is_no_signal_is_refused_and_the_rest_counts() -> None:
    fusion = Fusion(SETTINGS, SOURCES, "m")
    now = START + 10 * MINUTE
    half = panes("clicks/0", [START, 0], START, {("p", "c"): {}})
    half["columns"]["views"] = []
    price = panes("clicks/0", [START, 0], START, {("p", "c"): {}})
    price["columns"]["price_cents"] = [9.99]
    late = text("reviews/0", 1, now - MINUTE, now)
    del late["aspects"]
    bad = [{"kind": "weather"}, half, price, late, {"kind": "text"}]
    good = text("reviews/0", 9, now)
    records = [Record(offset, message) for offset, message in enumerate([*bad, good])]
    effects = asyncio.run(fusion.process(Block("signals", 0, records)))
    assert len(effects.rejects) == len(bad)
    assert effects.counts["texts"] == 1


# Stars


@pytest.mark.parametrize(
    ("changes", "counted"),
    [({"rating": 1}, ("packaging", {"reviews": 0.5, "ratings": 0.5})),
     ({"rating": 2, "aspects": []}, ("overall", {"ratings": 1.0})),
     ({"rating": 3}, ("packaging", {"reviews": 1.0})),
     ({"rating": 0}, ("packaging", {"reviews": 1.0})),
     ({"rating": 3, "aspects": []}, None),
     ({"rating": 1, "aspects": [], "sentiment": {"label": "positive", "score": 0.9}}, None),
     ({"rating": 1, "channel": "chat"}, ("packaging", {"chats": 1.0}))],
)  # fmt: skip
def test_few_stars_are_evidence_beside_the_words_of_a_review_or_without_any(
    changes: Mapping[str, Any], counted: tuple[str, dict[str, float]] | None
) -> None:
    """Twelve such reviews after an hour of calm ones; each is one text, whatever it is counted by."""
    sources, now = ["r", "c"], START + 60 * MINUTE
    calm = [text("r", n, START + n * MINUTE, aspects=[], channel="review") for n in range(60)]
    bad = [text("r", 100 + n, now + n, **{"channel": "review", **changes}) for n in range(12)]
    windows, alerts, _ = run([*calm, *bad, *(mark(each, now + MINUTE) for each in sources)], sources=sources)
    row = windows[now, "product", "p1", "c", 0]
    spikes = [alert for alert in alerts if alert["kind"] == "negative_spike"]
    if counted is None:
        assert (row["label"], spikes) == ([], [])
        return
    label, shares = counted
    assert (row["label"], row["label_count"]) == ([f"negative/{label}"], [12])
    (alert,) = spikes
    assert (alert["label"], alert["observed"]) == (label, 12)
    assert alert["contributions"] == {"reviews": 0, "chats": 0, "clicks": 0, "ratings": 0} | shares
    assert alert["evidence"]
