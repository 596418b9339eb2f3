"""Demand times catalogue: which products to show, in which order, and why.

Candidates are the neighbours of the product in question (same category, similar price) and whatever the shopper's words
find; only what is in stock, and never the product in question itself. Each gets a weighted mean of parts between 0 and
1; the reason names the part that weighs most. Ties go by id, so equal input gives equal output on every worker.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from stream.recommend.catalogue import MOST_MEMORIES, Catalogue, Product
from stream.recommend.intent import Intent
from stream.records import Recommendation, Signal, content_id

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


def trigger(
    intent: Intent,
    *,
    ts: int,
    user_id: str,
    session_id: str,
    catalogue: Catalogue,
    popularity: Mapping[str, float] = NO_COUNTS,
    exclude: Iterable[str] = (),
) -> Recommendation:
    """What to show a shopper whose session showed ``intent`` at event time ``ts`` (ms); may hold no products."""
    demand, said = INTENTS[intent.name]
    products = rank(
        catalogue,
        demand=demand,
        product=catalogue.get(intent.product_id),
        text=intent.query,
        popularity=popularity,
        exclude=exclude,
    )
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
    question = (demand, product.product_id if product else "", text, most)
    ranked: list[dict[str, Any]] | None = catalogue.memo.get(question)
    if ranked is None:
        if len(catalogue.memo) >= MOST_MEMORIES:
            catalogue.memo.clear()
        ranked = catalogue.memo[question] = _rank(catalogue, demand, product, text, popularity, exclude, most)
    return ranked


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
    best_match = max(found.values(), default=0.0)
    most_popular = max((popularity.get(product_id, 0.0) for product_id in shown), default=0.0)
    weights = WEIGHTS.get(demand, WEIGHTS[""])

    ranked: list[dict[str, Any]] = []
    for one in shown.values():
        if one.stock <= 0 or one.product_id in left_out:
            continue
        parts = {"popularity": _share(math.log1p(popularity.get(one.product_id, 0.0)), math.log1p(most_popular))}
        if text:
            parts["words"] = _share(found.get(one.product_id, 0.0), best_match)
        if product:
            parts |= _against(product, one, catalogue)
        gains = {part: weights[part] * value for part, value in parts.items() if part in weights}
        score = sum(gains.values()) / sum(weights[part] for part in gains)
        reason = max(gains, key=lambda part: (gains[part], part))
        ranked.append({"product_id": one.product_id, "score": round(score, 4), "reason": REASONS[reason]})
    return sorted(ranked, key=lambda entry: (-entry["score"], entry["product_id"]))[:most]


def _against(product: Product, other: Product, catalogue: Catalogue) -> dict[str, float]:
    """The parts that compare a candidate with the product in question."""
    shared = sum(other.attributes.get(name) == value for name, value in product.attributes.items())
    cheap, dear = sorted((product.price, other.price))
    return {
        "likeness": catalogue.likeness(product.product_id, other.product_id),
        "category": float(product.category == other.category),
        "price": _share(cheap, dear),
        "cheaper": min(1.0, max(0.0, 2 * _share(product.price - other.price, product.price))),
        "attributes": _share(shared, len(product.attributes)),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
