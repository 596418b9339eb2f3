"""A shop that does not exist, busy enough to look real.

``Shop(seed=...).generate()`` gives the catalogue and then every review, chat message and click in the order in which
they arrive, on a fixed calendar and never by the wall clock: the same arguments give the same bytes. Volume follows the
hour of the day (UTC+8). Arrival is up to 3 s behind event time, about one event in a hundred is delivered twice with
the same ``event_id``, and ``dirty`` mixes in that share of records that cannot be read. What goes wrong, when and where
is in ``shop.incidents``.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, Final

import orjson

from stream.replay import Event, write_events
from stream.simulate import texts
from stream.simulate.catalog import CATEGORY_ASPECTS, Product, make_catalog
from stream.simulate.dice import Dice, Weights
from stream.simulate.incidents import HOUR, MINUTE, Incident, demo_incidents

START: Final = 1_772_380_800_000  # Monday 2 March 2026, 00:00 in Shanghai
SHANGHAI_MS: Final = 8 * HOUR

#: Relative volume of each hour of the day; 1 on average.
SEASON: Final = (
    0.55, 0.40, 0.30, 0.25, 0.25, 0.30, 0.50, 0.75, 0.95, 1.10, 1.20, 1.25,
    1.35, 1.25, 1.15, 1.15, 1.15, 1.15, 1.20, 1.40, 1.65, 1.75, 1.55, 1.45,
)  # fmt: skip

REVIEW_SHARE: Final = 0.55  # of all texts; the rest are chat messages
MOODS: Final = Weights({"positive": 0.74, "mixed": 0.07, "neutral": 0.06, "negative": 0.13})
RATINGS: Final = {"positive": (5, 5, 5, 4), "mixed": (3, 3, 4), "neutral": (3, 4), "negative": (1, 1, 2, 2, 3)}
DEMAND_MIX: Final = Weights({
    "product_question": 0.22, "delivery_urgency": 0.16, "discount": 0.12, "purchase_intent": 0.12,
    "return_refund": 0.10, "recommendation_request": 0.08, "compatibility": 0.06, "restock": 0.05,
    "complaint_escalation": 0.05, "feature_request": 0.04,
})  # fmt: skip
NOT_SOLD: Final = ("帐篷", "猫粮", "婚纱", "吉他", "鱼竿", "wedding dress", "cat food", "轮胎", "显微镜", "水族箱")

QUALIFIERS: Final = ("双人", "户外", "便携")
LAST_PIECES: Final = 4  # on the shelf during a stock risk

DUPLICATES: Final = 0.01
LATE_SHARE: Final = 0.05
MOST_LATE_MS: Final = 3_000


@dataclass
class Shop:
    """The arguments of a simulation; :meth:`generate` may be called any number of times."""

    seed: int = 7
    products: int = 30
    start: int = START
    hours: float = 48.0
    texts_per_hour: float = 110.0
    clicks_per_hour: float = 1_250.0
    dirty: float = 0.0
    scenario: Sequence[Incident] | None = None  # None: demo_incidents
    catalog: list[Product] = field(init=False)
    incidents: list[Incident] = field(init=False)

    def __post_init__(self) -> None:
        if self.products < 10:
            raise ValueError(f"a shop needs at least 10 products for its incidents, not {self.products}")
        if self.hours <= 0 or self.texts_per_hour < 0 or self.clicks_per_hour < 0:
            raise ValueError("hours must be positive, texts and clicks per hour not negative")
        if not 0 <= self.dirty <= 1:
            raise ValueError(f"dirty is a share between 0 and 1, not {self.dirty}")
        self.catalog = make_catalog(self.products)
        if self.scenario is None:
            self.incidents = demo_incidents(self.catalog, self.start, self.hours, self.texts_per_hour)
        else:
            self.incidents = list(self.scenario)
        shelf = {product.product_id: product for product in self.catalog}
        for incident in self.incidents:
            incident.check(shelf)

    def generate(self) -> Iterator[Event]:
        """All events in the order of their arrival, the catalogue first."""
        return _Run(self).events()

    def write_events(self, path: Path) -> Counter[str]:
        """Writes the event file that ``radar replay`` reads; returns the events per topic."""
        return write_events(self.generate(), path)


class _Run:
    """One run through the calendar, minute by minute."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.end = shop.start + int(shop.hours * HOUR)
        self.dice = Dice(shop.seed)
        self.shelf = {product.product_id: product for product in shop.catalog}
        self.aisles: dict[str, list[Product]] = {}
        for product in shop.catalog:
            self.aisles.setdefault(product.category, []).append(product)
        self.appeal = {product.product_id: 1 / (2 + place) ** 0.5 for place, product in enumerate(shop.catalog)}
        self.shoppers = 500 + int(shop.clicks_per_hour * 5)
        self.orders: deque[tuple[str, Product, str]] = deque(maxlen=10_000)
        self.left: dict[str, int] = {}  # stock of the products that have not the usual one
        self.owed = {"clicks": 0, "reviews": 0, "chats": 0}
        self.serial = 0
        self.pending: list[tuple[int, int, Event]] = []  # a heap by arrival

    def events(self) -> Iterator[Event]:
        for product in self.shop.catalog:
            yield Event("catalog", product.product_id, product.record(), self.shop.start)
        for begin in range(self.shop.start, self.end, MINUTE):
            end = min(begin + MINUTE, self.end)
            self._deliver(begin)
            self._crowd(begin, end)
            for incident in self.shop.incidents:
                self._strike(incident, *incident.overlap(begin, end))
            yield from self._arrived(end)
        yield from self._arrived(self.end + HOUR)

    # What happens in a minute

    def _deliver(self, now: int) -> None:
        """The shelf is empty during a restock incident, nearly so during a stock risk, and full again after it."""
        left = {
            incident.product_id: 0 if incident.label == "restock" else LAST_PIECES
            for incident in self.shop.incidents
            if incident.label in ("restock", "stock") and incident.product_id and incident.start <= now < incident.end
        }
        for product_id in sorted({*left, *self.left}):
            if left.get(product_id) != self.left.get(product_id):
                record = self.shelf[product_id].record(stock=left.get(product_id))
                self._push(now, Event("catalog", product_id, record, now))
        self.left = left

    def _crowd(self, begin: int, end: int) -> None:
        """The ordinary visitors of one minute."""
        appeal = self.appeal.copy()
        for incident in self.shop.incidents:
            if incident.kind == "promotion" and incident.start <= begin < incident.end:
                for product in self.aisles[incident.category]:
                    if incident.product_id in ("", product.product_id):
                        appeal[product.product_id] *= incident.factor
        tastes = Weights({self.shelf[product_id]: weight for product_id, weight in appeal.items()})
        volume = season(begin) * (end - begin) / HOUR * tastes.total / sum(self.appeal.values())
        reviews = self.shop.texts_per_hour * REVIEW_SHARE
        rates = {"clicks": self.shop.clicks_per_hour, "reviews": reviews, "chats": self.shop.texts_per_hour - reviews}
        actions = {"clicks": self._browse, "reviews": self._review, "chats": self._chat}
        for what, act in actions.items():
            self.owed[what] += self.dice.poisson(rates[what] * volume)
            while self.owed[what] > 0:
                self.owed[what] -= act(begin + self.dice.below(end - begin), self.dice.weighted(tastes))

    def _strike(self, incident: Incident, begin: int, end: int) -> None:
        """The texts and clicks that an incident adds between ``begin`` and ``end``."""
        for _ in range(self.dice.poisson(incident.rate * (end - begin) / HOUR)):
            ts = begin + self.dice.below(end - begin)
            if incident.kind == "unmet_demand":
                self._miss(ts, incident.label)
                continue
            product = self.shelf.get(incident.product_id) or self.dice.pick(self.aisles[incident.category])
            if incident.kind == "negative_spike":
                if self.dice.chance(0.8):
                    self._review(ts, product, complaint=incident.label)
                else:
                    self._chat(ts, product, complaint=incident.label)
                if self.dice.chance(0.4):
                    self._send_back(ts, product)
            elif incident.kind == "price_sensitivity":
                if self.dice.chance(0.4):
                    self._chat(ts, product, demand=incident.label)
                self._look_in_vain(ts, product, empty=False)
            else:
                self._chat(ts, product, demand=incident.label)
                if self.dice.chance(0.8):
                    self._look_in_vain(ts, product, empty=incident.label == "restock")

    # What a customer does. Each returns how many events it made of the kind that is owed.

    def _browse(self, ts: int, product: Product) -> int:
        """A session: search, look around, fill the cart, perhaps buy."""
        dice, user, session = self.dice, self._shopper(), self._next("s")
        count = 0

        def click(action: str, item: Product | None = None, **extra: Any) -> None:
            nonlocal ts, count
            self._click(ts, user, session, action, item, **extra)
            ts += dice.wait(20_000)
            count += 1

        if dice.chance(0.02):
            click("return", product, price=product.price, quantity=1)
        if dice.chance(0.05):
            click("search", query=dice.pick(NOT_SOLD), results=0)
        elif dice.chance(0.35):
            query = dice.pick((product.zh, product.category, product.brand, product.en))
            click("search", query=query, results=1 + dice.below(40))
        cart: list[Product] = []
        while True:
            click("view", product, price=product.price)
            if dice.chance(0.05):
                click("favorite", product)
            if self.left.get(product.product_id) != 0 and dice.chance(0.14):
                click("cart", product, price=product.price, quantity=1 + int(dice.chance(0.15)))
                cart.append(product)
            if dice.chance(0.22):
                break
            product = dice.pick(self.aisles[product.category] if dice.chance(0.75) else self.shop.catalog)
        if cart and dice.chance(0.15):
            click("uncart", cart.pop(), quantity=1)
        if cart and dice.chance(0.6):
            click("checkout")
            if dice.chance(0.75):
                for item in cart:
                    click("purchase", item, price=item.price, quantity=1)
                    self.orders.append((user, item, self._order()))
        return count

    def _look_in_vain(self, ts: int, product: Product, empty: bool) -> None:
        """A session that ends without a purchase: an empty search, or a cart left standing for want of a discount."""
        dice, user, session = self.dice, self._shopper(), self._next("s")
        query = product.zh if empty else f"{product.zh} 优惠"
        self._click(ts, user, session, "search", query=query, results=0 if empty else 1 + dice.below(20))
        ts += dice.wait(15_000)
        self._click(ts, user, session, "view", product, price=product.price)
        ts += dice.wait(15_000)
        if empty:
            if dice.chance(0.3):
                self._click(ts, user, session, "favorite", product)
        else:
            self._click(ts, user, session, "cart", product, price=product.price, quantity=1)
            if dice.chance(0.5):
                self._click(ts + dice.wait(60_000), user, session, "uncart", product, quantity=1)

    def _miss(self, ts: int, thing: str) -> None:
        """Somebody wants what the shop does not sell: mostly a search without results, else a question."""
        dice, user = self.dice, self._shopper()
        if dice.chance(0.7):
            query = f"{thing} {dice.pick(QUALIFIERS)}" if dice.chance(0.3) else thing
            self._click(ts, user, self._next("s"), "search", query=query, results=0)
            return
        session = self._next("t")
        text = dice.pick(texts.WANTED).format(thing)
        value = {"event_id": self._next("m"), "ts": ts, "session_id": session, "user_id": user, "role": "customer"}
        self._post(Event("chats", session, value | {"text": text}, ts))

    def _send_back(self, ts: int, product: Product) -> None:
        self._click(ts, self._shopper(), self._next("s"), "return", product, price=product.price, quantity=1)

    def _review(self, ts: int, product: Product, complaint: str = "") -> int:
        """A review of something bought here, in this simulation or before it."""
        dice = self.dice
        user, order = self._shopper(), self._order()
        if not complaint and self.orders and dice.chance(0.5):
            user, product, order = self.orders.popleft()
        mood = "negative" if complaint else dice.weighted(MOODS)
        value: dict[str, Any] = {
            "event_id": self._next("r"),
            "ts": ts,
            "user_id": user,
            "product_id": product.product_id,
            "order_id": order,
            "rating": dice.pick(RATINGS[mood]),
            "text": texts.review(dice, product, _language(user), self._opinion(product, mood, complaint)),
        }
        if dice.chance(0.3 if complaint else 0.1):
            value["images"] = [f"https://img.example.com/{value['event_id']}.jpg"]
        self._post(Event("reviews", product.product_id, value, ts))
        return 1

    def _opinion(self, product: Product, mood: str, complaint: str) -> list[tuple[texts.Mood, str]]:
        """The moods and aspects that a review speaks of."""
        if complaint:
            return [("negative", complaint)]
        aspects = CATEGORY_ASPECTS[product.category]
        first, second = (aspects[int(len(aspects) * self.dice.random() ** 1.3)] for _ in range(2))
        if mood == "mixed":
            return [("positive", first), ("negative", second)]
        if mood == "neutral":
            return [("neutral", first)]
        plain: texts.Mood = "negative" if mood == "negative" else "positive"
        return [(plain, first), (plain, second)] if second != first and self.dice.chance(0.4) else [(plain, first)]

    def _chat(self, ts: int, product: Product, complaint: str = "", demand: str = "") -> int:
        """A conversation with customer service."""
        dice, user, session = self.dice, self._shopper(), self._next("t")
        language = _language(user)
        lines: list[tuple[str, str]] = []
        if dice.chance(0.35):
            lines += zip(("customer", "agent"), texts.greeting(dice, language), strict=True)
        wanted = complaint or demand or (dice.weighted(DEMAND_MIX) if dice.chance(0.85) else "")
        if wanted == "compatibility" and product.category not in ("数码", "小家电"):
            wanted = "product_question"
        if complaint:
            lines.append(("customer", texts.complaint(dice, product, language, complaint)))
            lines.append(("agent", texts.answer(dice, language, "complaint_escalation")))
        elif wanted:
            lines.append(("customer", texts.ask(dice, product, language, wanted)))
            lines.append(("agent", texts.answer(dice, language, wanted)))
        if not wanted or dice.chance(0.3):
            lines += zip(("customer", "agent"), texts.small_talk(dice, language), strict=True)
        named = bool(wanted) and dice.chance(0.95)
        for role, text in lines:
            value = {
                "event_id": self._next("m"),
                "ts": ts,
                "session_id": session,
                "user_id": user,
                "role": role,
                "text": text,
            }
            if named:
                value["product_id"] = product.product_id
            self._post(Event("chats", session, value, ts))
            ts += 2_000 + dice.wait(15_000)
        return len(lines)

    # The small things

    def _shopper(self) -> str:
        return f"u{self.dice.below(self.shoppers)}"

    def _order(self) -> str:
        return f"o{self.dice.below(10**10):010d}"

    def _next(self, letter: str) -> str:
        """A fresh id; the seed in it keeps two shops apart."""
        self.serial += 1
        return f"{letter}{self.shop.seed}-{self.serial}"

    def _click(self, ts: int, user: str, session: str, action: str, item: Product | None = None, **extra: Any) -> None:
        value = {"event_id": self._next("c"), "ts": ts, "user_id": user, "session_id": session, "action": action}
        if item:
            value["product_id"] = item.product_id
        self._post(Event("clicks", user, value | extra, ts))

    def _post(self, event: Event) -> None:
        """Sends an event on its way: mostly at once, now and then late, twice or broken."""
        if event.ts >= self.end:
            return
        dice = self.dice
        arrival = event.ts + 10 + dice.below(MOST_LATE_MS - 10 if dice.chance(LATE_SHARE) else 300)
        self._push(arrival, event)
        if dice.chance(DUPLICATES):
            self._push(arrival + dice.below(1_000), event)
        if self.shop.dirty and dice.chance(self.shop.dirty):
            self._push(arrival, event._replace(value=_broken(dice, event.value)))

    def _push(self, arrival: int, event: Event) -> None:
        self.serial += 1
        heappush(self.pending, (arrival, self.serial, event))

    def _arrived(self, until: int) -> Iterator[Event]:
        while self.pending and self.pending[0][0] < until:
            yield heappop(self.pending)[2]


def season(ts: int) -> float:
    """Relative volume at ``ts``: the hours of :data:`SEASON`, joined by straight lines."""
    hour, within = divmod((ts + SHANGHAI_MS) % (24 * HOUR), HOUR)
    return SEASON[hour] + (SEASON[(hour + 1) % 24] - SEASON[hour]) * within / HOUR


def _language(user: str) -> texts.Language:
    return "en" if int(user[1:]) % 7 == 0 else "zh"


def _broken(dice: Dice, value: Any) -> Any:
    """A record that no schema allows: cut off, or with a field missing or of the wrong type."""
    name = "text" if "text" in value else "action"
    match dice.below(4):
        case 0:
            return orjson.dumps(value).decode()[: 20 + dice.below(30)]
        case 1:
            return value | {"ts": "yesterday"}
        case 2:
            return value | {name: 42}
        case _:
            return {key: item for key, item in value.items() if key != name}
