"""What of a rules file a recording cannot show: kinds whose signals are not in it, and statistics that take a week."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final

from stream.detect.forecast import WEEK
from stream.detect.policy import Rules

TEXTS: Final = ("text", "texts")
CLICKS: Final = ("panes", "clicks")
#: By kind of alert, any of which it is counted from: what is heard in ``signals``, and its name for people.
COUNTED: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "negative_spike": (TEXTS,),
    "demand_surge": (TEXTS, CLICKS),
    "price_sensitivity": (TEXTS, CLICKS),
    "silence": (TEXTS, CLICKS),
    "unmet_demand": (("request", "texts that ask for what is not in the catalogue"), ("queries", "searches in vain")),
    "stock_risk": (("stock", "stock"),),
}


def untried(rules: Rules, heard: Container[str], span_ms: int) -> list[str]:
    """Sentences for people. ``heard`` are kinds of messages of ``signals``, and "stock" where any tell of it."""
    notes = []
    for rule in rules.rules:
        counted = COUNTED[rule.kind]
        missing = [name for kind, name in counted if kind not in heard]
        if missing:
            tried = "not tried" if len(missing) == len(counted) else "tried in part"
            notes.append(f"rule {rule.name} ({rule.kind}) is {tried}: the input has no {' and no '.join(missing)}")
    seasonal = [rule.name for rule in rules.rules if {"ramp", "silence"} & set(rule.statistics)]
    if seasonal and span_ms < WEEK:
        notes.append(
            "the input is shorter than a week, so no series has a season of its own and ramps and silence are not "
            f"judged (rules {', '.join(seasonal)})"
        )
    return notes
