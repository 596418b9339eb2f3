"""The products of the shop, found by id, by category and price, and by words.

Words are matched with BM25 (Robertson & Zaragoza, "The Probabilistic Relevance Framework", 2009) over an inverted index
that grows and shrinks with every change, so a change costs what one product's text costs. Chinese is indexed by pairs
of characters, everything else by words: no dictionary, the same on every worker. The answer depends on the products
that are there, not on the order in which they came.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from heapq import nsmallest
from operator import neg
from typing import Any, Final, TypeVar

from stream.preprocess.names import Names

K1: Final = 1.2
B: Final = 0.75
MOST_MEMORIES: Final = 10_000
MOST_FOUND: Final = 50  # products of a search
LEAD_TIME_DAYS: Final = 7.0
T = TypeVar("T")
_RUNS = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]+|[^\W_\u3400-\u4dbf\u4e00-\u9fff]+")


@dataclass(frozen=True, slots=True)
class Product:
    """One product; ``price`` in the shop's currency, ``stock`` in pieces, ``lead_time_days`` from an order to more."""

    product_id: str
    title: str
    category: str
    brand: str = ""
    price: float = 0.0
    stock: int = 0
    attributes: Mapping[str, str] = field(default_factory=dict)
    lead_time_days: float = LEAD_TIME_DAYS

    @property
    def text(self) -> str:
        """All words by which the product can be found."""
        return " ".join((self.title, self.brand, self.category, *self.attributes.values()))


class Catalogue:
    """All products; see the module. Not thread-safe."""

    def __init__(self) -> None:
        self._products: dict[str, Product] = {}
        self._words: dict[str, frozenset[str]] = {}  # product -> words
        self._lengths: dict[str, int] = {}  # product -> words
        self._index: dict[str, dict[str, int]] = {}  # word -> product -> times
        self._shelves: dict[str, list[tuple[float, str]]] = {}  # category -> (price, product), sorted
        self._length = 0  # words of all products
        self.names = Names()  # titles and brands, to be found in texts
        self.version = 0  # grows with every change
        self._memo: dict[Any, Any] = {}  # what was computed from the products as they are; emptied when one changes

    def __len__(self) -> int:
        return len(self._products)

    def __iter__(self) -> Iterator[Product]:
        return iter(self._products.values())

    def __contains__(self, product_id: object) -> bool:
        return product_id in self._products

    def get(self, product_id: str) -> Product | None:
        return self._products.get(product_id)

    def upsert(self, product: Product) -> None:
        """Put in a product, in place of the one of the same id."""
        self.version += 1
        self._memo.clear()
        before = self._products.get(product.product_id)
        if before is not None and before.text == product.text:
            self._reshelve(before, product)
            return
        self.remove(product.product_id)
        self._products[product.product_id] = product
        words = Counter(tokens(product.text))
        self._words[product.product_id] = frozenset(words)
        for word, times in words.items():
            self._index.setdefault(word, {})[product.product_id] = times
        self._lengths[product.product_id] = words.total()
        self._length += words.total()
        insort(self._shelves.setdefault(product.category, []), (product.price, product.product_id))
        self.names.add(product.title, "product")
        self.names.add(product.brand, "brand")

    def remove(self, product_id: str) -> None:
        """Take out a product; one that is not there is no mistake."""
        self.version += 1
        self._memo.clear()
        product = self._products.pop(product_id, None)
        if product is None:
            return
        words = self._words.pop(product_id)
        for word in words:
            del self._index[word][product_id]
            if not self._index[word]:
                del self._index[word]
        self._length -= self._lengths.pop(product_id)
        self._shelves[product.category].remove((product.price, product_id))
        self.names.remove(product.title, "product")
        self.names.remove(product.brand, "brand")

    def neighbours(self, category: str, price: float, most: int = 50) -> list[Product]:
        """Up to about ``most`` products of a category, those around ``price``, by price and id."""
        shelf = self._shelves.get(category, [])
        middle = bisect_left(shelf, (price, ""))
        near = shelf[max(0, middle - most // 2) : middle + most // 2]
        return [self._products[product_id] for _, product_id in near]

    def search(self, text: str, most: int = MOST_FOUND) -> list[tuple[Product, float]]:
        """At most :data:`MOST_FOUND` products that share words with ``text`` and their BM25 scores, best first, ties
        by id."""
        return self.remember(("search", text), lambda: self._search(text))[:most]

    def remember(self, question: Any, answer: Callable[[], T]) -> T:
        """What ``answer()`` gives, asked once for as long as the products stay as they are."""
        if question not in self._memo:
            if len(self._memo) >= MOST_MEMORIES:
                self._memo.clear()
            self._memo[question] = answer()
        known: T = self._memo[question]
        return known

    def _search(self, text: str) -> list[tuple[Product, float]]:
        scores: dict[str, float] = {}
        for word in sorted(set(tokens(text))):
            for product_id, score in self.remember(("word", word), partial(self._scores, word)).items():
                scores[product_id] = scores.get(product_id, 0.0) + score
        best = nsmallest(MOST_FOUND, zip(map(neg, scores.values()), scores, strict=True))
        return [(self._products[product_id], -score) for score, product_id in best]

    def _scores(self, word: str) -> dict[str, float]:
        """What a word adds to the score of each product that has it."""
        found, average = self._index.get(word, {}), self._length / max(1, len(self._products))
        rarity = math.log(1 + (len(self._products) - len(found) + 0.5) / (len(found) + 0.5))
        norms = {product_id: K1 * (1 - B + B * self._lengths[product_id] / average) for product_id in found}
        return {
            product_id: rarity * times * (K1 + 1) / (times + norms[product_id]) for product_id, times in found.items()
        }

    def likeness(self, left: str, right: str) -> float:
        """Share of words that two products have in common (Jaccard), 0 to 1."""
        a, b = self._words[left], self._words[right]
        shared = len(a & b)
        return shared / max(1, len(a) + len(b) - shared)

    def _reshelve(self, before: Product, product: Product) -> None:
        self._products[product.product_id] = product
        if before.price != product.price or before.category != product.category:
            self._shelves[before.category].remove((before.price, product.product_id))
            insort(self._shelves.setdefault(product.category, []), (product.price, product.product_id))


@lru_cache(maxsize=4_096)
def tokens(text: str) -> tuple[str, ...]:
    """Index words of a text: pairs of Han characters, other words in small letters without a plural s."""
    found: list[str] = []
    for run in _RUNS.findall(text.lower()):
        if "\u3400" <= run[0] <= "\u9fff":
            found += [run[i : i + 2] for i in range(max(1, len(run) - 1))]
        else:
            found.append(run[:-1] if len(run) > 3 and run.endswith("s") and not run.endswith("ss") else run)
    return tuple(found)
