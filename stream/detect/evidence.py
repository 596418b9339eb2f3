"""How far from normal: windows of several lengths against the forecast, ramps, silence; and what that is worth in time.

**Evidence** of a series in a pane, in powers of ten, is

- *burst*: the mean over all windows of -log10 P(as many or more), where P is the negative binomial (for shares the
  binomial) with the window's expected count, its learnt dispersion and the doubt of the forecast. Windows no more than
  one standard deviation up count 0. The mean asks of a burst to be there at more than one scale, so that a lone
  spike has to be a large one (Fisher's combination; what its parts' dependence does to it is measured, see below);
- *silence*: the same for as few or less in the windows of a ring and longer, or -log10 P(nothing) since the last count,
  whichever is more;
- *ramp*: an e-detector (Shin, Ramdas & Rinaldo 2023): log10 of the mean of three Shiryaev-Roberts sums, R <- (R + 1) L,
  with the likelihood ratio L of a rate risen by a quarter, a half, or the whole; at the dispersion of whole days, and
  against the upper end of what the rate may be. E[L] <= 1 under the null, so R reaches c at most once in c panes.

**From evidence to time.** The budget speaks of false alarms per time, so evidence x is turned into its *surprise*:
-log10 of how often a normal series raises an alarm at least as strong, per pane. Every excursion above a ``start``
counts as one *run*, over when evidence stayed below for a ring of panes; with ``runs`` of them in ``panes`` and a mean
excess of ``scale`` at their peaks, excesses being close to exponential (they are logarithms of probabilities),

    surprise = -log10(runs / panes) + (x - start) / (scale ln 10).

Each series learns both figures of itself, from a prior worth ``Settings.prior_runs`` runs: what its siblings showed,
who begin in the same way with what white noise gives through the same windows (:func:`white`; ``start`` is where it
gives one run in ``Settings.run_panes``). The number of runs is taken ``CAUTION`` posterior deviations higher. Few
counts behave otherwise than white noise, so no burst is believed to be rarer than the same evidence is among Poisson
counts as few as these (:func:`poisson`). So dependent windows, overlapping ones, discrete counts and
habitual spikes are all paid for, and a budget of one alarm in N panes is the threshold log10(N), whatever the series.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.detect.forecast import WINSOR, Floats, Forecast, Mask, Settings
from stream.detect.matrix import Matrix
from stream.detect.tails import log_beta, log_lower, log_upper, nb_shape

KINDS: Final = ("burst", "ramp", "silence")
RISES: Final = (0.25, 0.5, 1.0)  # of the rate, that a ramp is tested for
CAUTION: Final = 0.5
FEWEST: Final = 0.5  # of the runs of white noise that any series is believed to have
MOST_EXCESS: Final = 40.0  # mean excesses of the prior that a single run may teach
FIRST_SPREAD: Final = 1.5  # dispersion of a group that has shown nothing yet
PRIOR_SPREAD: Final = 5.0  # counts that this is worth, and the group's to a series
LEAST_SPREAD: Final = 1.05
NO_RAMP: Final = -50.0  # logarithm of a sum that has seen nothing
LN10: Final = float(np.log(10))


class Window(NamedTuple):
    """Of one length, by series."""

    panes: int  # that it holds by now
    seen: Floats
    expected: Floats
    spread: Floats
    variance: Floats


def fields(settings: Settings) -> dict[str, int]:
    """Of the state of a series, beside those of the forecast."""
    windows = len(settings.windows)
    runs = {f"{kind}_{name}": 1 for kind in KINDS for name in ("runs", "excess", "peak", "calm")}
    return {
        "block_seen": settings.blocks, "block_expected": settings.blocks, "squares": windows, "sums": windows,
        "day_seen": 1, "day_expected": 1, "day_squares": 1, "day_sums": 1, "gap": 1, "ramp": len(RISES),
        "panes": 1, **runs,
    }  # fmt: skip


def push(settings: Settings, state: Matrix, pane: int, seen: Floats, expected: Floats, exposure: Floats) -> None:
    """Put a pane into its ring and block."""
    place, block = pane % settings.ring, pane // settings.ring % settings.blocks
    state["seen"][place], state["expected"][place], state["given"][place] = seen, expected, exposure
    if place == 0:
        state["block_seen"][block] = state["block_expected"][block] = 0
    state["block_seen"][block] += seen
    state["block_expected"][block] += expected


def windows(settings: Settings, state: Matrix, pane: int, spread: Floats, doubt: Floats) -> list[Window]:
    """The windows that end with ``pane``; ``spread`` by window and series."""
    found: list[Window] = []
    for number, length in enumerate(settings.windows):
        if length <= settings.ring:
            rows, panes = [(pane - back) % settings.ring for back in range(length)], length
            names = ("seen", "expected")
        else:
            block = pane // settings.ring
            rows = [(block - back) % settings.blocks for back in range(length // settings.ring)]
            panes = length - settings.ring + pane % settings.ring + 1
            names = ("block_seen", "block_expected")
        seen, expected = (np.add.reduce(state[name][rows], axis=0) for name in names)
        expected = np.maximum(expected, 1e-9)
        variance = expected * spread[number] + expected * expected * doubt
        found.append(Window(panes, seen, expected, spread[number], variance))
    return found


def spreads(state: Matrix, group: NDArray[np.int64]) -> Floats:
    """Dispersion (variance over mean) by window and series, shrunk towards that of its group."""
    squares, sums = state["squares"], state["sums"]
    groups = int(group.max(initial=0)) + 1
    result = np.empty_like(squares)
    for number in range(len(squares)):
        common = (PRIOR_SPREAD * FIRST_SPREAD + np.bincount(group, squares[number], groups)) / (
            PRIOR_SPREAD + np.bincount(group, sums[number], groups)
        )
        result[number] = (squares[number] + PRIOR_SPREAD * common[group]) / (sums[number] + PRIOR_SPREAD)
    return np.maximum(result, LEAST_SPREAD)


def learn_spreads(settings: Settings, state: Matrix, found: list[Window], usable: Mask) -> None:
    """Take in the windows, each by its part of a new one; residuals are winsorised, and doubt is taken out."""
    forget = settings.decay(settings.memory)
    for number, window in enumerate(found):
        sure = window.expected * window.spread / window.variance
        off = np.minimum(np.abs(window.seen - window.expected), WINSOR * np.sqrt(window.variance) + 1)
        part = usable / window.panes
        state["squares"][number] = state["squares"][number] * forget + part * (sure * off) ** 2
        state["sums"][number] = state["sums"][number] * forget + part * sure * window.expected


def learn_days(settings: Settings, state: Matrix, pane: int, usable: Mask) -> None:
    """The dispersion of whole days (``Settings.together``), at the end of each."""
    if (pane + 1) % settings.together_panes:
        return
    forget = settings.decay(settings.memory) ** settings.together_panes
    expected = state["day_expected"]
    off = np.minimum(np.abs(state["day_seen"] - expected), WINSOR * np.sqrt(expected * day_spread(state)) + 1)
    state["day_squares"] = state["day_squares"] * forget + usable * off * off
    state["day_sums"] = state["day_sums"] * forget + usable * expected
    state["day_seen"] = state["day_expected"] = 0


def day_spread(state: Matrix) -> Floats:
    return np.maximum(
        (PRIOR_SPREAD * FIRST_SPREAD + state["day_squares"]) / (PRIOR_SPREAD + state["day_sums"]), LEAST_SPREAD
    )


def burst(found: list[Window], rate: Floats, share: Mask) -> Floats:
    """Evidence of too many, by window and series."""
    seen, expected, variance = (np.array([window[place] for window in found]) for place in (1, 2, 4))
    result = np.zeros_like(expected)
    high = seen > expected + np.sqrt(variance)
    counts, shares = high & ~share, high & share
    if counts.any():
        result[counts] = -log_upper(seen[counts], expected[counts], variance[counts]) / LN10
    if shares.any():
        rates = np.broadcast_to(rate, seen.shape)[shares]
        result[shares] = -log_share(seen[shares], expected[shares], variance[shares], rates) / LN10
    return result


def log_share(seen: Floats, expected: Floats, variance: Floats, rate: Floats) -> Floats:
    """log P(as many or more) of a binomial with a dispersion: of counts over it."""
    p = np.clip(rate, 1e-9, 1 - 1e-9)
    over = np.maximum(variance / (expected * (1 - p)), 1.0)
    others = np.maximum(expected / p - seen, 0.0)
    return log_beta(seen / over, (others + 1) / over, p)


def silence(settings: Settings, found: list[Window], spread: Floats, doubt: Floats, gap: Floats) -> Floats:
    """Evidence of too few, by series. ``gap``: what was expected since the last count."""
    long = [window for window in found if window.panes >= settings.ring or len(found) == 1] or found[-1:]
    seen, expected, variance = (np.array([window[place] for window in long]) for place in (1, 2, 4))
    few = seen < expected - np.sqrt(variance)
    logs = np.zeros_like(expected)
    if few.any():
        logs[few] = -log_lower(seen[few], expected[few], variance[few]) / LN10
    total = logs.sum(axis=0)
    shape = nb_shape(np.maximum(gap, 1e-9), gap * spread[-1] + gap * gap * doubt)
    nothing = shape * np.log1p(gap / shape) / LN10
    return np.asarray(np.maximum(total / len(long), nothing))


def ramp(state: Matrix, seen: Floats, forecast: Forecast, spread: Floats, frozen: Mask) -> Floats:
    """Evidence of a slowly risen rate, by series; moves the sums."""
    mean = forecast.mean * (1 + np.sqrt(forecast.rate_doubt))
    count = np.minimum(seen, mean + WINSOR * np.sqrt(mean * spread) + 1)
    usual = (spread - 1) / spread
    shape = mean / (spread - 1)
    sums = state["ramp"]
    for number, rise in enumerate(RISES):
        risen = (1 + rise) * (spread - 1) / (1 + (1 + rise) * (spread - 1))
        log_ratio = count * np.log(risen / usual) + shape * np.log((1 - risen) / (1 - usual))
        moved = np.logaddexp(sums[number], 0.0) + log_ratio
        sums[number] = np.where(frozen, sums[number], np.maximum(moved, NO_RAMP))
    return np.asarray(np.maximum(np.logaddexp.reduce(sums, axis=0) - np.log(len(RISES)), 0.0) / LN10)


def surprise(
    settings: Settings,
    state: Matrix,
    kind: str,
    evidence: Floats,
    usable: Mask,
    events: Floats,
    group: NDArray[np.int64],
) -> Floats:
    """What evidence is worth in time (see above), from what was known before; then takes it in.

    ``events``: what the longest window expects, in counts over their dispersion; siblings share a ``group``.
    """
    start, scale = white(settings) if kind == "burst" else (np.log10(settings.run_panes), 1 / LN10)
    prior, runs, excess = settings.prior_runs, state[f"{kind}_runs"], state[f"{kind}_excess"]
    theirs = prior + others(group, runs)
    gap = (prior * settings.run_panes + others(group, state["panes"])) / theirs
    known = prior + runs
    often = (known + CAUTION * np.sqrt(known)) / (prior * gap + state["panes"])
    often = np.maximum(often, FEWEST / settings.run_panes)
    usual = (prior * scale + others(group, excess)) / theirs
    mean = np.maximum((prior * usual + excess) / known, scale)
    above = evidence - start
    result = np.where((above > 0) & usable, above / (mean * LN10) - np.log10(often), 0.0)
    if kind == "burst":
        result = np.minimum(result, poisson_surprise(settings, np.maximum(above, 0.0), events))
    learn_runs(settings, state, kind, above, usable, MOST_EXCESS * scale)
    return result


def others(group: NDArray[np.int64], values: Floats) -> Floats:
    """Of each series, the sum over the others of its group."""
    return np.maximum(np.bincount(group, values)[group] - values, 0.0)


def learn_runs(settings: Settings, state: Matrix, kind: str, above: Floats, usable: Mask, most: float) -> None:
    """Count runs, and how far each goes."""
    forget = settings.decay(settings.memory)
    peak, calm = state[f"{kind}_peak"], state[f"{kind}_calm"]
    hot = (above > 0) & usable
    begins = hot & (calm <= 0)
    before = np.where(begins, 0.0, peak)
    after = np.where(hot, np.maximum(before, np.minimum(above, most)), before)
    state[f"{kind}_runs"] = state[f"{kind}_runs"] * forget + begins
    state[f"{kind}_excess"] = state[f"{kind}_excess"] * forget + (after - before)
    state[f"{kind}_peak"] = after
    state[f"{kind}_calm"] = np.where(hot, settings.ring, np.maximum(calm - 1, 0))


@lru_cache
def white(settings: Settings, panes: int = 200_000) -> tuple[float, float]:
    """(start, mean excess) of the runs of burst evidence that white noise gives in the windows of ``settings``."""
    noise = np.random.Generator(np.random.PCG64(1)).standard_normal(panes).cumsum()
    total = np.zeros(panes)
    for length in settings.windows:
        z = (noise[length:] - noise[:-length]) / np.sqrt(length)
        total[length:] += np.where(z > 1, -log_normal_tail(z) / LN10, 0.0)
    total /= len(settings.windows)
    low, high = 0.0, float(total.max())
    for _ in range(20):
        start = (low + high) / 2
        peaks = peaks_above(total, start, settings.ring)
        low, high = (start, high) if len(peaks) * settings.run_panes > panes else (low, start)
    return round(start, 4), float(f"{peaks.mean() - start:.4g}")


GRID: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # counts in the longest window
STEP: Final = 0.05  # of evidence
STEPS: Final = 120


@lru_cache
def poisson(settings: Settings, panes: int = 400_000) -> Floats:
    """Surprise of burst evidence for Poisson counts (grid of means x steps of evidence above the start).

    Few and discrete counts stand out in all windows at once, which white noise does not. Where fewer than ten runs were
    seen, a decade for each unit of evidence: what a single p-value has.
    """
    random = np.random.Generator(np.random.PCG64(2))
    start, _ = white(settings)
    longest = settings.windows[-1]
    table = np.empty((len(GRID), STEPS))
    for row, mean in enumerate(GRID):
        counts = random.poisson(mean / longest, panes).cumsum()
        total = np.zeros(panes)
        for length in settings.windows:
            seen = counts[length:] - counts[:-length]
            expected = np.full(int(seen.max()) + 1, mean * length / longest)
            values = np.arange(len(expected), dtype=float)
            logs = -log_upper(values, expected, expected) / LN10
            logs[values <= expected + np.sqrt(expected)] = 0
            total[length:] += logs[seen]
        peaks = peaks_above(total / len(settings.windows), start, settings.ring) - start
        reached = (peaks[:, None] >= STEP * np.arange(STEPS)).sum(axis=0)
        known = max(1, int((reached >= 10).sum()))
        table[row] = np.log10(panes / np.maximum(reached, 10))
        table[row, known:] = table[row, known - 1] + STEP * np.arange(1, STEPS - known + 1)
    return table


def poisson_surprise(settings: Settings, above: Floats, mean: Floats) -> Floats:
    """From the table, for ``mean`` counts in the longest window; of neighbours in the table the lower one counts."""
    table = poisson(settings)
    row = np.clip(np.searchsorted(np.log(GRID), np.log(np.maximum(mean, 1e-9)), side="right") - 1, 0, len(GRID) - 2)
    place = np.clip(above / STEP, 0, STEPS - 1).astype(int)
    over = np.maximum(above - STEP * (STEPS - 1), 0.0)
    return np.asarray(np.minimum(table[row, place], table[row + 1, place]) + over)


def peaks_above(values: Floats, start: float, gap: int) -> Floats:
    """The peak of each run above ``start``; a run is over after ``gap`` values below."""
    hot = np.flatnonzero(values > start)
    begins = np.flatnonzero(np.diff(hot, prepend=-2 * gap - 2) > gap)
    return np.asarray(np.maximum.reduceat(values[hot], begins))


def log_normal_tail(z: Floats) -> Floats:
    """log P(Z > z) for z >= 1, to 1e-6 (Laplace's continued fraction; Abramowitz & Stegun 26.2.14)."""
    z = np.maximum(z, 1.0)
    below = z
    for term in range(60, 0, -1):
        below = z + term / below
    return np.asarray(-z * z / 2 - 0.5 * np.log(2 * np.pi) - np.log(below))
