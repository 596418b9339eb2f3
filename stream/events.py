"""From the bytes of a block to checked events, and a reason for every record that is not one.

One function per topic checks a parsed record. A record that fails becomes a :class:`Reject` with its place and the
remedy; its neighbours are not touched. ``docs/events.md`` is the user's side of this file.

Clicks come by the hundred thousand a second, so :func:`decode_clicks` has msgspec parse and check them in one step
(0.6 µs a record; orjson alone takes 1.1 µs without checking anything) and gives columns. What msgspec does not take
goes through the same checks as every other topic, which say why, or accept what it is too strict for (a whole number
as an id).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol, get_args
from zlib import crc32

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

Action = Literal["view", "search", "cart", "uncart", "favorite", "checkout", "purchase", "return"]
ACTIONS: Final[tuple[str, ...]] = get_args(Action)
#: Actions that need not be about a product.
FREE: Final = frozenset({"search", "checkout"})
MAX_ID: Final = 256
EARLIEST_MS: Final = 946_684_800_000  # 2000-01-01: anything older is a unit mistake

#: Gives each product id its number; -1 for none.
Numbers = Callable[[Iterable[str | None]], npt.NDArray[np.int32]]


class Review(NamedTuple):
    ts: int
    event_id: str
    user_id: str
    product_id: str
    rating: int  # 0: none
    text: str


class Chat(NamedTuple):
    ts: int
    event_id: str
    user_id: str
    session_id: str
    role: str
    product_id: str  # "": none
    text: str


Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID)]
OptionalId = Annotated[str, msgspec.Meta(max_length=MAX_ID)] | None
Count = Annotated[int, msgspec.Meta(ge=0)] | None


class Click(msgspec.Struct, gc=False):
    """What was not told is None."""

    ts: Annotated[int, msgspec.Meta(ge=EARLIEST_MS, lt=1 << 62)]
    event_id: Id
    user_id: Id
    session_id: Id
    action: Action
    product_id: OptionalId = None
    query: str | None = None
    results: Count = None
    price: Annotated[float, msgspec.Meta(ge=0, lt=1e12)] | None = None
    quantity: Count = None


class Heartbeat(NamedTuple):
    """A promise that no event earlier than ``ts`` follows in this partition."""

    ts: int
    replay: bool


class Record(Protocol):
    """What decoding needs of a Kafka record (aiokafka's ConsumerRecord has it)."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Reject:
    offset: int
    reason: str
    value: bytes


@dataclass(slots=True)
class Decoded:
    """A block after decoding; ``events`` and ``offsets`` are parallel and in the order of the partition."""

    events: list[Any] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


@dataclass(slots=True)
class ClickColumns:
    """Clicks side by side, without their texts: what is needed of a few is read again from its record (:meth:`click`).

    Of a click, some 400 bytes as an object, 50 remain besides the record's own value.
    """

    ts: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]
    user: npt.NDArray[np.int64]  # Python's hash of the shopper's id, which is keyed by a secret of the process
    checksum: npt.NDArray[np.uint32]  # CRC-32 of the event's id
    action: npt.NDArray[np.uint8]  # place in ACTIONS
    product: npt.NDArray[np.int32]  # its number, -1: none
    price: npt.NDArray[np.float64]  # nan: not told
    empty: npt.NDArray[np.bool_]  # a search without results
    value: npt.NDArray[np.object_]  # bytes of the record

    def __len__(self) -> int:
        return len(self.ts)

    def click(self, place: int) -> Click:
        """The click as it was sent."""
        try:
            return _CLICK(self.value[place])
        except msgspec.DecodeError:
            return _click(orjson.loads(self.value[place]))

    def take(self, rows: npt.NDArray[Any] | slice) -> ClickColumns:
        """The clicks at these places, or where a mask is true; a view for a slice."""
        return ClickColumns(*(getattr(self, name)[rows] for name in self.__slots__))

    @classmethod
    def concat(cls, parts: Sequence[ClickColumns]) -> ClickColumns:
        """One after the other; at least one."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))


@dataclass(slots=True)
class DecodedClicks:
    """A block of clicks after decoding, in the order of the partition.

    ``beats`` are the heartbeats, each with the number of clicks before it.
    """

    clicks: ClickColumns
    beats: list[tuple[int, Heartbeat]]
    rejects: list[Reject]


class Invalid(ValueError):
    """A record that is not an event; the message says which field, and what to do."""


def decode(topic: str, records: Iterable[Record], ahead_ms: int) -> Decoded:
    """Check the records of one block of ``topic`` (``reviews``, ``chats`` or ``clicks``, without prefix).

    An event may lie at most ``ahead_ms`` after the timestamp of its Kafka record, so that one wrong clock cannot
    drag event time into the future; this compares two facts of the record and never asks the clock.
    """
    parse = PARSERS[topic]
    out = Decoded()
    add, at = out.events.append, out.offsets.append
    for record in records:
        value = record.value
        try:
            if not value:
                raise Invalid("empty record: send a JSON object")
            data = orjson.loads(value)
            if type(data) is not dict:
                raise Invalid(f"expected a JSON object, got {_name(data)}")
            event = _heartbeat(data) if "heartbeat" in data and "event_id" not in data else parse(data)
            if event.ts > record.timestamp + ahead_ms:
                raise Invalid(
                    f"ts: {event.ts} is {(event.ts - record.timestamp) // 1000} s after the record was sent; "
                    "check the clock and the unit (epoch milliseconds)"
                )
        except orjson.JSONDecodeError as error:
            out.rejects.append(Reject(record.offset, f"not JSON: {error}", value or b""))
        except Invalid as error:
            out.rejects.append(Reject(record.offset, str(error), value or b""))
        else:
            add(event)
            at(record.offset)
    return out


def decode_clicks(records: Sequence[Record], ahead_ms: int, numbers: Numbers) -> DecodedClicks:
    """What :func:`decode` does, for a block of clicks, in columns. ``numbers`` gives those of products, -1 for none."""
    values = list(map(_VALUE, records))
    events: list[Click] = []
    beats: list[tuple[int, Heartbeat]] = []
    rejects: list[Reject] = []
    failed: set[int] = set()  # places where msgspec gave up: these go the slow way
    parsed = map(_CLICK, values)  # goes on behind what it could not take
    while True:
        try:
            events.extend(parsed)
            break
        except (msgspec.DecodeError, UnicodeDecodeError, TypeError):
            place = len(events) + len(failed)
            slow = decode("clicks", (records[place],), ahead_ms)
            rejects += slow.rejects
            if slow.events and type(slow.events[0]) is Click:
                events += slow.events
            else:
                beats += [(len(events), beat) for beat in slow.events]
                failed.add(place)
    if failed:
        records = [record for place, record in enumerate(records) if place not in failed]
        values = list(map(_VALUE, records))
    count = len(events)
    action = np.fromiter([_PLACE[event.action] for event in events], np.uint8, count)
    empty = np.zeros(count, np.bool_)
    for i in np.flatnonzero(action == _SEARCH).tolist():
        empty[i] = events[i].results == 0
    clicks = ClickColumns(
        ts=np.fromiter(map(_TS, events), np.int64, count),
        offset=_offsets(records),
        user=np.fromiter([hash(event.user_id) for event in events], np.int64, count),
        checksum=np.fromiter([crc32(event.event_id.encode()) for event in events], np.uint32, count),
        action=action,
        product=numbers([event.product_id for event in events]),
        price=np.array([event.price for event in events], np.float64),
        empty=empty,
        value=np.fromiter(values, np.object_, count),
    )
    sent = np.fromiter(map(_TIMESTAMP, records), np.int64, count)
    doubtful = (clicks.ts > sent + ahead_ms) | (clicks.product < 0) & ~_IS_FREE[action]
    everything = b"".join(values)
    if ESCAPE in everything and NULL in everything:  # the first is found, or not, seventy times as fast
        doubtful |= np.array([NULL in value for value in values], np.bool_)
    if doubtful.any():
        good = ~doubtful
        for i in np.flatnonzero(doubtful).tolist():
            slow = decode("clicks", (records[i],), ahead_ms)
            rejects += slow.rejects
            good[i] = bool(slow.events)
        before = np.append(0, np.cumsum(good))
        beats = [(int(before[place]), beat) for place, beat in beats]
        rejects.sort(key=lambda reject: reject.offset)
        clicks = clicks.take(good)
    return DecodedClicks(clicks, beats, rejects)


def _offsets(records: Sequence[Record]) -> npt.NDArray[np.int64]:
    """The offset of each record; there are gaps in a compacted topic and where transactions end."""
    if records and records[-1].offset - records[0].offset == len(records) - 1:
        return np.arange(records[0].offset, records[-1].offset + 1)
    return np.fromiter(map(_OFFSET, records), np.int64, len(records))


_TS, _OFFSET, _TIMESTAMP, _VALUE = map(attrgetter, ("ts", "offset", "timestamp", "value"))
ESCAPE: Final = b"\\"
NULL: Final = b"\\u0000"
_CLICK = msgspec.json.Decoder(Click).decode
_PLACE: Final = {name: place for place, name in enumerate(ACTIONS)}
_IS_FREE: Final = np.array([name in FREE for name in ACTIONS])
_SEARCH: Final = ACTIONS.index("search")


def _review(data: dict[str, Any]) -> Review:
    rating = data.get("rating")
    if rating is None:
        rating = 0
    elif type(rating) is float and rating.is_integer():
        rating = int(rating)
    if type(rating) is not int or (data.get("rating") is not None and not 1 <= rating <= 5):
        raise Invalid(f"rating: expected a whole number from 1 to 5, got {_show(data['rating'])}")
    return Review(
        _ts(data), _id(data, "event_id"), _id(data, "user_id"), _id(data, "product_id"), rating, _text(data)
    )  # fmt: skip


def _chat(data: dict[str, Any]) -> Chat:
    role = data.get("role")
    if role not in ("customer", "agent"):
        raise Invalid(f"role: expected 'customer' or 'agent', got {_show(role)}")
    return Chat(
        _ts(data), _id(data, "event_id"), _id(data, "user_id"), _id(data, "session_id"), role,
        _optional_id(data, "product_id"), _text(data),
    )  # fmt: skip


def _click(data: dict[str, Any]) -> Click:
    action = data.get("action")
    if type(action) is not str or action not in ACTIONS:
        raise Invalid(f"action: expected one of {', '.join(sorted(ACTIONS))}, got {_show(action)}")
    product_id = _optional_id(data, "product_id") or None
    if not product_id and action not in FREE:
        raise Invalid(f"product_id: needed for action '{action}'")
    query = data.get("query")
    if query is not None and type(query) is not str:
        raise Invalid(f"query: expected text, got {_show(query)}")
    return Click(
        _ts(data), _id(data, "event_id"), _id(data, "user_id"), _id(data, "session_id"), action, product_id, query,  # type: ignore[arg-type]
        _count(data, "results"), _price(data), _count(data, "quantity"),
    )  # fmt: skip


def _heartbeat(data: dict[str, Any]) -> Heartbeat:
    return Heartbeat(_ts(data, "heartbeat"), data.get("replay") is True)


PARSERS: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {"reviews": _review, "chats": _chat, "clicks": _click}
SOURCES: Final[Sequence[str]] = tuple(PARSERS)


def _ts(data: dict[str, Any], name: str = "ts") -> int:
    ts = data.get(name)
    if type(ts) is float and ts.is_integer():
        ts = int(ts)
    if type(ts) is not int:
        raise Invalid(f"{name}: expected epoch milliseconds as a whole number, got {_show(ts)}")
    if ts < EARLIEST_MS:
        raise Invalid(f"{name}: {ts} is before the year 2000; give epoch milliseconds, not seconds")
    return ts


def _id(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    if type(value) is int:
        value = str(value)
    if type(value) is not str or not value or len(value) > MAX_ID or "\x00" in value:
        raise Invalid(f"{name}: expected text of 1 to {MAX_ID} characters without null bytes, got {_show(value)}")
    return value


def _optional_id(data: dict[str, Any], name: str) -> str:
    return "" if data.get(name) in (None, "") else _id(data, name)


def _text(data: dict[str, Any]) -> str:
    text = data.get("text")
    if type(text) is not str:
        raise Invalid(f"text: expected text, got {_show(text)}")
    return text


def _count(data: dict[str, Any], name: str) -> int | None:
    value = data.get(name)
    if value is not None and (type(value) is not int or value < 0):
        raise Invalid(f"{name}: expected a whole number from 0 up, got {_show(value)}")
    return value


def _price(data: dict[str, Any]) -> float | None:
    price = data.get("price")
    if price is None:
        return None
    if type(price) not in (int, float) or not 0 <= price < 1e12:
        raise Invalid(f"price: expected a number from 0 up, got {_show(price)}")
    return float(price)


def _show(value: object) -> str:
    """A value for a reason, short; reasons are masked together with the payload before they leave the worker."""
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _name(value: object) -> str:
    return {list: "a list", str: "text", int: "a number", float: "a number", bool: "a truth value"}.get(
        type(value), "null"
    )
