"""What shoppers do, counted: one vocabulary, and tumbling panes of products in columns.

A pane holds 16 whole numbers for each product that anybody touched in it, some 70 bytes, in arrays; counting a block
is a handful of numpy calls whatever the number of products. All are whole numbers, so sums are exact in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.checkpoint import Log, pack, unpack
from stream.recommend.catalogue import Catalogue

PANE_FEATURES: Final = (
    "views",
    "searches",
    "empty_searches",
    "carts",
    "uncarts",
    "favorites",
    "checkouts",
    "purchases",
    "returns",
    "dwell_ms",  # time from a view to the shopper's next action, at most DWELL_MS each
    "abandons",  # sessions that ended with the product in the cart
    "comparisons",  # sessions that came to compare products at this one
    "price_cents",  # sum of the prices seen, in hundredths
    "priced",  # how many events told a price
)
SUMS: Final = ("dwell_ms", "price_cents")
COUNTS: Final = tuple(name for name in PANE_FEATURES if name not in SUMS)
DWELL_MS: Final = 600_000
NONE: Final = -1  # the number of no product
UNKNOWN: Final = -2  # has no number yet

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


class Products:
    """Numbers for product ids, in the order in which they come, and what the catalogue says of each number."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.ids: list[str] = []
        self.categories: list[str] = [""]
        self.category: Ints = np.zeros(64, np.int32)  # number of its category, 0: none
        self.sold_out: npt.NDArray[np.bool_] = np.zeros(64, np.bool_)
        self._catalogue = catalogue
        self._number: dict[str | None, int] = {None: NONE, "": NONE}
        self._category_number = {"": 0}
        self._version = -1
        self._known = 0

    def __len__(self) -> int:
        return len(self.ids)

    def numbers(self, ids: Iterable[str | None]) -> Ints:
        """The number of each id, new ones included; :data:`NONE` for none."""
        ids = list(ids)
        found = np.fromiter(map(self._number.get, ids, repeat(UNKNOWN)), np.int32, len(ids))
        for place in np.flatnonzero(found == UNKNOWN).tolist():
            found[place] = self._add(ids[place])
        return found

    def _add(self, product_id: Any) -> int:
        number = self._number.setdefault(product_id, len(self.ids))
        if number == len(self.ids):
            self.ids.append(product_id)
        return number

    def refresh(self) -> None:
        """Look up what is new here or has changed in the catalogue."""
        begin = self._known if self._version == self._catalogue.version else 0
        self._version, self._known = self._catalogue.version, len(self.ids)
        if len(self.category) < len(self.ids):
            self.category = grown(self.category, len(self.ids))
            self.sold_out = grown(self.sold_out, len(self.ids))
        for number in range(begin, len(self.ids)):
            product = self._catalogue.get(self.ids[number])
            name = product.category if product else ""
            if name not in self._category_number:
                self._category_number[name] = len(self.categories)
                self.categories.append(name)
            self.category[number] = self._category_number[name]
            self.sold_out[number] = product is not None and product.stock <= 0

    def keep(self, used: Ints) -> Ints:
        """Forget all but the ``used`` numbers. Gives the new number of each old one, with :data:`NONE` at the end, so
        that it may be indexed by :data:`NONE` too."""
        new = np.full(len(self.ids) + 1, NONE, np.int32)
        used = np.unique(used[used >= 0])
        new[used] = np.arange(len(used))
        self.ids = [self.ids[number] for number in used.tolist()]
        self._number = {None: NONE, "": NONE} | {product_id: number for number, product_id in enumerate(self.ids)}
        self._known = 0
        self.refresh()
        return new


