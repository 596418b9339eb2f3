"""Logarithms of tail probabilities, for whole columns of counts at once.

Far tails are where detection lives, so everything is kept as a natural logarithm: the tail of 300 against 3 is -1088.3
here and zero in floating point. Upper tails of the negative binomial and of the binomial are regularised incomplete
beta functions (DLMF 8.17.5, 8.17.22: the continued fraction, by the modified Lentz method), which also read counts that
are no whole numbers: weighted ones, and those divided by a dispersion.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
STEPS: Final = 400  # of the continued fraction: it needs about the square root of the larger count
CLOSE: Final = 1e-9
TINY: Final = 1e-300
SHIFT: Final = 8  # Stirling's series holds to 1e-13 above


def log_upper(observed: Floats, mean: Floats, variance: Floats) -> Floats:
    """log P(X >= observed), X negative binomial with ``mean`` > 0 and ``variance`` (Poisson where that is less)."""
    shape = nb_shape(mean, variance)
    with np.errstate(divide="ignore"):
        tail = log_beta(np.maximum(observed, TINY), shape, mean / (mean + shape))
    return np.asarray(np.where(observed > 0, tail, 0.0))


def log_lower(observed: Floats, mean: Floats, variance: Floats) -> Floats:
    """log P(X <= observed), X as in :func:`log_upper`."""
    shape = nb_shape(mean, variance)
    return log_beta(shape, observed + 1, shape / (mean + shape))


def nb_shape(mean: Floats, variance: Floats) -> Floats:
    """The shape of a negative binomial; large enough for a Poisson where the variance is not above the mean."""
    return np.asarray(mean * mean / np.maximum(variance - mean, 1e-6 * mean + 1e-9 * mean * mean))


def log_beta(a: Floats, b: Floats, x: Floats) -> Floats:
    """log I_x(a, b) for a, b > 0 and 0 < x < 1, element by element."""
    a, b, x = np.broadcast_arrays(a, b, x)
    front = log_gamma(a + b) - log_gamma(a) - log_gamma(b) + a * np.log(x) + b * np.log1p(-x)
    near = x < (a + 1) / (a + b + 2)
    first, second = np.where(near, a, b), np.where(near, b, a)
    part = front + np.log(_fraction(first, second, np.where(near, x, 1 - x))) - np.log(first)
    part = np.minimum(part, -TINY)
    return np.asarray(np.where(near, part, np.log1p(-np.exp(np.minimum(part, -1e-16)))))


def _fraction(a: Floats, b: Floats, x: Floats) -> Floats:
    c: Floats = np.ones_like(a)
    d: Floats = 1 / (1 - (a + b) * x / (a + 1))
    value = d.copy()
    for m in range(1, STEPS):
        grown, order = a + 2 * m, float(m)
        even = order * (b - order) * x / ((grown - 1) * grown)
        odd = -(a + order) * (a + b + order) * x / (grown * (grown + 1))
        for step in (even, odd):
            d = 1 + step * d
            d = np.asarray(1 / np.where(np.abs(d) < TINY, TINY, d))
            c = 1 + step / c
            c = np.asarray(np.where(np.abs(c) < TINY, TINY, c))
            value *= c * d
        if np.all(np.abs(c * d - 1) < CLOSE):
            break
    return value


def log_gamma(x: Floats) -> Floats:
    """log Gamma(x) for x > 0, to about 1e-12."""
    product: Floats = np.ones_like(x)
    for step in range(SHIFT):
        product = product * (x + step)
    y = x + SHIFT
    z = 1 / (y * y)
    series = (1 / 12 - z * (1 / 360 - z * (1 / 1260 - z / 1680))) / y
    return np.asarray((y - 0.5) * np.log(y) - y + 0.5 * math.log(2 * math.pi) + series - np.log(product))
