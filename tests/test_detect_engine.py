import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.labels import ASPECTS, DEMANDS
from stream.detect import DEFAULT_RULES, Cell, Engine, Key, Rule
from stream.detect.cells import Candidate
from stream.detect.copies import About
from stream.detect.engine import CLOCK
from stream.detect.lifecycle import VERBS, Action

PANE = 300_000
HOUR = 12  # panes
DAY = 288

PACKAGING = Key("negative_spike", "product", "p1", "c1", "packaging")


def texts(count, events=()):
    """A cell of ``count`` reviews."""
    return Cell(reviews=float(count), quotes=[Candidate(0.9, e, f"text {e}", ((0, 4),)) for e in events])


def play(engine, panes):
    """Step through ``{pane: cells}``; every alert state."""
    return [alert for pane in sorted(panes) for alert in engine.step(pane * PANE, panes[pane])]


def shop(hours, *, products=10, per_hour=12, negative_share=0.05, seed=0):
    """A quiet shop: each product gets texts at ``per_hour``, of which a share is negative on packaging."""
    rng = np.random.default_rng(seed)
    panes = {}
    for pane in range(hours * HOUR):
        cells = panes[pane] = {}
        for number in range(products):
            key = PACKAGING._replace(product_id=f"p{number}")
            volume = int(rng.poisson(per_hour / HOUR))
            negative = int(rng.binomial(volume, negative_share))
            add(cells, key, volume, negative)
    return panes


def add(cells, key, volume, observed):
    for at, count in ((key.volume, volume), (key, observed)):
        if count:
            cells[at] = texts(cells[at].reviews + count if at in cells else count)


def about(alerts, product):
    """The alerts of one product; the others may use up their false-alarm budget."""
    return [alert for alert in alerts if alert.product_id == product]


def opened(alerts):
    return [alert for alert in alerts if alert.state == "open" and alert.updated_at == alert.opened_at]


# When an alert opens, and when it does not


def test_a_wave_of_negatives_opens_and_resolves_one_alert_that_explains_itself():
    panes = shop(48)
    start = 30 * HOUR
    for i in range(HOUR):
        cells = panes[start + i]
        add(cells, PACKAGING, 1, 1)
        cells[PACKAGING].quotes = [Candidate(0.9, f"e{i:02}", "盒子破了", ((0, 4),))]
    alerts = about(play(Engine(model="demand/1"), panes), "p1")
    first, *_, last = alerts
    assert [alert.state for alert in alerts].count("resolved") == 1
    assert len({alert.alert_id for alert in alerts}) == 1
    assert (first.kind, first.scope, first.product_id, first.label) == (*PACKAGING[:3], "packaging")
    assert start < first.opened_at // PANE <= start + 10
    assert first.window_end - first.window_start == 12 * PANE
    assert first.closed_at == 0 and first.window_end == first.updated_at == first.opened_at
    assert first.expected < 2 and first.band[1] < first.observed
    assert first.contributions == {"reviews": 1.0, "chats": 0.0, "clicks": 0.0, "ratings": 0.0}
    assert first.model == "demand/1" and first.rule == "negative-spike"
    assert last.state == "resolved" and last.closed_at == last.updated_at > first.opened_at
    assert last.observed >= first.observed and last.severity >= first.severity  # the worst window
    assert [quote.event_id for quote in last.evidence] == ["e00", "e01", "e02", "e03", "e04"]


def test_a_promotion_that_triples_all_texts_is_no_negative_spike():
    panes = shop(48, negative_share=0.3)
    for pane, cells in shop(48, negative_share=0.3, per_hour=24, seed=1).items():
        if pane >= 36 * HOUR:
            for key in (PACKAGING, PACKAGING.volume):
                if key in cells:
                    old = panes[pane].get(key, texts(0)).reviews
                    panes[pane][key] = texts(old + cells[key].reviews)
    promoted = [alert for alert in play(Engine(), panes) if alert.opened_at > 36 * HOUR * PANE]
    assert about(promoted, "p1") == []


