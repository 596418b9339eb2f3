"""The simulated shop: the same seed gives the same bytes, every event is valid, and its incidents can be found."""

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from serving.labels import ASPECTS, DEMANDS
from stream.catalog import read_product
from stream.events import PARSERS, Invalid
from stream.replay import Event, read_events
from stream.simulate import Incident, Shop, load_incidents, match_alerts, phrases_en, phrases_zh, save_incidents
from stream.simulate.catalog import CATEGORIES_EN, CATEGORY_ASPECTS
from stream.simulate.incidents import HOUR, MINUTE


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop()


@pytest.fixture(scope="module")
def events(shop: Shop) -> list[Event]:
    return list(shop.generate())


def test_same_seed_same_bytes() -> None:
    def lines(seed: int) -> list[bytes]:
        return [event.line() for event in Shop(seed=seed, hours=3, dirty=0.01).generate()]

    assert lines(1) == lines(1)
    assert lines(1) != lines(2)


def test_the_demo_has_its_size(shop: Shop, events: list[Event]) -> None:
    counts = Counter(event.topic for event in events)
    assert 5_000 <= counts["reviews"] + counts["chats"] <= 6_000
    assert 55_000 <= counts["clicks"] <= 68_000
    alertable = [incident for incident in shop.incidents if incident.kind != "promotion"]
    assert len(alertable) == 5
    for incident in shop.incidents:
        assert incident.start >= shop.start + 12 * HOUR
        assert incident.end <= shop.start + 48 * HOUR
    assert all(60 * MINUTE <= incident.end - incident.start <= 90 * MINUTE for incident in alertable)


def test_every_event_is_valid(events: list[Event]) -> None:
    for event in events:
        assert isinstance(event.value, dict)
        if event.topic == "catalog":
            assert read_product(Event.payload(event)).product_id == event.key
        else:
            assert PARSERS[event.topic](event.value).ts == event.ts
            key = {"reviews": "product_id", "chats": "session_id", "clicks": "user_id"}[event.topic]
            assert event.key == event.value[key]


def test_the_catalogue_comes_first(shop: Shop, events: list[Event]) -> None:
    assert [event.key for event in events[: len(shop.catalog)]] == [product.product_id for product in shop.catalog]
    assert {event.topic for event in events[: len(shop.catalog)]} == {"catalog"}


def test_disorder_stays_below_the_lateness_of_the_watermark(events: list[Event]) -> None:
    newest = worst = 0
    for event in events:
        newest = max(newest, event.ts)
        worst = max(worst, newest - event.ts)
    assert 1_000 < worst < 5_000
    assert sum(later.ts < earlier.ts for earlier, later in pairwise(events)) > 100


def test_one_event_in_a_hundred_comes_twice_and_unchanged(events: list[Event]) -> None:
    versions: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.topic != "catalog":
            versions[event.value["event_id"]].append(event)  # type: ignore[index]
    twice = [seen for seen in versions.values() if len(seen) == 2]
    assert 0.005 < len(twice) / len(versions) < 0.02
    assert all(first == second for first, second in twice)


def test_dirty_adds_records_that_no_parser_takes(events: list[Event]) -> None:
    bad = 0
    for event in Shop(hours=6, dirty=0.01).generate():
        if event.topic == "catalog":
            continue
        try:
            PARSERS[event.topic](event.value)  # type: ignore[arg-type]
        except (Invalid, AttributeError):
            bad += 1
    assert bad > 20


def _speaks_of(text: str, label: str) -> bool:
    """Whether a text holds the fixed part of a clause about ``label`` (typos make some unrecognisable)."""
    text = text.lower()
    for phrases in (phrases_zh, phrases_en):
        stock = phrases.NEGATIVE if label in ASPECTS else phrases.DEMANDS
        for clause in stock[label]:
            fixed = [part.split("}")[-1].strip() for part in clause.lower().split("{")]
            if all(part in text for part in fixed):
                return True
    return False


def test_incidents_show_in_the_texts(shop: Shop, events: list[Event]) -> None:
    category = {product.product_id: product.category for product in shop.catalog}
    for incident in shop.incidents:
        if incident.kind == "promotion":
            continue
        inside = before = 0
        for event in events:
            value: Any = event.value
            product = value.get("product_id", "")
            if event.topic not in ("reviews", "chats") or not product or value.get("role") == "agent":
                continue
            if incident.product_id not in ("", product) or category[product] != incident.category:
                continue
            if _speaks_of(value["text"], incident.label):
                inside += incident.start <= event.ts < incident.end
                before += event.ts < incident.start
        hours = (incident.end - incident.start) / HOUR
        usual = before / ((incident.start - shop.start) / HOUR)
        assert inside >= 0.6 * incident.rate * hours, incident
        assert inside / hours > 5 * usual, incident


def test_a_sold_out_product_is_not_bought(shop: Shop, events: list[Event]) -> None:
    restock = next(incident for incident in shop.incidents if incident.label == "restock")
    stock = [e.value["stock"] for e in events if e.topic == "catalog" and e.key == restock.product_id]  # type: ignore[index]
    assert stock == [640, 0, 640]
    empty = 0
    for event in events:
        value: Any = event.value
        if event.topic == "clicks" and restock.start + HOUR // 2 < event.ts < restock.end:
            assert (value.get("product_id"), value["action"]) != (restock.product_id, "cart")
            empty += value.get("results") == 0 and value.get("query") == "耳机"
    assert empty > 5


