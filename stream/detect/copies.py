"""The texts of recent panes by id: a redelivered one counts once, and who is behind an alert is told.

The same words from many hands, or many words from few, are told and not hidden, nor discounted: an operator decides
what a storm is worth. What is told depends on the set of texts alone, not on the order they came in. How old an account
is would help; the events do not say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple
from zlib import crc32

from stream.detect.cells import Key
from stream.preprocess.duplicates import near_duplicates

FEW: Final = 3  # copies: fewer are chance
ENOUGH: Final = 5  # texts: fewer say nothing of where they come from
STRETCH: Final = 12  # a burst is looked for in this part of the window
COPIED: Final = 0.5  # share of copies that only a campaign has
HANDS: Final = 0.5  # authors per text that only a campaign has
MIXED: Final = 0.25  # a share of copies that is one where they also come at once
AT_ONCE: Final = 0.8  # share of the window's texts in its busiest stretch

#: What texts say for a kind of alert.
OPINIONS: Final = {"negative_spike": "negative", "demand_surge": "demand", "price_sensitivity": "demand"}
Label = Literal["organic", "coordinated", "unclear"]


class Text(NamedTuple):
    """Where a text is counted (:func:`place`), when it was said, its 64-bit simhash, and whose it is."""

    place: str
    ts: int
    fingerprint: int
    author: int = 0  # a checksum (:func:`author`); 0: not known
    labels: Sequence[str] = ()  # what it says: "negative/packaging", "demand/restock"


class About(NamedTuple):
    """What an alert tells besides its counts."""

    note: str = ""
    origin: Label | Literal[""] = ""
    figures: Mapping[str, float] = {}  # of the origin


class Origin(NamedTuple):
    """Whether many people or a few made an alert, with the figures that say so."""

    label: Label
    texts: int  # in the window of the alert, on its product or category, that say what it is about
    copies: int  # near-duplicates of an earlier one
    authors_per_text: float  # among the texts with a known author; 1 where there is none
    burst: float  # share of the texts in the busiest twelfth of the window

    @property
    def about(self) -> About:
        copied = f"{self.copies} of {self.texts} texts repeat another one" if self.copies >= FEW else ""
        figures = {
            "texts": float(self.texts),
            "copied": round(self.copies / self.texts, 3) if self.texts else 0.0,
            "authors_per_text": round(self.authors_per_text, 3),
            "burst": round(self.burst, 3),
        }
        return About(copied, self.label, figures)


class Copies:
    """Texts by pane and id."""

    def __init__(self) -> None:
        self._texts: dict[int, dict[str, Text]] = defaultdict(dict)
        self._places: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))  # pane: place: ids

    def add(self, pane: int, text_id: str, text: Text) -> bool:
        """Remember a text; False if it was there. ``text_id`` is one text in one scope."""
        texts = self._texts[pane]
        if text_id in texts:
            return False
        texts[text_id] = text
        self._places[pane][text.place].append(text_id)
        return True

    def ids(self, pane: int) -> Iterable[str]:
        return self._texts[pane]

    def row(self, pane: int, text_id: str) -> list[Any]:
        """A text as plain JSON; ``Text(*row)`` reads it."""
        return list(self._texts[pane][text_id])

    @property
    def panes(self) -> list[int]:
        return list(self._texts)

    def forget(self, pane: int) -> None:
        del self._texts[pane], self._places[pane]

    def origin(self, key: Key, start: int, end: int) -> Origin:
        """Who is behind ``key``, from the texts that say so on its product or category from ``start`` to ``end``, epoch
        ms; of a kind that texts do not name, from all texts there."""
        name = place(key.scope, key.product_id, key.category)
        label = f"{OPINIONS[key.kind]}/{key.label}" if key.kind in OPINIONS else ""
        texts = sorted(
            (text.ts, text_id, text)
            for pane, places in self._places.items()
            if pane < end
            for text_id in places.get(name, ())
            if start <= (text := self._texts[pane][text_id]).ts < end and (not label or label in text.labels)
        )
        return judge([text for _, _, text in texts], end - start)


def judge(texts: Sequence[Text], window_ms: int) -> Origin:
    """Who wrote ``texts``, all those of a window in order of time.

    *Coordinated* is what mostly repeats itself, comes from few hands, or partly repeats itself and comes at once;
    *organic* is what has little of any of these; the rest, and few texts, are *unclear*.
    """
    copies = sum(first >= 0 for first in near_duplicates([text.fingerprint for text in texts]))
    known = [text.author for text in texts if text.author]
    hands = len(set(known)) / len(known) if known else 1.0
    burst = busiest([text.ts for text in texts], window_ms // STRETCH) / max(1, len(texts))
    copied = copies / max(1, len(texts))
    few = len(known) >= ENOUGH and hands <= HANDS
    label: Label
    if len(texts) < ENOUGH:
        label = "unclear"
    elif copied >= COPIED or few or (copied >= MIXED and burst >= AT_ONCE):
        label = "coordinated"
    else:
        label = "organic" if copied < MIXED and hands > (1 + HANDS) / 2 else "unclear"
    return Origin(label, len(texts), copies, hands, burst)


def busiest(times: Sequence[int], length: int) -> int:
    """Most of the sorted ``times`` within any stretch of ``length``, end exclusive."""
    most = first = 0
    for last, end in enumerate(times):
        while end - times[first] >= max(1, length):
            first += 1
        most = max(most, last - first + 1)
    return most


def author(user_id: str) -> int:
    """A user as a checksum: enough to tell hands apart, not to name them; 0 for none."""
    return crc32(user_id.encode("utf-8", "replace")) if user_id else 0


def place(scope: str, product_id: str, category: str) -> str:
    """One product, whatever its category, or one category."""
    return f"{scope}/{product_id if scope == 'product' else category}"
