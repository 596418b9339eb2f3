"""What is normal now: the expected count of every series in the pane that just closed, and how sure we are.

A series is a count (complaints about packaging of a product) or a share (those per text on it). Its expected value is

    rate x season x calendar x exposure        (exposure: 1 for counts, the denominator for shares)

- *rate*: counts over exposure, both forgotten exponentially (a Gamma posterior; Gelman et al., BDA, 2.6). A second,
  four times slower one beside it tells the drift (Brown's double smoothing, on logarithms); the drift is shrunk by its
  own error and bounded by ``Settings.drift``, so that a ramp of incidents is not called growth. A key with a parent
  (product < category < shop) begins with the parent's rate at the weight of one count;
- *season*: one factor for each cycle's slot, linear between the middles of slots; hour of day, day of week, and quarter
  days of the week for what these two miss. Each factor is a Gamma posterior around 1, so a thin key behaves as its
  parent's season says. Shares have none: the denominator carries it;
- *calendar*: the factor of known days (:mod:`stream.detect.calendars`); what is seen on such days is not learnt.

A pane is learnt when it leaves the ring of recent panes, so that the baseline does not hold what is compared with it.
It counts as ``(2.58 / z)**2`` where the longest window then stands ``z > 2.58`` standard deviations off (Noufaily et
al. 2013), at most as four deviations (winsorised), and not at all where its series was frozen (or the day special) then
or since. In *shadow* (a new model or rule counts differently) the rate is learnt anew within hours, and the season is
left alone. All doubt is reckoned with the dispersion of whole days, since the counts of a day err together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.detect.matrix import Matrix

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

DAY: Final = 86_400_000
WEEK: Final = 7 * DAY
SLOWER: Final = 4.0  # the second rate's half-life over the first one's
ROOT: Final = 0.5  # counts, in one pane, that are believed of a series without a parent (Jeffreys); with one: 1
PARENT_SEASON: Final = 5.0  # so many times more a factor of 1 is worth where a parent's season is there already
SHADOW: Final = 56.0  # so much faster the rate is learnt in shadow: a day is four half-lives of six hours
OUTLIER: Final = 2.58
WINSOR: Final = 4.0
SPARE: Final = 3.0  # counts that are never winsorised
LEAST: Final = 1e-6  # the least count that is expected


@dataclass(frozen=True, slots=True)
class Settings:
    """Times in ms. ``cycles`` are (length, slots, counts that a factor of 1 is worth), the shortest first.

    ``windows`` are in panes, ascending. Those up to ``ring`` slide pane by pane; longer ones are whole multiples of it,
    made of blocks of ``ring`` panes of which the last one is still growing.
    """

    pane_ms: int = 300_000
    windows: tuple[int, ...] = (1, 3, 12, 36, 144)
    ring: int = 12
    cycles: tuple[tuple[int, int, float], ...] = ((DAY, 24, 4.0), (WEEK, 7, 64.0), (WEEK, 28, 256.0))
    half_life: int = 14 * DAY
    season_half_life: int = 28 * DAY
    memory: int = 28 * DAY  # half-life of dispersions and of how often evidence runs high
    drift: float = 0.005  # growth a day that is plausible, as a standard deviation and as a bound
    day: int = DAY  # what "a day" of ``drift`` is
    together: int = DAY  # counts so near in time err together: over it the dispersion behind all doubt is learnt
    run_panes: int = 288  # a run of evidence begins where white noise gives one in so many panes
    prior_runs: float = 50.0  # what is believed of runs beforehand, in runs

    @property
    def blocks(self) -> int:
        """Blocks that are kept: those of the longest window."""
        return max(2, -(-self.windows[-1] // self.ring))

    @property
    def cycle_panes(self) -> int:
        """Panes in the shortest cycle."""
        return max(1, self.cycles[0][0] // self.pane_ms)

    @property
    def together_panes(self) -> int:
        return max(1, self.together // self.pane_ms)

    def decay(self, half_life: float) -> float:
        """Forgetting per pane."""
        return float(0.5 ** (self.pane_ms / half_life))

    def fields(self) -> dict[str, int]:
        """Of the state of a series."""
        slots = sum(count for _, count, _ in self.cycles)
        return {
            "count": 1, "exposure": 1, "slow_count": 1, "slow_exposure": 1, "age": 1, "off": 1, "held": 1,
            "season_count": slots, "season_expected": slots, "seen": self.ring, "expected": self.ring,
            "given": self.ring,
        }  # fmt: skip


class Forecast(NamedTuple):
    """Of one pane, by series."""

    mean: Floats
    doubt: Floats  # relative variance of the mean: what is not known of rate, season and calendar
    rate_doubt: Floats  # the rate's part, which does not average out over a day
    rate: Floats
    season: Floats  # own and parents' factors together


class Forecaster:
    """Rates and seasons of many series; ``state`` must have the fields of :meth:`Settings.fields`."""

    def __init__(self, settings: Settings, state: Matrix) -> None:
        self._settings, self._state = settings, state
        self._decay, self._slow_decay = settings.decay(settings.half_life), settings.decay(settings.half_life * SLOWER)
        self._shadow_decay = settings.decay(settings.half_life / SHADOW)
        self._drift = settings.drift * settings.pane_ms / settings.day
        self.parent: Ints = np.zeros(0, np.int64)  # -1: none
        self.share: Mask = np.zeros(0, bool)

    def place(self, parent: Ints, share: Mask) -> None:
        """Who belongs to whom, by series. Raises ValueError for a ring of parents."""
        self.parent, self.share = parent, share
        self._generations = generations(parent)
        self._siblings = np.bincount(parent[parent >= 0], minlength=len(parent))

    def forecast(self, pane: int, exposure: Floats, spread: Floats, calendar: tuple[float, float]) -> Forecast:
        """Of pane number ``pane``. ``spread`` is the dispersion by series, ``calendar`` a factor and its relative
        variance (for counts)."""
        season, doubt = self._season(pane, spread)
        rate = self.rate(spread)
        own = 1 / (np.where(self.parent >= 0, 1.0, ROOT) + self._state["count"] / spread)
        factor, vague = calendar
        plain = np.where(self.share, 1.0, season * factor)
        return Forecast(
            np.maximum(rate * plain * exposure, LEAST),
            own + np.where(self.share, 0.0, doubt + vague),
            own,
            rate,
            season,
        )

    def rate(self, spread: Floats) -> Floats:
        """Counts per exposure now, with drift."""
        state = self._state
        rate = np.zeros(state.size)
        for rows in self._generations:
            parent = self.parent[rows]
            if parent[0] >= 0:
                prior = rate[parent] / np.where(self.share[rows], 1, self._siblings[parent])
                weight = 1 / np.maximum(prior, LEAST)
                rate[rows] = (1 + state["count"][rows]) / (weight + state["exposure"][rows])
            else:
                rate[rows] = (ROOT + state["count"][rows]) / (1 + state["exposure"][rows])
        return np.asarray(rate * np.exp(self._growth(spread)))

    def _growth(self, spread: Floats) -> Floats:
        """The logarithm by which the rate has drifted since the mean age of what it was learnt from."""
        state = self._state
        panes = np.maximum(state["age"] - self._settings.ring, 0)
        age, slow_age = mean_age(panes, self._decay), mean_age(panes, self._slow_decay)
        apart = slow_age - age
        with np.errstate(divide="ignore", invalid="ignore"):
            tilt = np.log(state["count"] / state["exposure"]) - np.log(state["slow_count"] / state["slow_exposure"])
            plausible = (self._drift * apart) ** 2
            trust = plausible / (plausible + spread / (2 * state["count"]))
            drift = np.where((apart > 0) & (state["count"] > 0) & (state["exposure"] > 0), trust * tilt / apart, 0.0)
        return np.asarray(np.clip(drift, -self._drift, self._drift) * (age + self._settings.ring))

    def _season(self, pane: int, spread: Floats) -> tuple[Floats, Floats]:
        """Factors of each series with its parents', and their relative variance."""
        factors, doubt = self._factors(pane, spread)
        season = np.prod(factors, axis=0)
        for rows in self._generations[1:]:
            season[rows] *= season[self.parent[rows]]
        return season, doubt

    def _factors(self, pane: int, spread: Floats) -> tuple[Floats, Floats]:
        state = self._state
        trust = np.where(self.parent >= 0, PARENT_SEASON, 1.0)
        factors = np.empty((len(self._settings.cycles), state.size))
        doubt = np.zeros(state.size)
        for number, ((left, right), part) in enumerate(self._slots(pane)):
            count, expected = state["season_count"], state["season_expected"]
            counted = ((1 - part) * count[left] + part * count[right]) / spread
            prior = trust * self._settings.cycles[number][2]
            weight = prior + ((1 - part) * expected[left] + part * expected[right]) / spread
            factors[number] = (prior + counted) / weight
            doubt += 1 / weight
        return factors, doubt

    def _slots(self, pane: int) -> list[tuple[tuple[int, int], float]]:
        """For each cycle the two slots around the middle of a pane, and the second one's part."""
        places, first = [], 0
        middle = (pane + 0.5) * self._settings.pane_ms
        for length, count, _ in self._settings.cycles:
            place = middle % length / length * count - 0.5
            left = math.floor(place)
            places.append(((first + left % count, first + (left + 1) % count), place - left))
            first += count
        return places

    def learn(self, pane: int, shadow: Mask, spread: Floats, days: Floats) -> None:
        """Learn what ``pane``, which leaves the ring, has seen. ``spread``: of a pane's count, ``days``: of a day's."""
        state = self._state
        place = pane % self._settings.ring
        factors, _ = self._factors(pane, days)
        rate, season = self.rate(days), np.where(self.share, 1.0, self._season(pane, days)[0])
        exposure = np.where(self.share, state["given"][place], season)
        expected = rate * exposure
        grown = state["age"] - self._settings.ring
        highest = np.where(
            shadow | (grown < self._settings.cycle_panes),
            np.inf,
            expected + WINSOR * np.sqrt(expected * spread) + SPARE,
        )
        seen = np.minimum(state["seen"][place], highest)
        weight = np.where(shadow, 1.0, (OUTLIER / np.maximum(state["off"], OUTLIER)) ** 2)
        weight *= (grown >= 0) & (state["held"] <= pane)
        for count, amount, decay in (
            ("count", "exposure", self._decay),
            ("slow_count", "slow_exposure", self._slow_decay),
        ):
            forget = np.where(shadow, self._shadow_decay, np.where(weight > 0, decay, 1.0))
            state[count] = state[count] * forget + weight * seen
            state[amount] = state[amount] * forget + weight * exposure
        self._learn_season(
            pane, np.where(shadow | self.share, 0.0, weight), seen, expected / np.maximum(factors, LEAST)
        )

    def _learn_season(self, pane: int, weight: Floats, seen: Floats, expected: Floats) -> None:
        """``expected`` without the factor itself, by cycle."""
        counted, due = self._state["season_count"], self._state["season_expected"]
        for number, (slots, part) in enumerate(self._slots(pane)):
            decay = self._settings.decay(self._settings.season_half_life) ** self._settings.cycles[number][1]
            for slot, much in zip(slots, (1 - part, part), strict=True):
                forget = np.where(weight > 0, decay**much, 1.0)
                counted[slot] = counted[slot] * forget + much * weight * seen
                due[slot] = due[slot] * forget + much * weight * expected[number]


def mean_age(panes: Floats, decay: float) -> Floats:
    """Of what is remembered after so many panes, in panes."""
    left = decay**panes
    return np.asarray(decay / (1 - decay) - panes * left / np.maximum(1 - left, 1e-300))


def generations(parent: Ints) -> list[Ints]:
    """Series without a parent, their children, theirs ... Raises ValueError for a ring."""
    depth = np.full(len(parent), -1)
    depth[parent < 0] = 0
    found = [np.flatnonzero(depth == 0)]
    while len(found[-1]):
        below = np.flatnonzero((depth < 0) & (depth[parent] == len(found) - 1) & (parent >= 0))
        depth[below] = len(found)
        found.append(below)
    if np.any(depth < 0):
        raise ValueError(f"series {np.flatnonzero(depth < 0)[0]} is its own ancestor")
    return found[:-1]
