"""Will the stock last until more can come? Demand at the present rate against stock and lead time, with its doubt.

The present rate of a product is a Gamma posterior: purchases of recent days (:class:`~stream.detect.impact.Trade`),
and those who ask for it to come back, after a prior worth :data:`PRIOR` of them: at what its carts usually lead to on
the lane, where that is more. With :data:`DRIFT`, the part by which tomorrow's rate may differ from today's, the demand
within the lead time is negative binomial, and

    chance = P(demand within the lead time >= stock),  surprise = -log10(1 - chance).

An alert opens where the stock lasts with less than 5 % (:data:`OPEN_AT`). A product is judged when it has been known
for a day, so that the hours of the day are in its rate alike. Stock and lead time are what the click lanes saw in the
catalogue at the end of the pane.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from stream.detect.impact import Estimate, Trade, poisson_band
from stream.detect.score import MOST, Score, rounded
from stream.detect.spike import band, tail

KIND: Final = "stock_risk"
OPEN_AT: Final = 1.3  # surprise: the stock lasts with less than 5 %
PRIOR: Final = 2.0  # purchases that views and carts are worth
LEAST: Final = 0.1  # purchases that every product is granted
DRIFT: Final = 0.3
DAY_MS: Final = 86_400_000
CERTAIN: Final = 4.0  # deviations within which a stock is in no danger


class Shelf(NamedTuple):
    """What is there of a product, in pieces, how many days it takes to get more, and what a piece costs."""

    stock: int
    lead_days: float
    price: float = 0.0  # 0: not told


class Rate(NamedTuple):
    """Pieces a day: a Gamma with ``shape`` and mean ``shape / days``."""

    shape: float
    days: float

    @property
    def mean(self) -> float:
        return self.shape / self.days


def rate(product: Trade, lane: Trade, now: int, decay: float, pane_ms: int) -> Rate:
    """The present rate, as of pane ``now``."""
    days = (1 - decay ** (now + 1 - product.first)) / (1 - decay) * pane_ms / DAY_MS  # forgotten like the sums
    faded = decay ** (now - product.at)
    led = product.carts * lane.purchases / lane.carts if lane.carts else 0.0
    wanted = faded * (product.purchases + product.asked)
    usual = max(LEAST, wanted, faded * led)
    return Rate(PRIOR + wanted, days * (1 + PRIOR / usual))


def judge(shelf: Shelf, product: Trade, lane: Trade, now: int, decay: float, pane_ms: int) -> Score | None:
    """The risk at the end of pane ``now``; None for a product that is too new."""
    if (now + 1 - product.first) * pane_ms < DAY_MS:
        return None
    return risk(shelf, rate(product, lane, now, decay, pane_ms), (now + 1) * pane_ms)


def days_of_stock(shelf: Shelf, present: Rate) -> Estimate:
    """How long the stock lasts at the present rate, in days; 95 % band of the rate."""
    lo, hi = poisson_band(present.shape)
    slow = max(lo / present.days, 1e-9)
    return Estimate(shelf.stock / present.mean, shelf.stock * present.days / hi, shelf.stock / slow)


def note(shelf: Shelf, present: Rate) -> str:
    """How long the stock lasts, for a person."""
    days = days_of_stock(shelf, present)
    return f"{shelf.stock} left: {days.value:.2g} days ({days.lo:.2g} to {days.hi:.2g}), more in {shelf.lead_days:g}"


def risk(shelf: Shelf, present: Rate, now: int) -> Score:
    """Demand within the lead time (observed) against the stock (expected), at ``now`` (epoch ms)."""
    mean = present.mean * shelf.lead_days
    shape = 1 / (1 / present.shape + DRIFT**2)
    if shelf.stock > mean + CERTAIN * math.sqrt(mean + mean * mean / shape):
        return rounded(Score("stock", mean, shelf.stock, mean, mean, 0.0, now))
    lasts = 1 - tail(float(shelf.stock), mean, shape)
    surprise = min(MOST, -math.log10(max(lasts, 10**-MOST)))
    return rounded(Score("stock", mean, shelf.stock, *band(mean, shape), surprise, now))