def test_more_negatives_among_unchanged_texts_are_a_spike():
    panes = shop(48, negative_share=0.1)
    rng = np.random.default_rng(1)
    for pane in range(36 * HOUR, 38 * HOUR):
        volume = panes[pane].get(PACKAGING.volume, texts(0)).reviews
        panes[pane].pop(PACKAGING, None)
        add(panes[pane], PACKAGING, 0, int(rng.binomial(int(volume), 0.9)))
    assert len(opened(about(play(Engine(), panes), "p1"))) == 1


def test_demand_rises_with_volume_and_counts_behaviour():
    key = Key("demand_surge", "product", "p1", "c1", "restock")
    panes = shop(30)
    for i in range(HOUR):
        panes[28 * HOUR + i][key] = Cell(chats=0.5, clicks=1.5)
    (first,) = opened(about(play(Engine(), panes), "p1"))
    assert first.contributions == {"reviews": 0.0, "chats": 0.25, "clicks": 0.75, "ratings": 0.0}


def test_two_against_none_is_no_news_even_on_a_cold_key():
    panes = shop(30)
    for i in (0, 3):
        add(panes[20 * HOUR + i], Key("negative_spike", "product", "new", "c1", "freshness"), 1, 1)
    assert about(play(Engine(), panes), "new") == []


def test_a_cold_key_is_not_deaf():
    panes = shop(30)
    key = Key("negative_spike", "product", "new", "c1", "freshness")
    for i in range(10):
        add(panes[20 * HOUR + i], key, 1, 1)
    assert len(opened(about(play(Engine(), panes), "new"))) == 1


def test_a_shop_of_one_product_with_nothing_but_complaints_is_not_deaf():
    panes = {pane: {PACKAGING: texts(1), PACKAGING.volume: texts(1)} for pane in range(0, 2 * DAY, 40)}
    panes |= {2 * DAY + i: {PACKAGING: texts(1), PACKAGING.volume: texts(1)} for i in range(12)}
    assert len(opened(play(Engine(), panes))) == 1


def test_an_incident_does_not_become_the_baseline():
    panes = shop(60)
    for start in (30, 50):
        for i in range(2 * HOUR):
            add(panes[start * HOUR + i], PACKAGING, 1, 1)
    first, second = opened(about(play(Engine(), panes), "p1"))
    assert second.expected < 2.5 * first.expected
    assert second.opened_at // PANE - 50 * HOUR <= 12


def test_a_level_that_stays_becomes_the_new_normal():
    panes = shop(24 * 8, products=5)
    for pane in range(2 * DAY, 8 * DAY, 2):
        add(panes[pane], PACKAGING, 1, 1)
    alerts = about(play(Engine(), panes), "p1")
    assert opened(alerts)
    assert alerts[-1].state == "resolved"


