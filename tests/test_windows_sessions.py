"""Sessions in columns are what a plain one-by-one implementation says they are, however the clicks are cut."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.events import ACTIONS, ClickColumns, decode_clicks
from stream.recommend.catalogue import Catalogue, Product
from stream.recommend.intent import INTENTS
from stream.windows.behaviour import DWELL_MS, Products
from stream.windows.sessions import BUCKET_MS, COMPARED, COUNTED, REMEMBERED, WATCHED, Sessions, stable_order

START = 1_772_380_800_000
GAP, LONGEST = 60_000, 200_000
CATALOGUE = Catalogue()
for number in range(20):
    CATALOGUE.upsert(Product(f"p{number}", f"t{number}", f"c{number % 3}", price=1.0, stock=number % 7))
FIELDS = {"search": "searches", "return": "returns"}


class Plain:
    """One shopper's session, click by click, straight from the description."""

    def __init__(self, click: dict[str, Any]) -> None:
        self.user, self.session_id, self.started = click["user"], click["sid"], click["ts"]
        self.last, self.viewing = click["ts"], ""
        self.counts: Counter[str] = Counter()
        self.views: dict[str, int] = {}
        self.cart: list[str] = []
        self.prices: list[float] = []
        self.dwell = 0
        self.told: list[tuple[str, str, int]] = []

    def tell(self, intent: str, product: str, ts: int) -> None:
        if intent not in {name for name, _, _ in self.told}:
            self.told.append((intent, product, ts))

    def take(self, click: dict[str, Any]) -> tuple[str, int]:
        action, product, ts = click["action"], click["product"], click["ts"]
        looked = (self.viewing, min(ts - self.last, DWELL_MS) if self.viewing else 0)
        self.dwell += looked[1]
        self.last, self.viewing = ts, product if action == "view" else ""
        self.prices += [click["price"]] if click["price"] is not None else []
        name = FIELDS.get(action, action + "s")
        self.counts[name] += 1
        if action == "search" and click["empty"]:
            self.counts["empty_searches"] += 1
            self.tell("empty_search", "", ts)
        if action == "view":
            self.view(product, ts)
        if action in ("cart", "uncart"):
            self.cart = [each for each in self.cart if each != product] + [product] * (action == "cart")
        return looked

    def view(self, product: str, ts: int) -> None:
        known = CATALOGUE.get(product)
        if known and known.stock <= 0:
            self.tell("sold_out", product, ts)
        new = product not in self.views
        if new and len(self.views) == REMEMBERED:
            return
        self.views[product] = self.views.get(product, 0) + 1
        if self.counts["carts"]:
            return
        if self.views[product] == WATCHED:
            self.tell("price_watch", product, ts)
        if new and known and sum(category(each) == known.category for each in self.views) == COMPARED:
            self.tell("comparing", product, ts)

    def record(self) -> dict[str, Any]:
        abandoned = bool(self.cart) and not self.counts["purchases"]
        if abandoned:
            self.tell("abandoned_cart", self.cart[-1], self.last)
        names = {name for name, _, _ in self.told}
        categories = Counter(filter(None, map(category, self.views)))
        return {
            "user_id": self.user,
            "session_id": self.session_id,
            "started_at": self.started,
            "ended_at": self.last,
            **{name: self.counts[name] for name in COUNTED},
            "dwell_ms": self.dwell,
            "abandoned": int(abandoned),
            "price_low": min(self.prices, default=0.0),
            "price_high": max(self.prices, default=0.0),
            "products": list(self.views),
            "compared": max(categories.values(), default=0),
            "intent": "bought" if self.counts["purchases"] else next((name for name in INTENTS if name in names), ""),
        }


def category(product: str) -> str:
    known = CATALOGUE.get(product)
    return known.category if known else ""


def plain(clicks: list[dict[str, Any]]) -> dict[str, Any]:
    open_: dict[str, Plain] = {}
    over: list[Plain] = []
    looked = []
    for click in clicks:
        session = open_.get(click["user"])
        if session and (click["ts"] - session.last > GAP or click["ts"] - session.started > LONGEST):
            over.append(session)
            session = None
        if session is None:
            session = open_[click["user"]] = Plain(click)
        looked.append(session.take(click))
    over += open_.values()
    records = [session.record() for session in over]
    told = sorted((ts, s.user, name, product) for s in over for name, product, ts in s.told)
    return {"sessions": sorted(records, key=key), "told": told, "looked": looked}


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    return record["started_at"], record["user_id"]


def columns(clicks: list[dict[str, Any]], cuts: list[int], restart: bool) -> dict[str, Any]:
    products = Products(CATALOGUE)
    sessions = Sessions(GAP, LONGEST, products)
    segments: dict[str, bytes] = {}
    ended, told, looked = [], [], []

    def note(taken: Any) -> None:
        ended.extend({name: value for name, value in row.items() if name in wanted} for row in chain(*taken.ended))
        told.extend((t.ts, t.user_id, t.intent, products.ids[t.product] if t.product >= 0 else "") for t in taken.told)
        looked.extend(zip([products.ids[p] if p >= 0 else "" for p in taken.looked_at], taken.dwell, strict=True))

    wanted = set(plain([{**clicks[0]}])["sessions"][0])
    for start, end in zip([0, *cuts], [*cuts, len(clicks)], strict=True):
        part = clicks[start:end]
        note(sessions.take(batch(part, products)))
        if part:
            note(sessions.close(part[-1]["ts"]))
        if restart:
            for name, data in sessions.dump().items():
                if data is None:
                    segments.pop(name)
                else:
                    segments[name] = data
            sessions = Sessions(GAP, LONGEST, products)
            sessions.load(segments)
    note(sessions.close(clicks[-1]["ts"] + GAP + 2 * BUCKET_MS))
    assert len(sessions) == 0
    return {"sessions": sorted(ended, key=key), "told": sorted(told), "looked": looked}


