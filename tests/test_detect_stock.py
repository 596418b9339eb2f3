"""Whether a stock lasts: more demand, less stock and longer waits are never safer, and chances are what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.detect.impact import Trade, decay
from stream.detect.score import MOST
from stream.detect.stock import DRIFT, OPEN_AT, Rate, Shelf, days_of_stock, judge, rate, risk
from stream.windows.behaviour import PANE_FEATURES

PANE = 300_000
DAY = 288
DECAY = decay(PANE)

RATES = st.builds(Rate, st.floats(0.1, 1e4), st.floats(0.01, 100))
SHELVES = st.builds(Shelf, st.integers(-5, 10**5), st.floats(0.1, 100))


def sold(a_day: float, days: int = 3, carts: int = 0) -> Trade:
    """A product that sells so much a day, evenly."""
    found = Trade(0, 0)
    counts = dict.fromkeys(PANE_FEATURES, 0) | {"carts": carts}
    for pane in range(0, days * DAY, 12):
        pieces = round(a_day * (pane + 12) / DAY) - round(a_day * pane / DAY)
        found.add(pane, tuple((counts | {"purchases": pieces}).values()), 0, DECAY)
    return found


@given(SHELVES, RATES)
def test_surprise_and_days_are_within_bounds(shelf: Shelf, present: Rate) -> None:
    score = risk(shelf, present, 0)
    assert 0 <= score.surprise <= MOST
    assert score.lo <= score.hi
    if shelf.stock > 0:
        days = days_of_stock(shelf, present)
        assert 0 <= days.lo <= days.value <= days.hi
    else:
        assert score.surprise == MOST


@given(SHELVES, RATES, st.integers(1, 1_000), st.floats(0, 10))
def test_less_stock_and_a_longer_wait_are_no_safer(shelf: Shelf, present: Rate, less: int, longer: float) -> None:
    usual = risk(shelf, present, 0).surprise
    assert risk(shelf._replace(stock=shelf.stock - less), present, 0).surprise >= usual
    assert risk(shelf._replace(lead_days=shelf.lead_days + longer), present, 0).surprise >= usual - 0.01


def test_the_chance_is_that_of_the_demand_it_describes() -> None:
    """Drawn: the rate from its posterior, its drift, and the demand of the lead time."""
    draw, present, shelf = np.random.default_rng(1), Rate(40.0, 2.0), Shelf(80, 7.0)
    rates = draw.gamma(present.shape, 1 / present.days, 200_000) * draw.gamma(1 / DRIFT**2, DRIFT**2, 200_000)
    lasts = float((draw.poisson(rates * shelf.lead_days) < shelf.stock).mean())
    assert 10 ** -risk(shelf, present, 0).surprise == pytest.approx(lasts, rel=0.15)
    assert 0.03 < lasts < 0.2  # 140 are expected


@pytest.mark.parametrize("a_day", [1, 10, 200])
def test_the_rate_is_that_of_the_sales(a_day: int) -> None:
    product = sold(a_day)
    assert rate(product, product, 3 * DAY - 1, DECAY, PANE).mean == pytest.approx(a_day, rel=0.15, abs=0.7)


def test_carts_and_requests_raise_the_rate_of_what_was_not_bought_yet() -> None:
    lane = sold(100, carts=10)
    looked, passed = sold(0, carts=5), sold(0)
    now = 3 * DAY - 1
    assert rate(looked, lane, now, DECAY, PANE).mean > 3 * rate(passed, lane, now, DECAY, PANE).mean
    asked = sold(0)
    asked.asked = 30.0
    assert rate(asked, lane, now, DECAY, PANE).mean > rate(passed, lane, now, DECAY, PANE).mean + 10


def test_a_product_is_judged_after_a_day() -> None:
    product = sold(20, days=1)
    short, enough = Shelf(30, 7.0), Shelf(1_000, 7.0)
    assert judge(short, product, product, DAY - 2, DECAY, PANE) is None
    found = judge(short, product, product, DAY - 1, DECAY, PANE)
    assert found is not None
    assert found.surprise > OPEN_AT
    assert (found.expected, found.since) == (30, DAY * PANE)
    fine = judge(enough, product, product, DAY - 1, DECAY, PANE)
    assert fine is not None
    assert fine.surprise < 0.1
