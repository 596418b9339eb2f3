"""Series that have been known for a week, judged by their own season: what a book says of a pane, under the rules.

A rule says which tests are asked. While an alert is open its ramp is not asked again, since nothing moves in a frozen
series; one that was told of a ramp lasts until its longest window holds no more than usual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import numpy as np

from stream.detect import budget, lifecycle
from stream.detect.book import Book
from stream.detect.calendars import KnownDays
from stream.detect.cells import VOLUME, Cell, Key
from stream.detect.forecast import DAY, WEEK, Mask
from stream.detect.lifecycle import Incident
from stream.detect.panel import Step
from stream.detect.policy import Rule
from stream.detect.score import Score, Statistic

SHARES: Final = ("negative_spike", "unmet_demand")  # kinds that count texts alone: a part of all of them


class Seen(NamedTuple):
    """What a book says of a pane."""

    step: Step
    settled: Mask  # by row
    open_at: Mapping[str, float]  # by rule


class Seasons:
    """The settled series of one worker partition. ``rule_of`` gives the rule that watches a series now."""

    def __init__(self, book: Book, rule_of: Callable[[Key], Rule | None], days: KnownDays) -> None:
        self.days = days
        self._book, self._rule_of = book, rule_of
        self._pane_ms = book.panel.settings.pane_ms

    @property
    def shadow_panes(self) -> int:
        """How long another model is learnt before it may tell anything: until no window holds what the last one saw."""
        return max(DAY // self._pane_ms, 2 * self._book.panel.settings.windows[-1])

    def learn(
        self, pane: int, pushes: Iterable[tuple[int, Mapping[Key, Cell]]], frozen: Iterable[Key], shadow: int
    ) -> Seen | None:
        """Take a pane, and what is told late for earlier ones, into the book; what it says, once any series is settled.

        ``shadow``: the pane from which on the present model is trusted; 0 where it was never another one.
        """
        book = self._book
        if not book.rows:
            return None
        now: tuple[dict[Key, float], dict[Key, float]] = ({}, {})
        for counted, cells in pushes:
            counts = {key: cell.observed for key, cell in cells.items() if key.kind != VOLUME}
            volumes = {key: cell.observed for key, cell in cells.items() if key.kind == VOLUME}
            if counted < pane:
                book.add_late(counted, counts, volumes)
            else:
                now = counts, volumes
        step = book.step(pane, *now, frozen, pane < shadow, self.days.effect(pane * self._pane_ms))
        settled = book.settled()
        if not settled.any():
            return None
        if shadow and pane < shadow + WEEK // self._pane_ms:
            step.surprise["ramp"][:] = 0  # what was learnt within a day is too vague for slow changes
        open_at = {
            rule.name: budget.threshold(
                self._pane_ms, rule.key_days, rule.shop_per_day, int(settled[rows].sum()), len(rule.statistics)
            )
            for rule, rows in book.by_rule(self._rule_of)
        }
        return Seen(step, settled, open_at)

    def over(self, seen: Seen) -> list[Key]:
        """The series that may open an alert now."""
        found: list[Key] = []
        for rule, rows in self._book.by_rule(self._rule_of):
            best = np.max([seen.step.surprise[statistic][rows] for statistic in rule.statistics], axis=0)
            found += map(self._book.key, rows[seen.settled[rows] & (best >= seen.open_at[rule.name])])
        return found

    def judge(self, key: Key, rule: Rule, seen: Seen, incident: Incident | None) -> Score | None:
        """The test that says most; None for a series that is not settled."""
        panel, row = self._book.panel, self._book.rows.get(key, -1)
        if row < 0 or not seen.settled[row]:
            return None
        told = incident if incident and incident.firing else None
        asked = [each for each in rule.statistics if each != "ramp" or not told]
        most = round(max((float(seen.step.surprise[each][row]) for each in asked), default=0.0), 3)
        if most < seen.open_at[rule.name] and lifecycle.is_quiet(incident):
            return Score("burst", 0.0, 0.0, 0.0, 0.0, most, 0)  # nothing to tell
        scores = [panel.score(seen.step, row, name_of(each, bool(panel.shares[row]))) for each in asked]
        score = max((each for each in scores if is_enough(each, rule)), key=lambda each: each.surprise, default=None)
        if score is not None and score.surprise >= rule.close_surprise:
            return score
        ramp = panel.score(seen.step, row, "ramp")
        lasts = told is not None and told.worst.score.statistic == "ramp" and is_risen(seen.step, row)
        return ramp._replace(surprise=rule.close_surprise) if lasts else score or ramp._replace(surprise=0.0)


def is_share(rule: Rule) -> bool:
    """Whether what it watches is a part of all texts of the place."""
    return rule.volume_aware and rule.kind in SHARES


def name_of(statistic: Statistic, share: bool) -> Statistic:
    """A burst of a share is told as such."""
    return "share" if statistic == "burst" and share else statistic


def is_risen(step: Step, row: int) -> bool:
    """Whether the longest window holds more than usual."""
    last = step.windows[-1]
    return bool(last.seen[row] > last.expected[row] + np.sqrt(last.variance[row]))


def is_enough(score: Score, rule: Rule) -> bool:
    """Whether there is as much as the rule asks for at least: of counts, or for silence of what was expected."""
    if score.statistic == "silence":
        return score.expected >= rule.min_observed
    if score.statistic == "ramp":
        return score.observed >= max(rule.min_observed, score.expected)
    return score.observed >= max(rule.min_observed, rule.min_ratio * score.expected)