def test_a_promotion_changes_the_volume_only() -> None:
    quiet = Shop(scenario=[], texts_per_hour=600, hours=6)
    promotion = Incident("promotion", "", "", "玩具", quiet.start, quiet.start + 6 * HOUR, factor=3)
    busy = replace(quiet, scenario=[promotion])

    def ratings(shop: Shop) -> Counter[int]:
        toys = {product.product_id for product in shop.catalog if product.category == "玩具"}
        reviews = (e.value for e in shop.generate() if e.topic == "reviews")
        return Counter(value["rating"] for value in reviews if value["product_id"] in toys)  # type: ignore[index]

    usual, promoted = ratings(quiet), ratings(busy)
    assert 2.2 < promoted.total() / usual.total() < 3.8
    bad = (usual[1] + usual[2]) / usual.total(), (promoted[1] + promoted[2]) / promoted.total()
    assert abs(bad[0] - bad[1]) < 0.08


def test_event_file_round_trip(tmp_path: Path) -> None:
    shop = Shop(hours=2)
    written = shop.write_events(tmp_path / "shop.jsonl")
    read = list(read_events([tmp_path / "shop.jsonl"]))
    assert Counter(event.topic for event in read) == written
    assert [event.line() for event in read] == [event.line() for event in shop.generate()]


def test_incidents_round_trip(tmp_path: Path, shop: Shop) -> None:
    save_incidents(shop.incidents, tmp_path / "incidents.json")
    assert load_incidents(tmp_path / "incidents.json") == shop.incidents


@pytest.mark.parametrize("arguments", [{"products": 3}, {"hours": 0}, {"dirty": 2}])
def test_impossible_shops_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"shop needs|must be|share between"):
        Shop(**arguments)


def test_impossible_incidents_are_refused(shop: Shop) -> None:
    good = shop.incidents[0]
    for bad in ({"label": "weather"}, {"product_id": "p999"}, {"category": "汽车"}, {"end": good.start}):
        with pytest.raises(ValueError, match=r"incident|label"):
            Shop(scenario=[replace(good, **bad)])


def test_there_are_enough_phrases_and_they_differ() -> None:
    for phrases, reviews, chats in ((phrases_zh, 25, 20), (phrases_en, 12, 10)):
        for stock in (phrases.NEGATIVE, phrases.POSITIVE):
            assert tuple(stock) == ASPECTS
            assert all(len(set(clauses)) == len(clauses) >= reviews for clauses in stock.values())
        assert tuple(phrases.DEMANDS) == tuple(phrases.AGENT_REPLIES) == DEMANDS
        assert all(len(set(clauses)) == len(clauses) >= chats for clauses in phrases.DEMANDS.values())
    assert set(CATEGORY_ASPECTS) == set(CATEGORIES_EN)
    assert all(aspect in ASPECTS for aspects in CATEGORY_ASPECTS.values() for aspect in aspects)


# Alerts beside the ground truth


def _alert(incident: Incident, name: str = "a1", **changes: Any) -> dict[str, Any]:
    opened = incident.start + 10 * MINUTE
    return {
        "alert_id": name,
        "kind": incident.kind,
        "scope": incident.scope,
        "product_id": incident.product_id,
        "category": incident.category,
        "label": incident.label,
        "opened_at": opened,
        "updated_at": opened,
        "evidence": [{"event_id": "r1", "text": "盒子都压扁了", "spans": [[0, 6]]}],
    } | changes


def test_an_alert_finds_its_incident(shop: Shop) -> None:
    packaging = shop.incidents[0]
    findings = match_alerts(shop.incidents, [_alert(packaging)])
    assert [finding.verdict for finding in findings] == ["found"] + ["missed"] * 4
    assert findings[0].late_ms == 10 * MINUTE
    assert findings[0].quotes == ["盒子都压扁了"]


@pytest.mark.parametrize(
    "changes",
    [
        {"product_id": "p003"},
        {"product_id": "p003", "label": "quality"},
        {"opened_at": 0},
        {"opened_at": 1_772_433_900_000 + 30 * MINUTE + 1},
    ],
)
def test_an_alert_that_differs_is_a_false_alarm(shop: Shop, changes: dict[str, Any]) -> None:
    packaging = shop.incidents[0]
    findings = match_alerts([packaging], [_alert(packaging, **changes)])
    assert [finding.verdict for finding in findings] == ["missed", "false alarm"]


@pytest.mark.parametrize("changes", [{"kind": "demand_surge"}, {"label": "quality"}])
def test_what_else_rises_on_the_product_is_explained_but_no_find(shop: Shop, changes: dict[str, Any]) -> None:
    packaging = shop.incidents[0]
    (missed,) = match_alerts([packaging], [_alert(packaging, **changes)])
    assert (missed.verdict, missed.also) == ("missed", ["a1"])


def test_a_restock_incident_may_be_found_at_category_level(shop: Shop) -> None:
    restock = next(incident for incident in shop.incidents if incident.label == "restock")
    (finding,) = match_alerts([restock], [_alert(restock, scope="category", product_id="")])
    assert (finding.verdict, finding.note) == ("found", "found at category level")


def test_other_alerts_at_another_level_are_explained(shop: Shop) -> None:
    packaging = shop.incidents[0]
    category = _alert(packaging, "a2", scope="category", product_id="")
    (missed,) = match_alerts([packaging], [category])
    assert (missed.verdict, missed.also) == ("missed", ["a2"])
    (found,) = match_alerts([packaging], [_alert(packaging), category])
    assert (found.verdict, found.also) == ("found", ["a2"])


def test_states_of_one_alert_count_once_and_promotions_never(shop: Shop) -> None:
    promotion = next(incident for incident in shop.incidents if incident.kind == "promotion")
    packaging = shop.incidents[0]
    states = [_alert(packaging), _alert(packaging, updated_at=packaging.end, evidence=[])]
    (found,) = match_alerts([packaging, promotion], states)
    assert (found.verdict, found.quotes) == ("found", [])
