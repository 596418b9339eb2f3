"""Is this count too high? Tail, band and severity under a negative binomial, and thresholds that follow from budgets.

The predictive distribution of a window is negative binomial with mean ``m`` and shape ``r`` (variance ``m + m*m/r``):
a Poisson count whose rate is known only up to a Gamma (Gelman et al., Bayesian Data Analysis, 2.6). Its upper tail is a
regularised incomplete beta function, P(X >= x) = I_{m/(m+r)}(x, r), which also reads weighted, non-integer counts;
evaluated by the continued fraction of Numerical Recipes 6.4 (modified Lentz).
"""

from __future__ import annotations

import math
from typing import Final

BAND: Final = 0.98  # probability inside the band of an alert
CLUMP: Final = 0.25  # mean length of a run of exceeding windows, as a share of the window
DAY_MS: Final = 86_400_000


def tail(observed: float, mean: float, shape: float) -> float:
    """P(X >= observed) for X negative binomial with ``mean`` > 0 and ``shape`` > 0."""
    if observed <= 0:
        return 1.0
    return incomplete_beta(observed, shape, mean / (mean + shape))


def band(mean: float, shape: float) -> tuple[float, float]:
    """The counts between which a normal window lies with probability :data:`BAND`."""
    side = (1 - BAND) / 2
    return float(quantile(side, mean, shape)), float(quantile(1 - side, mean, shape))


def quantile(p: float, mean: float, shape: float) -> int:
    """The least count ``k`` with P(X <= k) >= p."""
    low, high = -1, 1
    while tail(high + 1, mean, shape) > 1 - p:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tail(middle + 1, mean, shape) > 1 - p else (low, middle)
    return high


def open_threshold(key_days: float, shop_per_day: float, active_keys: int, pane_ms: int, window_panes: int) -> float:
    """The tail probability at which an alert opens.

    A window is tested every pane, but windows overlap: one unlucky stretch exceeds in a run of about ``CLUMP * window``
    tests and rings once. With ``n = panes a day / run length`` separate chances a day, the budget of a key is
    ``1 / (key_days * n)`` and that of the shop, shared by its active keys (Bonferroni), ``shop_per_day / (keys * n)``;
    the smaller one counts.
    """
    chances = DAY_MS / pane_ms / max(1.0, CLUMP * window_panes)
    return min(1 / key_days, shop_per_day / max(1, active_keys)) / chances


def severity(observed: float, expected: float, probability: float) -> int:
    """1 to 10: the geometric mean of how improbable (-log10 of the tail) and how many (log2 of one plus the excess).

    Examples: 5 against 0.3 (1e-5): 4; 12 against 1 (1e-9): 6; 60 against 5 (1e-30): 10.
    """
    surprise = -math.log10(max(probability, 1e-40))
    many = math.log2(1 + max(0.0, observed - expected))
    return min(10, max(1, round(math.sqrt(max(0.0, surprise) * many))))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), the regularised incomplete beta function, for a, b > 0 and 0 <= x <= 1."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return min(1.0, front * _fraction(a, b, x) / a)
    return max(0.0, 1 - front * _fraction(b, a, 1 - x) / b)


def _fraction(a: float, b: float, x: float) -> float:
    tiny = 1e-300
    c = 1.0
    d = 1 / ((1 - (a + b) * x / (a + 1)) or tiny)
    result = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d = 1 / ((1 + step * d) or tiny)
            c = (1 + step / c) or tiny
            result *= d * c
        if abs(d * c - 1) < 1e-12:
            break
    return result
