"""Is a probability of 0.8 right eight times in ten? Expected calibration error, and the picture that shows it."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from serving.labels import ASPECTS, DEMANDS, POLARITIES
from training.metrics import Answer

BINS: Final = 10
_SIDE, _MARGIN = 240, 40  # of one panel, in pixels

Pairs = npt.NDArray[np.float64]  #: [N, 2]: a probability that was given, and 1.0 where it was right


def sentiment_pairs(found: Sequence[Answer]) -> Pairs:
    """The probability of the likeliest sentiment; where a set knows no neutral, neutral is not an option."""
    known = [answer for answer in found if answer.row.sentiment]
    options = sorted({POLARITIES.index(answer.row.sentiment) for answer in known if answer.row.sentiment})
    shares = np.array([answer.sentiment[options] / answer.sentiment[options].sum() for answer in known])
    right = [POLARITIES[options[i]] == answer.row.sentiment for i, answer in zip(shares.argmax(1), known, strict=True)]
    return np.column_stack([shares.max(1), right]).astype(float)


def presence_pairs(found: Sequence[Answer], labels: Sequence[str] = (*ASPECTS, *DEMANDS)) -> Pairs:
    """The probability that a label is in a text, for every cell that is known."""
    pairs = [
        (answer.presence(label), label in answer.row.aspects or label in answer.row.demands)
        for answer in found
        for label in labels
        if label in answer.row.known_aspects or label in answer.row.known_demands
    ]
    return np.array(pairs, float).reshape(-1, 2)


def bins(pairs: Pairs) -> list[tuple[float, float, int]]:
    """(mean probability, share that was right, number) of each tenth of [0, 1] that is not empty."""
    place = np.minimum((pairs[:, 0] * BINS).astype(int), BINS - 1)
    groups = [pairs[place == i] for i in range(BINS)]
    return [(float(group[:, 0].mean()), float(group[:, 1].mean()), len(group)) for group in groups if len(group)]


def calibration_error(pairs: Pairs) -> float:
    """Expected calibration error: mean distance of probability and share, weighted by the number in each bin."""
    return sum(abs(mean - share) * count for mean, share, count in bins(pairs)) / max(1, len(pairs))


def drawing(panels: Mapping[str, Pairs]) -> str:
    """An SVG with a reliability diagram per panel; the area of a dot grows with its bin."""
    parts = [_panel(title, pairs, i * (_SIDE + _MARGIN) + _MARGIN) for i, (title, pairs) in enumerate(panels.items())]
    width, height = len(panels) * (_SIDE + _MARGIN) + _MARGIN, _SIDE + 2 * _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="11"><rect width="{width}" height="{height}" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _panel(title: str, pairs: Pairs, left: int) -> str:
    def across(share: float) -> float:
        return round(left + share * _SIDE, 1)

    def up(share: float) -> float:
        return round(_MARGIN + (1 - share) * _SIDE, 1)

    found = bins(pairs)
    dots = "".join(
        f'<circle cx="{across(mean)}" cy="{up(share)}" r="{2 + 8 * (count / len(pairs)) ** 0.5:.1f}" fill="#2563eb"/>'
        for mean, share, count in found
    )
    line = " ".join(f"{across(mean)},{up(share)}" for mean, share, _ in found)
    return (
        f'<rect x="{left}" y="{_MARGIN}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#999"/>'
        f'<line x1="{across(0)}" y1="{up(0)}" x2="{across(1)}" y2="{up(1)}" stroke="#ccc"/>'
        f'<polyline points="{line}" fill="none" stroke="#2563eb"/>{dots}'
        f'<text x="{left}" y="{_MARGIN - 12}">{title}: ECE {calibration_error(pairs):.3f}</text>'
        f'<text x="{left}" y="{_MARGIN + _SIDE + 16}">probability given (0 to 1)</text>'
        f'<text x="{left - 8}" y="{_MARGIN + _SIDE}" transform="rotate(-90 {left - 8} {_MARGIN + _SIDE})">'
        f"share that was right</text>"
    )
