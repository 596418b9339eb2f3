"""Series that have been known for a week: judged by their own season, for bursts, ramps and silence."""

import json
from dataclasses import replace

import numpy as np
import pytest

from stream.detect import DEFAULT_RULES, Cell, Engine, Key
from stream.detect.cells import VOLUME
from stream.detect.engine import CLOCK

PANE = 1_800_000
DAY = 48
MONDAY = 1_773_590_400_000 // PANE  # 16 March 2026: no known day for weeks
RESTOCK = Key("demand_surge", "product", "p0", "c1", "restock")
BOX = Key("negative_spike", "product", "p0", "c1", "packaging")
ALL = tuple(replace(rule, statistics=("burst", "ramp", "silence")) for rule in DEFAULT_RULES)


def season(pane):
    return 1 - 2 / 3 * np.cos(2 * np.pi * pane / DAY)


def days(count, *, key=RESTOCK, products=4, a_day=60.0, texts=2.0, change=lambda pane: 1.0, seed=1):
    """Cells by pane; ``change`` multiplies what is counted on the first product."""
    rng = np.random.default_rng(seed)
    panes = []
    for pane in range(round(count * DAY)):
        cells = {}
        for number in range(products):
            series = key._replace(product_id=f"p{number}")
            rate = a_day / DAY * season(pane)
            seen = int(rng.poisson(rate * (change(pane) if number == 0 else 1.0)))
            if seen:
                cells[series] = Cell(reviews=float(seen))
            if others := int(rng.poisson(rate * texts)) + seen:
                cells[series.volume] = Cell(reviews=float(others))
        panes.append(cells)
    return panes


def play(panes, rules=ALL, engine=None, first=0):
    engine = engine or Engine(rules, PANE)
    return engine, [
        alert for pane, cells in enumerate(panes, first) for alert in engine.step((MONDAY + pane) * PANE, cells)
    ]


def told(alerts, since, product="p0"):
    """(Day, statistic) of the openings on a product from a day on."""
    return [
        (round(alert.updated_at / PANE - MONDAY) / DAY, alert.statistic)
        for alert in alerts
        if alert.product_id == product and alert.cause.startswith("opened") and alert.updated_at > at(since)
    ]


def at(day):
    return (MONDAY + day * DAY) * PANE


def between(first, last, factor):
    return lambda pane: factor if first * DAY <= pane < last * DAY else 1.0


def test_every_morning_is_no_news_and_the_budget_holds():
    engine, alerts = play(days(21, products=8))
    assert len(engine.book.rows) >= 8 and engine.book.settled().all()
    assert sum(len(told(alerts, 8, f"p{number}")) for number in range(8)) <= 1


def test_a_burst_opens_one_alert_that_ends_and_the_same_is_found_a_week_later():
    first, second = between(10.5, 10.6, 8.0), between(17.5, 17.6, 8.0)
    _, alerts = play(days(20, change=lambda pane: first(pane) * second(pane)))
    (one, burst), (two, again) = told(alerts, 9)
    assert burst == again == "burst" and 10.5 < one < 10.62 and 17.5 < two < 17.62
    assert alerts[-1].state == "resolved"
    bounds = {alert.alert_id: (alert.expected, alert.observed) for alert in alerts if alert.opened_at > at(9)}
    assert len(bounds) == 2 and all(expected < observed / 3 for expected, observed in bounds.values())


def test_a_slow_ramp_is_found_within_ten_days():
    _, alerts = play(days(26, a_day=150.0, change=lambda pane: 1.05 ** max(0.0, pane / DAY - 14)))
    (day, statistic), *_ = told(alerts, 9)
    assert statistic == "ramp" and 14 < day <= 24
    opening = next(each for each in alerts if each.statistic == "ramp" and each.product_id == "p0")
    assert opening.observed > opening.expected and opening.window_start == opening.since


def test_silence_is_told_and_over_when_the_counts_come_back():
    _, alerts = play(days(13, a_day=150.0, change=between(11.25, 11.75, 0.0)))
    ((day, statistic),) = told(alerts, 9)
    assert statistic == "silence" and 11.25 < day <= 11.75
    end = [alert for alert in alerts if alert.product_id == "p0" and alert.state == "resolved"][-1]
    assert at(11.75) <= end.closed_at <= at(12.5) and end.observed < end.expected


