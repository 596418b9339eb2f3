"""The names of what shoppers do, as counted in panes: one vocabulary for click lanes, fusion and the ``windows`` table.

All are whole numbers, so sums are exact in any order.
"""

from __future__ import annotations

from typing import Final

PANE_FEATURES: Final = (
    "views",
    "searches",
    "empty_searches",
    "carts",
    "uncarts",
    "favorites",
    "checkouts",
    "purchases",
    "returns",
    "dwell_ms",  # time from a view to the shopper's next action, at most DWELL_MS each
    "abandons",  # sessions that ended with the product in the cart
    "comparisons",  # sessions that came to compare products at this one
    "price_cents",  # sum of the prices seen, in hundredths
    "priced",  # how many events told a price
)
