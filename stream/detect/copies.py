"""The texts of recent panes by id: a redelivered one counts once, and copies behind an alert are told.

The same words from many hands are told, not hidden and not discounted. What is told depends on the set of texts alone,
not on the order they came in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from stream.preprocess.duplicates import near_duplicates
from stream.records import Alert

FEW: Final = 3  # copies: fewer are chance


class Text(NamedTuple):
    """Where a text is counted (:func:`place`), when it was said, and its 64-bit simhash."""

    place: str
    ts: int
    fingerprint: int


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

    def note(self, alert: Alert) -> str:
        """How many of the texts in the alert's window are near-duplicates of another one; "" for none to speak of."""
        name = place(alert.scope, alert.product_id, alert.category)
        texts = sorted(
            (self._texts[pane][text_id].ts, text_id, self._texts[pane][text_id].fingerprint)
            for pane, places in self._places.items()
            if pane < alert.window_end
            for text_id in places.get(name, ())
        )
        inside = [fingerprint for ts, _, fingerprint in texts if alert.window_start <= ts < alert.window_end]
        copies = sum(first >= 0 for first in near_duplicates(inside))
        return f"{copies} of {len(inside)} texts repeat another one" if copies >= FEW else ""


def place(scope: str, product_id: str, category: str) -> str:
    """One product, whatever its category, or one category."""
    return f"{scope}/{product_id if scope == 'product' else category}"