def test_an_open_alert_is_told_again_only_when_it_grew_and_a_window_passed():
    panes = shop(40)
    for i in range(4 * HOUR):
        add(panes[30 * HOUR + i], PACKAGING, 1 + i // 6, 1 + i // 6)
    told = [alert.updated_at for alert in about(play(Engine(), panes), "p1") if alert.state == "open"]
    assert 2 <= len(told) <= 4
    assert all(b - a >= 12 * PANE for a, b in pairwise(told))


# What must not matter


COUNTS = st.dictionaries(
    st.tuples(st.sampled_from(["p1", "p2"]), st.sampled_from(["packaging", "size"])), st.integers(0, 9), max_size=4
)
STREAMS = st.dictionaries(st.integers(1_000, 1_400), COUNTS, min_size=1, max_size=40)


def stream(counts):
    """``{pane: {(product, label): n}}`` as cells; big counts make incidents."""
    panes = {}
    for pane, cells in counts.items():
        panes[pane] = {}
        for (product, label), n in cells.items():
            key = Key("negative_spike", "product", product, "c", label)
            add(panes[pane], key, n + 1, n)
    return panes


LOOSE = tuple(replace(rule, key_days=0.05, shop_per_day=20.0) for rule in DEFAULT_RULES)


@settings(max_examples=6, deadline=None)
@given(STREAMS)
def test_stepping_through_empty_panes_equals_jumping_over_them(counts):
    panes = stream(counts)
    end = max(panes) + 300
    jumping, walking = Engine(LOOSE), Engine(LOOSE)
    jumped = play(jumping, panes | {end: {}})
    walked = play(walking, {pane: panes.get(pane, {}) for pane in range(900, end + 1)})
    assert jumped == walked
    assert state(jumping) == state(walking)


@settings(max_examples=20, deadline=None)
@given(STREAMS, st.integers(1_000, 1_400), st.randoms())
def test_saving_and_restoring_changes_nothing_to_the_last_bit(counts, cut, random):
    panes = stream(counts)
    whole, before, after = Engine(LOOSE), Engine(LOOSE), Engine(LOOSE)
    told = play(before, {pane: cells for pane, cells in panes.items() if pane < cut})
    keys = before.known_keys()
    random.shuffle(keys)
    for key in keys:
        after.restore(Key(*json.loads(json.dumps(key))), json.loads(json.dumps(before.snapshot(key))))
    told += play(after, {pane: cells for pane, cells in panes.items() if pane >= cut})
    assert told == play(whole, panes)
    assert state(after) == state(whole)


@settings(max_examples=20, deadline=None)
@given(STREAMS, st.randoms())
def test_the_order_of_the_cells_does_not_matter(counts, random):
    panes = stream(counts)
    shuffled = {}
    for pane, cells in panes.items():
        items = list(cells.items())
        random.shuffle(items)
        shuffled[pane] = dict(items)
    a, b = Engine(LOOSE), Engine(LOOSE)
    assert play(a, panes) == play(b, shuffled)
    assert state(a) == state(b)


@settings(max_examples=12, deadline=None)
@given(STREAMS)
def test_the_dirty_keys_are_all_that_must_be_saved(counts):
    panes, engine, saved = stream(counts), Engine(LOOSE), {}
    for pane in sorted(panes):
        engine.step(pane * PANE, panes[pane])
        saved |= {key: engine.snapshot(key) for key in engine.dirty_keys()}
        engine.mark_saved()
    assert engine.dirty_keys() == set()
    assert {key: entry for key, entry in saved.items() if entry} == state(engine)


def state(engine):
    return {key: engine.snapshot(key) for key in engine.known_keys() if engine.snapshot(key)}


@settings(max_examples=20, deadline=None)
@given(st.lists(COUNTS, min_size=4, max_size=40), st.integers(0, 1 << 32))
def test_what_comes_late_is_in_the_windows_from_then_on(counts, seed):
    dice, panes = np.random.default_rng(seed), stream(dict(enumerate(counts)))
    on_time, tardy, withheld = Engine(LOOSE), Engine(LOOSE), {}
    for pane, cells in panes.items():
        on_time.step(pane * PANE, cells)
        late = {start: withheld.pop(start) for start in list(withheld) if dice.random() < 0.6}
        now = {key: cell for key, cell in cells.items() if dice.random() < 0.6}
        tardy.step(pane * PANE, now, late)
        if len(now) < len(cells):
            withheld[pane * PANE] = {key: cell for key, cell in cells.items() if key not in now}
        if not withheld:
            assert windows(tardy) == windows(on_time)
    end = (len(panes) + 1) * PANE
    on_time.step(end, {})
    tardy.step(end, {}, withheld)
    assert windows(tardy) == windows(on_time)


def test_what_comes_after_its_window_is_learnt_at_once():
    engine = Engine()
    engine.step(0, {PACKAGING.volume: texts(1)})
    engine.step(20 * PANE, {}, {0: {PACKAGING.volume: texts(6)}})
    (at, level, *_, window), _ = engine.snapshot(PACKAGING.volume)
    assert (at, window) == (20, [])
    assert level == pytest.approx(6 + 0.5 ** (8 / DAY))  # the one was learnt when it left, eight panes ago


def windows(engine):
    """The panes in the window of each series."""
    return {
        key: engine.snapshot(key)[0][5] for key in engine.known_keys() if key != CLOCK and engine.snapshot(key)[0][5]
    }


# Edges


def test_nothing_at_all_leaves_no_state():
    engine = Engine()
    assert engine.step(0, {}) == [] and engine.step(PANE, {PACKAGING: Cell()}) == []
    assert state(engine) == {}


def test_a_pane_cannot_come_twice():
    engine = Engine()
    engine.step(5 * PANE, {PACKAGING: texts(1)})
    with pytest.raises(ValueError, match="pane 5 after pane 5"):
        engine.step(5 * PANE, {})


def test_cells_without_a_rule_or_an_owner_are_ignored():
    engine = Engine()
    engine.step(
        0,
        {
            Key("weather", "product", "p", "c", "rain"): texts(1),
            PACKAGING._replace(product_id="", category=""): texts(1),
        },
    )
    assert engine.known_keys() == [CLOCK]


def test_two_rules_cannot_watch_the_same_counts():
    rule = DEFAULT_RULES[0]
    with pytest.raises(ValueError, match="two rules for negative_spike in product scope"):
        Engine([rule, Rule("other", "1", rule.kind, ("product",), volume_aware=False)])


def test_series_that_faded_away_are_dropped_and_told_as_dirty():
    engine = Engine()
    engine.step(0, {PACKAGING: texts(1), PACKAGING.volume: texts(1)})
    engine.mark_saved()
    engine.step(20 * DAY * PANE, {})
    assert PACKAGING in engine.dirty_keys()
    assert engine.snapshot(PACKAGING) == []
    assert not any(key.shard for key in engine.known_keys())


@settings(max_examples=12, deadline=None)
@given(STREAMS, st.integers(1, 4))
def test_of_too_many_silent_series_the_faintest_are_dropped(counts, limit):
    panes = stream(counts)
    jumping, walking = Engine(LOOSE, max_silent=limit), Engine(LOOSE, max_silent=limit)
    end = max(panes) + 100
    assert play(jumping, panes | {end: {}}) == play(walking, {n: panes.get(n, {}) for n in range(900, end + 1)})
    assert state(jumping) == state(walking)
    assert sum(bool(key.shard) for key in jumping.known_keys()) <= limit


def test_the_strongest_series_stay():
    engine = Engine(max_silent=8)
    strong = {PACKAGING._replace(product_id=f"p{n}").volume: texts(100 + n) for n in range(3)}
    weak = {PACKAGING._replace(product_id=f"q{n}").volume: texts(1) for n in range(30)}
    engine.step(0, strong | weak)
    engine.step(20 * PANE, {})
    kept = {key for key in engine.known_keys() if key.shard}
    assert set(strong) < kept and len(kept) == 7


def test_the_alert_id_follows_from_rule_key_and_opening():
    panes = shop(30)
    for i in range(12):
        add(panes[20 * HOUR + i], PACKAGING, 1, 1)
    (a,), (b,) = (opened(about(play(Engine(), panes), "p1")) for _ in range(2))
    assert a.alert_id == b.alert_id
    changed = [replace(rule, version="2") for rule in DEFAULT_RULES]
    (c,) = opened(about(play(Engine(changed), panes), "p1"))
    assert c.alert_id != a.alert_id


# Operators and other rules


def wave(panes, start, length=12, key=PACKAGING):
    for i in range(length):
        add(panes.setdefault(start + i, {}), key, 1, 1)
    return panes


def acted(engine, alert, verb, ts=1, **options):
    return engine.act(Action(alert.alert_id, verb, ts, "ann", **options))


def test_an_action_is_told_at_once_and_counts_once():
    engine = Engine()
    (opened_alert,) = [a for a in play(engine, wave(shop(30), 30 * HOUR, 6)) if a.opened_at > 30 * HOUR * PANE]
    (held,) = acted(engine, opened_alert, "ack", note="looking")
    assert (held.state, held.cause) == ("acknowledged", "acknowledged by ann: looking")
    assert held.updated_at > opened_alert.updated_at and held.alert_id == opened_alert.alert_id
    assert (opened_alert.observed, held.observed) == (5, 6)  # its worst window so far
    assert acted(engine, opened_alert, "ack") == []
    assert PACKAGING in engine.dirty_keys()
    assert engine.act(Action("f" * 16, "ack", 9)) == []
    (told,) = engine.step(31 * HOUR * PANE, {}) or play(engine, {32 * HOUR: {}, 34 * HOUR: {}})
    assert told.state == "resolved"


def test_an_alert_that_opens_again_keeps_its_id_and_counts():
    panes = wave(wave(shop(34), 30 * HOUR), 32 * HOUR + 6)
    alerts = about(play(Engine(), panes | {40 * HOUR: {}}), "p1")
    assert len({alert.alert_id for alert in alerts}) == 1
    assert [a.reopened for a in alerts if a.cause.startswith("opened")] == [0, 1]
    assert alerts[-1].state == "resolved" and {alert.opened_at for alert in alerts} == {alerts[0].opened_at}


def test_a_changed_rule_goes_on_with_its_alerts_and_baselines():
    panes = wave(shop(40), 30 * HOUR)
    first, changed = Engine(), [replace(rule, version="2", keep_firing_ms=2 * PANE) for rule in DEFAULT_RULES]
    told = play(first, {n: cells for n, cells in panes.items() if n < 30 * HOUR + 8})
    before = {key: entry[0] for key, entry in state(first).items() if key.shard}
    first.reload(changed)
    assert {key: entry[0] for key, entry in state(first).items() if key.shard} == before
    restarted = Engine(changed)
    for key in first.known_keys():
        restarted.restore(key, first.snapshot(key))
    rest = {n: cells for n, cells in panes.items() if n >= 30 * HOUR + 8}
    later = play(first, rest)
    assert play(restarted, rest) == later
    (opening,) = opened(about(told, "p1"))
    last = [alert for alert in about(later, "p1") if alert.alert_id == opening.alert_id][-1]
    assert (last.state, last.rule_version) == ("resolved", "2")
    assert opening.rule_version == DEFAULT_RULES[0].version


def test_the_alerts_of_a_rule_that_is_gone_are_resolved_and_say_so():
    panes = wave(shop(31), 30 * HOUR)
    for rules, reason in (
        (DEFAULT_RULES[1:], "rule negative-spike is gone"),
        ([replace(DEFAULT_RULES[0], name="other")], "packaging is watched by rule other now"),
        ([replace(DEFAULT_RULES[0], labels=("size",))], "rule negative-spike is gone"),
    ):
        engine = Engine()
        opening = about(play(engine, {n: cells for n, cells in panes.items() if n < 30 * HOUR + 8}), "p1")[0]
        engine.reload(rules)
        end = about(engine.step((30 * HOUR + 8) * PANE, {}), "p1")[0]
        assert (end.state, end.cause, end.alert_id) == ("resolved", reason, opening.alert_id)
        assert end.closed_at == (30 * HOUR + 9) * PANE
    assert not any(key.kind == "negative_spike" and key.shard for key in Engine(DEFAULT_RULES[1:]).known_keys())


def test_a_series_that_nothing_watches_any_more_is_forgotten():
    engine = Engine()
    play(engine, wave(shop(2), 20))
    engine.reload(DEFAULT_RULES[1:])
    engine.mark_saved()
    engine.step(100 * PANE, {})
    assert PACKAGING in engine.dirty_keys() and engine.snapshot(PACKAGING) == []
    assert engine.snapshot(PACKAGING.volume)


def test_what_costs_more_is_more_severe():
    panes = wave(shop(31), 30 * HOUR)
    worst = [
        max(about(play(Engine(price=lambda key, by=by: by), panes), "p1"), key=lambda a: a.severity)
        for by in (0.1, 1.0, 10.0)
    ]
    assert worst[0].weight == 0.5 and worst[1].weight == pytest.approx(1, abs=0.2) and worst[2].weight == 2
    assert worst[0].severity < worst[1].severity < worst[2].severity


def test_a_product_with_more_texts_matters_more():
    panes = shop(30)
    for cells in panes.values():
        add(cells, PACKAGING._replace(product_id="big"), 3, 0)
    for product in ("big", "p1"):
        wave(panes, 29 * HOUR, key=PACKAGING._replace(product_id=product))
    alerts = play(Engine(), panes)
    weights = {product: about(alerts, product)[-1].weight for product in ("big", "p1")}
    assert weights["big"] > 1 > weights["p1"] >= 0.5


def test_an_alert_says_who_is_behind_its_worst_window():
    asked = []

    def about(key, start, end):
        asked.append((key, start, end))
        return About(f"asked {len(asked)} times", "coordinated", {"asked": len(asked)})

    panes = wave(shop(31), 30 * HOUR)
    told = play(Engine(about=about), panes | {33 * HOUR: {}})
    alerts = [alert for alert in told if alert.product_id == "p1"]
    assert {alert.origin for alert in alerts} == {"coordinated"}
    last = alerts[-1]
    assert last.state == "resolved"
    told = [i for i, at in enumerate(asked, 1) if at == (PACKAGING, last.window_start, last.window_end)]
    assert told == [last.origin_figures["asked"]]
    assert last.note == f"asked {told[0]} times"


ACTIONS = st.dictionaries(
    st.integers(1_000, 1_400), st.tuples(st.integers(0, 3), st.sampled_from(VERBS), st.integers(0, 40)), max_size=12
)


@settings(max_examples=15, deadline=None)
@given(STREAMS, ACTIONS, st.integers(1_000, 1_400))
def test_with_actions_too_saving_and_restoring_changes_nothing(counts, actions, cut):
    panes = stream(counts)

    def run(engine, begin, end, told):
        for pane in sorted({*panes, *actions}):
            if begin <= pane < end:
                told += engine.step(pane * PANE, panes.get(pane, {}))
                if pane in actions and told:
                    which, verb, length = actions[pane]
                    told += acted(engine, told[which % len(told)], verb, pane, duration=length * PANE)
        return told

    whole, before, after = Engine(LOOSE), Engine(LOOSE), Engine(LOOSE)
    told = run(before, 0, cut, [])
    for key in before.known_keys():
        after.restore(key, json.loads(json.dumps(before.snapshot(key))))
    assert run(after, cut, 9_999, told) == run(whole, 0, 9_999, [])
    assert state(after) == state(whole)
    order = [(alert.alert_id, alert.updated_at) for alert in told]
    assert len(set(order)) == len(order)


# A whole shop


@pytest.mark.parametrize("seed", [1, 2])
def test_a_shop_of_690_keys_keeps_its_budget_and_hears_its_incidents(seed):
    """Thirty products, 23 labels, two days at the scale of the demo, day five times night, twelve incidents."""
    rng = np.random.default_rng(seed)
    labels = [("negative_spike", a) for a in ASPECTS] + [("demand_surge", d) for d in DEMANDS]
    products, panes = 30, 2 * DAY
    keys = [[Key(kind, "product", f"p{p}", "c", label) for kind, label in labels] for p in range(products)]
    day = 1 - 2 / 3 * np.cos(2 * np.pi * np.arange(panes) / DAY)
    base = np.exp(rng.uniform(np.log(0.001), np.log(0.025), (products, len(labels))))
    counts = rng.poisson(base * day[:, None, None])
    incidents = {}
    for p in rng.choice(products, 12, replace=False):
        label, start = int(rng.integers(len(labels))), int(rng.integers(6 * HOUR, panes - 3 * HOUR))
        incidents[keys[p][label]] = start
        np.add.at(counts[:, p, label], start + rng.integers(0, HOUR, 12), 1)
    volume = rng.binomial(counts.sum(2), 0.7) + rng.poisson(base.sum(1) * day[:, None] / 2)
    volume = np.maximum(volume, counts.max(2))

    engine, alerts = Engine(), []
    for pane in range(panes):
        cells = {keys[p][label]: texts(counts[pane, p, label]) for p, label in np.argwhere(counts[pane])}
        cells |= {keys[p][0].volume: texts(volume[pane, p]) for p in np.flatnonzero(volume[pane])}
        alerts += opened(engine.step(pane * PANE, cells))
    heard, false = {}, 0
    for alert in alerts:
        key = Key(alert.kind, alert.scope, alert.product_id, alert.category, alert.label)
        delay = alert.opened_at // PANE - incidents.get(key, -DAY)
        if 0 < delay <= 2 * HOUR:
            heard.setdefault(key, delay)
        else:
            false += 1
    assert len(heard) == len(incidents)
    assert np.median(list(heard.values())) <= 7
    assert false <= 2
