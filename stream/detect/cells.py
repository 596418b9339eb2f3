"""What is counted: a cell holds the counts of one key in one closed pane.

Promises: merging cells is commutative and associative, exactly, so neither arrival order nor the way a pane was split
into blocks can change a result. Two things make that true: weights lie on a grid of 1/1024, where float sums do not
round (below 2**43), and the quotes kept are the five best under a total order.

The denominator is counted the same way: all texts on a product (or category) are the cell under ``key.volume``; for
what shoppers also say by what they do, carts and purchases are in it too. A shop of many clicks and few texts would
else be surprised by every return.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from stream.records import Span

GRID: Final = 1024
QUOTES: Final = 5
VOLUME: Final = "volume"
#: The label under which texts and acts are counted together, and the series that are seen beside both.
ACTS: Final = "acts"
ACTED: Final = {("demand_surge", "return_refund"), ("demand_surge", "restock"), ("price_sensitivity", "discount")}

Scope = Literal["product", "category", "shop"]
Source = Literal["reviews", "chats", "clicks", "ratings"]


class Candidate(NamedTuple):
    """A text that may be quoted, masked; ``score`` says how strongly it speaks."""

    score: float
    event_id: str
    text: str
    spans: tuple[Span, ...]


class Key(NamedTuple):
    """What one series of counts is about."""

    kind: str  # one of those of an Alert, or VOLUME
    scope: Scope
    product_id: str  # "" but in product scope
    category: str
    label: str  # an aspect, a demand, the leading term of a cluster, or of VOLUME "" or ACTS

    @property
    def volume(self) -> Key:
        """The key under which all texts of this product or category are counted, or all texts and what was bought."""
        acts = ACTS if (self.kind, self.label) in ACTED else ""
        return Key(VOLUME, self.scope, self.product_id, self.category, acts)

    @property
    def shop(self) -> Key:
        """The same series summed over the shop (what this worker partition sees of it)."""
        return Key(self.kind, self.scope, "", "", self.label)

    @property
    def shard(self) -> str:
        """Where the state of this key is saved: its product, else its category, else "" for the shop."""
        return self.product_id or self.category


@dataclass(slots=True)
class Cell:
    """Weighted counts by source, in texts or behaviour, and the texts that best show them.

    ``ratings``: what of a review its stars say; its words and its stars together count as one text.
    """

    reviews: float = 0.0
    chats: float = 0.0
    clicks: float = 0.0
    quotes: list[Candidate] = field(default_factory=list)
    ratings: float = 0.0

    @property
    def texts(self) -> float:
        return self.reviews + self.chats + self.ratings

    @property
    def observed(self) -> float:
        return self.texts + self.clicks

    def add(self, source: Source, weight: float = 1.0, quote: Candidate | None = None) -> None:
        """Count one event. ``weight`` >= 0 is rounded to the grid."""
        setattr(self, source, getattr(self, source) + round(weight * GRID) / GRID)
        if quote is not None:
            self.quotes = best_quotes([*self.quotes, quote])

    def admits(self, score: float) -> bool:
        """Whether a quote of this score may be among the best: if not, it need not be cut out."""
        return len(self.quotes) < QUOTES or score >= self.quotes[-1].score


def merge(left: Cell, right: Cell) -> Cell:
    """Both cells in one; neither is changed."""
    return Cell(
        left.reviews + right.reviews,
        left.chats + right.chats,
        left.clicks + right.clicks,
        best_quotes(left.quotes + right.quotes) if left.quotes or right.quotes else [],
        left.ratings + right.ratings,
    )


def best_quotes(quotes: list[Candidate]) -> list[Candidate]:
    """The best :data:`QUOTES` different ones: highest score first, then by event id."""
    return sorted(set(quotes), key=lambda quote: (-quote.score, *quote[1:]))[:QUOTES]
