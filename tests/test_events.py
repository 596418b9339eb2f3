"""Decoding a block: what is an event, what is refused and with which words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events import ACTIONS, Chat, Click, Heartbeat, Review, decode, decode_clicks

NOW = 1_780_000_000_000
REVIEW = {"event_id": "r1", "ts": NOW, "user_id": "u", "product_id": "p", "rating": 5, "text": "很好"}
CHAT = {"event_id": "c1", "ts": NOW, "user_id": "u", "session_id": "s", "role": "customer", "text": "在吗"}
CLICK = {"event_id": "k1", "ts": NOW, "user_id": "u", "session_id": "s", "action": "view", "product_id": "p"}
GOOD = {"reviews": REVIEW, "chats": CHAT, "clicks": CLICK}


@dataclass
class Record:
    offset: int
    value: bytes | None
    timestamp: int = NOW
    key: bytes | None = None


def read(topic: str, *values: Any) -> Any:
    records = [Record(i, v if isinstance(v, bytes | None) else orjson.dumps(v)) for i, v in enumerate(values)]
    return decode(topic, records, ahead_ms=300_000)


def test_good_records_become_events() -> None:
    assert type(read("reviews", REVIEW).events[0]) is Review
    assert type(read("chats", CHAT).events[0]) is Chat
    assert type(read("clicks", CLICK).events[0]) is Click
    assert read("clicks", {"heartbeat": NOW, "replay": True}).events == [Heartbeat(NOW, True)]


def test_unknown_fields_are_kept_out() -> None:
    assert read("reviews", {**REVIEW, "colour": "red"}).events == read("reviews", REVIEW).events


@pytest.mark.parametrize(
    ("topic", "change", "says"),
    [
        ("reviews", {"rating": 7}, "from 1 to 5, got 7"),
        ("reviews", {"rating": True}, "rating"),
        ("reviews", {"rating": "5"}, "rating"),
        ("reviews", {"text": None}, "text: expected text, got nothing"),
        ("reviews", {"text": 5}, "text: expected text"),
        ("reviews", {"ts": 1_780_000_000}, "not seconds"),
        ("reviews", {"ts": "2026-01-01"}, "epoch milliseconds"),
        ("reviews", {"ts": NOW + 400_000}, "check the clock"),
        ("reviews", {"ts": -1}, "before the year 2000"),
        ("reviews", {"event_id": ""}, "event_id"),
        ("reviews", {"product_id": "a\x00b"}, "null bytes"),
        ("reviews", {"user_id": "u" * 257}, "1 to 256"),
        ("chats", {"role": "robot"}, "'customer' or 'agent'"),
        ("chats", {"session_id": None}, "session_id"),
        ("clicks", {"action": "look"}, "expected one of cart, checkout"),
        ("clicks", {"product_id": None}, "needed for action 'view'"),
        ("clicks", {"price": -1}, "price"),
        ("clicks", {"price": "9.9"}, "price"),
        ("clicks", {"results": 1.5}, "results"),
    ],
)
def test_a_bad_field_is_named_with_its_remedy(topic: str, change: dict[str, Any], says: str) -> None:
    decoded = read(topic, {**GOOD[topic], **change})
    assert not decoded.events
    assert says in decoded.rejects[0].reason


@pytest.mark.parametrize("value", [b"", None, b"{", b"[]", b"null", b"\xff\xfe", b'"text"', b"12", b"\x00" * 8])
def test_what_is_not_a_json_object_is_refused(value: bytes | None) -> None:
    assert read("reviews", value).rejects


def test_good_neighbours_of_a_bad_record_keep_their_offsets() -> None:
    decoded = read("reviews", REVIEW, b"{", REVIEW, {**REVIEW, "rating": 9}, REVIEW)
    assert decoded.offsets == [0, 2, 4]
    assert [reject.offset for reject in decoded.rejects] == [1, 3]


def test_a_megabyte_of_text_and_an_emoji_flood_are_events() -> None:
    assert len(read("reviews", {**REVIEW, "text": "慢" * 350_000}, {**REVIEW, "text": "😡" * 50_000}).events) == 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(["reviews", "chats", "clicks"]), st.sampled_from([*REVIEW, *CHAT, *CLICK]), json_values)
def test_any_value_in_any_field_is_an_event_or_a_reject_never_an_exception(topic: str, name: str, value: Any) -> None:
    decoded = read(topic, {**GOOD[topic], name: value})
    assert len(decoded.events) + len(decoded.rejects) == 1


FIELDS = [*CLICK, "query", "results", "price", "quantity", "heartbeat"]


@given(st.lists(st.tuples(st.sampled_from(FIELDS), json_values)), st.sampled_from([1, 3]))
def test_columns_of_clicks_hold_what_record_by_record_decoding_gives(changes: list[tuple[str, Any]], step: int) -> None:
    values = [{**CLICK, name: value} for name, value in changes] + [{"heartbeat": NOW, "replay": True}, CLICK]
    records = [Record(step * i, orjson.dumps(value)) for i, value in enumerate(values)]
    plain, decoded = decode("clicks", records, 300_000), decode_clicks(records, 300_000, numbers)
    events = [event for event in plain.events if type(event) is Click]
    clicks = decoded.clicks
    assert [clicks.click(i) for i in range(len(clicks))] == events
    assert clicks.ts.tolist() == [event.ts for event in events]
    assert clicks.user.tolist() == [hash(event.user_id) for event in events]
    assert clicks.checksum.tolist() == [crc32(event.event_id.encode()) for event in events]
    assert [ACTIONS[place] for place in clicks.action] == [event.action for event in events]
    assert clicks.product.tolist() == [len(event.product_id or "") or -1 for event in events]
    assert [None if np.isnan(price) else price for price in clicks.price] == [event.price for event in events]
    assert clicks.empty.tolist() == [event.action == "search" and event.results == 0 for event in events]
    assert clicks.offset.tolist() == [o for o, e in zip(plain.offsets, plain.events, strict=True) if type(e) is Click]
    assert decoded.rejects == plain.rejects
    beats = [(i, event) for i, event in enumerate(plain.events) if type(event) is Heartbeat]
    assert decoded.beats == [(place - n, beat) for n, (place, beat) in enumerate(beats)]


def numbers(product_ids: Iterable[str | None]) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The length of an id for its number."""
    return np.array([len(product_id or "") or -1 for product_id in product_ids], np.int32)
