"""Budgets against what they cost and find: alerts a day beside detection delay. Pure.

A point is one set of rules over one stretch. Found, missed and false need known incidents, from the simulator or from
alerts that people called useful (:func:`incidents_of`); without them a point only counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

from stream.alerts import label_of
from stream.backtest.diff import Alert
from stream.detect.policy import Rules
from stream.simulate.incidents import Incident, match_alerts

#: How much of the budget in the rules: false alerts are allowed so many times as often.
FACTORS: Final = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Point:
    """What one set of rules told. ``found``, ``missed``, ``false`` and ``delay_ms`` are None without incidents."""

    factor: float
    alerts: int
    per_day: float
    found: int | None = None
    missed: int | None = None
    false: int | None = None
    delay_ms: float | None = None  # median over the incidents found; None as well where none was

    def to_dict(self) -> dict[str, Any]:
        return {
            "budget": self.factor,
            "alerts": self.alerts,
            "alerts_per_day": round(self.per_day, 3),
            "found": self.found,
            "missed": self.missed,
            "false_alarms": self.false,
            "median_delay_min": None if self.delay_ms is None else round(self.delay_ms / 60_000, 1),
        }


def with_budget(rules: Rules, factor: float) -> Rules:
    """Rules that allow false alerts ``factor`` times as often."""
    if factor <= 0:
        raise ValueError(f"a budget is a positive factor, not {factor:g}")
    scaled = tuple(
        replace(rule, key_days=rule.key_days / factor, shop_per_day=rule.shop_per_day * factor) for rule in rules.rules
    )
    return replace(rules, rules=scaled)


def point(factor: float, alerts: Sequence[Alert], days: float, incidents: Sequence[Incident] | None) -> Point:
    """``alerts`` in their newest state, ``days`` the length of the stretch they opened in."""
    counted = Point(factor, len(alerts), len(alerts) / days if days else 0.0)
    if incidents is None:
        return counted
    findings = match_alerts(incidents, alerts)
    late = [finding.late_ms for finding in findings if finding.verdict == "found"]
    return replace(
        counted,
        found=len(late),
        missed=sum(finding.verdict == "missed" for finding in findings),
        false=sum(finding.verdict == "false alarm" for finding in findings),
        delay_ms=median(late) if late else None,
    )


def incidents_of(alerts: Iterable[dict[str, Any]]) -> list[Incident]:
    """Alerts that people called useful, as ``radar alerts --json`` prints them, as incidents: each begins with the
    window that opened it and ends when it was calm."""
    return [
        Incident(
            kind=alert["kind"],
            label=label_of(alert),
            product_id=alert["product_id"],
            category=alert["category"],
            start=min(alert["window_start"], alert["opened_at"]),
            end=max(alert["closed_at"], alert["opened_at"]),
        )
        for alert in alerts
        if alert["verdict"] == "useful"
    ]
