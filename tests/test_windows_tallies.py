"""What the detectors count of what shoppers do, and that a shop without texts is not surprised by it."""

import numpy as np

from stream.detect.cells import ACTED, ACTS, VOLUME, Cell, Key
from stream.detect.engine import Engine
from stream.windows.behaviour import PANE_FEATURES
from stream.windows.tallies import BEHAVIOUR, NO_TEXTS, Tally

PANE = 300_000
RETURNED = Key("demand_surge", "product", "p1", "c1", "return_refund")


def done(texts: tuple[int, ...] = NO_TEXTS, **acts: int) -> Tally:
    return Tally(tuple(acts.get(name, 0) for name in PANE_FEATURES), texts)


def test_carts_and_purchases_count_half_a_text_in_what_returns_are_seen_beside() -> None:
    tally = done((2, 3, 0, 0, 0), views=90, searches=1, empty_searches=1, carts=4, purchases=2, returns=1)
    cells = dict(tally.cells(RETURNED[1:4]))
    assert RETURNED.volume == Key(VOLUME, *RETURNED[1:4], ACTS)
    assert cells[RETURNED.volume] == Cell(2.0, 3.0, 3.0)
    assert cells[RETURNED] == Cell(clicks=0.5)
    assert cells[RETURNED._replace(kind=VOLUME, label="")] == Cell(2.0, 3.0)


def test_whatever_clicks_speak_for_is_seen_beside_acts() -> None:
    assert {("demand_surge", label.removeprefix("demand/")) for _, label, _ in BEHAVIOUR} <= ACTED


def test_only_looking_counts_for_nothing() -> None:
    assert list(done(views=100, dwell_ms=5_000).cells(RETURNED[1:4])) == []


def test_a_shop_of_clicks_alone_is_not_surprised_by_its_returns_but_by_a_wave_of_them() -> None:
    """Measured against texts alone, of which there are none, every product was an alert."""
    dice, engine, alerts = np.random.default_rng(0), Engine(), []
    products, wave, end = range(40), 300, 324
    for pane in range(end):
        cells: dict[Key, Cell] = {}
        for product in products:
            carts, purchases, returns = dice.poisson((6, 3, 1.5 if pane < wave or product else 12)).tolist()
            cells |= done(carts=carts, purchases=purchases, returns=returns).cells(("product", f"p{product}", "c1"))
        alerts += engine.step(pane * PANE, cells)
    assert {(alert.product_id, alert.label) for alert in alerts} == {("p0", "return_refund")}
    assert all(alert.opened_at > wave * PANE for alert in alerts)