def test_a_larger_share_is_told_and_more_of_all_texts_is_not():
    panes = days(12, key=BOX, change=between(10.4, 10.6, 6.0))
    ((day, statistic),) = told(play(panes)[1], 9)
    assert statistic == "share" and 10.4 < day <= 10.62
    calm = days(12, key=BOX)
    for cells, busy in zip(calm[10 * DAY :], days(2, key=BOX, a_day=240.0, seed=2), strict=True):
        cells.clear()
        cells.update(busy)
    assert told(play(calm)[1], 9) == []


def test_a_level_that_stays_is_learnt_in_the_end():
    _, alerts = play(days(24, change=between(10, 99, 5.0)))
    last = [alert for alert in alerts if alert.product_id == "p0"][-1]
    assert told(alerts, 9) and last.state == "resolved" and last.closed_at < at(22)


@pytest.mark.parametrize("statistics", [("burst",), ("silence",)])
def test_only_the_tests_of_its_rule_are_asked(statistics):
    rules = tuple(replace(rule, statistics=statistics) for rule in DEFAULT_RULES)
    _, alerts = play(days(13, a_day=150.0, change=between(11.25, 11.75, 0.0)), rules)
    assert bool(told(alerts, 9)) == ("silence" in statistics)


def moved(engine, model="", rules=ALL):
    """The engine of another worker, with the state of this one."""
    other = Engine(rules, PANE, model=model)
    for key in engine.known_keys():
        other.restore(key, json.loads(json.dumps(engine.snapshot(key))))
    other.book.load({name: data for name, data in engine.book.dump().items() if data is not None})
    return other


def test_saved_and_restored_the_rest_is_the_same():
    panes = days(13, change=between(10.4, 10.6, 6.0))
    cut = round(10.45 * DAY)
    whole, alerts = play(panes)
    first, before = play(panes[:cut])
    second, after = play(panes[cut:], engine=moved(first), first=cut)
    assert before + after == alerts
    assert second.book.panel.state.save().tobytes() == whole.book.panel.state.save().tobytes()


def test_another_model_is_no_incident():
    """It finds five times as many: told under the same model, learnt under another one."""
    panes = days(19, change=between(11, 99, 5.0))
    cut = 11 * DAY
    engine, _ = play(panes[:cut])
    same, other = moved(engine), moved(engine, model="demand/2")
    assert told(play(panes[cut:], engine=same, first=cut)[1], 11)
    assert told(play(panes[cut:], engine=other, first=cut)[1], 11) == []
    assert other.snapshot(CLOCK)[3] == "demand/2"


def test_a_series_that_turns_from_a_count_to_a_share_begins_anew():
    engine, _ = play(days(3, key=BOX))
    assert engine.book.is_share(BOX)
    engine.reload(tuple(replace(rule, volume_aware=False) for rule in DEFAULT_RULES))
    for pane, cells in enumerate(days(1, key=BOX), 3 * DAY):
        engine.step((MONDAY + pane) * PANE, cells)
    assert not engine.book.is_share(BOX)
    assert engine.book.panel.state["age"][engine.book.rows[BOX]] <= DAY


def test_days_without_anything_are_not_learnt_and_cost_little():
    panes = days(9)
    engine, _ = play(panes)
    before = engine.book.panel.state["exposure"][engine.book.rows[RESTOCK]]
    engine.step((MONDAY + 400 * DAY) * PANE, panes[0])
    engine.step((MONDAY + 400 * DAY + 1) * PANE, panes[1])
    assert RESTOCK not in engine.book.rows or (
        engine.book.panel.state["exposure"][engine.book.rows[RESTOCK]] < before + 400
    )


def test_searches_are_among_the_requests_that_a_cluster_is_a_share_of():
    tent, all_requests = (Key("unmet_demand", "shop", "", "unlisted", label) for label in ("tent", ""))
    rng = np.random.default_rng(5)
    panes = []
    for pane in range(11 * DAY):
        asked = int(rng.poisson(1)) + 12 * (10 * DAY <= pane < 10 * DAY + 8)
        others = int(rng.poisson(7))
        counts = {tent: asked, all_requests._replace(kind=VOLUME): asked + others}
        panes.append({key: Cell(clicks=float(count)) for key, count in counts.items() if count})
    engine, alerts = play(panes, DEFAULT_RULES)
    assert engine.book.is_share(tent) and engine.book.settled().all()
    assert [alert.cause for alert in alerts if alert.opened_at <= at(10) and alert.label == "tent"] == []
    opened = next(alert for alert in alerts if alert.label == "tent")
    assert 1 < opened.expected < opened.observed / 2 and opened.statistic == "share"