def grown(array: npt.NDArray[Any], rows: int, fill: Any = 0) -> npt.NDArray[Any]:
    """The array itself, with room for ``rows`` rows and some more; no view of it may live."""
    size, before = max(rows, len(array) + max(len(array) // 8, 64)), len(array)
    array.resize((size, *array.shape[1:]), refcheck=False)
    array[before:] = fill
    return array


class Pane:
    """The products of one pane: row ``i`` of ``counts`` and ``sums`` is about product ``products[i]``.

    It has room for ``most`` products, the first ones to come; what is done to others is only counted (``overflow``).
    """

    def __init__(self, start: int, most: int) -> None:
        self.size = self.overflow = 0
        self._most = most
        self.products: Ints = np.zeros(0, np.int32)
        self.counts: npt.NDArray[np.uint32] = np.zeros((0, len(COUNTS)), np.uint32)
        self.sums: Longs = np.zeros((0, len(SUMS)), np.int64)
        self.log = Log(f"pane/{start}")
        self._changed: Ints = np.zeros(0, np.int32)  # number of the segment that a row was or will be written in
        self._row: Ints = np.zeros(0, np.int32)  # by product number, -1: none

    def _rows(self, products: Ints) -> tuple[Longs, npt.NDArray[np.bool_]]:
        """Which of the products there is room for, as a mask, and the rows of those."""
        self._know(products)
        found = self._row[products]
        if (found < 0).any():
            new = products[found < 0]
            new = new[np.sort(np.unique(new, return_index=True)[1])][: self._most - self.size]
            self._row[new] = np.arange(self.size, self.size + len(new))
            self._grow(self.size + len(new))
            self.products[self.size : self.size + len(new)] = new
            self.size += len(new)
            found = self._row[products]
        fits = found >= 0
        rows = found[fits].astype(np.int64)
        self.overflow += len(products) - len(rows)
        self._changed[rows] = self.log.next
        return rows, fits

    def _know(self, products: Ints) -> None:
        """Have an entry in ``_row`` for each of these."""
        most = int(products.max(initial=-1)) + 1
        if most > len(self._row):
            self._row = grown(self._row, most, -1)

    def _grow(self, size: int) -> None:
        if size > len(self.products):
            self.products, self.counts = grown(self.products, size), grown(self.counts, size)
            self.sums, self._changed = grown(self.sums, size), grown(self._changed, size, -1)

    def count(self, products: Ints, features: npt.NDArray[Any]) -> None:
        """One more of ``COUNTS[features[i]]`` for each of ``products[i]``."""
        rows, fits = self._rows(products)
        np.add.at(self.counts.reshape(-1), rows * len(COUNTS) + features[fits], np.uint32(1))

    def sum(self, products: Ints, feature: int, amounts: Longs) -> None:
        """Add ``amounts[i]`` to ``SUMS[feature]`` of ``products[i]``."""
        rows, fits = self._rows(products)
        np.add.at(self.sums.reshape(-1), rows * len(SUMS) + feature, amounts[fits])

    def table(self) -> Longs:
        """All rows as whole numbers in the order of :data:`PANE_FEATURES`."""
        parts = {name: self.counts[: self.size, i].astype(np.int64) for i, name in enumerate(COUNTS)}
        parts |= {name: self.sums[: self.size, i] for i, name in enumerate(SUMS)}
        return np.stack([parts[name] for name in PANE_FEATURES], axis=1)

    def renumber(self, new: Ints) -> None:
        self.products[: self.size] = new[self.products[: self.size]]
        self._row = np.full(int(self.products[: self.size].max(initial=0)) + 1, -1, np.int32)
        self._row[self.products[: self.size]] = np.arange(self.size)
        self._changed[: self.size] = self.log.next

    def dump(self) -> dict[str, bytes | None]:
        """The rows that changed since the last call."""
        changed = self._changed[: self.size]
        if not (changed == self.log.next).any():
            return {}
        since = 0 if self.log.due() else self.log.since()
        return self.log.append(self._packed(np.flatnonzero(changed >= since)), since)

    def _packed(self, rows: npt.NDArray[Any]) -> bytes:
        return pack({}, [rows.astype(np.int32), self.products[rows], self.counts[rows], self.sums[rows]])

    def load(self, number: int, data: bytes) -> None:
        """Apply a segment; they come in order."""
        self.log.seen(number, len(data))
        _, (rows, products, counts, sums) = unpack(data)
        self.size = max(self.size, int(rows.max(initial=-1)) + 1)
        self._grow(self.size)
        self.products[rows], self.counts[rows], self.sums[rows] = products, counts, sums
        self._changed[rows] = number
        self._know(products)
        self._row[products] = rows


class BehaviourPanes:
    """The open panes of a lane."""

    def __init__(self, length: int, most: int) -> None:
        self.length = length
        self.most = most
        self.closed_to = 0
        self.open: dict[int, Pane] = {}

    def at(self, start: int) -> Pane:
        """The open pane that begins at ``start``."""
        assert start >= self.closed_to, "clicks are taken before their pane closes"
        pane = self.open.get(start)
        if pane is None:
            pane = self.open[start] = Pane(start, self.most)
        return pane

    def by_pane(self, ts: Longs) -> Iterator[tuple[Pane, npt.NDArray[Any]]]:
        """Each pane that ``ts`` fall into, with a mask."""
        starts = ts - ts % self.length
        for start in np.unique(starts).tolist():
            yield self.at(start), starts == start

    def used(self) -> Ints:
        """Numbers of the products in open panes."""
        return np.concatenate([np.zeros(0, np.int32), *(pane.products[: pane.size] for pane in self.open.values())])

    def close(self, watermark: int) -> list[tuple[int, Pane]]:
        """The panes that end at or before ``watermark``, oldest first."""
        boundary = watermark - watermark % self.length
        self.closed_to = max(self.closed_to, boundary)
        return [(start, self.open.pop(start)) for start in sorted(self.open) if start < boundary]
