"""What an alert is worth knowing: how many customers it touches, and how much revenue, each with a band.

An estimate for setting priorities, not an account. What it assumes:

- *customers*: everybody beyond the expected in the worst window is touched. A text stands for as many people as it has
  authors (those of the window where they are known, else one), a search, return or abandoned cart for one. The band is
  that of a Poisson count (Byar's approximation; Breslow & Day 1987), 95 %; those who say nothing are not in it.
- *revenue*: who complains or sends back takes one piece's price with them, and so does who will find the shelf empty;
  who asks or searches would have bought one as often as a view leads to a purchase (a cautious guess: they want it
  more): in recent days, in the category, shrunk towards all that the lane sees, and for a product as in the latter.
  Price is that of the catalogue, or else the mean price that clicks told of the product or category, or else of all.

The currency is the shop's. A place that tells no price gives no revenue.

How severe an alert is follows from the same: from how many are touched (:func:`stream.detect.lifecycle.severity`), and
from what a piece costs beside the mean (:func:`dearness`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from stream.records import Alert
from stream.windows.behaviour import PANE_FEATURES

Z: Final = 1.96
HALF_LIFE_MS: Final = 86_400_000
PRIOR_VIEWS: Final = 100.0  # that the conversion of the lane is worth to a product
FIRST: Final = (0.03, 100.0)  # a conversion to begin with, and the views it is worth
#: Alerts of those who have bought, or would have.
SURE: Final = frozenset({"negative_spike", "stock_risk"})
#: Demands of those who have bought.
BOUGHT: Final = frozenset({"return_refund", "complaint_escalation"})
VIEWS, CARTS, PURCHASES, CENTS, PRICED = map(
    PANE_FEATURES.index, ("views", "carts", "purchases", "price_cents", "priced")
)


@dataclass(slots=True)
class Trade:
    """What was sold at one place since pane ``first``; sums as of pane ``at``, forgotten by and by.

    Of a product only panes with a cart, a purchase or a request are taken in, so its views mean nothing.
    """

    first: int
    at: int
    views: float = 0.0
    carts: float = 0.0
    purchases: float = 0.0
    asked: float = 0.0  # that it comes back
    cents: float = 0.0
    priced: float = 0.0

    def add(self, pane: int, behaviour: tuple[int, ...], asked: int, decay: float) -> None:
        """Take in the PANE_FEATURES of a pane and who asked for more, or what came late for an earlier one."""
        factor = decay ** (pane - self.at)
        self.at = pane
        self.views = self.views * factor + behaviour[VIEWS]
        self.carts = self.carts * factor + behaviour[CARTS]
        self.purchases = self.purchases * factor + behaviour[PURCHASES]
        self.asked = self.asked * factor + asked
        self.cents = self.cents * factor + behaviour[CENTS]
        self.priced = self.priced * factor + behaviour[PRICED]

    @property
    def price(self) -> float:
        """Mean price seen; 0 where none was."""
        return self.cents / self.priced / 100 if self.priced else 0.0

    def to_list(self) -> list[Any]:
        return [
            self.first, self.at, self.views, self.carts, self.purchases, self.asked, self.cents, self.priced,
        ]  # fmt: skip


class Estimate(NamedTuple):
    """A number and the band in which it lies; 0 <= lo <= value <= hi."""

    value: float
    lo: float
    hi: float


def impact(alert: Alert, place: Trade | None, lane: Trade | None, click_weight: float = 1.0) -> dict[str, float]:
    """``customers`` and ``revenue`` with ``_lo`` and ``_hi``, rounded, for the columns of an alert.

    ``click_weight``: what a click counts for in it, against a text.
    """
    customers = touched(alert, click_weight)
    there, around = place or Trade(0, 0), lane or Trade(0, 0)
    bought = alert.kind in SURE or alert.label in BOUGHT
    looked_at = there if alert.scope != "product" else Trade(0, 0)  # of products views are not remembered
    pieces = Estimate(1.0, 1.0, 1.0) if bought else conversion(looked_at, around)
    price = there.price or around.price
    figures = {
        "customers": customers,
        "revenue": Estimate(*(price * many * each for many, each in zip(customers, pieces, strict=True))),
    }
    return {
        name + suffix: float(f"{value:.4g}")
        for name, estimate in figures.items()
        for suffix, value in zip(("", "_lo", "_hi"), estimate, strict=True)
    }


def touched(alert: Alert, click_weight: float = 1.0) -> Estimate:
    """Customers beyond the expected."""
    clicks = alert.contributions.get("clicks", 0.0)
    hands = alert.origin_figures.get("authors_per_text", 1.0)
    each = (1 - clicks) * hands + clicks / click_weight  # people for one that is counted
    lo, hi = poisson_band(alert.observed)
    return Estimate(*(each * max(0.0, count - alert.expected) for count in (alert.observed, lo, hi)))


def dearness(place: Trade | None, lane: Trade | None) -> float:
    """What a piece costs at a place beside the mean of the lane; 1 where that is not known."""
    return place.price / lane.price if place and lane and place.price and lane.price else 1.0


def priced(behaviour: tuple[int, ...], price: float) -> tuple[int, ...]:
    """Counts of clicks that all told ``price``, that of the catalogue; as they are where it is 0."""
    if not price:
        return behaviour
    clicks = behaviour[PRICED] or behaviour[VIEWS] or 1
    return (*behaviour[:CENTS], clicks * round(100 * price), clicks)  # the last two


def poisson_band(count: float) -> tuple[float, float]:
    """Between which means a count of Poisson is no surprise; lo <= count <= hi."""
    lo = count * max(0.0, 1 - 1 / (9 * count) - Z / (3 * math.sqrt(count))) ** 3 if count else 0.0
    more = count + 1
    return lo, more * (1 - 1 / (9 * more) + Z / (3 * math.sqrt(more))) ** 3


def conversion(place: Trade, lane: Trade) -> Estimate:
    """Purchases for a view, at most 1, with the band of a Poisson count of purchases."""
    usual = (lane.purchases + FIRST[0] * FIRST[1]) / (lane.views + FIRST[1])
    purchases, views = place.purchases + usual * PRIOR_VIEWS, place.views + PRIOR_VIEWS
    lo, hi = poisson_band(purchases)
    return Estimate(*(min(1.0, count / views) for count in (purchases, lo, hi)))


def decay(pane_ms: int) -> float:
    """What is left of a sum after a pane."""
    return float(0.5 ** (pane_ms / HALF_LIFE_MS))


def faintest(trades: Mapping[Any, Trade], pane: int, per_pane: float, keep: int) -> list[Any]:
    """The places that are too many when ``keep`` are kept: those with the fewest carts."""
    return sorted(trades, key=lambda where: (-trades[where].carts * per_pane ** (pane - trades[where].at), where))[
        keep:
    ]
