"""What a session of clicks amounts to. The rules are those of :mod:`stream.windows.sessions`, which tells each once."""

from __future__ import annotations

from typing import Final, NamedTuple

INTENTS: Final = ("abandoned_cart", "sold_out", "price_watch", "comparing", "empty_search")  # most telling first


class Intent(NamedTuple):
    """One of :data:`INTENTS`, the product it is about ("" for a search) and the query of a search."""

    name: str
    product_id: str
    query: str = ""
