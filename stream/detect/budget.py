"""From a budget of false alarms to a threshold of surprise.

A surprise of s is reached by chance once in 10**s panes (:mod:`stream.detect.evidence`), and expected numbers of false
alarms add up over series and tests, dependent or not. So with N panes in the days of the budget

- *per key*: at most one false alarm in ``key_days`` days, over ``tests`` kinds of test on it: s >= log10(N tests);
- *per shop*: at most ``shop_per_day`` a day over ``series`` series under the rule, N1 the panes of a day:
  s >= log10(series tests N1 / shop_per_day);

and the stricter of the two counts.
"""

from __future__ import annotations

import math
from typing import Final

DAY_MS: Final = 86_400_000
INFINITE: Final = math.inf  # for a budget that is not set


def threshold(
    pane_ms: int, key_days: float = 0.0, shop_per_day: float = INFINITE, series: int = 1, tests: int = 1
) -> float:
    """The least surprise that may raise an alarm. ``series`` are those that the shop's budget is shared by.

    Raises ValueError for a budget that allows nothing.
    """
    if key_days < 0 or shop_per_day <= 0:
        raise ValueError(f"a budget of one alarm in {key_days} days, {shop_per_day} a day for the shop: both above 0")
    a_day = DAY_MS / pane_ms * max(1, tests)
    return math.log10(max(1.0, key_days * a_day, max(1, series) * a_day / shop_per_day))
