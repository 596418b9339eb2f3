"""What a session of clicks shows: running features of one shopper, and the intents they amount to.

Events come in the order of event time; an intent is told at the event that completes it and once per session. The
state is a few counters and two bounded lists, so that a worker holds very many sessions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from stream.recommend.catalogue import Catalogue

INTENTS: Final = ("abandoned_cart", "sold_out", "price_watch", "comparing", "empty_search")  # most telling first
COMPARED: Final = 3  # different products of one category
WATCHED: Final = 3  # views of one product
REMEMBERED: Final = 20  # products, the latest ones


class Intent(NamedTuple):
    """One of :data:`INTENTS`, the product it is about ("" for a search) and the query of a search."""

    name: str
    product_id: str
    query: str = ""


@dataclass(slots=True)
class Behaviour:
    """Features of one session. ``seen`` maps product to [category, views], oldest first; ``cart`` is in order."""

    views: int = 0
    searches: int = 0
    empty_searches: int = 0
    carts: int = 0
    purchases: int = 0
    fired: int = 0  # bit i: INTENTS[i] was told
    seen: dict[str, list[Any]] = field(default_factory=dict)
    cart: list[str] = field(default_factory=list)

    def update(
        self, action: str, product_id: str, query: str, results: int | None, price: float, catalogue: Catalogue
    ) -> list[Intent]:
        """Take in one event (``action`` as in ``events.ACTIONS``); the intents it completes.

        ``results`` of a search is None or -1 when not told; ``price`` is part of the event and decides nothing yet.
        """
        match action:
            case "view":
                return self._view(product_id, catalogue)
            case "search":
                self.searches += 1
                if results == 0:
                    self.empty_searches += 1
                    return self._fire(Intent("empty_search", "", query))
            case "cart":
                self.carts += 1
                self.cart = [*(p for p in self.cart if p != product_id), product_id][-REMEMBERED:]
            case "uncart":
                self.cart = [p for p in self.cart if p != product_id]
            case "purchase":
                self.purchases += 1
        return []

    def close(self) -> list[Intent]:
        """The session is over; what its end shows. An emptied cart, or one with a purchase, is not abandoned."""
        if self.cart and not self.purchases:
            return self._fire(Intent("abandoned_cart", self.cart[-1]))
        return []

    @property
    def products(self) -> list[str]:
        """The latest products viewed, oldest first."""
        return list(self.seen)

    @property
    def intent(self) -> str:
        """The session in one word: "bought", else its most telling intent, else ""."""
        if self.purchases:
            return "bought"
        return next((name for i, name in enumerate(INTENTS) if self.fired >> i & 1), "")

    def to_list(self) -> list[Any]:
        """Plain lists and numbers for a checkpoint."""
        seen = [[product_id, *entry] for product_id, entry in self.seen.items()]
        return [
            self.views, self.searches, self.empty_searches, self.carts, self.purchases, self.fired, seen, self.cart[:]
        ]  # fmt: skip

    @classmethod
    def from_list(cls, state: list[Any]) -> Behaviour:
        *counters, seen, cart = state
        behaviour = cls(*counters)
        behaviour.seen = {product_id: [category, views] for product_id, category, views in seen}
        behaviour.cart = list(cart)
        return behaviour

    def _view(self, product_id: str, catalogue: Catalogue) -> list[Intent]:
        self.views += 1
        product = catalogue.get(product_id)
        category, views = self.seen.pop(product_id, ["", 0])
        category = product.category if product else category
        self.seen[product_id] = [category, views + 1]
        if len(self.seen) > REMEMBERED:
            del self.seen[next(iter(self.seen))]

        told: list[Intent] = []
        if product is not None and product.stock <= 0:
            told += self._fire(Intent("sold_out", product_id))
        if self.carts:
            return told
        if views + 1 >= WATCHED:
            told += self._fire(Intent("price_watch", product_id))
        if category and sum(other == category for other, _ in self.seen.values()) >= COMPARED:
            told += self._fire(Intent("comparing", product_id))
        return told

    def _fire(self, intent: Intent) -> list[Intent]:
        bit = 1 << INTENTS.index(intent.name)
        if self.fired & bit:
            return []
        self.fired |= bit
        return [intent]
