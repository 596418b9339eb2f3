"""What leaves the worker: signals, alerts, recommendations, sessions, windows, dead letters.

These are the final shapes on the Kafka topics and in ClickHouse (``sinks/schema``). Times are epoch milliseconds of
event time. Text is always masked; spans count Unicode code points of that masked text, end exclusive. Every id is
derived from content (source place, rule, key, window), so writing a record twice changes nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

Span = tuple[int, int]
AlertState = Literal["pending", "open", "acknowledged", "silenced", "snoozed", "resolved"]


def content_id(*parts: object) -> str:
    """A 16-digit hexadecimal id that depends on ``parts`` alone."""
    return blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Quote:
    """A text that speaks for an alert, with the places that do."""

    event_id: str
    text: str
    spans: list[Span]


@dataclass(frozen=True, slots=True)
class Signal:
    """One review or chat message as understood by the model; topic ``signals``, table ``signals``."""

    signal_id: str  # channel and event: "review/e123", so a redelivered event is the same signal
    event_id: str
    ts: int
    channel: Literal["review", "chat"]
    user_id: str
    product_id: str  # "" where the event names none
    category: str  # "" where the catalogue does not know the product
    session_id: str
    rating: int  # 0: none
    text: str
    language: str
    sentiment: dict[str, Any]  # {"label": "negative", "score": -0.93}
    aspects: list[dict[str, Any]]  # [{"aspect", "sentiment", "prob", "evidence": [[start, end]]}]
    demands: list[dict[str, Any]]  # [{"demand", "strength", "prob", "evidence"}]
    keywords: list[str]
    entities: list[dict[str, Any]]  # [{"type", "text", "span"}]
    fingerprint: str  # 16 hexadecimal digits, 64-bit simhash
    late: bool  # behind the watermark of its partition
    model: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One state of one alert; topic ``alerts``, table ``alerts`` (the newest ``updated_at`` per id wins).

    The figures are those of its most surprising window so far.
    """

    alert_id: str  # stays when the alert is opened again
    kind: str  # "negative_spike" | "demand_surge" | "price_sensitivity" | "stock_risk" | "unmet_demand" | "silence"
    scope: Literal["product", "category", "shop"]
    product_id: str  # "" but in product scope
    category: str
    label: str  # an aspect for negative_spike, a term for unmet_demand, else a demand
    severity: int  # 1-10: how far from expected times how much it matters
    state: AlertState
    opened_at: int  # end of the window that opened it
    closed_at: int  # 0 while open
    updated_at: int  # end of the pane that caused this state, or just after the state before
    window_start: int
    window_end: int
    observed: float
    expected: float
    band: tuple[float, float]
    contributions: dict[str, float]  # shares of reviews, chats, clicks and ratings; they add up to 1
    evidence: list[Quote]
    rule: str
    rule_version: str
    model: str
    note: str = ""  # e.g. "12 of 20 texts are near-duplicates"
    cause: str = ""  # why this state: "opened: surprise 6.1 of 4.9", "acknowledged by ann"
    statistic: str = "burst"
    since: int = 0  # when the window (or the ramp) began
    surprise: float = 0.0  # -log10 of the chance
    threshold: float = 0.0  # the surprise at which the budget lets an alert open
    weight: float = 1.0  # how much the series and its rule matter, 1: as usual
    reopened: int = 0  # how often
    until: int = 0  # end of a snooze; 0: none
    verdict: str = ""  # "useful" | "not_useful"
    group_key: str = ""  # e.g. "category=kettles label=packaging"
    group_id: str = ""
    origin: str = ""  # "organic" | "coordinated" | "unclear"
    origin_figures: dict[str, float] = field(default_factory=dict)
    impact: dict[str, float] = field(default_factory=dict)  # customers and revenue touched, each with _lo and _hi


@dataclass(frozen=True, slots=True)
class AlertAction:
    """What an operator said of an alert; table ``alert_actions``. Rule and place are those of the alert."""

    action_id: str
    alert_id: str
    action: str  # "ack" | "silence" | "snooze" | "unsilence" | "useful" | "not_useful"
    ts: int
    by: str
    note: str
    until: int
    duration: int


class Recommendation(NamedTuple):
    """A trigger for the recommendation service; topic and table ``recommendations``."""

    trigger_id: str
    ts: int
    user_id: str
    session_id: str
    intent: str  # "comparing" | "abandoned_cart" | "empty_search" | "sold_out" | "asked" ...
    product_id: str  # the product the intent is about, or ""
    products: list[dict[str, Any]]  # best first: [{"product_id", "score", "reason"}]
    reason: str  # one sentence for a person


@dataclass(frozen=True, slots=True)
class Session:
    """A closed session of one shopper; table ``sessions``."""

    session_key: str  # user id and start: unique
    user_id: str
    session_id: str
    started_at: int
    ended_at: int
    events: int
    views: int
    dwell_ms: int
    searches: int
    empty_searches: int
    carts: int
    uncarts: int
    favorites: int
    checkouts: int
    purchases: int
    returns: int
    abandoned: int  # 1: it ended with something in the cart
    price_low: float  # of the prices seen; 0: none
    price_high: float
    compared: int  # most distinct products viewed in one category
    products: list[str]
    chats: int  # messages of the customer within the session
    demands: list[str]  # what they asked for, sorted
    sentiment: float  # mean score of the chats; 0: none
    intent: str
    cut: bool  # closed early for lack of room


class Window(NamedTuple):
    """What happened to a product or category in one pane; table ``windows``, where the highest revision wins.

    The counts are whole numbers, so that sums over panes are exact.
    """

    pane_start: int
    scope: Literal["product", "category"]
    product_id: str  # "" in category scope
    category: str  # "" where the catalogue does not know the product
    revision: int  # how often late events corrected it
    views: int
    searches: int
    empty_searches: int
    carts: int
    uncarts: int
    favorites: int
    checkouts: int
    purchases: int
    returns: int
    dwell_ms: int  # time from a view to the shopper's next action
    abandons: int  # sessions that ended with the product in the cart
    comparisons: int  # sessions that came to compare products at this one
    price_cents: int  # sum of the prices seen, in hundredths
    priced: int  # how many events told a price
    reviews: int
    chats: int
    negatives: int  # texts that are negative as a whole
    rating_sum: int  # stars of the reviews that give any
    rated: int  # how many do
    label: list[str]  # sorted: "negative/packaging", "demand/restock"
    label_count: list[int]  # texts of each


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be read; topic ``deadletters``."""

    topic: str
    partition: int
    offset: int
    reason: str
    payload: str  # masked, at most 4,096 characters


def to_dict(record: Any) -> dict[str, Any]:
    """A record as a plain dictionary, ready for orjson or a sink; its lists are the record's own."""
    if isinstance(record, Recommendation):
        return record._asdict()
    data = {name: getattr(record, name) for name in record.__slots__}
    if type(record) is Alert:
        data["evidence"] = [asdict(quote) for quote in record.evidence]
    return data
