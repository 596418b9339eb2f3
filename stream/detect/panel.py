"""All series of a worker partition, one step per closed pane: counts in, surprises out.

Promises:

- a step is a function of the state, the pane's number and what it is given: no clock, no chance. Saving and restoring
  between any two steps changes nothing, to the last bit, if every series comes back to its own place;
- the cost of a step follows the number of series, not their counts: about 60 operations on columns;
- a *surprise* means the same for every series: under the null it is reached once in 10**surprise panes. A budget of one
  false alarm in N panes is the threshold log10(N) (:mod:`stream.detect.budget`).

The caller says which series are *frozen* (an incident is open: nothing is learnt) and which are in *shadow* (a new
model or rule version: the new level is learnt within a day, and nothing is told). A series without a parent is silent
in its first day, and no series is frozen in its first week.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.detect import evidence
from stream.detect.calendars import PLAIN
from stream.detect.evidence import KINDS, Window
from stream.detect.forecast import Floats, Forecaster, Mask, Settings
from stream.detect.matrix import Matrix
from stream.detect.score import Score, Statistic, rounded
from stream.detect.spike import band

WEEK_OF: Final = 7  # shortest cycles: a younger series is never frozen


class Step(NamedTuple):
    """What a pane said: surprises by kind (see :data:`KINDS`) and series, and what explains them."""

    pane: int
    surprise: dict[str, Floats]
    windows: list[Window]
    bursts: Floats  # evidence by window and series


class Panel:
    """Baselines and tests of many series. ``parents[i]`` is the series that i belongs to, or -1."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.state = Matrix(self.settings.fields() | evidence.fields(self.settings))
        self._forecaster = Forecaster(self.settings, self.state)
        self.parents: NDArray[np.int64] = np.zeros(0, np.int64)
        self.shares: Mask = np.zeros(0, bool)

    @property
    def size(self) -> int:
        return self.state.size

    def place(self, parents: NDArray[np.int64], shares: Mask) -> None:
        """Make room for as many series as there are parents; those that were there stay as they are."""
        self.state.grow(len(parents))
        self.parents, self.shares = parents, shares
        self._forecaster.place(parents, shares)
        self._group = np.where(parents < 0, np.arange(len(parents)), parents + len(parents))

    def clear(self, series: int) -> None:
        """Forget a series; its place may be taken by another one."""
        self.state.clear(series)

    def step(
        self,
        pane: int,
        seen: Floats,
        exposure: Floats | None = None,
        frozen: Mask | None = None,
        shadow: Mask | None = None,
        calendar: tuple[float, float] = PLAIN,
    ) -> Step:
        """Take in pane number ``pane`` (epoch ms over pane length), the one after the last one.

        ``seen`` are counts by series; ``exposure`` the denominators of shares (1 for counts); ``calendar`` the factor
        of the day and its relative variance.
        """
        settings, state, none = self.settings, self.state, np.zeros(self.size, bool)
        frozen, shadow = (none if mask is None else mask for mask in (frozen, shadow))
        frozen = frozen & (state["age"] > WEEK_OF * settings.cycle_panes)  # what is hardly known would be stuck
        exposure = np.ones(self.size) if exposure is None else exposure
        held = frozen | ((calendar != PLAIN) & ~self.shares)
        state["held"] = np.where(held, pane + 1, state["held"])
        spread = evidence.spreads(state, self._group)
        days = np.maximum(evidence.day_spread(state), spread[-1])
        if pane >= settings.ring:
            self._forecaster.learn(pane - settings.ring, shadow, spread[0], days)
        forecast = self._forecaster.forecast(pane, exposure, days, calendar)
        evidence.push(settings, state, pane, seen, forecast.mean, exposure)
        state["day_seen"] += seen
        state["day_expected"] += forecast.mean
        state["gap"] = np.where(seen > 0, 0.0, state["gap"] + forecast.mean)
        state["age"] += 1

        windows = evidence.windows(settings, state, pane, spread, forecast.doubt)
        last = windows[-1]
        state["off"] = np.abs(last.seen - last.expected) / np.sqrt(last.variance)
        silent = shadow | ((self.parents < 0) & (state["age"] <= settings.cycle_panes))
        bursts = evidence.burst(windows, forecast.rate, self.shares)
        found = {
            "burst": bursts.mean(axis=0),
            "ramp": evidence.ramp(state, seen, forecast, days, frozen),
            "silence": evidence.silence(settings, windows, spread, forecast.doubt, state["gap"]),
        }
        events = last.expected / spread[0]
        surprise = {
            kind: evidence.surprise(settings, state, kind, found[kind], ~silent, events, self._group) for kind in KINDS
        }
        state["panes"] = state["panes"] * settings.decay(settings.memory) + ~silent
        state["ramp"] = np.where(silent, evidence.NO_RAMP, state["ramp"])
        evidence.learn_spreads(settings, state, windows, ~(held | shadow) & (state["age"] > 2 * settings.ring))
        whole = state["held"] <= pane + 1 - settings.together_panes
        evidence.learn_days(settings, state, pane, whole & ~silent)
        return Step(pane, surprise, windows, bursts)

    def score(self, step: Step, series: int, kind: Statistic) -> Score:
        """One test of one series, in figures. A burst is told by the window that shows it best."""
        best = int(np.argmax(step.bursts[:, series])) if kind in ("burst", "share") else len(step.windows) - 1
        window = step.windows[best]
        expected, variance = float(window.expected[series]), float(window.variance[series])
        low, high = band(expected, expected * expected / max(variance - expected, 1e-9 * expected))
        value = float(step.surprise["burst" if kind == "share" else kind][series])
        since = (step.pane + 1 - window.panes) * self.settings.pane_ms
        return rounded(Score(kind, float(window.seen[series]), expected, low, high, value, since))
