"""Detectors to stand beside: z-score, EWMA, a Farrington-style regression, and River's Gaussian scorer.

Each takes counts (weeks x series) and says in which weeks, from ``first`` on, it would flag which series, at a nominal
rate of ``alpha`` false flags a week. They are kept as people use them: their thresholds are normal quantiles.
"""

from __future__ import annotations

from importlib.util import find_spec
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
YEAR: Final = 52
PAST: Final = 5  # years that the regression looks back
AROUND: Final = 3  # weeks before and after the same week
SMOOTH: Final = 0.3


def z_score(counts: Floats, first: int, alpha: float) -> Mask:
    """Against mean and deviation of the last year."""
    limit = NormalDist().inv_cdf(1 - alpha)
    flags = np.zeros(counts.shape, bool)
    for week in range(first, len(counts)):
        past = counts[week - YEAR : week]
        flags[week] = counts[week] > past.mean(axis=0) + limit * past.std(axis=0, ddof=1)
    return flags


def ewma(counts: Floats, first: int, alpha: float) -> Mask:
    """A control chart of smoothed counts (Roberts 1959) against mean and deviation of the last year."""
    limit = NormalDist().inv_cdf(1 - alpha) * np.sqrt(SMOOTH / (2 - SMOOTH))
    flags = np.zeros(counts.shape, bool)
    smooth = counts[:first].mean(axis=0)
    for week in range(first, len(counts)):
        past = counts[week - YEAR : week]
        smooth = (1 - SMOOTH) * smooth + SMOOTH * counts[week]
        flags[week] = smooth > past.mean(axis=0) + limit * past.std(axis=0, ddof=1)
    return flags


def farrington(counts: Floats, first: int, alpha: float) -> Mask:
    """Quasi-Poisson regression on the same weeks of five years, with trend and down-weighted past outbreaks.

    The limit is the 2/3 power approximation (Farrington et al. 1996), the weights are those of Noufaily et al. (2013).
    """
    limit = NormalDist().inv_cdf(1 - alpha)
    flags = np.zeros(counts.shape, bool)
    for week in range(first, len(counts)):
        weeks = np.array(
            [week - YEAR * year + near for year in range(PAST, 0, -1) for near in range(-AROUND, AROUND + 1)]
        )
        mean, spread, error = regression(counts[weeks], (weeks - week) / YEAR)
        upper = mean * np.maximum(0, 1 + 2 / 3 * limit * np.sqrt(spread / mean + error)) ** 1.5
        flags[week] = counts[week] > upper
    return flags


def regression(counts: Floats, years: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean at 0 years, dispersion, and relative variance of the mean, by series."""
    weights = np.ones_like(counts)
    mean = np.tile(np.maximum(counts.mean(axis=0), 0.05), (len(counts), 1))
    design = np.stack([np.ones_like(years), years], axis=1)
    for step in range(8):
        w = weights * mean
        z = np.log(mean) + (counts - mean) / mean
        normal = np.einsum("wi,wj,wn->nij", design, design, w) + 1e-6 * np.eye(2)
        beta = np.linalg.solve(normal, np.einsum("wi,wn->ni", design, w * z)[..., None])[..., 0]
        mean = np.exp(np.clip(design @ beta.T, -6, 12))
        if step in (3, 5):
            spread = np.maximum(1, (weights * (counts - mean) ** 2 / mean).sum(axis=0) / (weights.sum(axis=0) - 2))
            off = 1.5 * (counts ** (2 / 3) - mean ** (2 / 3)) / (mean ** (1 / 6) * np.sqrt(spread))
            weights = np.where(off > 2.58, 1 / np.maximum(off, 1) ** 2, 1.0)
            weights *= len(counts) / weights.sum(axis=0)
    spread = np.maximum(1, (weights * (counts - mean) ** 2 / mean).sum(axis=0) / (len(counts) - 2))
    error = spread * np.linalg.inv(normal)[:, 0, 0]
    return np.exp(np.clip(beta[:, 0], -6, 12)), spread, error


def river_gaussian(counts: Floats, first: int, alpha: float) -> Mask:
    """River's GaussianScorer over a year, one series after the other."""
    from river import anomaly

    flags = np.zeros(counts.shape, bool)
    for series in range(counts.shape[1]):
        scorer = anomaly.GaussianScorer(window_size=YEAR, grace_period=YEAR)
        for week, count in enumerate(counts[:, series].tolist()):
            if week >= first and count > counts[week - YEAR : week, series].mean():  # its score is two-sided
                flags[week, series] = river_score(scorer, count) > 1 - 2 * alpha
            scorer.learn_one(None, count)
    return flags


def river_score(scorer: Any, count: float) -> float:
    """0 where its running variance has fallen below zero by rounding (river 0.19), of which it raises TypeError."""
    try:
        return float(scorer.score_one(None, count))
    except TypeError:
        return 0.0


PEERS = {"z-score": z_score, "EWMA": ewma, "Farrington": farrington}
if find_spec("river"):  # its release for our numpy has no wheels for Python 3.12
    PEERS["River Gaussian"] = river_gaussian
