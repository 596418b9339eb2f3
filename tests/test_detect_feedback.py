"""Precision of rules from verdicts, and the budgets that follow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.detect.feedback import ENOUGH, MOST_CHANGE, Judged, Precision, by_week, overall, suggest
from stream.detect.rules import DEFAULT_RULES

RULE = DEFAULT_RULES[0]
MONDAY = 1_772_409_600_000  # 2 March 2026, 00:00 UTC
DAY = 86_400_000


def test_verdicts_are_counted_by_rule_and_week() -> None:
    alerts = [
        Judged("a", MONDAY, "useful"),
        Judged("a", MONDAY + 7 * DAY - 1, "not_useful"),
        Judged("a", MONDAY + 7 * DAY, ""),
        Judged("b", MONDAY - 1, "useful"),
    ]
    assert by_week(alerts) == [
        Precision("a", "2026-03-02", 2, 1, 1),
        Precision("a", "2026-03-09", 1, 0, 0),
        Precision("b", "2026-02-23", 1, 1, 0),
    ]
    assert overall(alerts) == [Precision("a", "", 3, 1, 1), Precision("b", "", 1, 1, 0)]
    assert [each.share for each in by_week(alerts)] == [0.5, None, 1.0]


def test_the_interval_is_wilsons() -> None:
    low, high = Precision("a", "", 10, 8, 2).interval
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert Precision("a", "", 5, 0, 0).interval == (0.0, 1.0)


@pytest.mark.parametrize(
    ("useful", "not_useful", "factor"),
    [(3, 2, 1), (16, 4, 1), (10, 30, 0.25), (60, 40, 0.37), (99, 1, 4), (0, 50, 0.25), (50, 0, 4), (190, 10, 4)],
)
def test_a_budget_is_suggested_only_on_evidence(useful: int, not_useful: int, factor: float) -> None:
    found = suggest(RULE, Precision(RULE.name, "", useful + not_useful, useful, not_useful), 0.8)
    assert found.factor == factor
    assert found.shop_per_day == pytest.approx(RULE.shop_per_day * factor)
    assert found.key_days == pytest.approx(RULE.key_days / factor)


def test_the_reason_has_the_figures() -> None:
    assert suggest(RULE, Precision(RULE.name, "", 9, 3, 1), 0.8).why == "4 verdicts; 6 more are needed"
    assert suggest(RULE, Precision(RULE.name, "", 99, 60, 40), 0.8).why.startswith("60 of 100 useful (50% to 69%), 80%")


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.05, 0.95))
def test_the_budget_moves_towards_the_target_and_never_far_at_once(useful: int, not_useful: int, target: float) -> None:
    seen = Precision(RULE.name, "", useful + not_useful, useful, not_useful)
    factor = suggest(RULE, seen, target).factor
    assert 1 / MOST_CHANGE <= factor <= MOST_CHANGE
    if seen.judged < ENOUGH:
        assert factor == 1
    elif seen.share is not None and factor != 1:
        assert (factor > 1) == (seen.share > target)
