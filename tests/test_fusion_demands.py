"""Unmet demand and price sensitivity without servers, and whom their alerts touch, whatever the order of arrival."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_fusion import (
    FAR,
    MINUTE,
    SETTINGS,
    START,
    Message,
    Record,
    Shop,
    interleave,
    mark,
    panes,
    repeated,
    run,
    text,
)

from stream.agents.clicks import Clicks
from stream.agents.fusion import Fusion
from stream.recommend.catalogue import Catalogue, Product
from stream.transport import Block
from stream.windows.queries import MOST_QUERIES, MOST_TOLD, Queries, most_frequent, normalised


def queries(source: str, seq: list[int], start: int, **rows: int) -> Message:
    return {
        "kind": "queries", "source": source, "seq": [*seq, 2, 0], "pane": start,
        "rows": [[query.replace("_", " "), count] for query, count in rows.items()],
    }  # fmt: skip


def request(
    source: str, number: int, ts: int, mark: int = 0, terms: tuple[str, ...] = ("帐篷",), **more: Any
) -> Message:
    demands = [{"demand": "product_question", "prob": 0.8, "evidence": [[0, 2]]}]
    message = text(source, number, ts, mark, demands=demands, text=f"有没有{terms[0]} {number}")
    return message | {"kind": "request", "seq": [number, 2], "terms": list(terms), **more}


def with_requests(shop: Shop) -> dict[str, list[Message]]:
    """What the sources of a shop send when tents are looked for during its incident."""
    sent: dict[str, list[Message]] = {}
    for source, messages in shop.sent.items():
        told = sent[source] = []
        for message in messages:
            told.append(message)
            if message["kind"] == "panes":
                start = message["pane"]
                dice = random.Random(f"{message['source']} {message['seq']}")
                rows = {"猫粮": 1, "吉他": dice.randrange(1, 3)}
                if 14 <= (start - START) // MINUTE < 17:
                    rows |= {"露营_帐篷": dice.randrange(3, 9), "帐篷": 4}
                told.append(queries(message["source"], message["seq"][:-1], start, **rows))
            elif message["kind"] == "text":
                dice = random.Random(message["signal_id"])
                if dice.random() < 0.3:
                    asks = request(
                        source, message["seq"][0], message["ts"], message["mark"], (dice.choice(["帐篷", "猫粮"]),)
                    )
                    told.append(asks | {"signal_id": message["signal_id"]})
    return sent


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.integers(0, 5), st.integers(0, 1 << 32))
def test_only_the_sequence_of_each_source_counts(seed: int, chance: int) -> None:
    dice = random.Random(chance)
    usual = with_requests(Shop(seed, random.Random(1)))
    windows, alerts, _ = run(interleave(usual.values(), random.Random(2)))
    other = with_requests(Shop(seed, dice))
    parts = [repeated(part, dice) for part in other.values()]
    windows_too, alerts_too, _ = run(interleave(parts, dice), dice=dice, restarts=True)
    assert windows_too == windows
    assert alerts_too == alerts


@pytest.mark.parametrize("seed", range(6))
def test_what_is_looked_for_in_vain_opens_one_alert_that_names_it(seed: int) -> None:
    alerts = run(interleave(with_requests(Shop(seed, random.Random(1))).values(), random.Random(2)))[1]
    unmet = [alert for alert in alerts if alert["kind"] == "unmet_demand"]
    assert {alert["label"] for alert in unmet} == {"帐篷"}
    assert {(alert["scope"], alert["product_id"], alert["category"]) for alert in unmet} == {("shop", "", "unlisted")}
    last = unmet[-1]
    assert (last["state"], last["note"]) == ("resolved", "asked for: 帐篷, 露营")
    assert 0 < last["contributions"]["chats"] < last["contributions"]["clicks"]
    assert {quote["text"] for quote in last["evidence"]} & {"露营 帐篷", "帐篷"} or last["evidence"][0]["event_id"]


def test_late_requests_and_searches_are_counted_once() -> None:
    now = START + 60 * MINUTE
    quiet = [request("r", n, START + n * MINUTE, terms=("猫粮",)) for n in range(60)]
    late = [request("r", 100 + n, now - MINUTE + n, now, signal_id=f"late-{n // 2}") for n in range(16)]
    searched = [queries("clicks/0/late", [now + MINUTE, now - MINUTE], now - MINUTE, 帐篷=5)] * 2
    ends = [mark(source, now + MINUTE) for source in ("r", "clicks/0")]
    sources = ["r", "clicks/0"]
    parts = [*quiet, mark("clicks/0", now), mark("r", now), *late, *searched, *ends]
    _, (alert,), counts = run(parts, sources=sources)
    assert (alert["label"], alert["observed"], alert["contributions"]["chats"]) == ("帐篷", 13, 8 / 13)
    assert counts["late"] == 17
    assert counts["redelivered"] == 8
    assert counts["repeated"] == 1


def test_requests_beyond_the_room_of_a_pane_are_left_out_the_same_way_each_time() -> None:
    settings = SETTINGS.model_copy(update={"max_keys": 3})
    rows = {f"thing-{chr(97 + n)}": 40 for n in range(26)}
    usual = [queries("clicks/0", [START + n * MINUTE, 0], START + n * MINUTE, 猫粮=9) for n in range(50)]
    now = START + 60 * MINUTE
    found = []
    for seed in range(4):
        dice = random.Random(seed)
        names = list(rows)
        dice.shuffle(names)
        parts = [queries("clicks/0", [now, n], now, **{name: rows[name]}) for n, name in enumerate(names)]
        told = run([*usual, *parts, mark("clicks/0", now + MINUTE)], settings, ["clicks/0"], dice, restarts=True)
        found.append(sorted(alert["label"] for alert in told[1] if alert["label"] != "猫粮"))
        assert told[2]["overflow"] >= len(names) - 3
    assert 0 < len(found[0]) <= 3
    assert found[1:] == found[:-1]


def test_a_malformed_request_is_refused() -> None:
    with pytest.raises(AssertionError, match="not a signal"):
        run([queries("clicks/0", [START], START) | {"rows": [["帐篷", 1.5]]}])
    with pytest.raises(AssertionError, match="not a signal"):
        run([request("r", 1, START, demands=[])])


# Price sensitivity, and whom an alert touches


def price_watchers(carts: int, asking: int, trade: dict[str, int]) -> list[Message]:
    """An hour of a shop where nobody haggles, and a minute in which ``asking`` do and ``carts`` are left standing."""
    messages = []
    now = START + 60 * MINUTE
    for n in range(60):
        start = START + n * MINUTE
        messages.append(panes("clicks/0", [start, 0], start, {("p1", "c"): {"abandons": n % 2, **trade}}))
        messages.append(text("r", n, start, aspects=[]))
    messages.append(panes("clicks/0", [now, 0], now, {("p1", "c"): {"abandons": carts}}))
    demands = [{"demand": "discount", "prob": 0.9, "evidence": []}]
    messages += [text("r", 100 + n, now + n, aspects=[], demands=demands) for n in range(asking)]
    return [*messages, *(mark(source, now + MINUTE) for source in ("r", "clicks/0"))]


def test_carts_left_standing_and_who_asks_for_a_discount_are_one_signal() -> None:
    def found(carts: int, asking: int) -> list[Message]:
        alerts = run(price_watchers(carts, asking, {}), sources=["r", "clicks/0"])[1]
        return [alert for alert in alerts if alert["kind"] == "price_sensitivity"]

    assert found(4, 2) == []
    (alert,) = found(25, 8)
    assert (alert["scope"], alert["product_id"], alert["label"]) == ("product", "p1", "discount")
    assert alert["observed"] == 8 + 24 / 4  # the first cart of a pane is everyday
    assert alert["contributions"] == {"reviews": 0, "chats": 8 / 14, "clicks": 6 / 14, "ratings": 0}
    assert len(alert["evidence"]) == 5


def test_an_alert_says_how_many_customers_and_how_much_revenue_it_touches() -> None:
    trade = {"views": 50, "carts": 5, "purchases": 5, "price_cents": 10_000, "priced": 2}
    (alert,) = [
        alert
        for alert in run(price_watchers(25, 8, trade), sources=["r", "clicks/0"])[1]
        if alert["kind"] == "price_sensitivity"
    ]
    touched = alert["impact"]
    assert touched["customers"] == pytest.approx((8 + 24) / 14 * (14 - alert["expected"]), rel=1e-3)
    assert touched["revenue"] / touched["customers"] == pytest.approx(50 * 0.1, rel=0.05)  # price x conversion
    assert 0 <= touched["customers_lo"] <= touched["customers"] <= touched["customers_hi"]
    assert 0 <= touched["revenue_lo"] <= touched["revenue"] <= touched["revenue_hi"]


@pytest.mark.parametrize("told", [0, 1])  # whether clicks tell a price, of half that of the catalogue
def test_what_is_dearer_in_the_catalogue_is_more_severe_and_touches_more_revenue(told: int) -> None:
    def found(price: float) -> Message:
        messages, now = [], START + 60 * MINUTE
        for n in range(60):
            start = START + n * MINUTE
            sold = {"views": 4, "carts": 1, "purchases": 1, "price_cents": 50 * int(price) * told, "priced": told}
            messages.append(shelved(panes("clicks/0", [start, 0], start, {("p1", "c"): sold}), 9_999, price=price))
            other = panes("clicks/0", [start, 1], start, {("p2", "c"): sold | {"price_cents": 5_000 * told}})
            messages.append(shelved(other, 9_999, price=100.0))
            messages += [text("r", 2 * n + k, start, aspects=[], product_id=f"p{k + 1}") for k in range(2)]
        messages += [text("r", 200 + n, now + n) for n in range(12)]
        messages += [mark(source, now + MINUTE) for source in ("r", "clicks/0")]
        alerts = run(messages, sources=["r", "clicks/0"])[1]
        return next(alert for alert in alerts if alert["kind"] == "negative_spike")

    cheap, usual, dear = map(found, (20.0, 100.0, 500.0))
    assert cheap["weight"] < usual["weight"] < dear["weight"]
    assert cheap["severity"] < dear["severity"]
    for alert, price in ((cheap, 20.0), (usual, 100.0), (dear, 500.0)):
        assert alert["impact"]["revenue"] == pytest.approx(alert["impact"]["customers"] * price, rel=1e-3)


def test_the_trade_of_few_places_is_remembered() -> None:
    settings = SETTINGS.model_copy(update={"max_keys": 4})
    fusion, segments = Fusion(settings, ["clicks/0"], "m"), dict[str, bytes | None]()
    for n in range(40):
        start = START + n * MINUTE
        told = [panes("clicks/0", [start, 0], start, {(f"p{n}", "c"): {"carts": 1 + n % 3}}), mark("clicks/0", start)]
        asyncio.run(fusion.process(Block("signals", 0, [Record(0, message) for message in told])))
        segments |= fusion.dump()
    again = Fusion(settings, ["clicks/0"], "m")
    again.load({name: data for name, data in segments.items() if data is not None})
    assert 2 <= len(again._trade) <= 4
    assert {where: trade.to_list() for where, trade in again._trade.items()} == {
        where: trade.to_list() for where, trade in fusion._trade.items()
    }


# Stock

HOUR = 60 * MINUTE
HOURLY = SETTINGS.model_copy(update={"pane_ms": HOUR, "correct_ms": 3 * HOUR})


def shelved(message: Message, stock: int | None, days: float = 2.0, price: float = 0.0) -> Message:
    count = len(message["columns"]["product_id"])
    shelves = {"stock": [stock] * count, "lead_time_days": [None if stock is None else days] * count}
    shelves["price"] = [None if stock is None else price] * count
    return message | {"columns": message["columns"] | shelves}


def selling(source: str, dice: random.Random) -> list[Message]:
    """Two days: p1 sells a piece an hour and has 300 until the stock falls to 20 on the second, p2 sells little."""
    messages = []
    for hour in range(48):
        start = START + hour * HOUR
        rows = {
            ("p1", "c"): {"views": 20, "carts": 2, "purchases": dice.randrange(3), "price_cents": 5_000, "priced": 1},
            ("p2", "c"): {"views": 2, "purchases": int(hour % 24 == 0)},
        }
        stock = 300 if hour < 36 else 20 + dice.randrange(5)
        messages.append(shelved(panes(source, [start, 0], start, rows), stock))
        if dice.random() < 0.3:
            late = panes(f"{source}/late", [start + HOUR, start - HOUR, 0], start - HOUR, {("p1", "c"): {"views": 1}})
            messages.append(late)
        messages.append(mark(source, start + HOUR))
    return messages


@hypothesis_settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.integers(0, 1 << 32))
def test_a_stock_that_does_not_last_opens_one_alert_whatever_the_cuts_and_restarts(seed: int, chance: int) -> None:
    sources, dice = ["clicks/0", "clicks/1"], random.Random(chance)
    sent = [selling(source, random.Random(f"{seed} {source}")) for source in sources]
    windows, alerts, _ = run(interleave(sent, random.Random(2)), HOURLY, sources)
    again = run(interleave([repeated(part, dice) for part in sent], dice), HOURLY, sources, dice, restarts=True)
    assert again[:2] == (windows, alerts)
    risks = [alert for alert in alerts if alert["kind"] == "stock_risk"]
    assert {(alert["product_id"], alert["opened_at"]) for alert in risks} == {("p1", START + 37 * HOUR)}
    first = risks[0]
    assert first["expected"] == 20 + min(int(message["columns"]["stock"][0]) - 20 for message in at_hour(sent, 36))
    assert 60 < first["observed"] < 140  # two pieces an hour for two days
    assert re.fullmatch(rf"{first['expected']:g} left: 0\.\d+ days \(.*\), more in 2", first["note"])
    assert first["impact"]["customers"] == pytest.approx(first["observed"] - first["expected"], rel=1e-3)
    assert first["impact"]["revenue"] == pytest.approx(50 * first["impact"]["customers"], rel=1e-2)


def at_hour(sent: list[list[Message]], hour: int) -> list[Message]:
    start = START + hour * HOUR
    return [message for part in sent for message in part if message["kind"] == "panes" and message["seq"] == [start, 0]]


def test_the_click_lane_tells_stock_lead_time_and_price_of_what_the_catalogue_knows() -> None:
    catalogue = Catalogue()
    catalogue.upsert(Product("p1", "耳机", "数码", price=99.0, stock=7, lead_time_days=3.5))
    views = [
        {"event_id": f"e{n}", "ts": START, "user_id": "u", "session_id": "s", "action": "view", "product_id": f"p{n}"}
        for n in (1, 2)
    ]
    records = [Record(n, value) for n, value in enumerate([*views, {"heartbeat": START + FAR, "replay": True}])]
    effects = asyncio.run(Clicks(0, SETTINGS, catalogue).process(Block("clicks", 0, records)))
    found = {}
    for _, _, message, _ in effects.messages:
        if message["kind"] == "panes" and message["scope"] == "product":
            columns = message["columns"]
            shelves = zip(columns["stock"], columns["lead_time_days"], columns["price"], strict=True)
            found |= dict(zip(columns["product_id"], shelves, strict=True))
    assert found == {"p1": (7, 3.5, 99.0), "p2": (None, None, None)}


# The click lane


def test_the_click_lane_tells_what_was_searched_in_vain_masked_whatever_the_cuts_and_restarts() -> None:
    settings = SETTINGS.model_copy(update={"partitions": 1})
    words = ["露营  帐篷", "露营 帐篷", "TENT", "tent 13900001111", "", "13900001111"]
    searches = [
        {"event_id": f"e{n}", "ts": START + n * 7_000, "user_id": f"u{n % 5}", "session_id": "s", "action": "search",
         "query": words[n % 6], "results": n % 4 // 3}
        for n in range(80)
    ]  # fmt: skip
    late = searches.pop(60) | {"results": 0, "query": "晚"}
    values = [*searches, late, late, {"heartbeat": START + FAR, "replay": True}]
    records = [Record(offset, value) for offset, value in enumerate(values)]
    found = []
    for cut in (1, 7, 100):
        lane, segments, sent = Clicks(0, settings, Catalogue()), dict[str, bytes](), {}
        for first in range(0, len(records), cut):
            effects = asyncio.run(lane.process(Block("clicks", 0, records[first : first + cut])))
            sent |= {
                (message["source"], *message["seq"]): orjson.dumps([key, message])
                for _, key, message, _ in effects.messages
                if message["kind"] == "queries"
            }
            segments |= lane.dump()  # type: ignore[arg-type]
            segments = {name: data for name, data in segments.items() if data is not None}
            position = lane.resume("clicks", first + cut)
            lane = Clicks(0, settings, Catalogue())
            lane.load(segments)
            asyncio.run(lane.process(Block("clicks", 0, records[position : first + cut] or records[:1])))
        found.append(sent)
    assert found[0] == found[1] == found[2]
    told = [orjson.loads(message) for message in found[0].values()]
    assert {key for key, _ in told} == {"category/unlisted"}
    counts: Counter[str] = Counter()
    for _, message in told:
        counts.update(dict(message["rows"]))
    assert set(counts) == {"露营 帐篷", "tent", "晚"}
    assert counts["晚"] == 1
    assert counts["tent"] == sum(value["results"] == 0 and "t" in value["query"].lower() for value in searches)
    assert any(source.endswith("/late") for source, *_ in found[0])


@given(st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 50), max_size=300))
def test_the_most_frequent_queries_are_told_and_the_others_counted(counts: dict[str, int]) -> None:
    rows, left_out = most_frequent(Counter(counts))
    assert len(rows) == min(len(counts), MOST_TOLD)
    assert sum(count for _, count in rows) + left_out == sum(counts.values())
    assert rows == [[query, counts[query]] for query, _ in rows]
    least = min((count for _, count in rows), default=0)
    assert all(count <= least for query, count in counts.items() if [query, count] not in rows)


def test_a_pane_has_room_for_so_many_queries() -> None:
    panes = Queries()
    taken = [panes.add(START, f"query {n}") for n in range(MOST_QUERIES + 5)]
    assert taken.count(False) == 5
    assert panes.add(START, "QUERY  1")
    assert panes.panes[START]["query 1"] == 2


@given(st.text(max_size=100))
def test_a_query_is_normalised_once_and_for_all(query: str) -> None:
    assert len(normalised(query)) <= 64
    assert normalised("  " + query.upper()).strip() == normalised(query.upper())
