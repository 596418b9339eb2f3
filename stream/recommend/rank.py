"""Demand times catalogue: which products to show, in which order, and why.

Candidates are the neighbours of the product in question (same category, similar price) and whatever the shopper's words
find; only what is in stock, and never the product in question itself. Each gets a weighted mean of parts between 0 and
1; the reason names the part that weighs most. Ties go by id, so equal input gives equal output on every worker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from heapq import nsmallest
from typing import Any, Final

from stream.recommend.catalogue import Catalogue, Product
from stream.recommend.intent import Intent
from stream.records import Recommendation, Signal, content_id

#: How much one thing speaks for a candidate, from 0 to 1.
Part = Callable[[Product], float]

MOST: Final = 5
NO_COUNTS: Final[Mapping[str, float]] = {}

#: Weight of each part by demand; "" is the demand of no demand.
WEIGHTS: Final[Mapping[str, Mapping[str, float]]] = {
    "": {"words": 4, "likeness": 2, "category": 1, "price": 2, "popularity": 1},
    "discount": {"words": 2, "likeness": 2, "category": 2, "cheaper": 4, "popularity": 1},
    "compatibility": {"words": 3, "likeness": 1, "attributes": 4, "popularity": 1},
    "restock": {"words": 1, "likeness": 4, "category": 2, "price": 2, "popularity": 1},
}
REASONS: Final = {
    "words": "matches what was asked for",
    "likeness": "similar product",
    "category": "same category",
    "price": "similar price",
    "cheaper": "costs less",
    "attributes": "same specifications",
    "popularity": "popular now",
}
#: Which demand a session intent stands for, and how to say it.
INTENTS: Final = {
    "comparing": ("", "compares products of one category"),
    "abandoned_cart": ("discount", "left a product in the cart"),
    "empty_search": ("", "searched and found nothing"),
    "sold_out": ("restock", "looked at a product that is sold out"),
    "price_watch": ("discount", "keeps coming back to a product"),
}
#: Demands in a chat that call for products at once, and how to say them.
ASKED: Final = {
    "recommendation_request": "asked for a recommendation",
    "restock": "asked for a product that is missing",
    "discount": "asked for a better price",
    "compatibility": "asked what fits",
    "purchase_intent": "wants to buy",
}


def trigger(intent: Intent, *, ts: int, user_id: str, session_id: str, catalogue: Catalogue) -> Recommendation | None:
    """What to show a shopper whose session showed ``intent`` at event time ``ts`` (ms); None when there is nothing."""
    demand, said = INTENTS[intent.name]
    products = rank(catalogue, demand=demand, product=catalogue.get(intent.product_id), text=intent.query)
    if not products:
        return None
    return Recommendation(
        trigger_id=content_id("session", user_id, session_id, *intent, ts),
        ts=ts,
        user_id=user_id,
        session_id=session_id,
        intent=intent.name,
        product_id=intent.product_id,
        products=products,
        reason=f"The shopper {said}.",
    )


def answer(signal: Signal, catalogue: Catalogue, popularity: Mapping[str, float] = NO_COUNTS) -> Recommendation | None:
    """What to show a customer who asked; None when nothing was asked for or there is nothing to show."""
    asked = [(-demand["prob"], demand["demand"]) for demand in signal.demands if demand["demand"] in ASKED]
    if not asked:
        return None
    demand = min(asked)[1]
    product = catalogue.get(signal.product_id)
    products = rank(catalogue, demand=demand, product=product, text=" ".join(signal.keywords), popularity=popularity)
    if not products:
        return None
    return Recommendation(
        trigger_id=content_id("asked", signal.signal_id),
        ts=signal.ts,
        user_id=signal.user_id,
        session_id=signal.session_id,
        intent="asked",
        product_id=signal.product_id,
        products=products,
        reason=f"The customer {ASKED[demand]}.",
    )


def rank(
    catalogue: Catalogue,
    *,
    demand: str = "",
    product: Product | None = None,
    text: str = "",
    popularity: Mapping[str, float] = NO_COUNTS,
    exclude: Iterable[str] = (),
    most: int = MOST,
) -> list[dict[str, Any]]:
    """Products for a demand, best first: ``[{"product_id", "score", "reason"}]``, scores between 0 and 1.

    ``product`` is the one in question, ``text`` the words or the query, ``popularity`` counts by product.
    """
    if popularity or exclude:
        return _rank(catalogue, demand, product, text, popularity, exclude, most)
    question = ("rank", demand, product.product_id if product else "", text, most)
    return catalogue.remember(question, lambda: _rank(catalogue, demand, product, text, popularity, exclude, most))


def _rank(
    catalogue: Catalogue,
    demand: str,
    product: Product | None,
    text: str,
    popularity: Mapping[str, float],
    exclude: Iterable[str],
    most: int,
) -> list[dict[str, Any]]:
    found = {match.product_id: score for match, score in catalogue.search(text)}
    near = catalogue.neighbours(product.category, product.price) if product else []
    shown = {one.product_id: one for one in near}
    shown |= {product_id: one for product_id in found if (one := catalogue.get(product_id))}
    left_out = {*exclude, *([product.product_id] if product else [])}
    candidates = [one for one in shown.values() if one.stock > 0 and one.product_id not in left_out]
    weights = WEIGHTS.get(demand, WEIGHTS[""])
    parts = _parts(catalogue, product, text, found, popularity, shown)
    parts = {name: part for name, part in parts.items() if name in weights}
    whole = sum(weights[name] for name in parts)
    columns = [[weights[name] * part(one) for one in candidates] for name, part in parts.items()]
    gains = list(zip(*columns, strict=True))
    scores = [round(sum(gain) / whole, 4) for gain in gains]
    best = nsmallest(most, range(len(scores)), key=lambda i: (-scores[i], candidates[i].product_id))
    return [
        {
            "product_id": candidates[i].product_id,
            "score": scores[i],
            "reason": REASONS[max(zip(gains[i], parts, strict=True))[1]],
        }
        for i in best
    ]


def _parts(
    catalogue: Catalogue,
    product: Product | None,
    text: str,
    found: Mapping[str, float],
    popularity: Mapping[str, float],
    shown: Iterable[str],
) -> dict[str, Part]:
    """What may speak for a candidate, from 0 to 1."""
    most_popular = math.log1p(max((popularity.get(product_id, 0.0) for product_id in shown), default=0.0))
    best_match = max(found.values(), default=0.0)
    parts: dict[str, Part] = {"popularity": lambda _: 0.0}
    if most_popular:
        parts["popularity"] = lambda one: math.log1p(popularity.get(one.product_id, 0.0)) / most_popular
    if text:
        parts["words"] = lambda one: _share(found.get(one.product_id, 0.0), best_match)
    if product:
        category, price, attributes = product.category, product.price, product.attributes
        parts |= {
            "likeness": lambda one: catalogue.likeness(product.product_id, one.product_id),
            "category": lambda one: float(one.category == category),
            "price": lambda one: _share(min(price, one.price), max(price, one.price)),
            "cheaper": lambda one: min(1.0, max(0.0, 2 * _share(price - one.price, price))),
            "attributes": lambda one: _share(
                sum(one.attributes.get(name) == value for name, value in attributes.items()), len(attributes)
            ),
        }
    return parts


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
