"""What a test says about one series in one closed window: the only thing that passes from statistics to alerts.

Scores are rounded (:func:`rounded`), so that the last bits of a float, which differ between machines and vector widths,
decide nothing.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Statistic = Literal["burst", "ramp", "silence", "share", "stock"]
MOST: Final = 40.0  # no p-value is believed to be below 1e-40


class Score(NamedTuple):
    """One test of one series, at the end of a pane."""

    statistic: Statistic
    observed: float  # in the window of the statistic (for a ramp: since it began)
    expected: float
    lo: float  # the band in which a normal window lies
    hi: float
    surprise: float  # -log10 of the p-value under the budgeted null, in [0, MOST]
    since: int  # when the window (or the ramp) began, epoch ms


def rounded(score: Score) -> Score:
    """Numbers to six significant digits, the surprise to three decimals."""
    observed, expected, low, high = (float(f"{value:.6g}") for value in score[1:5])
    return Score(score.statistic, observed, expected, low, high, round(min(score.surprise, MOST), 3), score.since)
