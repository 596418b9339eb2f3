"""What the verdicts of operators say of a rule: its precision over time, and a budget that would suit it.

A verdict is the newest "useful" or "not useful" of an alert; those without one are assumed to be like those with.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from stream.detect.policy import Rule

WEEK_MS: Final = 7 * 86_400_000
DAY_MS: Final = 86_400_000
ENOUGH: Final = 10  # verdicts: fewer are no ground for a change
SURE: Final = 1.96  # standard normal quantile of the interval
MOST_CHANGE: Final = 4.0  # at once; then look again


class Judged(NamedTuple):
    """An alert and its label."""

    rule: str
    opened_at: int  # epoch ms
    verdict: str  # "useful" | "not_useful" | ""


@dataclass(frozen=True, slots=True)
class Precision:
    """The alerts of a rule in a stretch of time and what was said of them."""

    rule: str
    since: str  # local day of its Monday, ISO; "" for all of the time
    alerts: int
    useful: int
    not_useful: int

    @property
    def judged(self) -> int:
        return self.useful + self.not_useful

    @property
    def share(self) -> float | None:
        """Useful ones among the judged."""
        return self.useful / self.judged if self.judged else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share (Wilson 1927)."""
        n = self.judged
        if not n:
            return 0.0, 1.0
        p, z = self.useful / n, SURE * SURE / n
        middle, side = p + z / 2, SURE * math.sqrt(p * (1 - p) / n + z / (4 * n))
        return max(0.0, (middle - side) / (1 + z)), min(1.0, (middle + side) / (1 + z))


class Suggestion(NamedTuple):
    """A budget for a rule; ``factor`` is what it has over the present one, 1 to leave it."""

    rule: str
    factor: float
    key_days: float
    shop_per_day: float
    why: str


def by_week(alerts: Iterable[Judged]) -> list[Precision]:
    """One line per rule and week (UTC) with an alert, in order."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for alert in alerts:
        counts.setdefault((alert.rule, monday(alert.opened_at)), Counter())[alert.verdict] += 1
    return [_precision(rule, week, counted) for (rule, week), counted in sorted(counts.items())]


def overall(alerts: Iterable[Judged]) -> list[Precision]:
    """One line per rule."""
    counts: dict[str, Counter[str]] = {}
    for alert in alerts:
        counts.setdefault(alert.rule, Counter())[alert.verdict] += 1
    return [_precision(rule, "", counted) for rule, counted in sorted(counts.items())]


def _precision(rule: str, since: str, counted: Counter[str]) -> Precision:
    return Precision(rule, since, counted.total(), counted["useful"], counted["not_useful"])


def monday(ts: int) -> str:
    day = datetime.fromtimestamp(ts / 1000, UTC).date()
    return (day - timedelta(days=day.weekday())).isoformat()


def suggest(rule: Rule, seen: Precision, target: float) -> Suggestion:
    """A budget at which ``target`` (0 to 1, exclusive) of the rule's alerts should be useful.

    False alarms follow the budget in proportion, useful alerts hardly do; so with a share ``p`` of useful ones the
    budget is scaled by ``(odds of p) / (odds of the target)``, at most :data:`MOST_CHANGE` times up or down. Nothing is
    changed while there are fewer than :data:`ENOUGH` verdicts or the interval of the share holds the target.
    """
    low, high = seen.interval
    if seen.judged < ENOUGH:
        return _scaled(rule, 1.0, f"{seen.judged} verdicts; {ENOUGH - seen.judged} more are needed")
    told = f"{seen.useful} of {seen.judged} useful ({low:.0%} to {high:.0%})"
    if low <= target <= high:
        return _scaled(rule, 1.0, f"{told}: what {target:.0%} asks for")
    share = min(max(seen.useful, 0.5), seen.judged - 0.5) / seen.judged
    factor = share / (1 - share) / (target / (1 - target))
    factor = float(f"{min(MOST_CHANGE, max(1 / MOST_CHANGE, factor)):.2g}")
    return _scaled(rule, factor, f"{told}, {target:.0%} wanted: {'more' if factor > 1 else 'fewer'} alerts")


def _scaled(rule: Rule, factor: float, why: str) -> Suggestion:
    return Suggestion(rule.name, factor, rule.key_days / factor, rule.shop_per_day * factor, why)
