"""What is normal: how many of these should the window hold, and how sure are we.

Each key is a Gamma-Poisson model of its *share*: counts per text on its product, with exponential forgetting. Shares do
the work of calendars: the shop's own volume in the window is the hour of day, the product's own volume is the
promotion. A pane is judged while it is in the window and learnt when it leaves, so that the baseline never contains
what it is compared with. With forgotten sums ``A`` of the key, ``T`` of texts on its product, ``L`` of the label in the
shop and ``S`` of texts in the shop (for what clicks count towards, of texts, carts and purchases):

- the prior share is the shop's, ``(L + 2) / (S + 20)``; the key's is ``(1 + A) / (T + 1 / prior)``: a cold key behaves
  like the shop, with the wide tail of a Gamma of shape 1, so that 2 against 0 is no news and 10 against 0 is;
- usual exposure is the product's usual part of the shop, ``(T + 3) / (S + 3)``, times the shop's texts in the window;
  a volume-aware rule takes the product's own texts in the window where they are more. From both volumes the excess of
  the key itself is taken out first: a wave of complaints must not excuse itself;
- spread beyond Poisson is a dispersion factor (quasi-Poisson: Pearson's statistic over counts; McCullagh & Nelder 4.5),
  pooled over the label and shrunk towards it per key, from residuals winsorised at three standard deviations.

Silence costs nothing: a key with an empty window is not touched, and its sums are forgotten in closed form when read.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from stream.detect.cells import Candidate, Cell, merge

PRIOR_TEXTS: Final = 20.0  # weight of the first guess of a label's share, in texts
PRIOR_COUNT: Final = 2.0  # ... and its counts
PRIOR_SHAPE: Final = 1.0  # counts that the shop's share is worth to a key
PRIOR_VOLUME: Final = 3.0  # texts that every product is granted
PRIOR_SPREAD: Final = 20.0  # counts that the pooled dispersion is worth
WINSOR: Final = 3.0
MAX_SHAPE: Final = 1e6


class Expectation(NamedTuple):
    """Predictive distribution of a window: negative binomial with ``mean`` and ``shape``."""

    mean: float
    shape: float
    known: float  # the part of the relative variance that comes from not knowing the rate
    spread: float  # dispersion factor, at least 1


@dataclass(slots=True)
class Track:
    """The state of one series: its window of recent panes and the forgotten sums of all before.

    Pane numbers count from the epoch. Sums are as of pane ``at``; times ``decay ** (now - at)`` they hold later.
    """

    at: int
    level: float = 0.0  # counts learnt
    squares: float = 0.0  # residuals squared, and
    counts: float = 0.0  # the counts they belong to
    dose: float | None = None  # counts to learn per pane while the window is raised; None: what was seen
    window: deque[tuple[int, Cell]] = field(default_factory=deque)  # panes that counted something, oldest first
    observed: float = 0.0  # sums over the window, exact (see cells)
    texts: float = 0.0

    def push(self, pane: int, cell: Cell) -> None:
        """Take in counts of ``pane``: the newest, or an older one that is told late."""
        place = len(self.window)
        while place and self.window[place - 1][0] > pane:
            place -= 1
        if place and self.window[place - 1][0] == pane:
            self.window[place - 1] = (pane, merge(self.window[place - 1][1], cell))
        else:
            self.window.insert(place, (pane, cell))
        self.observed += cell.observed
        self.texts += cell.texts

    def expire(self, first: int) -> float:
        """Drop the panes before ``first``; their total count."""
        gone = 0.0
        while self.window and self.window[0][0] < first:
            cell = self.window.popleft()[1]
            gone += cell.observed
            self.observed -= cell.observed
            self.texts -= cell.texts
        return gone

    def forget(self, now: int, decay: float) -> None:
        """Bring the sums to pane ``now``."""
        if self.at < now:
            factor = decay ** (now - self.at)
            self.level *= factor
            self.squares *= factor
            self.counts *= factor
            self.at = now

    def level_at(self, now: int, decay: float) -> float:
        """The level as of pane ``now``; changes nothing."""
        return self.level * decay ** (now - self.at)

    def cell(self) -> Cell:
        """The whole window as one cell."""
        total = Cell()
        for _, cell in self.window:
            total = merge(total, cell)
        return total

    def to_list(self) -> list[Any]:
        """Plain lists and numbers, exact through JSON."""
        panes = [
            [pane, cell.reviews, cell.chats, cell.clicks, write_quotes(cell), cell.ratings]
            for pane, cell in self.window
        ]
        return [self.at, self.level, self.squares, self.counts, self.dose, panes]

    @classmethod
    def from_list(cls, state: list[Any]) -> Track:
        track = cls(*state[:5])
        for pane, reviews, chats, clicks, quotes, ratings in state[5]:
            track.push(pane, Cell(reviews, chats, clicks, list(read_quotes(quotes)), ratings))
        return track


def expect(key: Track, label: Track, product: float, shop: float, exposure: float) -> Expectation:
    """The window expected of a key.

    ``key`` and ``label`` are up to date; ``product`` and ``shop`` are their forgotten sums of texts; ``exposure`` is
    the number of texts on the product in the window.
    """
    prior = (label.level + PRIOR_COUNT) / (shop + PRIOR_TEXTS)
    mean = exposure * (PRIOR_SHAPE + key.level) / (product + PRIOR_SHAPE / prior)
    pooled = max(1.0, (label.squares + PRIOR_SPREAD) / (label.counts + PRIOR_SPREAD))
    spread = max(1.0, (key.squares + PRIOR_SPREAD * pooled) / (key.counts + PRIOR_SPREAD))
    known = 1 / (PRIOR_SHAPE + key.level / spread) + 1 / (product + PRIOR_VOLUME)
    shape = min(MAX_SHAPE, mean / (spread - 1 + mean * known))
    return Expectation(mean, shape, known, spread)


def exposure(
    counted: float, volume: float, shop_volume: float, usual_part: float, usual_texts: float
) -> tuple[float, float]:
    """Texts on the product that the window explains: (by the shop's volume, by the product's own).

    ``volume`` and ``shop_volume`` are texts in the window, ``counted`` those of the key among them; ``usual_part`` is
    the product's part of the shop and ``usual_texts`` what the key itself usually adds to a window.
    """
    excess = max(0.0, counted - usual_texts)
    return usual_part * max(0.0, shop_volume - excess), max(0.0, volume - excess)


def learn_spread(key: Track, label: Track, seen: Expectation, weight: float) -> None:
    """Update the dispersion of key and label from a judged window that counts as ``weight`` of an independent one."""
    count = min(key.observed, seen.mean + WINSOR * deviation(seen))
    sure = 1 / (1 + seen.mean * seen.known)  # the part of a Poisson variance that is not for want of knowledge
    for track in (key, label):
        track.squares += weight * (sure * (count - seen.mean)) ** 2
        track.counts += weight * sure * count


def dose(observed: float, seen: Expectation) -> float:
    """What a key learns from a raised window: at most one standard deviation above what it expected.

    So an incident of two hours moves a day's baseline by a tenth, and a key that was judged too low recovers.
    """
    return min(observed, seen.mean + deviation(seen))


def deviation(seen: Expectation) -> float:
    return math.sqrt(seen.mean * (seen.spread + seen.mean * seen.known))


def read_quotes(rows: list[list[Any]]) -> Iterator[Candidate]:
    """Quotes back from their JSON form."""
    for score, event_id, text, spans in rows:
        yield Candidate(score, event_id, text, tuple((start, end) for start, end in spans))


def write_quotes(cell: Cell) -> list[list[Any]]:
    """Quotes in their JSON form."""
    return [[quote.score, quote.event_id, quote.text, [list(span) for span in quote.spans]] for quote in cell.quotes]
