"""The rules as data: which counts are watched and how much it takes to ring.

A rule is never edited in place: a changed threshold is a new ``version``, so that every stored alert names the rule
that made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stream.detect.cells import Scope


@dataclass(frozen=True, slots=True)
class Rule:
    """When counts of one kind open and close an alert."""

    name: str
    version: str
    kind: str
    scopes: tuple[Scope, ...]
    volume_aware: bool  # growth of all texts on the product explains growth of this count
    min_observed: float = 3.0  # least count in the window
    min_ratio: float = 2.0  # least observed / expected
    key_days: float = 30.0  # at most one false alarm per key in so many days
    shop_per_day: float = 0.5  # at most so many false alarms a day over all keys of this rule
    p_close: float = 0.01  # a window with a tail above this is calm ...
    keep_panes: int = 3  # ... and so many calm panes in a row resolve the alert


DEFAULT_RULES: Final = (
    Rule("negative-spike", "1", "negative_spike", ("product",), volume_aware=True),
    Rule("demand-surge", "1", "demand_surge", ("product", "category"), volume_aware=False),
)
