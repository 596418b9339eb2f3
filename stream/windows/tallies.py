"""What happened to one product (or category) in one pane: the rows of table ``windows``, and what detectors count.

Panes are the tumbling buckets of event time that sliding windows are composed of (Li et al., "No Pane, No Gain", SIGMOD
Record 2005).

All counts are whole numbers, so tallies may be added in any order and split in any way. The number of tallies in a pane
is bounded, and which ones stay does not depend on the order they came in: those of products the catalogue knows come
before the others, so that made-up ids cannot drive out the shop's own, and among equals a hash decides. A tally that
was dropped is lower in this order than all that stay, therefore one that stays was never dropped and is complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import add
from typing import Any, Final
from zlib import crc32

from stream.columns import Columns
from stream.detect.baseline import read_quotes, write_quotes
from stream.detect.cells import ACTS, VOLUME, Cell, Key, Scope, merge
from stream.detect.stock import Shelf
from stream.records import Window
from stream.windows.behaviour import PANE_FEATURES

#: Texts by channel, those negative as a whole, and the stars of the reviews that give any.
TEXT_FEATURES: Final = ("reviews", "chats", "negatives", "rating_sum", "rated")
#: What kind of alert the texts of a label may raise.
KINDS: Final = {"negative": "negative_spike", "demand": "demand_surge"}
#: What a click counts for in an alert of these kinds, against a text that says it; in others as much as a text.
CLICK_WEIGHT: Final = {"demand_surge": 0.5, "price_sensitivity": 0.25}
#: What a shop full of life has much of, beside which returns and the like are few or many. Each counts as half a text.
DONE: Final = tuple(PANE_FEATURES.index(name) for name in ("carts", "purchases"))
ACT_WEIGHT: Final = 0.5
#: What shoppers do that speaks for a demand on a product, and how much.
BEHAVIOUR: Final = (
    (PANE_FEATURES.index("returns"), "demand/return_refund", CLICK_WEIGHT["demand_surge"]),
    (PANE_FEATURES.index("empty_searches"), "demand/restock", CLICK_WEIGHT["demand_surge"]),
)
VIEWS: Final = PANE_FEATURES.index("views")
ABANDONS: Final = PANE_FEATURES.index("abandons")
DISCOUNT: Final = "demand/discount"
NO_BEHAVIOUR: Final = (0,) * len(PANE_FEATURES)
NO_TEXTS: Final = (0,) * len(TEXT_FEATURES)

#: Scope, product ("" in category scope), category ("" where the catalogue does not know the product).
Where = tuple[Scope, str, str]


@dataclass(slots=True)
class Tally:
    """The counts of one place: PANE_FEATURES, :data:`TEXT_FEATURES`, and texts by label (``demand/restock``)."""

    behaviour: tuple[int, ...] = NO_BEHAVIOUR
    texts: tuple[int, ...] = NO_TEXTS
    labels: dict[str, Cell] = field(default_factory=dict)
    revision: int = 0  # how many boundaries brought corrections
    shelf: Shelf | None = None  # the least that a click lane saw in the catalogue

    def add(self, other: Tally) -> None:
        """Count ``other`` in; it is not changed."""
        self.behaviour = tuple(map(add, self.behaviour, other.behaviour))
        self.texts = tuple(map(add, self.texts, other.texts))
        for label, cell in other.labels.items():
            self.labels[label] = merge(self.labels.get(label, Cell()), cell)
        self.note_shelf(other.shelf)

    def note_shelf(self, shelf: Shelf | None) -> None:
        if shelf is not None:
            self.shelf = shelf if self.shelf is None else min(self.shelf, shelf)

    def row(self, pane_start: int, where: Where) -> Window:
        """The row of table ``windows``."""
        names = sorted(self.labels)
        counts = [int(self.labels[name].texts) for name in names]
        return Window(pane_start, *where, self.revision, *self.behaviour, *self.texts, names, counts)  # type: ignore[call-arg,arg-type]

    def cells(self, where: Where) -> Iterator[tuple[Key, Cell]]:
        """What the detectors count of it.

        Price sensitivity joins who asks for a discount with carts left standing of what the catalogue knows; the first
        one of a product in a pane is everyday and not counted, which spares a series for most products. What falls
        silent, texts or clicks, is watched by category.
        """
        reviews, chats, *_ = self.texts
        if reviews or chats:
            yield Key(VOLUME, *where, ""), Cell(float(reviews), float(chats))
            if where[0] == "category":
                yield Key("silence", *where, "texts"), Cell(float(reviews), float(chats))
        acts = sum(self.behaviour[place] for place in DONE)
        if reviews or chats or acts:
            yield Key(VOLUME, *where, ACTS), Cell(float(reviews), float(chats), ACT_WEIGHT * acts)
        if where[0] == "category" and self.behaviour[VIEWS]:
            yield Key("silence", *where, "clicks"), Cell(clicks=float(self.behaviour[VIEWS]))
        cells = dict(self.labels)
        if where[0] == "product":
            for place, name, weight in BEHAVIOUR:
                if self.behaviour[place]:
                    cells[name] = merge(cells.get(name, Cell()), Cell(clicks=weight * self.behaviour[place]))
        for name, cell in cells.items():
            kind, _, label = name.partition("/")
            yield Key(KINDS[kind], *where, label), cell
        carts = self.behaviour[ABANDONS] - (where[0] == "product")
        if DISCOUNT in cells or (where[2] and carts > 0):
            left = Cell(clicks=CLICK_WEIGHT["price_sensitivity"] * max(0, carts))
            yield Key("price_sensitivity", *where, "discount"), merge(cells.get(DISCOUNT, Cell()), left)

    def without_quotes(self) -> None:
        """Let go of the quotes, once the detectors have them."""
        self.labels = {name: Cell(cell.reviews, cell.chats, ratings=cell.ratings) for name, cell in self.labels.items()}

    def to_list(self) -> list[Any]:
        labels = [
            [name, cell.reviews, cell.chats, write_quotes(cell), cell.ratings] for name, cell in self.labels.items()
        ]
        return [self.behaviour, self.texts, labels, self.revision, list(self.shelf or ())]

    @classmethod
    def from_list(cls, state: list[Any]) -> Tally:
        behaviour, texts, labels, revision, shelf = state
        cells = {
            name: Cell(reviews, chats, 0.0, list(read_quotes(quotes)), ratings)
            for name, reviews, chats, quotes, ratings in labels
        }
        return cls(tuple(behaviour), tuple(texts), cells, revision, Shelf(*shelf) if shelf else None)


def window_columns(rows: list[Window]) -> Columns:
    """At least one row."""
    return Columns(dict(zip(Window._fields, map(list, zip(*rows, strict=True)), strict=True)))


def beyond(tallies: dict[Where, Tally], limit: int) -> list[Where]:
    """The places that are too many when there is room for ``limit``."""
    return sorted(tallies, key=rank)[limit:]


def rank(where: Where) -> tuple[bool, int, Where]:
    """The order in which places get room."""
    return not where[2], crc32("/".join(where).encode()), where