@dataclass
class Record:
    offset: int
    value: bytes | None
    timestamp: int = START + 10**12
    key: bytes | None = None


def batch(clicks: list[dict[str, Any]], products: Products) -> ClickColumns:
    records = [
        Record(
            number,
            orjson.dumps(
                {
                    "event_id": f"e{number}", "ts": click["ts"], "user_id": click["user"], "session_id": click["sid"],
                    "action": click["action"], "product_id": click["product"], "price": click["price"],
                    "results": 0 if click["empty"] else None,
                }
            ),
        )
        for number, click in enumerate(clicks)
    ]  # fmt: skip
    decoded = decode_clicks(records, 0, products.numbers)
    assert not decoded.rejects
    return decoded.clicks


def shop(seed: int, count: int, users: int, pace: int) -> list[dict[str, Any]]:
    dice, ts, clicks = random.Random(seed), START, []
    for number in range(count):
        ts += dice.randrange(pace)
        action = dice.choice(["view"] * 8 + ["cart", "cart", "uncart", "search", "search", *ACTIONS])
        product = "" if action in ("search", "checkout") else f"p{dice.randrange(24)}"
        price = round(dice.random() * 90, 2) if product and dice.random() < 0.5 else None
        empty = action == "search" and dice.random() < 0.4
        user = f"u{int(users * dice.random() ** 2)}"
        clicks.append(
            {
                "user": user,
                "sid": f"s{number}",
                "ts": ts,
                "action": action,
                "product": product,
                "price": price,
                "empty": empty,
            }
        )
    return clicks


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(1, 300), st.integers(1, 9), st.sampled_from([2_000, 15_000, 90_000]),
    st.lists(st.integers(0, 300), max_size=8), st.booleans(),
)  # fmt: skip
def test_columns_agree_with_one_by_one(
    seed: int, count: int, users: int, pace: int, cuts: list[int], restart: bool
) -> None:
    clicks = shop(seed, count, users, pace)
    expected = plain(clicks)
    found = columns(clicks, sorted(min(cut, count) for cut in cuts), restart)
    assert found["sessions"] == expected["sessions"]
    assert found["told"] == expected["told"]
    assert found["looked"] == expected["looked"]


def test_the_most_silent_sessions_make_room_and_are_marked() -> None:
    products = Products(CATALOGUE)
    sessions = Sessions(GAP, LONGEST, products)
    clicks = [{**shop(1, 1, 1, 5)[0], "user": f"u{n}", "ts": START + n} for n in range(10)]
    sessions.take(batch(clicks, products))
    taken = sessions.shrink(7)
    (ended,) = taken.ended
    assert ended["user_id"] == ["u0", "u1", "u2"] and ended["cut"].all()
    assert len(sessions) == 7
    assert not sessions.shrink(7).ended


def test_a_checkpoint_costs_what_changed() -> None:
    products = Products(CATALOGUE)
    sessions = Sessions(10**9, 10**9, products)
    click = shop(1, 1, 1, 5)[0]
    sessions.take(batch([{**click, "user": f"u{n}"} for n in range(5_000)], products))
    whole = sum(len(data or b"") for data in sessions.dump().values())
    assert sessions.dump() == {}
    sessions.take(batch([{**click, "user": "u7", "ts": START + 1_000}], products))
    assert sum(len(data or b"") for data in sessions.dump().values()) < whole / 100


@given(st.lists(st.integers(0, 9) | st.integers(65_530, 65_540), max_size=30), st.booleans())
def test_the_order_of_rows_is_stable_however_many_there_are(rows: list[int], few: bool) -> None:
    rows = [row % (1 << 16) for row in rows] if few else rows
    end = 1 << 16 if few else 65_541
    assert stable_order(np.array(rows, np.int64), end).tolist() == sorted(range(len(rows)), key=rows.__getitem__)


def test_numbers_of_products_that_nobody_names_are_given_up() -> None:
    clicks = shop(5, 60, 3, 2_000)
    expected = columns(clicks, [30], restart=False)["sessions"]
    products = Products(CATALOGUE)
    products.numbers([f"other{n}" for n in range(1_000)])
    sessions = Sessions(GAP, LONGEST, products)
    ended = sessions.take(batch(clicks[:30], products)).ended
    sessions.renumber(products.keep(sessions.used()))
    assert len(products) < 30
    ended += sessions.take(batch(clicks[30:], products)).ended
    ended += sessions.close(clicks[-1]["ts"] + GAP + 2 * BUCKET_MS).ended
    assert [r["products"] for r in sorted(chain(*ended), key=key)] == [r["products"] for r in expected]
