"""Whom an alert touches: numbers inside their bands, whatever comes in."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.detect.impact import (
    CENTS,
    PRICED,
    Trade,
    conversion,
    dearness,
    decay,
    faintest,
    impact,
    poisson_band,
    priced,
    touched,
)
from stream.records import Alert
from stream.windows.behaviour import PANE_FEATURES


def alert(**changes: Any) -> Alert:
    fields: dict[str, Any] = {
        "alert_id": "a", "kind": "demand_surge", "scope": "product", "product_id": "p1", "category": "c",
        "label": "restock", "severity": 5, "state": "open", "opened_at": 1, "closed_at": 0, "updated_at": 1,
        "window_start": 0, "window_end": 1, "observed": 20.0, "expected": 2.0, "band": (0.0, 5.0),
        "contributions": {"reviews": 0.0, "chats": 1.0, "clicks": 0.0}, "evidence": [], "rule": "r",
        "rule_version": "1", "model": "m",
    }  # fmt: skip
    return Alert(**fields | changes)


def behaviour(**counts: int) -> tuple[int, ...]:
    return tuple(counts.get(name, 0) for name in PANE_FEATURES)


def trade(views: int = 0, purchases: int = 0, price: int = 0, carts: int = 0) -> Trade:
    found = Trade(0, 0)
    found.add(
        0,
        behaviour(views=views, carts=carts, purchases=purchases, price_cents=100 * price, priced=int(price > 0)),
        0,
        0.5,
    )
    return found


AMOUNTS = st.floats(0, 1e6)
TRADES = st.none() | st.builds(trade, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**5))


@given(
    AMOUNTS, AMOUNTS, st.floats(0, 1), st.floats(0.01, 1), st.sampled_from(["restock", "return_refund"]),
    TRADES, TRADES, st.sampled_from([1.0, 0.5, 0.25]),
)  # fmt: skip
def test_a_number_lies_in_its_band(
    observed: float, expected: float, clicks: float, hands: float, label: str, place: Trade, lane: Trade, weight: float
) -> None:
    told = alert(
        observed=observed, expected=expected, label=label, contributions={"chats": 1 - clicks, "clicks": clicks},
        origin_figures={"authors_per_text": hands},
    )  # fmt: skip
    found = impact(told, place, lane, weight)
    for name in ("customers", "revenue"):
        assert 0 <= found[f"{name}_lo"] <= found[name] <= found[f"{name}_hi"]
    assert found["customers"] == 0 or observed > expected


@given(st.lists(AMOUNTS, min_size=2, max_size=9))
def test_a_band_holds_its_count_and_grows_with_it(counts: list[float]) -> None:
    bands = [poisson_band(count) for count in sorted(counts)]
    assert all(lo <= count <= hi for count, (lo, hi) in zip(sorted(counts), bands, strict=True))
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(bands))


@pytest.mark.parametrize(
    ("count", "lo", "hi"), [(0, 0.0, 3.69), (1, 0.03, 5.57), (10, 4.80, 18.39), (100, 81.4, 121.6)]
)
def test_a_band_is_that_of_garwood(count: int, lo: float, hi: float) -> None:
    """The exact interval of a Poisson mean (Garwood 1936)."""
    assert poisson_band(count) == pytest.approx((lo, hi), rel=0.02, abs=0.05)


def test_who_has_bought_stands_for_a_price_and_who_asks_for_a_part_of_it() -> None:
    place, lane = trade(10_000, 1_000, 100), trade(10_000, 1_000, 100)
    asked, back = (impact(alert(label=label), place, lane) for label in ("restock", "return_refund"))
    complaint = impact(alert(kind="negative_spike", label="packaging"), place, lane)
    assert asked["customers"] == back["customers"] == 18
    assert asked["revenue"] == pytest.approx(18 * 100 * 0.1, rel=0.01)
    assert back["revenue"] == complaint["revenue"] == 1_800


def test_the_views_of_a_product_mean_nothing_and_those_of_a_category_something() -> None:
    place, lane = trade(100_000, 10_000, 100), trade(100_000, 1_000, 100)
    product, category = (impact(alert(scope=scope), place, lane)["revenue"] for scope in ("product", "category"))
    assert product == pytest.approx(18 * 100 * 0.01, rel=0.01)
    assert category == pytest.approx(18 * 100 * 0.1, rel=0.01)


def test_few_hands_are_few_customers_and_clicks_are_one_each() -> None:
    assert touched(alert(origin_figures={"authors_per_text": 0.5})).value == 9
    assert touched(alert(contributions={"chats": 0.0, "clicks": 1.0}), 0.5).value == 36


def test_a_place_without_trade_is_taken_for_the_rest_of_the_lane() -> None:
    lane = trade(10_000, 500, 40)
    assert conversion(Trade(0, 0), lane).value == pytest.approx(0.05, rel=0.01)
    assert impact(alert(), None, lane)["revenue"] == pytest.approx(18 * 0.05 * 40, rel=0.01)
    assert impact(alert(), None, None)["revenue"] == 0


def test_trade_is_forgotten_by_half_in_a_day() -> None:
    kept = Trade(0, 0)
    kept.add(0, behaviour(views=1_000, carts=40, purchases=10, price_cents=5_000, priced=1), 0, decay(300_000))
    kept.add(288, behaviour(views=1), 2, decay(300_000))
    assert kept.to_list() == pytest.approx([0, 288, 501, 20, 5, 2, 2_500, 0.5])
    assert kept.price == 50


def test_the_places_with_the_fewest_carts_are_too_many() -> None:
    trades = {name: trade(carts=carts) for name, carts in (("a", 5), ("b", 9), ("c", 5))}
    assert faintest(trades, 0, 0.9, 2) == ["c"]


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 10**6))
def test_the_price_of_the_catalogue_goes_before_what_clicks_told(views: int, told: int, cents: int) -> None:
    clicks = behaviour(views=views, price_cents=7 * told, priced=told, carts=3)
    assert priced(clicks, 0.0) == clicks
    counted = Trade(0, 0)
    counted.add(0, priced(clicks, cents / 100), 0, 0.5)
    assert counted.price == pytest.approx(cents / 100)
    others = [count for place, count in enumerate(priced(clicks, cents / 100)) if place not in (CENTS, PRICED)]
    assert others == [count for place, count in enumerate(clicks) if place not in (CENTS, PRICED)]


def test_dearness_is_a_price_beside_the_mean_and_1_where_it_is_unknown() -> None:
    assert dearness(trade(price=30), trade(price=20)) == 1.5
    assert dearness(None, trade(price=20)) == dearness(trade(price=30), None) == dearness(trade(), trade(price=5)) == 1
